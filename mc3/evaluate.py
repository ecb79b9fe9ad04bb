"""Section 6 as numbers: discovery, retrieval, clustering, classification, and what chance would give.

NumPy and scikit-learn only; the trainer, the tables, the notebooks and a user's own script all call
these functions on plain arrays. Every metric is a fraction; the tables scale to the paper's percent.

Chance is computed in closed form rather than drawn. The paper's Random rows are recovered that way:
K / pool for Table 3, the squared class frequencies for Table 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import hypergeom
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import (
    average_precision_score,
    normalized_mutual_info_score,
    precision_recall_curve,
    recall_score,
    roc_auc_score,
)
from sklearn.metrics.cluster import contingency_matrix

from mc3.errors import DataError

DIRECTIONS = {"v2a": ("video", "audio"), "a2v": ("audio", "video"), "l2a": ("text", "audio"), "a2l": ("audio", "text")}
"""Table 3's columns: name -> (query modality, modality that is retrieved)."""

PAIRS = {"av": ("audio", "video"), "al": ("audio", "text"), "vl": ("video", "text")}
"""The pairs of modalities by key, as in the names of metrics ("av_roc") and columns."""

DISCOVERY = ("av", "al")
"""The pairs whose cosine is a discovery score (Table 2)."""

_DECIMALS = 1e9  # similarities are compared to nine decimals, far finer than float32 embeddings


def similarity(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Cosine of matching rows of two [N, D] arrays: Sec. 6.1's discovery score, [N]."""
    first, second = _unit(first), _unit(second)
    if first.shape != second.shape:
        raise ValueError(f"embeddings of shape {first.shape} and {second.shape} do not match row by row")
    return np.einsum("nd,nd->n", first, second)


def discovery(scores: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Areas under the ROC and precision-recall curves (Table 2), with prevalence and number of clips.

    `pr` is average precision, the step-wise area: the paper cites Davis & Goadrich (ICML 2006), who show that
    joining points of a precision-recall curve by straight lines overstates the area. A random
    score gives `prevalence`, so that `pr` says nothing without it.

    Args:
        scores: [N], higher means "sounds".
        labels: [N], 1 for a sounding action and 0 for none.

    Raises:
        DataError: one class only, labels other than 0 and 1, or a score that is not finite.
    """
    scores, labels = _scored(scores, labels)
    return {
        "roc": float(roc_auc_score(labels, scores)),
        "pr": float(average_precision_score(labels, scores)),
        "prevalence": float(labels.mean()),
        "n": len(labels),
    }


def pr_curve(scores: ArrayLike, labels: ArrayLike) -> pd.DataFrame:
    """Figure 5: recall, precision and threshold, from the highest threshold (low recall) downwards."""
    precision, recall, threshold = precision_recall_curve(*reversed(_scored(scores, labels)))
    # The last point (recall 0, precision 1) is a convention, not a threshold that was reached.
    return pd.DataFrame({"recall": recall[:-1], "precision": precision[:-1], "threshold": threshold})[::-1].reset_index(
        drop=True
    )


def weighted_roc(
    scores: ArrayLike, labels: ArrayLike, weights: NDArray, strata: ArrayLike | None = None
) -> NDArray[np.float64]:
    """ROC area under D weightings of the rows; with `strata`, the area of the pairs within a stratum: [D].

    The weighted share of pairs of a positive and a negative in which the positive scores higher; equal scores count
    half. NaN where there is no pair. Sums of whole weights are exact, whatever the order of the rows.

    Args:
        scores: [N], finite.
        labels: [N], 0 and 1.
        weights: [D, N], how often each row counts.
        strata: [N], codes from 0.
    """
    positive = np.asarray(labels).astype(bool)
    _, rank = np.unique(np.asarray(scores), return_inverse=True)
    size = int(rank.max()) + 1
    first = size * (np.zeros_like(rank) if strata is None else np.asarray(strata))
    key = first + rank  # sorts by stratum, then by score
    negatives = np.flatnonzero(~positive)[np.argsort(key[~positive], kind="stable")]
    cumulative = np.zeros((len(negatives) + 1, len(weights)))
    np.cumsum(weights.T[negatives], axis=0, out=cumulative[1:])

    def below(limits: NDArray, side: Literal["left", "right"] = "left") -> NDArray[np.float64]:
        return cumulative[np.searchsorted(key[negatives], limits, side)]

    own, start = weights.T[positive], below(first[positive])
    wins = (below(key[positive]) + below(key[positive], "right")) / 2 - start
    pairs = below(first[positive] + size) - start
    with np.errstate(invalid="ignore"):
        return np.sum(own * wins, axis=0) / np.sum(own * pairs, axis=0)


def resampled_discovery(
    scores: ArrayLike, labels: ArrayLike, counts: NDArray, recalls: Sequence[float] = ()
) -> dict[str, NDArray[np.float64]]:
    """`discovery`'s areas of given resamples, each [D]; a resample of one class is NaN.

    Args:
        scores: [N].
        labels: [N], 0 and 1.
        counts: [D, N], how often each clip was drawn.
        recalls: for each also `p{percent}`, the precision of the highest threshold that reaches it.
    """
    scores, labels = _scored(scores, labels)
    order = np.argsort(-scores, kind="stable")
    # Clips with the same score cross the threshold together: sums up to the last of each run.
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


def interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """The central `level` of bootstrap draws: (low, high)."""
    low, high = np.nanquantile(np.asarray(values, dtype=np.float64), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def random_discovery(labels: ArrayLike) -> dict[str, float]:
    """Table 2's Random row: ROC area one half, precision the prevalence at every recall."""
    labels = np.asarray(labels)
    return {"roc": 0.5, "pr": float(labels.mean()), "prevalence": float(labels.mean()), "n": len(labels)}


def split_groups(groups: ArrayLike, seed: int = 0) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Sec. 6.2: every action group with more than two sounding instances, half to queries, half to the pool.

    Of an odd group the extra clip is a query: the paper has 7,559 queries and 7,032 in the pool.

    Args:
        groups: [N] labels; "" marks a clip that takes no part (it does not sound, or has no group).
        seed: of the shuffle inside each group.

    Returns:
        Row numbers of the queries and of the pool, each ascending; every group is in both.
    """
    labels = np.asarray(groups).astype(str)
    rng = np.random.default_rng(seed)
    queries: list[NDArray[np.intp]] = []
    pool: list[NDArray[np.intp]] = []
    names, counts = np.unique(labels, return_counts=True)
    for name in names[(counts > 2) & (names != "")]:
        rows = rng.permutation(np.flatnonzero(labels == name))
        queries.append(rows[: (len(rows) + 1) // 2])
        pool.append(rows[(len(rows) + 1) // 2 :])
    if not queries:
        raise DataError(f"no action group has more than two sounding clips among {len(labels)}; retrieval needs some")
    return np.sort(np.concatenate(queries)), np.sort(np.concatenate(pool))


def nearest(queries: ArrayLike, pool: ArrayLike, k: int, chunk: int = 1024) -> NDArray[np.intp]:
    """The `k` rows of `pool` [P, D] most similar in cosine to each of `queries` [Q, D], best first: [Q, k].

    Equal similarities (to nine decimals) go by row number, whatever the chunk. Beside its arguments
    it holds `chunk` x P float64 at a time.
    """
    found = []
    for _, keys in _keys(queries, pool, chunk):
        k = min(k, keys.shape[1])
        keys.partition(k - 1, axis=1)
        found.append(np.sort(keys[:, :k], axis=1).astype(np.int64) % keys.shape[1])
    return np.concatenate(found)


def ranks(queries: ArrayLike, pool: ArrayLike, targets: ArrayLike, chunk: int = 1024) -> NDArray[np.intp]:
    """The place, 1 the best, of pool row `targets[i]` in query i's list; [Q]."""
    targets = np.asarray(targets)
    return np.concatenate(
        [
            1 + np.sum(keys < np.take_along_axis(keys, targets[rows, None], axis=1), axis=1)
            for rows, keys in _keys(queries, pool, chunk)
        ]
    )


def first_correct(
    queries: ArrayLike, pool: ArrayLike, query_groups: ArrayLike, pool_groups: ArrayLike, chunk: int = 1024
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Figure 7: the best-placed pool row of each query's own group, and its place (1 is the best): each [Q]."""
    query_codes, pool_codes, _ = _group_codes(query_groups, pool_groups)
    found = []
    for rows, keys in _keys(queries, pool, chunk):
        keys[query_codes[rows, None] != pool_codes] = np.inf
        found.append(keys.argmin(axis=1))
    targets = np.concatenate(found)
    return targets, ranks(queries, pool, targets, chunk)


def retrieval(
    queries: ArrayLike,
    pool: ArrayLike,
    query_groups: ArrayLike,
    pool_groups: ArrayLike,
    ks: Sequence[int] = (1, 5, 10),
    chunk: int = 1024,
) -> dict[str, float]:
    """Table 3's metrics of one direction, for each k of `ks`, as means over the queries.

    `recall@k` is set recall, the share of the query's group in the pool that is among the first k: the
    paper's Random row is k / 7,032, which is this and not `hit@k`, the share of queries with at least one.

    Args:
        queries: [Q, D] embeddings of one modality.
        pool: [P, D] embeddings of the other.
        query_groups: [Q] action groups.
        pool_groups: [P] action groups; each query's group must occur here.
        ks: cut-offs.
        chunk: queries compared with the pool at once.
    """
    query_codes, pool_codes, sizes = _group_codes(query_groups, pool_groups)
    correct = pool_codes[nearest(queries, pool, max(ks), chunk)] == query_codes[:, None]
    metrics = {}
    for k in ks:
        hits = correct[:, :k].sum(axis=1)
        metrics[f"hit@{k}"] = float(np.mean(hits > 0))
        metrics[f"recall@{k}"] = float(np.mean(hits / sizes))
    return metrics


def retrieval_directions(
    embeddings: Mapping[str, NDArray[np.float32]],
    groups: ArrayLike,
    split: tuple[NDArray[np.intp], NDArray[np.intp]],
    ks: Sequence[int] = (1, 5, 10),
    chunk: int = 1024,
) -> dict[str, dict[str, float]]:
    """`retrieval` in those of the four directions of Table 3 whose two modalities are in `embeddings`.

    Args:
        embeddings: modality -> [N, D].
        groups: [N] action groups.
        split: `split_groups`' rows of queries and pool.
        ks: cut-offs.
        chunk: queries compared with the pool at once.

    Returns:
        direction -> metrics.
    """
    query_rows, pool_rows = split
    groups = np.asarray(groups)
    return {
        name: retrieval(
            embeddings[source][query_rows],
            embeddings[target][pool_rows],
            groups[query_rows],
            groups[pool_rows],
            ks,
            chunk,
        )
        for name, (source, target) in DIRECTIONS.items()
        if source in embeddings and target in embeddings
    }


def random_retrieval(
    query_groups: ArrayLike, pool_groups: ArrayLike, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Table 3's Random row: k / pool for set recall, the hypergeometric chance of one hit, mean over queries."""
    _, pool_codes, sizes = _group_codes(query_groups, pool_groups)
    total = len(pool_codes)
    metrics = {}
    for k in ks:
        drawn = min(k, total)
        metrics[f"hit@{k}"] = float(np.mean(hypergeom.sf(0, total, sizes, drawn)))
        metrics[f"recall@{k}"] = drawn / total
    return metrics


def clusters(embeddings: ArrayLike, n: int, at_most: int = 10_000) -> NDArray[np.intp]:
    """Agglomerative clusters of unit embeddings (Sec. 6.1, Figure 6): labels [N], 0 the largest cluster.

    Ward's linkage: on the unit sphere its squared distances are cosines, and it gives clusters of
    comparable size where average linkage leaves one that holds nearly everything. Linkage needs all pairs of
    distances (400 MB for 10,000 rows). Of more than `at_most` rows an evenly spaced sample is linked
    and the others join the nearest centroid.
    """
    points = _unit(embeddings)
    if not 1 <= n <= len(points):
        raise ValueError(f"{n} clusters cannot be made of {len(points)} rows")
    sample = np.linspace(0, len(points) - 1, min(at_most, len(points))).astype(int)
    labels = np.zeros(len(sample), dtype=np.intp)
    if n > 1:
        labels = AgglomerativeClustering(n_clusters=n, linkage="ward").fit_predict(points[sample])
    if len(sample) < len(points):
        centroids = np.stack([points[sample][labels == c].mean(axis=0) for c in range(n)])
        offset = np.sum(centroids**2, axis=1)
        everyone = np.argmin(offset - 2 * points @ centroids.T, axis=1)
        everyone[sample] = labels
        labels = everyone
    sizes = np.bincount(labels, minlength=n)
    first = np.array([np.flatnonzero(labels == c)[0] for c in range(n)])
    order = np.lexsort((first, -sizes))
    place = np.empty(n, dtype=np.intp)
    place[order] = np.arange(n)
    return place[labels]


def members(embeddings: ArrayLike, labels: ArrayLike, cluster: int, k: int = 8) -> NDArray[np.intp]:
    """The `k` rows of `cluster` closest to its centroid, closest first (Figure 6 shows eight)."""
    points = _unit(embeddings)
    rows = np.flatnonzero(np.asarray(labels) == cluster)
    distance = np.linalg.norm(points[rows] - points[rows].mean(axis=0), axis=1)
    return rows[np.argsort(np.round(distance, 9), kind="stable")[:k]]


def agreement(labels: ArrayLike, truth: ArrayLike) -> dict[str, float]:
    """`purity`, the share of rows that have their cluster's most common true label, and `nmi` (arithmetic mean)."""
    labels, truth = np.asarray(labels), np.asarray(truth).astype(str)
    return {
        "purity": float(contingency_matrix(truth, labels).max(axis=0).sum() / len(labels)),
        "nmi": float(normalized_mutual_info_score(truth, labels)),
    }


def classification(scores: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Table 4's metrics: top1, top5, mca (mean recall a class), map and mauc (one class against the rest).

    Means over classes are unweighted and over the classes present in `labels`, as the EPIC-Sounds
    protocol has it.

    Args:
        scores: [N, C], higher is likelier; equal scores go by class number.
        labels: [N] class numbers.

    Raises:
        DataError: fewer than two classes are present, a label outside 0..C-1, or a score that is not finite.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    present = np.unique(labels)
    if len(scores) != len(labels) or scores.ndim != 2:
        raise ValueError(f"scores of shape {scores.shape} do not belong to {len(labels)} labels")
    if len(present) < 2 or present[0] < 0 or present[-1] >= scores.shape[1]:
        raise DataError(
            f"classification needs two classes or more, all in 0..{scores.shape[1] - 1}; found {present.tolist()[:10]}"
        )
    if not np.isfinite(scores).all():
        raise DataError("classification scores are not finite; look at the training loss of the checkpoint")
    first = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    one_hot = labels[:, None] == present
    return {
        "top1": float(np.mean(first[:, 0] == labels)),
        "top5": float(np.mean((first == labels[:, None]).any(axis=1))),
        "mca": float(recall_score(labels, first[:, 0], labels=present, average="macro", zero_division=0)),
        "map": float(average_precision_score(one_hot, scores[:, present], average="macro")),
        "mauc": float(roc_auc_score(one_hot, scores[:, present], average="macro")),
    }


def by_class(scores: ArrayLike, labels: ArrayLike) -> pd.DataFrame:
    """What `classification` averages: n, recall (top-1), ap and auc of each of the C classes, in order.

    `scores` and `labels` as there. A class without events has n 0 and NaN.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    first = np.argsort(-scores, axis=1, kind="stable")[:, 0]
    rows = []
    for number in range(scores.shape[1]):
        own = labels == number
        row = {"n": int(own.sum()), "recall": np.nan, "ap": np.nan, "auc": np.nan}
        if 0 < row["n"] < len(labels):
            row |= {"recall": float(np.mean(first[own] == number))}
            row |= {"ap": float(average_precision_score(own, scores[:, number]))}
            row |= {"auc": float(roc_auc_score(own, scores[:, number]))}
        rows.append(row)
    return pd.DataFrame(rows)


def confusion(scores: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """Share of each true class's events (row) that got each class (column) the highest score: [C, C].

    A class without events has a row of NaN.
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    first = np.argsort(-scores, axis=1, kind="stable")[:, 0]
    counts = np.zeros((scores.shape[1], scores.shape[1]))
    np.add.at(counts, (labels, first), 1)
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(axis=1, keepdims=True)


def random_classification(labels: ArrayLike) -> dict[str, float]:
    """Table 4's Random row: guesses drawn by class frequency p, five of them with replacement for top-5."""
    _, counts = np.unique(np.asarray(labels), return_counts=True)
    p = counts / counts.sum()
    return {
        "top1": float(np.sum(p**2)),
        "top5": float(np.sum(p * (1 - (1 - p) ** 5))),
        "mca": float(np.mean(p)),
        "map": float(np.mean(p)),
        "mauc": 0.5,
    }


def _unit(embeddings: ArrayLike) -> NDArray[np.float64]:
    points = np.asarray(embeddings, dtype=np.float64)
    if points.ndim != 2:
        raise ValueError(f"embeddings must be [N, D], not of shape {points.shape}")
    length = np.linalg.norm(points, axis=1, keepdims=True)
    if not (np.isfinite(length).all() and (length > 0).all()):
        row = int(np.flatnonzero(~(np.isfinite(length) & (length > 0)))[0])
        raise DataError(
            f"embedding {row} of {len(points)} has length {length[row, 0]}; only finite, non-zero ones have a cosine"
        )
    return points / length


def _scored(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    scores, values = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if scores.shape != values.shape or scores.ndim != 1:
        raise ValueError(f"scores of shape {scores.shape} do not belong to labels of shape {values.shape}")
    if not np.isfinite(scores).all():
        raise DataError(f"score of clip {int(np.flatnonzero(~np.isfinite(scores))[0])} is not finite")
    if set(np.unique(values)) != {0, 1}:
        raise DataError(
            f"labels must be 0 and 1, both present, for a curve to exist; found {np.unique(values).tolist()[:5]}"
        )
    return scores, values.astype(np.int64)


def _group_codes(
    query_groups: ArrayLike, pool_groups: ArrayLike
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Groups as numbers, of queries and pool, and how many of each query's group the pool holds."""
    queries, pool = np.asarray(query_groups), np.asarray(pool_groups)
    _, codes = np.unique(np.concatenate([queries, pool]), return_inverse=True)
    query_codes, pool_codes = codes[: len(queries)], codes[len(queries) :]
    sizes = np.bincount(pool_codes, minlength=codes.max() + 1)[query_codes]
    if (sizes == 0).any():
        missing = queries[np.flatnonzero(sizes == 0)[0]]
        raise DataError(f"group {str(missing)!r} of a query has no clip in the pool; nothing could be retrieved for it")
    return query_codes, pool_codes, sizes


def _keys(queries: ArrayLike, pool: ArrayLike, chunk: int) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Per block of queries, a number for each pool row that sorts it: by falling similarity, then by row.

    The rounded similarity times the pool's size plus the row number: whole numbers below 2**53, which float64
    holds exactly, so that no two are equal and rounding in the matrix product decides nothing.
    """
    first, second = _unit(queries), _unit(pool)
    if len(second) * _DECIMALS >= 2**53:
        raise ValueError(f"a pool of {len(second)} rows is too large; nine million is the most")
    index = np.arange(len(second), dtype=np.float64)
    for begin in range(0, len(first), chunk):
        rows = slice(begin, min(begin + chunk, len(first)))
        keys = first[rows] @ second.T
        keys *= -_DECIMALS
        np.rint(keys, out=keys)
        keys *= len(second)
        keys += index
        yield rows, keys
