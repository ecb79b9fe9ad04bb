"""The metrics of Section 6 on plain arrays, as fractions, and their chance levels (the paper's Random rows)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from mc3.errors import DataError

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Metrics = dict[str, float]

# Table 3's columns: name -> (query modality, modality that is retrieved).
DIRECTIONS = {"v2a": ("video", "audio"), "a2v": ("audio", "video"), "l2a": ("text", "audio"), "a2l": ("audio", "text")}
PAIRS = {"av": ("audio", "video"), "al": ("audio", "text"), "vl": ("video", "text")}  # by key, as in "av_roc"
DISCOVERY = ("av", "al")  # the pairs whose cosine is a discovery score (Table 2)
LEVEL = 0.95  # of confidence intervals
_BLOCK = 2_000_000  # counts of resamples that are worked on at a time
_DECIMALS = 1e9  # similarities are compared to nine decimals, much finer than float32 embeddings


def similarity(first: ArrayLike, second: ArrayLike) -> Floats:
    """Cosine of matching rows of two [N, D] arrays: Sec. 6.1's discovery score, [N]."""
    first, second = _unit(first), _unit(second)
    if first.shape != second.shape:
        raise ValueError(f"embeddings of shape {first.shape} and {second.shape} do not match row by row")
    return np.einsum("nd,nd->n", first, second)


def discovery(scores: ArrayLike, labels: ArrayLike) -> Metrics:
    """Areas under the ROC and precision-recall curves (Table 2), with prevalence and number of clips.

    `pr` is average precision, the step-wise area; linear interpolation overstates it (Davis & Goadrich, ICML 2006, whom
    the paper cites). `DataError` unless `scores` [N] are finite and `labels` [N] have 0 and 1 (sounding).
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    scores, labels = _scored(scores, labels)
    areas = {"roc": float(roc_auc_score(labels, scores)), "pr": float(average_precision_score(labels, scores))}
    return random_discovery(labels) | areas


def pr_curve(scores: ArrayLike, labels: ArrayLike) -> pd.DataFrame:
    """Figure 5: recall and precision, from the highest threshold (low recall) downwards."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(*reversed(_scored(scores, labels)))
    # The last point (recall 0, precision 1) is a convention without a threshold.
    return pd.DataFrame({"recall": recall[-2::-1], "precision": precision[-2::-1]})


def weighted_roc(scores: ArrayLike, labels: ArrayLike, weights: NDArray, strata: ArrayLike | None = None) -> Floats:
    """ROC area under D weightings of the rows; with `strata`, the area of the pairs within a stratum: [D].

    Equal scores count half; NaN where there is no pair. `scores` [N], `labels` [N] 0 and 1, `strata` [N] codes from 0,
    `weights` [D, N] how often each row counts; sums of whole weights are exact.
    """
    positive = np.asarray(labels).astype(bool)
    _, rank = np.unique(np.asarray(scores), return_inverse=True)
    size = int(rank.max()) + 1
    first = size * (np.zeros_like(rank) if strata is None else np.asarray(strata))
    key = first + rank  # sorts by stratum, then by score
    negatives = np.flatnonzero(~positive)[np.argsort(key[~positive], kind="stable")]
    cumulative = np.zeros((len(negatives) + 1, len(weights)))
    np.cumsum(weights.T[negatives], axis=0, out=cumulative[1:])

    def below(limits: NDArray, side: Literal["left", "right"] = "left") -> Floats:
        return cumulative[np.searchsorted(key[negatives], limits, side)]

    own, start = weights.T[positive], below(first[positive])
    wins = (below(key[positive]) + below(key[positive], "right")) / 2 - start
    pairs = below(first[positive] + size) - start
    with np.errstate(invalid="ignore"):
        return np.sum(own * wins, axis=0) / np.sum(own * pairs, axis=0)


def resampled_discovery(
    scores: ArrayLike, labels: ArrayLike, counts: NDArray, recalls: Sequence[float] = ()
) -> dict[str, Floats]:
    """`roc` and `pr` of `discovery` on D resamples with `counts` [D, N] of clips, [D]; NaN for one of a single class.

    Each of `recalls` adds `p{percent}`, the precision at the highest threshold that reaches it.
    """
    blocks = min(len(counts), -(-counts.size // _BLOCK))
    if blocks > 1:
        parts = [resampled_discovery(scores, labels, part, recalls) for part in np.array_split(counts, blocks)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    scores, labels = _scored(scores, labels)
    order = np.argsort(-scores, kind="stable")
    # Clips with equal scores cross the threshold together: sums up to the last of each run.
    last = np.r_[np.flatnonzero(np.diff(scores[order])), len(scores) - 1]
    true = np.cumsum(counts[:, order] * labels[order].astype(np.float64), axis=1)[:, last]
    retrieved = np.cumsum(counts[:, order], axis=1, dtype=np.float64)[:, last]
    values = {"roc": weighted_roc(scores, labels, counts)}
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(retrieved > 0, true / retrieved, 0)
        values["pr"] = np.sum(np.diff(true, axis=1, prepend=0) / true[:, -1:] * precision, axis=1)
    for recall in recalls:
        first = np.argmax(true >= (recall - 1e-9) * true[:, -1:], axis=1)
        values[f"p{round(100 * recall)}"] = np.take_along_axis(precision, first[:, None], axis=1)[:, 0]
    return {name: np.where(np.isnan(values["roc"]), np.nan, drawn) for name, drawn in values.items()}


def interval(values: ArrayLike) -> tuple[float, float]:
    """The central 95 % of bootstrap draws: (low, high)."""
    low, high = np.nanquantile(np.asarray(values, dtype=np.float64), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def random_discovery(labels: ArrayLike) -> Metrics:
    """Table 2's Random row: ROC area one half, precision the prevalence at every recall."""
    labels = np.asarray(labels)
    return {"roc": 0.5, "pr": float(labels.mean()), "prevalence": float(labels.mean()), "n": len(labels)}


def split_groups(groups: ArrayLike, seed: int = 0) -> tuple[Rows, Rows]:
    """Sec. 6.2: the clips of each action group with more than two sounding ones, half as queries, half as the gallery.

    The odd clip is a query (paper: 7,559 and 7,032). `groups` [N], "" if excluded; returns row numbers, each ascending.
    """
    labels = np.asarray(groups).astype(str)
    rng = np.random.default_rng(seed)
    names, counts = np.unique(labels, return_counts=True)
    shuffled = [rng.permutation(np.flatnonzero(labels == name)) for name in names[(counts > 2) & (names != "")]]
    if not shuffled:
        raise DataError(f"no action group has more than two sounding clips among {len(labels)}; retrieval needs some")
    queries, pool = zip(*(np.split(rows, [(len(rows) + 1) // 2]) for rows in shuffled), strict=True)
    return np.sort(np.concatenate(queries)), np.sort(np.concatenate(pool))


def nearest(queries: ArrayLike, pool: ArrayLike, k: int, chunk: int = 1024) -> Rows:
    """The `k` rows of `pool` [P, D] with the highest cosine to each of `queries` [Q, D], best first: [Q, k]."""
    found = []
    for _, keys in _sort_keys(queries, pool, chunk):  # ties in order of rows; `chunk` x P float64 at a time
        k = min(k, keys.shape[1])
        keys.partition(k - 1, axis=1)
        found.append(np.sort(keys[:, :k], axis=1).astype(np.int64) % keys.shape[1])
    return np.concatenate(found)


def first_correct(
    queries: ArrayLike, pool: ArrayLike, query_groups: ArrayLike, pool_groups: ArrayLike, chunk: int = 1024
) -> Rows:
    """Figure 7: the rank (1 is the best) of the first pool row of each query's own group: [Q]."""
    query_codes, pool_codes, _ = _group_codes(query_groups, pool_groups)
    ranks = []
    for rows, keys in _sort_keys(queries, pool, chunk):
        own = np.where(query_codes[rows, None] == pool_codes, keys, np.inf)
        ranks.append(1 + np.sum(keys < own.min(axis=1, keepdims=True), axis=1))
    return np.concatenate(ranks)


def retrieval(
    queries: ArrayLike, pool: ArrayLike, query_groups: ArrayLike, pool_groups: ArrayLike,
    ks: Sequence[int] = (1, 5, 10), chunk: int = 1024,
) -> Metrics:  # fmt: skip
    """Table 3's metrics of one direction, `hit@k` and `recall@k` at each k of `ks`, means over the queries.

    `recall@k` is set recall, the share of the query's group in the pool that is among the first k; the paper's Random
    row, k / 7,032, shows that this is its metric, not `hit@k`, the share of queries with at least one hit. Embeddings
    are `queries` [Q, D] and `pool` [P, D], compared `chunk` queries at a time; every query's group is in the pool.
    """
    by_query = retrieval_by_query(queries, pool, query_groups, pool_groups, ks, chunk)
    return {name: float(values.mean()) for name, values in by_query.items()}


def retrieval_by_query(
    queries: ArrayLike, pool: ArrayLike, query_groups: ArrayLike, pool_groups: ArrayLike, ks: Sequence[int], chunk: int
) -> dict[str, Floats]:
    """The numbers of each query, [Q], whose means are `retrieval`."""
    query_codes, pool_codes, sizes = _group_codes(query_groups, pool_groups)
    correct = pool_codes[nearest(queries, pool, max(ks), chunk)] == query_codes[:, None]
    hits = {k: correct[:, :k].sum(axis=1) for k in ks}
    return {f"hit@{k}": (hits[k] > 0).astype(float) for k in ks} | {f"recall@{k}": hits[k] / sizes for k in ks}


def retrieval_directions(
    embeddings: Mapping[str, NDArray[np.float32]], groups: ArrayLike, split: tuple[Rows, Rows]
) -> Iterator[tuple[str, tuple[NDArray, NDArray, NDArray, NDArray]]]:
    """Table 3's directions that `embeddings` (modality -> [N, D]) have, with the four arrays that `retrieval` takes."""
    (queries, pool), groups = split, np.asarray(groups)
    for name, (source, target) in DIRECTIONS.items():
        if source in embeddings and target in embeddings:
            yield name, (embeddings[source][queries], embeddings[target][pool], groups[queries], groups[pool])


def random_retrieval(query_groups: ArrayLike, pool_groups: ArrayLike, ks: Sequence[int] = (1, 5, 10)) -> Metrics:
    """Table 3's Random row: k / pool for set recall, the hypergeometric probability of a hit, mean over queries."""
    from scipy.stats import hypergeom

    _, pool_codes, sizes = _group_codes(query_groups, pool_groups)
    total = len(pool_codes)
    chance = {f"hit@{k}": float(np.mean(hypergeom.sf(0, total, sizes, min(k, total)))) for k in ks}
    return chance | {f"recall@{k}": min(k, total) / total for k in ks}


def retrieval_bounds(query_groups: ArrayLike, pool_groups: ArrayLike, ks: Sequence[int] = (1, 5, 10)) -> Metrics:
    """The most that any ranking reaches in `retrieval`: min(k, g) / g for a group with g clips in the pool; a hit 1."""
    *_, sizes = _group_codes(query_groups, pool_groups)
    return {f"hit@{k}": 1.0 for k in ks} | {f"recall@{k}": float(np.mean(np.minimum(k, sizes) / sizes)) for k in ks}


def clusters(embeddings: ArrayLike, n: int, at_most: int = 40_000) -> Rows:
    """Agglomerative clusters of unit embeddings (Sec. 6.1, Figure 6): labels [N], 0 the largest cluster.

    Ward's, whose sizes are comparable, where average linkage leaves one that contains nearly everything. Linkage needs
    8 bytes for each of N^2 distances; of more than `at_most` rows an even sample is linked, and the others join the
    nearest centre.
    """
    from sklearn.cluster import AgglomerativeClustering

    points = _unit(embeddings)
    if not 1 <= n <= len(points):
        raise ValueError(f"{n} clusters cannot be made of {len(points)} rows")
    sample = np.linspace(0, len(points) - 1, min(at_most, len(points))).astype(int)
    ward = AgglomerativeClustering(n_clusters=n, linkage="ward")
    labels = ward.fit_predict(points[sample]) if n > 1 else np.zeros(len(sample), dtype=np.intp)
    centroids = np.stack([points[sample][labels == c].mean(axis=0) for c in range(n)])
    everyone = np.argmin(np.sum(centroids**2, axis=1) - 2 * points @ centroids.T, axis=1)
    everyone[sample] = labels
    _, first, sizes = np.unique(everyone, return_index=True, return_counts=True)
    return np.argsort(np.lexsort((first, -sizes)))[everyone]


def members(embeddings: ArrayLike, labels: ArrayLike, cluster: int, k: int = 8) -> Rows:
    """The `k` rows of `cluster` closest to its centroid, closest first (Figure 6 shows eight)."""
    points = _unit(embeddings)
    rows = np.flatnonzero(np.asarray(labels) == cluster)
    distance = np.linalg.norm(points[rows] - points[rows].mean(axis=0), axis=1)
    return rows[np.argsort(np.round(distance, 9), kind="stable")[:k]]


def classification(scores: ArrayLike, labels: ArrayLike) -> Metrics:
    """Table 4's metrics: top1, top5, mca (mean recall of a class), map and mauc (one class against the rest).

    Means over the classes present in `labels`, as in the EPIC-Sounds protocol. `scores` [N, C] are finite, ties broken
    by class number, and `labels` [N] are class numbers, at least two different ones, or it is a `DataError`.
    """
    scores, labels, first = _predicted(scores, labels)
    present = np.unique(labels)
    if len(scores) != len(labels) or scores.ndim != 2:
        raise ValueError(f"scores of shape {scores.shape} do not belong to {len(labels)} labels")
    if len(present) < 2 or present[0] < 0 or present[-1] >= scores.shape[1]:
        raise DataError(f"labels must be 2 or more classes in 0..{scores.shape[1] - 1}; found {present.tolist()[:10]}")
    if not np.isfinite(scores).all():
        raise DataError("classification scores are not finite; look at the training loss of the checkpoint")
    found = by_class(scores, labels).loc[present]
    metrics = {"top1": np.mean(first[:, 0] == labels), "top5": np.mean((first == labels[:, None]).any(axis=1))}
    metrics |= {m: found[column].to_numpy().mean() for m, column in (("mca", "recall"), ("map", "ap"), ("mauc", "auc"))}
    return {name: float(value) for name, value in metrics.items()}


def by_class(scores: ArrayLike, labels: ArrayLike) -> pd.DataFrame:
    """n, recall (top-1), ap and auc of each of the C classes of `classification`; NaN for a class without events."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    scores, labels, first = _predicted(scores, labels)
    counts = np.bincount(labels, minlength=scores.shape[1])
    table = pd.DataFrame({"n": counts, "recall": np.nan, "ap": np.nan, "auc": np.nan})
    for number in np.flatnonzero(table["n"].between(1, len(labels) - 1)):
        own, score = labels == number, scores[:, number]
        areas = average_precision_score(own, score), roc_auc_score(own, score)
        table.loc[number, ["recall", "ap", "auc"]] = np.mean(first[own, 0] == number), *areas
    return table


def confusion(scores: ArrayLike, labels: ArrayLike) -> Floats:
    """Share of each class's events (row) with the highest score for each class (column): [C, C], NaN without any."""
    scores, labels, first = _predicted(scores, labels)
    n = scores.shape[1]
    counts = np.bincount(n * labels + first[:, 0], minlength=n * n).reshape(n, n)
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(axis=1, keepdims=True)


def random_classification(labels: ArrayLike) -> Metrics:
    """Table 4's Random row: guesses drawn by class frequency p, five of them with replacement for top-5."""
    _, counts = np.unique(np.asarray(labels), return_counts=True)
    p = counts / counts.sum()
    top5 = float(np.sum(p * (1 - (1 - p) ** 5)))
    return {"top1": float(np.sum(p**2)), "top5": top5, "mca": float(p.mean()), "map": float(p.mean()), "mauc": 0.5}


def _predicted(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray, Rows]:
    """Scores and labels as arrays, and the five classes with the highest scores, best first: [N, 5]."""
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    return scores, labels, np.argsort(-scores, axis=-1, kind="stable")[..., :5]


def _unit(embeddings: ArrayLike) -> Floats:
    points = np.asarray(embeddings, dtype=np.float64)
    if points.ndim != 2:
        raise ValueError(f"embeddings must be [N, D], not of shape {points.shape}")
    length = np.linalg.norm(points, axis=1, keepdims=True)
    valid = np.isfinite(length) & (length > 0)
    if not valid.all():
        row = int(valid.argmin())
        raise DataError(f"embedding {row} of {len(points)} has length {length[row, 0]}, but must have a direction")
    return points / length


def _scored(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    scores, values = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if scores.shape != values.shape or scores.ndim != 1:
        raise ValueError(f"scores of shape {scores.shape} do not belong to labels of shape {values.shape}")
    if not np.isfinite(scores).all():
        raise DataError(f"score of clip {int(np.flatnonzero(~np.isfinite(scores))[0])} is not finite")
    if set(np.unique(values)) != {0, 1}:
        raise DataError(f"labels must be 0 and 1, both present; found {np.unique(values).tolist()[:5]}")
    return scores, values.astype(np.int64)


def _group_codes(query_groups: ArrayLike, pool_groups: ArrayLike) -> tuple[Rows, Rows, Rows]:
    """Group numbers of queries and pool, and the size in the pool of each query's group."""
    queries, pool = np.asarray(query_groups), np.asarray(pool_groups)
    _, codes = np.unique(np.concatenate([queries, pool]), return_inverse=True)
    query_codes, pool_codes = codes[: len(queries)], codes[len(queries) :]
    sizes = np.bincount(pool_codes, minlength=codes.max() + 1)[query_codes]
    if missing := queries[sizes == 0].tolist():
        raise DataError(f"group {missing[0]!r} of a query has no clip in the pool; nothing could be retrieved for it")
    return query_codes, pool_codes, sizes


def _sort_keys(queries: ArrayLike, pool: ArrayLike, chunk: int) -> Iterator[tuple[slice, Floats]]:
    """For each block of queries, a number per pool row that sorts by falling similarity, then by row."""
    first, second = _unit(queries), _unit(pool)
    if len(second) * _DECIMALS >= 2**53:
        raise ValueError(f"a pool of {len(second)} rows is too large; nine million is the most")
    # Rounded similarity times the pool's size plus the row number: whole numbers below 2**53, exact in float64. So no
    # two are equal, and rounding in the matrix product decides nothing.
    index = np.arange(len(second), dtype=np.float64)
    for begin in range(0, len(first), chunk):
        rows = slice(begin, begin + chunk)
        keys = first[rows] @ second.T
        keys *= -_DECIMALS
        np.rint(keys, out=keys)
        keys *= len(second)
        keys += index
        yield rows, keys
