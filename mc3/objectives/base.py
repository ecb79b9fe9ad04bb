"""The base of every objective: Eq. 1 over the batch and Eq. 3, by the weights of a stage."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mc3 import losses
from mc3.config import Config, as_dict
from mc3.losses import Embeddings
from mc3.methods import Stage
from mc3.model import MC3

KINDS: dict[str, type[Objective]] = {}


@dataclass(frozen=True)
class Batch:
    """The batch of a step, without its embeddings."""

    inputs: dict[str, Tensor]  # this process's rows as the encoders take them, by modality
    microbatches: list[slice]  # of these rows, those that are embedded at once
    clips: Tensor  # int64 [N], the numbers of all processes' clips in order of rank
    rows: list[int]  # how many clips each process has
    seed: int  # of this step, the same on every process


class Objective(nn.Module):
    """Eq. 1 over the batch and Eq. 3. It has no state.

    A subclass is another kind of loss, which a stage of `mc3.methods` asks for by `{"kind": NAME, **settings}`:

        class Mine(Objective, kind="mine", takes=("margin",)):
            def terms(self, queries, keys, offset, batch): ...

    Its parameters and buffers are what it keeps between steps (a scale, past embeddings, averaged encoders), the same
    on every process. A resumed run restores them, and no checkpoint contains them.
    """

    takes: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, kind: str, takes: Collection[str] = ()) -> None:
        """Register a kind of loss and the names of its settings."""
        cls.takes = frozenset(takes)
        KINDS[kind] = cls

    def __init__(self, config: Config, stage: Stage) -> None:
        super().__init__()
        self.settings, self.stage, self.batch_size = config.loss, stage, config.train.batch_size
        self.temperature = stage.temperature or config.loss.temperature
        self.directed = [(i, j) for pair in stage.pairs for i, j in (pair, pair[::-1])]

    @classmethod
    def fault(cls, stage: Stage) -> str:
        """Why a stage cannot have this kind of loss, to follow "has the loss ..., which"; empty if it can."""
        return ""

    def prepare(self, model: MC3, clips: int, seed: int) -> None:
        """Create the initial state of a stage that begins with `model` and has `clips` training clips."""

    def module(self, model: MC3) -> nn.Module:
        """The module with those parameters of `model` that get a gradient, whose outputs on a batch `forward` takes.

        Beside inputs by modality the batch has "rows", their positions in the whole one, and "seed", the step's.
        """
        return model

    def forward(self, embeddings: Embeddings, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss on this process's rows, unit [B, D], and its parts; means over processes are the whole batch's."""
        keys, offset, share = losses.gather(embeddings, batch.rows)
        parts = self.terms(embeddings, keys, offset, batch)
        loss = self.stage.contrastive * torch.stack(list(parts.values())).sum()
        if self.stage.consensus:
            parts["consensus"] = self.consensus(embeddings, keys)
            loss = loss + self.stage.consensus * self.settings.consensus_weight * parts["consensus"]
        with torch.no_grad():
            for i, j in self.stage.pairs:
                parts[f"similarity/{i}-{j}"] = (embeddings[i] * embeddings[j]).sum(dim=1).mean()
        return share * loss, {name: share * part.detach() for name, part in {"loss": loss, **parts}.items()}

    def terms(self, queries: Embeddings, keys: Embeddings, offset: int, batch: Batch) -> dict[str, Tensor]:
        """{"i-j": L_ij} of this process's `queries` among `keys`, those of all processes; ours begin at `offset`."""
        return losses.pairwise(queries, self.stage.pairs, self.temperature, keys, offset)

    def consensus(self, embeddings: Embeddings, keys: Embeddings) -> Tensor:
        """Eq. 3 of this process's rows, or of the whole batch where its distance compares all samples with all."""
        settings = self.settings.consensus
        return losses.consensus(keys if settings.distance == "frobenius" else embeddings, **as_dict(settings))

    def after_step(self, model: MC3) -> None:
        """Update the state after an update of `model`, the encoders that learn."""


KINDS["info_nce"] = Objective
