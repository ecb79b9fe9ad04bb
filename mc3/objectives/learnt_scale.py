"""CLAP's loss (https://arxiv.org/abs/2206.04769): Eq. 1 with a learnt scale."""

import math

import torch
from torch import Tensor, nn

from mc3 import losses
from mc3.losses import Embeddings
from mc3.model import MC3
from mc3.objectives.base import Batch, Objective


class LearntScale(Objective, kind="learnt_scale", takes=("highest",)):
    """Eq. 1 with cosines times a scale e^s, as in CLIP, which starts at 1 / temperature and never exceeds `highest`."""

    def prepare(self, model: MC3, clips: int, seed: int) -> None:
        """Start the scale."""
        self.log_scale = nn.Parameter(torch.tensor(-math.log(self.temperature), dtype=torch.float64))

    def forward(self, embeddings: Embeddings, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """As `Objective.forward`; the scale is one more part."""
        loss, parts = super().forward(embeddings, batch)
        return loss, parts | {"logit_scale": self.log_scale.detach().exp()}

    def terms(self, queries: Embeddings, keys: Embeddings, offset: int, batch: Batch) -> dict[str, Tensor]:
        """Eq. 1 with temperature e^-s."""
        return losses.pairwise(queries, self.stage.pairs, (-self.log_scale).exp(), keys, offset)

    @torch.no_grad()
    def after_step(self, model: MC3) -> None:
        """Clamp the scale to its bound."""
        self.log_scale.clamp_(max=math.log(self.stage.settings["highest"]))
