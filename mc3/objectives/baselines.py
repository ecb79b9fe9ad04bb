"""The losses of two baselines, CLAP and CMC."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from mc3 import losses
from mc3.losses import Embeddings
from mc3.model import MC3
from mc3.objectives.base import Batch, Objective


class LearntScale(Objective, kind="learnt_scale", takes=("highest",)):
    """CLAP's (https://arxiv.org/abs/2206.04769): Eq. 1 with cosines times a learnt scale e^s, as in CLIP.

    The scale starts at 1 / temperature and never exceeds `highest`.
    """

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


class MemoryBank(Objective, kind="memory_bank", takes=("negatives", "momentum")):
    """CMC's memory bank (https://arxiv.org/abs/1906.05849): InfoNCE against a past embedding of every clip.

    Each query draws `negatives` evenly; its positive is from the bank too. Then m = m momentum + e (1 - momentum),
    normalised to length 1.
    """

    def prepare(self, model: MC3, clips: int, seed: int) -> None:
        """Fill the bank with random unit vectors."""
        generator = torch.Generator().manual_seed(seed)
        for modality in self.stage.modalities:
            bank = torch.randn(clips, model.config.embedding_dim, generator=generator)
            self.register_buffer(modality, normalize(bank, dim=1))

    def terms(self, queries: Embeddings, keys: Embeddings, offset: int, batch: Batch) -> dict[str, Tensor]:
        """InfoNCE of each query against the bank's row of its own clip and those of others."""
        banks, settings = dict(self.named_buffers()), self.stage.settings
        clips, size = batch.clips, next(len(bank) for bank in banks.values())
        generator = torch.Generator().manual_seed(batch.seed)
        draws = torch.randint(1, size, (len(clips), settings["negatives"]), generator=generator).to(clips.device)
        mine = slice(offset, offset + len(queries[self.directed[0][0]]))
        rows = torch.cat([clips[:, None], (clips[:, None] + draws) % size], dim=1)[mine]
        terms = {}
        for i, j in self.directed:
            with torch.autocast(clips.device.type, enabled=False):
                logits = torch.einsum("bd,bkd->bk", queries[i], banks[j][rows]) / self.temperature
                terms[f"{i}-{j}"] = cross_entropy(logits, torch.zeros_like(rows[:, 0]))
        with torch.no_grad():
            for modality, bank in banks.items():
                renewed = settings["momentum"] * bank[clips] + (1 - settings["momentum"]) * keys[modality]
                bank.index_copy_(0, clips, normalize(renewed, dim=1))
        return terms
