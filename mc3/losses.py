"""Section 4 of the paper (https://arxiv.org/abs/2404.05206): contrastive (Eq. 1) and consensus (Eq. 2-3) coding.

Embeddings are `{modality: tensor [B, D]}`, one unit vector a row; row t of every modality is sample t. All arithmetic
is in float32 or wider, also under autocast: a cosine in bfloat16 divided by a temperature of 0.05 is off by 0.08. Each
of several processes holds some rows of the batch and scores them against everybody's (`gather`).
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._functional_collectives import all_gather_tensor_autograd
from torch.nn.functional import cross_entropy, pad

from mc3.errors import ConfigError

Embeddings = Mapping[str, Tensor]
Pairs = Sequence[tuple[str, str]]
INVERSES = ("minimum", "own", "linear")
DISTANCES = ("absolute", "squared", "frobenius")
EDGE = 1e-6  # K's derivative is infinite at x = -1 when its exponent is below 1; K is flat from there to -1 + 2 EDGE


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float64 if it is, otherwise in float32."""
    return x if x.dtype == torch.float64 else x.float()


def info_nce(
    queries: Tensor, keys: Tensor, temperature: float | Tensor, offset: int = 0, excluded: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """L_ij of Eq. 1 (arXiv 2404.05206), InfoNCE in one direction: each query must find its own sample among the keys.

        L_ij = -1/B sum_t log( exp(e_i^t . e_j^t / tau) / sum_n exp(e_i^t . e_j^n / tau) )

    >>> clips = torch.eye(4)  # four samples, all different, both modalities alike
    >>> print(f"{info_nce(clips, clips, temperature=0.5):.4f}")  # log(1 + 3 exp(-2))
    0.3408

    `queries` [B, D] and `keys` [N, D] are unit embeddings of modalities i and j; row `offset + t` is query t's own key.
    `excluded`, bool [B, N], is true where a key is no negative of a query; `weights` [B] are those of the queries'
    terms. Returns the mean over the queries, a scalar; log N when all logits are equal.
    """
    with torch.autocast(queries.device.type, enabled=False):
        logits_BN = at_least_float32(queries) @ at_least_float32(keys).T / temperature
        if excluded is not None:
            logits_BN = logits_BN.masked_fill(excluded, -torch.inf)
        targets_B = torch.arange(offset, offset + len(queries), device=queries.device)
        if weights is None:
            return cross_entropy(logits_BN, targets_B)
        return (weights * cross_entropy(logits_BN, targets_B, reduction="none")).mean()


def pairwise(
    embeddings: Embeddings, pairs: Pairs, temperature: float | Tensor, keys: Embeddings | None = None, offset: int = 0
) -> dict[str, Tensor]:
    """The terms of L_contrastive: {"i-j": L_ij, "j-i": L_ji} of each unordered pair, six for three modalities.

    Modality i is the query, j the key. `keys` and `offset` are those of `gather`; by default the batch is its own keys.

    >>> sorted(pairwise({"audio": torch.eye(2), "video": torch.eye(2)}, [("audio", "video")], temperature=0.05))
    ['audio-video', 'video-audio']
    """
    keys = embeddings if keys is None else keys
    directed = [(i, j) for pair in pairs for i, j in (pair, pair[::-1])]
    return {f"{i}-{j}": info_nce(embeddings[i], keys[j], temperature, offset) for i, j in directed}


def contrastive(
    embeddings: Embeddings, pairs: Pairs, temperature: float, keys: Embeddings | None = None, offset: int = 0
) -> Tensor:
    """L_contrastive (Sec. 4.2, arXiv 2404.05206), a scalar: the sum of `pairwise`, both directions of every pair.

        L_contrastive = sum_{i != j} L_ij

    >>> batch = {"audio": torch.eye(4), "video": torch.eye(4), "text": torch.eye(4)}
    >>> pairs = [("audio", "video"), ("audio", "text"), ("video", "text")]
    >>> print(f"{contrastive(batch, pairs, temperature=0.5):.4f}")  # six terms of .3408
    2.0445
    """
    return torch.stack(list(pairwise(embeddings, pairs, temperature, keys, offset).values())).sum()


def scale(similarity: Tensor, alpha: float | Tensor) -> Tensor:
    """K(x) = ((x + 1) / 2)^alpha (below Eq. 2): [-1, 1] to [0, 1], elementwise, kept `EDGE` away from 0."""
    return ((similarity + 1) / 2).clamp(EDGE, 1.0) ** alpha


def unscale(scaled: Tensor, alpha: float | Tensor) -> Tensor:
    """K^-1(y) = 2 y^(1/alpha) - 1: back to a similarity, elementwise.

    >>> print(f"{unscale(scale(torch.tensor(0.28), alpha=0.5), alpha=0.5):.2f}")
    0.28
    """
    return 2 * scaled ** (1 / alpha) - 1


def similarities(embeddings: Embeddings, anchor: str, across: bool = False) -> dict[str, Tensor]:
    """x_i^t = e_i^t . e_a^t of all modalities but the anchor, [B]; `across`: of anchor t and every sample, [B, B]."""
    with torch.autocast(embeddings[anchor].device.type, enabled=False):
        a = at_least_float32(embeddings[anchor])
        others = {m: at_least_float32(e) for m, e in embeddings.items() if m != anchor}
        return {m: a @ e.T if across else (e * a).sum(dim=-1) for m, e in others.items()}


def consensus_score(similarity: Tensor, alpha: Tensor, inverse: str) -> Tensor:
    """c^t of Eq. 2 (arXiv 2404.05206), the smallest scaled similarity taken back to a similarity.

        c^t = K^-1( min_i K_i(x_i^t) )

    >>> cosines = torch.tensor([0.28, 0.0])  # of video and of text to the audio: K is .8 and .5
    >>> print(consensus_score(cosines, torch.tensor([0.5, 1.0]), "own"))  # K_video(-.5) is .5
    tensor([-0.5000,  0.0000])

    `similarity` x is [..., M], a column a modality, and `alpha` [M] the exponents of K. `inverse` says whose exponent
    K^-1 has: of the modality with the minimum ("minimum", so that c^t is its similarity), of each modality that is
    compared with c^t ("own"), or 1 ("linear", 2y - 1). Returns [..., M] for "own", otherwise one a sample: [..., 1].
    """
    minimum, lowest = scale(similarity, alpha).min(dim=-1, keepdim=True)
    alpha_of_lowest = alpha[lowest]
    exponent = {"minimum": alpha_of_lowest, "own": alpha, "linear": torch.ones_like(alpha_of_lowest)}[inverse]
    # Where K^-1 undoes the K of the minimum, c^t is that similarity itself, which is inserted rather than computed: the
    # way there and back would leave a rounding error, and |x - c| has slope 1 however small it is.
    return torch.where(exponent == alpha_of_lowest, similarity.gather(-1, lowest), unscale(minimum, exponent))


def consensus(
    embeddings: Embeddings, anchor: str, alpha: Mapping[str, float], inverse: str = "minimum",
    stop_gradient: bool = True, distance: str = "absolute",
) -> Tensor:  # fmt: skip
    """L_consensus of Eq. 3 (arXiv 2404.05206): the distance of each similarity to the consensus of its sample, Eq. 2.

        L_consensus = 1/B sum_t sum_{i != a} | e_i^t . e_a^t - c^t |    Eq. 3; the norm is of a scalar

    >>> audio, video, text = torch.eye(2)[:1], torch.tensor([[0.6, 0.8]]), torch.tensor([[0.8, 0.6]])
    >>> batch = {"audio": audio, "video": video, "text": text}  # cosines to the audio: .6 and .8
    >>> print(f"{consensus(batch, anchor='audio', alpha={'video': 1.0, 'text': 1.0}):.1f}")
    0.2

    As printed, c^t is one scalar a sample and K^-1 undoes the K that gave the minimum (`inverse` "minimum"): c^t is the
    similarity of one of the modalities, and the loss is zero where all are equal. Whether gradients pass through c^t is
    left open. The other values of `inverse` and `distance` are variants; "own" is zero where all scaled ones are equal.

    `embeddings` are [B, D] unit vectors by modality, those of the `anchor` M_a ("audio" in the paper) and any number of
    others, for each of which `alpha` has the exponent of K_i (paper: video 0.5, text 1). With `stop_gradient` c^t is a
    constant target; otherwise the modality with the minimum is pulled to the others too. `distance` is "absolute",
    Eq. 3; "squared", a reconstruction error; or "frobenius", which compares every sample's anchor with all samples: the
    sum over modalities of the Frobenius norms of the [B, B] differences, not divided by B. The code of
    https://arxiv.org/abs/2510.02313 has it so, with "linear", gradients through c, the weight .5 and a third of
    L_contrastive.

    Returns a scalar, the mean over samples (but for "frobenius") of the sum over modalities; 0 with a single modality
    besides the anchor, except for "linear". `ConfigError`: no such anchor or reading, or no exponent for a modality.
    """
    for name, value, known in (("inverse", inverse, INVERSES), ("distance", distance, DISTANCES)):
        if value not in known:
            raise ConfigError(f"loss.consensus.{name} is {value!r}; it must be one of {', '.join(known)}")
    if anchor not in embeddings:
        raise ConfigError(f"loss.consensus.anchor is {anchor!r}; the embeddings are of {', '.join(embeddings)}")
    by_modality = similarities(embeddings, anchor, across=distance == "frobenius")
    if missing := [m for m in by_modality if m not in alpha]:
        raise ConfigError(f"loss.consensus.alpha has no exponent for {missing[0]!r}, which anchor {anchor!r} needs")

    x = torch.stack(list(by_modality.values()), dim=-1)
    c = consensus_score(x, x.new_tensor([alpha[m] for m in by_modality]), inverse)
    apart = x - (c.detach() if stop_gradient else c)
    if distance == "frobenius":
        return torch.linalg.vector_norm(apart, dim=(0, 1)).sum()
    return (apart.abs() if distance == "absolute" else apart.square()).sum(dim=-1).mean()


def gather(embeddings: Embeddings, rows: Sequence[int] | None = None) -> tuple[Embeddings, int, float]:
    """All processes' embeddings as keys, with gradients; the offset of this process's rows in them; and its share.

    Gradients flow back to the process that computed a row (a reduce-scatter); a plain all_gather would cut them. So the
    gradient of `share * (contrastive(mine, pairs, tau, keys, offset) + weight * consensus(mine))`, averaged over
    processes as DistributedDataParallel does, equals that of one process with all rows.

    `embeddings` are this process's rows, [B, D] each, all of one width; `rows` is the number of rows of every process
    in order of rank, the same list on each; None if all hold B. The keys are {modality: [N, D]} in order of rank, and
    the share is B * processes / N, 1 when all hold the same number.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return embeddings, 0, 1.0
    processes, rank = dist.get_world_size(), dist.get_rank()
    mine_BMD = torch.stack([at_least_float32(e) for e in embeddings.values()], dim=1)  # one collective for all
    rows = [len(mine_BMD)] * processes if rows is None else list(rows)
    if rows[rank] != len(mine_BMD):
        raise ValueError(f"process {rank} holds {len(mine_BMD)} rows, not the {rows[rank]} that `rows` says")
    longest = max(rows)
    padded = pad(mine_BMD, (0, 0, 0, 0, 0, longest - rows[rank]))
    gathered = all_gather_tensor_autograd(padded, 0, cast(dist.ProcessGroup, dist.group.WORLD))
    all_NMD = torch.cat([part[:n] for part, n in zip(gathered.split(longest), rows, strict=True)])
    keys = dict(zip(embeddings, all_NMD.unbind(dim=1), strict=True))
    return keys, sum(rows[:rank]), rows[rank] * processes / sum(rows)
