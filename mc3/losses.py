"""Section 4 of the paper: multimodal contrastive (Eq. 1) and consensus (Eq. 2-3) coding.

Embeddings come as `{modality: tensor [B, D]}`, one unit vector a row; row t of every modality is sample t.
Everything is computed in float32 at least, also under autocast: a similarity divided by a temperature of
0.05 in bfloat16 would be off by 0.08.

Across processes each one holds some rows of the batch. It scores its own rows against everybody's (`gather`),
and the gather carries gradients back, so that the average of the processes' gradients is the gradient of
one process holding the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._functional_collectives import all_gather_tensor_autograd
from torch.nn.functional import cross_entropy, pad

from mc3.errors import ConfigError

INVERSES = ("own", "minimum", "linear")
EDGE = 1e-6  # K's derivative is infinite at x = -1 when its exponent is below 1; K is flat from there to -1 + 2 EDGE


def _exact(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def info_nce(
    queries: Tensor,
    keys: Tensor,
    temperature: float | Tensor,
    offset: int = 0,
    excluded: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Eq. 1, one direction: each query must find the key of its own sample among all keys.

    Args:
        queries: [B, D] unit embeddings of modality i.
        keys: [N, D] unit embeddings of modality j, N >= B.
        temperature: tau; logits are cosines over tau.
        offset: query t's own key is row `offset + t`.
        excluded: bool, [B, N], true where a key is not to be compared with a query.
        weights: [B], how much each query counts; 1 for all without.

    Returns:
        The mean over the queries, a scalar; log N when all logits are equal (and weights average 1).
    """
    with torch.autocast(queries.device.type, enabled=False):
        logits_BN = _exact(queries) @ _exact(keys).T / temperature
        if excluded is not None:
            logits_BN = logits_BN.masked_fill(excluded, -torch.inf)
        targets_B = torch.arange(offset, offset + len(queries), device=queries.device)
        if weights is None:
            return cross_entropy(logits_BN, targets_B)
        return (weights * cross_entropy(logits_BN, targets_B, reduction="none")).mean()


def pairwise(
    embeddings: Mapping[str, Tensor],
    pairs: Sequence[tuple[str, str]],
    temperature: float | Tensor,
    keys: Mapping[str, Tensor] | None = None,
    offset: int = 0,
) -> dict[str, Tensor]:
    """The terms of L_contrastive: {"i-j": L_ij, "j-i": L_ji} of each unordered pair, six for three modalities.

    In L_ij modality i asks and j answers. `keys` and `offset` come from `gather` when other processes hold
    a part of the batch; without them the batch is its own keys.
    """
    keys = embeddings if keys is None else keys
    directed = [(i, j) for pair in pairs for i, j in (pair, pair[::-1])]
    return {f"{i}-{j}": info_nce(embeddings[i], keys[j], temperature, offset) for i, j in directed}


def contrastive(
    embeddings: Mapping[str, Tensor],
    pairs: Sequence[tuple[str, str]],
    temperature: float,
    keys: Mapping[str, Tensor] | None = None,
    offset: int = 0,
) -> Tensor:
    """L_contrastive (Sec. 4.2): the sum of `pairwise`, both directions of every pair. A scalar."""
    return torch.stack(list(pairwise(embeddings, pairs, temperature, keys, offset).values())).sum()


def scale(similarity: Tensor, alpha: float | Tensor) -> Tensor:
    """K(x) = ((x + 1) / 2)^alpha (below Eq. 2): [-1, 1] to [0, 1], elementwise, kept `EDGE` away from 0."""
    return ((similarity + 1) / 2).clamp(EDGE, 1.0) ** alpha


def unscale(scaled: Tensor, alpha: float | Tensor) -> Tensor:
    """K's inverse, 2 y^(1/alpha) - 1: back to a similarity, elementwise."""
    return 2 * scaled ** (1 / alpha) - 1


def similarities(embeddings: Mapping[str, Tensor], anchor: str) -> dict[str, Tensor]:
    """e_i^t e_a^t of every modality but the anchor, each [B]."""
    with torch.autocast(embeddings[anchor].device.type, enabled=False):
        return {m: (_exact(e) * _exact(embeddings[anchor])).sum(dim=-1) for m, e in embeddings.items() if m != anchor}


def consensus(
    embeddings: Mapping[str, Tensor],
    anchor: str,
    alpha: Mapping[str, float],
    inverse: str = "own",
    stop_gradient: bool = True,
) -> Tensor:
    """L_consensus (Eq. 3): how far each similarity to the anchor is from the consensus c^t of its sample (Eq. 2).

    The norm of Eq. 3 is of a scalar, hence an absolute value. Two things are left open by the paper:

    Args:
        embeddings: [B, D] unit vectors by modality, the anchor among them; any number of others.
        anchor: M_a, "audio" in the paper.
        alpha: the exponent of K_i for each modality but the anchor (paper: video 0.5, text 1).
        inverse: which K^-1 takes the smallest scaled score back to a similarity: that of the modality
            being pulled ("own"), that of the modality that gave the minimum ("minimum": c is its plain
            similarity), or none, 2y - 1 ("linear").
        stop_gradient: c^t is a constant target. Otherwise gradients flow through it too, and the
            modality that gave the minimum is pulled towards the others as they are pulled towards it.

    Returns:
        A scalar, the mean over samples of the sum over modalities; 0 when there is only one besides the anchor
        (but for "linear").

    Raises:
        ConfigError: no such anchor or reading, or no exponent for a modality.
    """
    if inverse not in INVERSES:
        raise ConfigError(f"loss.consensus.inverse is {inverse!r}; it must be one of {', '.join(INVERSES)}")
    if anchor not in embeddings:
        raise ConfigError(f"loss.consensus.anchor is {anchor!r}; the embeddings are of {', '.join(embeddings)}")
    by_modality = similarities(embeddings, anchor)
    if missing := [m for m in by_modality if m not in alpha]:
        raise ConfigError(
            f"loss.consensus.alpha has no exponent for {missing[0]!r}; with anchor {anchor!r} it needs one"
        )

    x_BM = torch.stack(list(by_modality.values()), dim=1)
    alpha_M = x_BM.new_tensor([alpha[m] for m in by_modality])
    minimum_B1, lowest_B1 = scale(x_BM, alpha_M).min(dim=1, keepdim=True)
    if inverse == "own":
        # The lowest one's own inverse gives back its similarity. Said so rather than computed: |x - c| has
        # slope 1 however small the rounding error of the way through K and back.
        c_BM = unscale(minimum_B1, alpha_M).scatter(1, lowest_B1, x_BM.gather(1, lowest_B1))
    elif inverse == "minimum":
        c_BM = x_BM.gather(1, lowest_B1).expand_as(x_BM)
    else:
        c_BM = unscale(minimum_B1, 1.0).expand_as(x_BM)
    if stop_gradient:
        c_BM = c_BM.detach()
    return (x_BM - c_BM).abs().sum(dim=1).mean()


def standardised(
    embeddings: Mapping[str, Tensor], keys: Mapping[str, Tensor], anchor: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Similarities to the anchor in standard deviations from the mean of the whole batch.

    Cosines of two pairs of modalities are not alike: one pair's may spread over .2 and the other's over .6. Measured
    against the batch they are, without an exponent that somebody has to choose.

    Args:
        embeddings: [B, D] unit vectors by modality, this process's rows.
        keys: [N, D], those of the whole batch.
        anchor: the modality that the others are compared with.

    Returns:
        ({modality: [B]}, {modality: standard deviation}); mean and deviation carry no gradients.
    """
    scores, spreads = {}, {}
    everybody = similarities({m: key.detach() for m, key in keys.items()}, anchor)
    for modality, x_B in similarities(embeddings, anchor).items():
        spreads[modality], mean = torch.std_mean(everybody[modality], correction=0)
        scores[modality] = (x_B - mean) / spreads[modality].clamp(min=EDGE)
    return scores, spreads


def relative_consensus(
    embeddings: Mapping[str, Tensor], keys: Mapping[str, Tensor], anchor: str, softness: float
) -> Tensor:
    """Eq. 3 with similarities taken by `standardised` in place of K: not the paper's, but this project's.

    The consensus of a sample is the smallest of its standardised similarities, or their soft minimum, and a constant
    target. The distance to it is counted in cosines again, so that the weight means what it does for Eq. 3. All
    similarities going down together, which changes no ranking, costs and gains nothing.

    Args:
        embeddings: [B, D] unit vectors by modality, this process's rows.
        keys: [N, D], those of the whole batch.
        anchor: M_a.
        softness: 0 for the minimum; otherwise -s log(mean(exp(-z / s))), which is the mean for a large s.

    Returns:
        A scalar, the mean over these rows of the sum over modalities.
    """
    scores, spreads = standardised(embeddings, keys, anchor)
    z_BM, spread_M = torch.stack(list(scores.values()), dim=1), torch.stack(list(spreads.values()))
    if softness:
        soft_B1 = -softness * ((-z_BM / softness).logsumexp(dim=1, keepdim=True) - math.log(z_BM.shape[1]))
    else:
        soft_B1 = z_BM.amin(dim=1, keepdim=True)
    return ((z_BM - soft_B1.detach()).abs() * spread_M).sum(dim=1).mean()


def retrieval_posteriors(keys: Mapping[str, Tensor], anchor: str, temperature: float) -> dict[str, Tensor]:
    """How well a modality and the anchor find each other in the batch: the mean probability of the own sample in Eq. 1.

    Args:
        keys: [N, D] unit vectors by modality, the whole batch.
        anchor: the modality that the others are compared with.
        temperature: tau.

    Returns:
        {modality: scalar} for all but the anchor, without gradients: 1 / N if it tells nothing, at most 1.
    """
    found = {}
    with torch.no_grad(), torch.autocast(keys[anchor].device.type, enabled=False):
        for modality in (m for m in keys if m != anchor):
            logits_NN = _exact(keys[modality]) @ _exact(keys[anchor]).T / temperature
            found[modality] = (logits_NN.softmax(dim=0) + logits_NN.softmax(dim=1)).diagonal().mean() / 2
    return found


def peer_weights(
    embeddings: Mapping[str, Tensor], keys: Mapping[str, Tensor], anchor: str, trust: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """How much each sample counts in the contrast of the anchor with a modality: as much as the others agree on it.

    Not the paper's, but this project's. As in co-teaching (Han et al. 2018) the peers choose: the weight of sample t
    for modality m is proportional to exp(min trust_i z_i^t) over the modalities i other than m and the anchor, z from
    `standardised`, trust as a share of the highest.

    Args:
        embeddings: [B, D] unit vectors by modality, this process's rows.
        keys: [N, D], those of the whole batch.
        anchor: M_a.
        trust: by modality, from 0, its similarities say nothing, on; relative to each other it is what counts.

    Returns:
        {modality: [B]} without gradients; over the whole batch they average 1.
    """
    with torch.no_grad():
        highest = torch.stack(list(trust.values())).max()
        mine, whole = (standardised(of, keys, anchor)[0] for of in (embeddings, keys))
        weights = {}
        for modality in mine:
            peers = [m for m in mine if m != modality]
            mine_B, whole_N = (
                torch.stack([z[m] * (trust[m] / highest) for m in peers]).amin(dim=0) for z in (mine, whole)
            )
            weights[modality] = mine_B.exp() / whole_N.exp().mean()
    return weights


def gather(
    embeddings: Mapping[str, Tensor], rows: Sequence[int] | None = None
) -> tuple[Mapping[str, Tensor], int, float]:
    """All processes' embeddings, with gradients, and this process's place among them.

    Gradients flow back to the process that made a row (a reduce-scatter), which a plain all_gather would cut:
    a local loss over plainly gathered keys points in another direction. With it, the gradient of

        share * (contrastive(mine, pairs, tau, keys, offset) + weight * consensus(mine))

    averaged over processes, as DistributedDataParallel does, equals that of one process with all rows.

    Args:
        embeddings: this process's rows, [B, D] each; all of one width.
        rows: the number of rows of every process in order of rank, the same list on each; None if all hold B.

    Returns:
        keys ({modality: [N, D]} in order of rank), offset (where this process's rows start in them), and
        share (B * processes / N, 1 when all hold the same number).
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return embeddings, 0, 1.0
    processes, rank = dist.get_world_size(), dist.get_rank()
    mine_BMD = torch.stack([_exact(e) for e in embeddings.values()], dim=1)  # one collective for all modalities
    rows = [len(mine_BMD)] * processes if rows is None else list(rows)
    if rows[rank] != len(mine_BMD):
        raise ValueError(f"process {rank} holds {len(mine_BMD)} rows, not the {rows[rank]} that `rows` says")
    longest = max(rows)
    padded = pad(mine_BMD, (0, 0, 0, 0, 0, longest - rows[rank]))
    gathered = all_gather_tensor_autograd(padded, 0, cast(dist.ProcessGroup, dist.group.WORLD))
    all_NMD = torch.cat([part[:n] for part, n in zip(gathered.split(longest), rows, strict=True)])
    keys = dict(zip(embeddings, all_NMD.unbind(dim=1), strict=True))
    return keys, sum(rows[:rank]), rows[rank] * processes / sum(rows)
