"""CM-ACC's loss (https://arxiv.org/abs/2009.09805): InfoNCE against actively sampled negatives."""

import copy
import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad

from mc3 import losses
from mc3.data import batches
from mc3.losses import Embeddings
from mc3.model import MC3
from mc3.objectives.base import Batch, Objective

EMPTY = -1  # the clip number of a slot that is still free


class Queue(nn.Module):
    """The newest embeddings and their clips' numbers, oldest first; free slots have the number `EMPTY`."""

    embeddings: Tensor
    clips: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("embeddings", torch.zeros(size, width))
        self.register_buffer("clips", torch.full((size,), EMPTY))

    def push(self, embeddings: Tensor, clips: Tensor) -> None:
        """Append [n, D] of clips [n]; the n oldest leave."""
        self.embeddings = torch.cat([self.embeddings, embeddings])[-len(self.clips) :]
        self.clips = torch.cat([self.clips, clips])[-len(self.clips) :]


class ActiveNegatives(Objective, kind="active_negatives"):
    """Momentum encoders make the keys, and the negatives are chosen among their past keys.

    For each direction, a step first moves members of the pool, as many as the batch has clips, into the dictionary of
    `negatives`, whose oldest leave: those that k-means++ seeding draws over their gradient embeddings. A query then
    has to find its clip's key among those of the batch and the dictionary. The batch's keys enter the pool, and the
    momentum encoders follow those that learn: theta_k = m theta_k + (1 - m) theta_q. Sizes and m fit the profile's
    batches: `loss.active_negatives`.
    """

    def prepare(self, model: MC3, clips: int, seed: int) -> None:
        """Copy the encoders; pools and dictionaries start empty."""
        self.averaged = copy.deepcopy(model).eval().requires_grad_(False)
        for modality in set(self.averaged.encoders) - set(self.stage.modalities):
            del self.averaged.encoders[modality]
        sizes, width = self.settings.active_negatives, model.config.embedding_dim
        self.pool = nn.ModuleDict({m: Queue(sizes.pool, width) for m in self.stage.modalities})
        self.negatives = nn.ModuleDict({f"{i}-{j}": Queue(sizes.negatives, width) for i, j in self.directed})

    def terms(self, queries: Embeddings, keys: Embeddings, offset: int, batch: Batch) -> dict[str, Tensor]:
        """Eq. 1 over the momentum encoders' keys; a query's own clip is none of its negatives."""
        with torch.no_grad():
            found = [self.averaged({m: batch.inputs[m][part] for m in queries}) for part in batch.microbatches]
            averaged, _, _ = losses.gather({m: torch.cat([part[m] for part in found]) for m in queries}, batch.rows)
            with torch.autocast(batch.clips.device.type, enabled=False):
                self.choose(keys, batch)
        terms = {}
        for i, j in self.directed:
            own = batch.clips[offset : offset + len(queries[i]), None]
            negatives = cast(Queue, self.negatives[f"{i}-{j}"])
            excluded = pad((negatives.clips == EMPTY) | (negatives.clips == own), (len(batch.clips), 0))
            candidates = torch.cat([averaged[j], negatives.embeddings])
            terms[f"{i}-{j}"] = losses.info_nce(queries[i], candidates, self.temperature, offset, excluded)
        for modality, key in averaged.items():
            cast(Queue, self.pool[modality]).push(key, batch.clips)
        return terms

    def choose(self, keys: Embeddings, batch: Batch) -> None:
        """Renew the dictionaries from the members of the pool that they do not contain."""
        for number, (i, j) in enumerate(self.directed):
            pool, negatives = cast(Queue, self.pool[j]), cast(Queue, self.negatives[f"{i}-{j}"])
            rows = ((pool.clips != EMPTY) & ~torch.isin(pool.clips, negatives.clips)).nonzero()[:, 0]
            count = min(len(batch.clips), len(negatives.clips), len(rows))
            if not count:
                continue
            candidates = pool.embeddings[rows]
            device = candidates.device  # where a large pool's draws take a hundredth of the time
            generator = torch.Generator(device).manual_seed(batches.seed_of(batch.seed, number))
            draws = torch.empty(count, len(rows), device=device).exponential_(generator=generator).to(candidates)
            factors = gradient_factors(candidates, keys[i], self.temperature)
            chosen = kmeans_plusplus(factors, candidates, draws)
            negatives.push(candidates[chosen], pool.clips[rows[chosen]])

    @torch.no_grad()
    def after_step(self, model: MC3) -> None:
        """Move the momentum encoders towards `model`."""
        momentum = self.settings.active_negatives.momentum
        for modality, encoder in self.averaged.encoders.items():
            for mine, theirs in zip(encoder.parameters(), model.encoders[modality].parameters(), strict=True):
                mine.mul_(momentum).add_(theirs, alpha=1 - momentum)


def gradient_factors(candidates: Tensor, queries: Tensor, temperature: float) -> Tensor:
    """The uncertainty of a batch of queries [N, D] about each candidate [C, D]: p - y, [C, N].

    p is the softmax over the queries of their cosine to the candidate; y is 1 at its largest, the label that the model
    would give itself. (p - y) times the candidate is the gradient of that label's cross-entropy in a last layer whose
    weights are the queries, as in BADGE (https://arxiv.org/abs/1906.03671).
    """
    p_CN = (candidates @ queries.T / temperature).softmax(dim=1)
    return p_CN - one_hot(p_CN.argmax(dim=1), p_CN.shape[1])


def kmeans_plusplus(factors: Tensor, embeddings: Tensor, draws: Tensor) -> Tensor:
    """k-means++ seeding (Arthur and Vassilvitskii 2007) of the outer products of `factors` and `embeddings`.

    The first is drawn evenly, each further one by its squared distance to the nearest drawn before. The products are
    never formed: their inner products are those of the factors [C, N] times those of the embeddings [C, D]. `draws`
    are from the exponential distribution, [count, C] with count <= C: the largest weight / draw wins, which draws by
    weight without a running sum, whose order of addition varies on CUDA. Returns rows of both, int64 [count], distinct
    as long as there are points away from those drawn.
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
