"""What a stage minimises, with what it has to remember between steps: the losses of Sec. 4 and the baselines' own.

All kinds sum the same terms, one for either direction of every pair, in which modality i asks and j answers; they
differ in the answers that a query is compared with. What a kind keeps (a learnt scale, past embeddings, averaged
encoders) is its `state_dict`, the same on every process, and part of the state from which a run goes on. None of it
is in the checkpoints: those are the encoders.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, one_hot, pad

from mc3 import losses
from mc3.config import Config, as_dict
from mc3.data import batches
from mc3.methods import Stage
from mc3.model import MC3

EMPTY = -1  # the clip of a place in a queue that nothing has taken yet


@dataclass(frozen=True)
class Batch:
    """A step's batch beside its embeddings.

    inputs: what the encoders take, this process's rows.
    pieces: those rows as they are embedded at once.
    clips: int64 [N], the numbers of all processes' clips in order of rank.
    rows: how many of them each process has.
    seed: of this step, the same on every process.
    """

    inputs: dict[str, Tensor]
    pieces: list[slice]
    clips: Tensor
    rows: list[int]
    seed: int


class Objective(nn.Module):
    """Eq. 1 over the batch and Eq. 3, by the stage's weights. Keeps nothing."""

    def __init__(self, config: Config, stage: Stage) -> None:
        super().__init__()
        self.settings, self.stage = config.loss, stage
        self.temperature = stage.temperature or config.loss.temperature
        self.directed = [(i, j) for pair in stage.pairs for i, j in (pair, pair[::-1])]

    def forward(self, embeddings: dict[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss on this process's rows, and its parts, each such that the mean over processes is the batch's.

        Args:
            embeddings: {modality: unit [B, D]} of this process.
            batch: the batch that they are of.
        """
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

    def terms(
        self, embeddings: dict[str, Tensor], keys: Mapping[str, Tensor], offset: int, batch: Batch
    ) -> dict[str, Tensor]:
        """{"i-j": L_ij} of this process's rows, among `keys` of all processes from row `offset` on."""
        return losses.pairwise(embeddings, self.stage.pairs, self.temperature, keys, offset)

    def consensus(self, embeddings: dict[str, Tensor], keys: Mapping[str, Tensor]) -> Tensor:
        """Eq. 3 of this process's rows."""
        return losses.consensus(embeddings, **as_dict(self.settings.consensus))

    def after_step(self, model: MC3) -> None:
        """What changes after each update of `model`, the encoders that learn."""


class LearntScale(Objective):
    """Cosines times a learnt scale e^s, as in CLIP and CLAP: begins at 1 / temperature, never above `highest`."""

    def __init__(self, config: Config, stage: Stage, model: MC3) -> None:
        super().__init__(config, stage)
        start = torch.tensor(-math.log(self.temperature), dtype=next(model.parameters()).dtype)
        self.log_scale = nn.Parameter(start)

    def forward(self, embeddings: dict[str, Tensor], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """As `Objective.forward`; the parts have the scale too."""
        loss, parts = super().forward(embeddings, batch)
        return loss, parts | {"logit_scale": self.log_scale.detach().exp()}

    def terms(
        self, embeddings: dict[str, Tensor], keys: Mapping[str, Tensor], offset: int, batch: Batch
    ) -> dict[str, Tensor]:
        """Eq. 1 with temperature e^-s."""
        return losses.pairwise(embeddings, self.stage.pairs, (-self.log_scale).exp(), keys, offset)

    @torch.no_grad()
    def after_step(self, model: MC3) -> None:
        """Hold the scale below its bound."""
        self.log_scale.clamp_(max=math.log(self.stage.settings["highest"]))


class Queue(nn.Module):
    """The newest embeddings and the clips that they are of, oldest first; `EMPTY` until it is full."""

    def __init__(self, size: int, model: MC3) -> None:
        super().__init__()
        self.embeddings: Tensor
        self.clips: Tensor
        zeros = torch.zeros(size, model.config.embedding_dim, dtype=next(model.parameters()).dtype)
        self.register_buffer("embeddings", zeros)
        self.register_buffer("clips", torch.full((size,), EMPTY))

    def push(self, embeddings: Tensor, clips: Tensor) -> None:
        """Append [n, D] of clips [n]; as many of the oldest leave."""
        size = len(self.clips)
        self.embeddings = torch.cat([self.embeddings, embeddings])[-size:]
        self.clips = torch.cat([self.clips, clips])[-size:]


def gradient_factors(candidates: Tensor, queries: Tensor, temperature: float) -> Tensor:
    """How unsure the batch is of each candidate: p - y, [C, N].

    p is the softmax over the queries of their cosine to the candidate, and y puts 1 on its largest, the label that the
    model would give itself. (p - y) times the candidate is the gradient of that label's cross-entropy in a last
    layer whose weights are the queries, as in BADGE (Ash et al. 2020).

    Args:
        candidates: [C, D] unit embeddings of the modality that answers.
        queries: [N, D] unit embeddings of the one that asks, a batch.
        temperature: of the softmax.
    """
    p_CN = (candidates @ queries.T / temperature).softmax(dim=1)
    return p_CN - one_hot(p_CN.argmax(dim=1), p_CN.shape[1])


def kmeans_plusplus(factors: Tensor, embeddings: Tensor, draws: Tensor) -> Tensor:
    """k-means++ seeding (Arthur and Vassilvitskii 2007) of the outer products of `factors` and `embeddings`.

    The first is drawn evenly, each further one by its squared distance to the nearest drawn before. The products are
    never formed: their inner products are those of the factors times those of the embeddings.

    Args:
        factors: [C, N].
        embeddings: [C, D].
        draws: [count, C] from the exponential distribution, count <= C: the largest weight / draw wins, which
            draws by weight without a running sum, that CUDA does not add up in a fixed order.

    Returns:
        int64 [count], rows of both; distinct as long as there are points apart from those drawn.
    """
    norms = factors.square().sum(dim=1) * embeddings.square().sum(dim=1)
    weights, nearest, chosen = torch.ones_like(norms), torch.full_like(norms, math.inf), []
    for draw in draws:
        one = (weights / draw).argmax()[None]
        products = (factors @ factors[one].T * (embeddings @ embeddings[one].T))[:, 0]
        nearest = torch.minimum(nearest, (norms + norms[one] - 2 * products).clamp(min=0)).index_fill(0, one, 0)
        weights = nearest
        chosen.append(one)
    return torch.cat(chosen)


class ActiveNegatives(Objective):
    """CM-ACC's: averaged encoders answer, and the negatives are chosen among their past answers.

    For each direction, a step first moves as many members of the pool as the batch has clips into the dictionary of
    `negatives` (the oldest leave): those that k-means++ seeding draws over their gradient embeddings. A query then has
    to find its clip's answer among the batch's and the dictionary's. The batch's answers enter the pool, and the
    averaged encoders follow those that learn: theta_k = m theta_k + (1 - m) theta_q.
    """

    def __init__(self, config: Config, stage: Stage, model: MC3) -> None:
        super().__init__(config, stage)
        self.averaged = copy.deepcopy(model).eval().requires_grad_(False)
        for modality in set(self.averaged.encoders) - set(stage.modalities):
            del self.averaged.encoders[modality]
        self.pool = nn.ModuleDict({m: Queue(stage.settings["pool"], model) for m in stage.modalities})
        dictionaries = {f"{i}-{j}": Queue(stage.settings["negatives"], model) for i, j in self.directed}
        self.negatives = nn.ModuleDict(dictionaries)

    def terms(
        self, embeddings: dict[str, Tensor], keys: Mapping[str, Tensor], offset: int, batch: Batch
    ) -> dict[str, Tensor]:
        """Eq. 1 among the averaged encoders' answers; a query's own clip is none of its negatives."""
        with torch.no_grad():
            found = [self.averaged({m: batch.inputs[m][piece] for m in embeddings}) for piece in batch.pieces]
            answers, _, _ = losses.gather({m: torch.cat([part[m] for part in found]) for m in embeddings}, batch.rows)
            with torch.autocast(batch.clips.device.type, enabled=False):
                self.choose(keys, batch)
        terms = {}
        for i, j in self.directed:
            asking = batch.clips[offset : offset + len(embeddings[i]), None]
            negatives = cast(Queue, self.negatives[f"{i}-{j}"])
            unfit = (negatives.clips == EMPTY) | (negatives.clips == asking)
            excluded = pad(unfit, (len(batch.clips), 0))
            among = torch.cat([answers[j], negatives.embeddings])
            terms[f"{i}-{j}"] = losses.info_nce(embeddings[i], among, self.temperature, offset, excluded)
        for modality, answer in answers.items():
            cast(Queue, self.pool[modality]).push(answer, batch.clips)
        return terms

    def choose(self, keys: Mapping[str, Tensor], batch: Batch) -> None:
        """Renew the dictionaries from the members of the pool that they do not have."""
        for number, (i, j) in enumerate(self.directed):
            pool, negatives = cast(Queue, self.pool[j]), cast(Queue, self.negatives[f"{i}-{j}"])
            rows = ((pool.clips != EMPTY) & ~torch.isin(pool.clips, negatives.clips)).nonzero()[:, 0]
            count = min(len(batch.clips), len(negatives.clips), len(rows))
            if not count:
                continue
            candidates = pool.embeddings[rows]
            generator = torch.Generator().manual_seed(batches.seed_of(batch.seed, number))
            draws = torch.empty(count, len(rows)).exponential_(generator=generator).to(candidates)
            factors = gradient_factors(candidates, keys[i], self.temperature)
            chosen = kmeans_plusplus(factors, candidates, draws)
            negatives.push(candidates[chosen], pool.clips[rows[chosen]])

    @torch.no_grad()
    def after_step(self, model: MC3) -> None:
        """The averaged encoders follow."""
        momentum = self.stage.settings["momentum"]
        for modality, encoder in self.averaged.encoders.items():
            for mine, theirs in zip(encoder.parameters(), model.encoders[modality].parameters(), strict=True):
                mine.mul_(momentum).add_(theirs, alpha=1 - momentum)


class MemoryBank(Objective):
    """CMC's with a memory bank: a past embedding of every clip, `negatives` of them drawn evenly for each query.

    The positive is the bank's too. After use, m = m momentum + e (1 - momentum), brought back to length 1.
    """

    def __init__(self, config: Config, stage: Stage, model: MC3, clips: int, seed: int) -> None:
        super().__init__(config, stage)
        generator = torch.Generator().manual_seed(seed)
        for modality in stage.modalities:
            bank = torch.randn(clips, model.config.embedding_dim, generator=generator)
            self.register_buffer(modality, normalize(bank, dim=1).to(next(model.parameters()).dtype))

    def terms(
        self, embeddings: dict[str, Tensor], keys: Mapping[str, Tensor], offset: int, batch: Batch
    ) -> dict[str, Tensor]:
        """InfoNCE of each query against its own clip's row of the bank and those of others."""
        banks, settings = dict(self.named_buffers()), self.stage.settings
        clips, size = batch.clips, next(len(bank) for bank in banks.values())
        generator = torch.Generator().manual_seed(batch.seed)
        draws = torch.randint(1, size, (len(clips), settings["negatives"]), generator=generator).to(clips.device)
        mine = slice(offset, offset + len(embeddings[self.directed[0][0]]))
        rows = torch.cat([clips[:, None], (clips[:, None] + draws) % size], dim=1)[mine]
        terms = {}
        for i, j in self.directed:
            with torch.autocast(clips.device.type, enabled=False):
                logits = torch.einsum("bd,bkd->bk", embeddings[i], banks[j][rows]) / self.temperature
                terms[f"{i}-{j}"] = cross_entropy(logits, torch.zeros_like(rows[:, 0]))
        with torch.no_grad():
            for modality, bank in banks.items():
                renewed = settings["momentum"] * bank[clips] + (1 - settings["momentum"]) * keys[modality]
                bank.index_copy_(0, clips, normalize(renewed, dim=1))
        return terms


class Relative(Objective):
    """Eq. 3 over similarities measured against the batch, without exponents: not the paper's."""

    def consensus(self, embeddings: dict[str, Tensor], keys: Mapping[str, Tensor]) -> Tensor:
        """`losses.relative_consensus` of this process's rows."""
        anchor = self.settings.consensus.anchor
        return losses.relative_consensus(embeddings, keys, anchor, self.stage.settings["softness"])


class Peers(Objective):
    """Eq. 1 in which a clip counts for the anchor and a modality as much as the other modalities agree on it.

    Consensus by choosing what is learnt from, rather than by pulling similarities about: not the paper's. With `trust`
    "retrieval" a modality is listened to as far as it finds its own clips in the batch, with "equal" all are alike.
    """

    def terms(
        self, embeddings: dict[str, Tensor], keys: Mapping[str, Tensor], offset: int, batch: Batch
    ) -> dict[str, Tensor]:
        """Eq. 1, weighted in the pairs with the anchor."""
        anchor = self.settings.consensus.anchor
        trust = losses.retrieval_posteriors(keys, anchor, self.temperature)
        if self.stage.settings["trust"] == "equal":
            trust = {modality: torch.ones_like(value) for modality, value in trust.items()}
        weights = losses.peer_weights(embeddings, keys, anchor, trust)
        terms = {}
        for i, j in self.directed:
            own = weights[j if i == anchor else i] if anchor in (i, j) else None
            terms[f"{i}-{j}"] = losses.info_nce(embeddings[i], keys[j], self.temperature, offset, weights=own)
        return terms


def make(config: Config, stage: Stage, model: MC3, clips: int, seed: int) -> Objective:
    """The objective of a stage about to begin.

    Args:
        config: for temperature, weight and reading of the consensus.
        stage: its pairs, weights and kind of loss.
        model: as the stage finds it.
        clips: the number of training clips.
        seed: of the stage.
    """
    if stage.loss == "learnt_scale":
        return LearntScale(config, stage, model)
    if stage.loss == "active_negatives":
        return ActiveNegatives(config, stage, model)
    if stage.loss == "memory_bank":
        return MemoryBank(config, stage, model, clips, seed)
    if stage.loss == "relative":
        return Relative(config, stage)
    if stage.loss == "peers":
        return Peers(config, stage)
    if stage.loss == "info_nce":
        return Objective(config, stage)
    raise NotImplementedError(f"the loss {stage.loss!r} of mc3/methods.py has no line here")
