"""How sure a difference between two rows of Tables 2-4 is: the same clips drawn for both, and the same seeds.

`measure` takes every number that a claim may be about on the test clips themselves and on resamples of them: the
clips of Table 2, the queries of Table 3 (the pool stays), the events of Table 4. What is drawn is a whole
video with all its clips, because clips of one video share hands, room and noise and err together: on the
mini profile that widens an interval of a difference of two ROC areas by a tenth to four tenths. All rows and
seeds see the same resample, since they are tested on the same clips. `contrast` draws seeds as well, the same for all
rows: seed s begins every method with the same weights and order of clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.stats import norm, t

from mc3 import evaluate, methods, store
from mc3.config import Config
from mc3.errors import DataError
from mc3.extra import baselines
from mc3.paper import findings, tables

Cell = tuple[str, str]
"""A number's place: row (a method; in Table 4 "protocol/method") and metric, as `mc3.tables` names its column."""

RANDOM = "random"
RECALLS = (0.1, 0.3, 0.5, 0.7, 0.9)  # of Figure 5's curves, at which precision is compared
PERCENT = ("top1", "top5", "mca")


@dataclass(frozen=True)
class Measured:
    """Numbers of the same `n` clips, queries or events (`unit`) of `videos`, and of the same resamples of these.

    `cells` holds each as [seeds, 1 + draws], the first column of all clips as they are.
    """

    unit: str
    n: int
    videos: int
    cells: dict[Cell, NDArray[np.float64]]


def measure(config: Config, draws: int = 1000) -> dict[str, Measured]:
    """What Tables 2-4 and Figures 2, 5 and 6 compare, on all test clips and on `draws` resamples of them.

    What the paper prints in percent is in percent.

    Returns:
        "table2", "figure5", "table3", "table4", "figure2" and "figure6" -> their numbers.

    Raises:
        DataError: embeddings or probe results are missing; the message has the command that makes them.
    """
    return {
        **_table2_and_figure5(config, draws),
        "table3": _table3(config, draws),
        "table4": _table4(config, draws),
        "figure2": _figure2(config, draws),
        "figure6": _figure6(config, draws),
    }


def contrast(total: NDArray[np.float64], videos: int, level: float = 0.95) -> tuple[float, float, float]:
    """The mean over seeds of a number, or of a sum or difference of numbers, and its interval over videos and seeds.

    Draws of videos and of seeds are crossed: a draw's videos are those of all its seeds. Of n videos or
    seeds the plain bootstrap finds (n - 1) / n of their variance, so deviations are stretched by the root of
    n / (n - 1); and as few of them tell little of their variance, the interval is widened from the normal's to
    Student's t with Satterthwaite's degrees of freedom (seeds - 1 if all variance lies between seeds, videos - 1
    if all lies between videos). Of one seed the interval is over videos only.

    Args:
        total: [seeds, 1 + draws], the first column of all clips.
        videos: how many were drawn from.
        level: of the interval.

    Returns:
        value, low, high; the last two NaN if there is one video only.
    """
    seeds, value, drawn = len(total), float(total[:, 0].mean()), total[:, 1:]
    if videos < 2:
        return value, np.nan, np.nan
    spread = np.sqrt(videos / (videos - 1)) * (drawn.mean(axis=0) - value)
    between, tail = np.nanvar(spread) ** 2 / (videos - 1), (1 + level) / 2
    if seeds > 1:
        picked = np.random.default_rng(0).integers(0, seeds, size=drawn.shape)
        deviation = np.take_along_axis(drawn, picked, axis=0).mean(axis=0) - drawn.mean(axis=0)
        spread = spread + np.sqrt(seeds / (seeds - 1)) * deviation
        between += (total[:, 0].var(ddof=1) / seeds) ** 2 / (seeds - 1)
    if between > 0:
        freedom = np.nanvar(spread) ** 2 / between
        spread = spread * (t.ppf(tail, max(1.0, freedom)) / norm.ppf(tail))
    return (value, *evaluate.interval(value + spread, level))


def differences(measured: Mapping[str, Measured]) -> pd.DataFrame:
    """MC3 minus every other row of Tables 2-4 in every metric, with 95 % intervals; in Table 4 within a protocol.

    Columns: table, protocol (of Table 4, else ""), metric, method, label, mc3 and other (means over seeds),
    difference, low, high, seeds, n and unit ("clips", "queries", "events"), and of how many videos they are.

    Raises:
        DataError: there is no row MC3.
    """
    rows = []
    for name in ("table2", "table3", "table4"):
        cells = measured[name].cells
        for (row, metric), other in cells.items():
            protocol, _, method = row.rpartition("/")
            ours = cells.get((f"{protocol}/mc3" if protocol else "mc3", metric))
            if ours is not None and method != "mc3":
                value, low, high = contrast(ours - other, measured[name].videos)
                found: dict[str, Any] = {"table": name, "protocol": protocol, "metric": metric, "method": method}
                found |= {"label": label(method), "mc3": ours[:, 0].mean(), "other": other[:, 0].mean()}
                found |= {"difference": value, "low": low, "high": high}
                about = {"n": measured[name].n, "unit": measured[name].unit, "videos": measured[name].videos}
                rows.append({**found, "seeds": len(ours), **about})
    if not rows:
        raise DataError("no row mc3 among METHODS of mc3/methods.py; differences are those to it")
    return pd.DataFrame(rows)


def note(differences: pd.DataFrame) -> str:
    """One sentence on what the intervals of `differences` are over."""
    kinds = differences[["n", "unit", "videos"]].drop_duplicates().itertuples(index=False)
    sizes = ", ".join(f"{n:,} {unit} of {videos} videos" for n, unit, videos in kinds)
    seeds = int(differences["seeds"].max())
    over = f"and {seeds} seeds" if seeds > 1 else "with one seed: what another seed would change is not in them"
    return f"95 % intervals, paired bootstrap over videos ({sizes}) {over}."


def forest(differences: pd.DataFrame, ks: Sequence[int] = (5, 10)) -> pd.DataFrame:
    """What `mc3.paper.plots.differences` draws: the trained rows in the paper's metrics.

    Columns: line (panels of a line of the figure: a table, or a table and cut-off), panel (the metric in print), label,
    difference, low, high, in the order of panels; row orders labels.
    """
    cut = differences["metric"].str.extract(r"_r(\d+)$")[0]
    shown = differences[(differences["method"] != RANDOM) & (cut.isna() | cut.isin([str(k) for k in ks]))]
    short = shown["label"].str.split(" (", regex=False).str[0]
    alike = shown.groupby(short)["method"].nunique()  # methods whose labels differ in their brackets alone
    short = short.where(short.map(alike) == 1, shown["label"])
    columns, rows = [*evaluate.DISCOVERY, *evaluate.DIRECTIONS], ["untrained", *methods.METHODS]
    first = shown["metric"].str.split("_").str[0]
    shown = shown.assign(
        line=shown["table"] + ("@" + cut[shown.index].str.zfill(3)).fillna(""),
        panel=shown["metric"].map(tables.header),
        label=short + np.where(shown["protocol"] == "", "", ", " + shown["protocol"].str.replace("-probe", "")),
        tuned=shown["protocol"].map(["", "linear-probe", "linear-probe-official", "fine-tune"].index),
        column=[columns.index(name) if name in columns else 0 for name in first],
        order=shown["method"].map(rows.index),
    )
    shown = shown.sort_values(["line", "column"], kind="stable", ignore_index=True)
    shown["row"] = 100 * shown["tuned"] + shown["order"]
    return shown[["line", "panel", "label", "row", "difference", "low", "high"]]


def label(method: str) -> str:
    """A row's name in print; that of a method which is not in mc3/methods.py (any more) is its name."""
    if method in ("align", *methods.METHODS):
        return methods.get(method).label
    return "Random" if method == RANDOM else method


def resamples(videos: ArrayLike, draws: int) -> NDArray[np.float32]:
    """How often each clip is drawn, [1 + draws, N]: once each in row 0, with its video in the others.

    Args:
        videos: [N], the video of each clip.
        draws: resamples of the videos, with replacement.
    """
    return np.concatenate([np.ones((1, len(np.asarray(videos)))), baselines.resampled(videos, draws)]).astype(
        np.float32
    )


def query_recalls(near: ArrayLike, asked: ArrayLike, held: ArrayLike, ks: Sequence[int]) -> NDArray[np.float64]:
    """Set recall of every query at each of `ks`: [len(ks), Q]; its means are `mc3.evaluate.retrieval`'s.

    Args:
        near: [Q, k] rows of the pool, best first.
        asked: [Q] groups of the queries.
        held: [P] groups of the pool; each query's occurs.
        ks: cut-offs, none above k.
    """
    asked, held = np.asarray(asked), np.asarray(held)
    names, counts = np.unique(held, return_counts=True)
    found = np.cumsum(held[np.asarray(near)] == asked[:, None], axis=1) / counts[np.searchsorted(names, asked), None]
    return np.stack([found[:, min(k, found.shape[1]) - 1] for k in ks])


def classification(scores: ArrayLike, labels: ArrayLike, weights: NDArray[np.float32]) -> dict[str, NDArray]:
    """`mc3.evaluate.classification`'s metrics on resamples, each [draws]; of the classes that a resample has.

    A class's areas are sums over its own events of how many weigh in above them, which makes them matrix products
    for all resamples at once. Counts below 2**24 are exact in float32.

    Args:
        scores: [N, C].
        labels: [N] class numbers.
        weights: [draws, N], how often each event was drawn.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    first = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")[:, :5]
    every = weights.sum(axis=1, dtype=np.float64)
    found = {"top1": weights @ (first[:, 0] == labels).astype(np.float32) / every}
    found["top5"] = weights @ (first == labels[:, None]).any(axis=1).astype(np.float32) / every
    sums = {metric: np.zeros(len(weights)) for metric in ("mca", "map", "mauc")}
    counted = {metric: np.zeros(len(weights)) for metric in sums}
    for number in np.unique(labels):
        own = np.flatnonzero(labels == number)
        mine, column = weights[:, own], scores[:, number]
        size = mine.sum(axis=1, dtype=np.float64)
        others = every - size
        level, above = (
            compare(column, column[own, None]).astype(np.float32) for compare in (np.greater_equal, np.greater)
        )
        at_least, own_at_least = weights @ level.T, mine @ level[:, own].T
        higher, own_higher = weights @ above.T, mine @ above[:, own].T
        precision = np.divide(own_at_least, at_least, out=np.zeros_like(at_least), where=at_least > 0)
        below = others[:, None] - (at_least - own_at_least + higher - own_higher) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            values = {
                "mca": mine @ (first[own, 0] == number).astype(np.float32) / size,
                "map": np.sum(mine * precision, axis=1, dtype=np.float64) / size,
                "mauc": np.sum(mine * below, axis=1, dtype=np.float64) / (size * others),
            }
        for metric, value in values.items():
            sums[metric] += np.where(np.isfinite(value), value, 0)
            counted[metric] += np.isfinite(value)
    for metric in sums:
        found[metric] = np.where(counted[metric] > 0, sums[metric] / np.maximum(counted[metric], 1), np.nan)
    return found


def alike(clusters: ArrayLike, names: ArrayLike, weights: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
    """How often two clips of a cluster have the same name, and how often any two clips do: each [draws].

    Pairs of different clips, weighted by how often each was drawn; a clip drawn twice is no pair.
    """
    _, clusters = np.unique(np.asarray(clusters), return_inverse=True)
    _, names = np.unique(np.asarray(names), return_inverse=True)
    both = clusters * (names.max() + 1) + names

    def pairs(codes: NDArray[np.intp]) -> NDArray[np.float64]:
        member = csr_array((np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(codes.max() + 1, len(codes)))
        return np.sum((member @ drawn) ** 2, axis=0) - itself

    drawn = weights.T.astype(np.float64)
    itself = np.sum(drawn**2, axis=0)
    return pairs(both) / pairs(clusters), pairs(names) / pairs(np.zeros_like(names))


def _table2_and_figure5(config: Config, draws: int) -> dict[str, Measured]:
    """Areas under the curves, and precision at `RECALLS` of Figure 5's curves."""
    cells: dict[Cell, list[NDArray[np.float64]]] = {}
    index = store.clips(config)
    videos = index.loc[(index["split"] == "test") & index["positive"].notna(), "video_uid"]
    weights = resamples(videos, draws)
    for seed in config.seeds:
        for name in methods.METHODS:
            scored = store.discovery_scores(config, name, seed)
            for pair in evaluate.DISCOVERY:
                if pair in scored:
                    for metric, values in _discovery(scored[pair], scored["positive"], weights, RECALLS).items():
                        cells.setdefault((name, f"{pair}_{metric}"), []).append(values)
    # Of a constant score all clips are tied: area one half, and the resample's prevalence as precision.
    for metric, values in _discovery(np.zeros(len(scored)), scored["positive"], weights, RECALLS).items():
        for pair in evaluate.DISCOVERY:
            cells[RANDOM, f"{pair}_{metric}"] = [values] * len(config.seeds)
    areas = {cell: values for cell, values in cells.items() if cell[1].endswith(("_roc", "_pr"))}
    points = {cell: values for cell, values in cells.items() if cell not in areas}
    return {name: _measured("clips", videos, part) for name, part in (("table2", areas), ("figure5", points))}


def _discovery(
    scores: ArrayLike, labels: ArrayLike, weights: NDArray[np.float32], recalls: Sequence[float] = ()
) -> dict[str, NDArray[np.float64]]:
    """Areas and precisions of `weights` [D, N], two million counts at a time."""
    blocks = np.array_split(weights, -(-weights.size // 2_000_000))
    parts = [evaluate.resampled_discovery(scores, labels, block, recalls) for block in blocks]
    return {metric: np.concatenate([part[metric] for part in parts]) for metric in parts[0]}


def _table3(config: Config, draws: int) -> Measured:
    ks, chunk = config.evaluate.recall_at, config.evaluate.chunk
    groups, (query_rows, pool_rows) = store.retrieval_split(config)
    asked, held = groups[query_rows], groups[pool_rows]
    videos = store.clips(config)["video_uid"].to_numpy()[query_rows]
    weights = resamples(videos, draws).astype(np.float64)
    weights *= 100 / weights.sum(axis=1, keepdims=True)
    cells: dict[Cell, list[NDArray[np.float64]]] = {}
    for seed in config.seeds:
        for name in methods.METHODS:
            _, found = store.embeddings(config, name, seed)
            for direction, (source, target) in evaluate.DIRECTIONS.items():
                if source in found and target in found:
                    near = evaluate.nearest(found[source][query_rows], found[target][pool_rows], max(ks), chunk)
                    for k, recall in zip(ks, query_recalls(near, asked, held, ks), strict=True):
                        cells.setdefault((name, f"{direction}_r{k}"), []).append(weights @ recall)
    chance = evaluate.random_retrieval(asked, held, ks)
    for direction in evaluate.DIRECTIONS:
        for k in ks:
            values = np.full(len(weights), 100 * chance[f"recall@{k}"])
            cells[RANDOM, f"{direction}_r{k}"] = [values] * len(config.seeds)
    return _measured("queries", videos, cells)


def _table4(config: Config, draws: int) -> Measured:

    files = [store.probe_scores(config, seed) for seed in config.seeds]
    videos = store.events(config)["video_uid"]
    weights = resamples(videos, draws)
    known = {store.UNTRAINED, *methods.METHODS}  # a method that was removed keeps its scores until the next probe
    rows = sorted(row for row in set.intersection(*map(set, files)) if row.rpartition("/")[2] in known)
    cells: dict[Cell, list[NDArray[np.float64]]] = {}
    for scores in files:
        for row in rows:
            for metric, values in classification(scores[row], scores["labels"], weights).items():
                cells.setdefault((row, metric), []).append(values * (100 if metric in PERCENT else 1))
    return _measured("events", videos, cells)


def _figure2(config: Config, draws: int) -> Measured:
    """Cosines of audio and video (`av`), of audio and text (`al`), by region and checkpoint, of all test clips.

    `{pair}_mean_I` and `{pair}_mean_others` are means of region I and of all others; `{pair}_roc_{region}` is how well
    the cosine tells region I from that one.
    """
    index = findings.clips(config)
    index = index[index["split"] == "test"].reset_index(drop=True)
    known = (index["region"] != "unknown").to_numpy()
    videos, region = index["video_uid"][known], index["region"].to_numpy()[known]
    inside, weights = region == "I", resamples(videos, draws)
    cells: dict[Cell, list[NDArray[np.float64]]] = {}
    for seed in config.seeds:
        for name in findings.checkpoints():
            points = findings.similarities(config, seed, [name])[known]
            for pair in evaluate.DISCOVERY:
                cosine = points[pair].to_numpy()
                for part, which in (("I", inside), ("others", ~inside)):
                    counts = weights[:, which].astype(np.float64)
                    cells.setdefault((name, f"{pair}_mean_{part}"), []).append(
                        counts @ cosine[which] / counts.sum(axis=1)
                    )
                for other in sorted(set(region) - {"I"}):
                    two = inside | (region == other)
                    values = _discovery(cosine[two], inside[two].astype(int), weights[:, two])["roc"]
                    cells.setdefault((name, f"{pair}_roc_{other}"), []).append(values)
    for metric in dict.fromkeys(metric for _, metric in cells if "_roc_" in metric):
        cells[RANDOM, metric] = [np.full(len(weights), 0.5)] * len(config.seeds)
    return _measured("clips", videos, cells)


def _figure6(config: Config, draws: int) -> Measured:
    """How often two clips of one of MC3's clusters have the same verb, and (Random) any two clips."""
    index = store.clips(config)
    index = index[(index["split"] == "test") & (index["verb"] != "")]
    weights = resamples(index["video_uid"], draws)
    cells: dict[Cell, list[NDArray[np.float64]]] = {}
    for seed in config.seeds if "mc3" in methods.METHODS else ():
        video = store.embeddings(config, "mc3", seed)[1]["video"][index.index]
        clusters = evaluate.clusters(video, config.evaluate.clusters)
        for row, values in zip(("mc3", RANDOM), alike(clusters, index["verb"], weights), strict=True):
            cells.setdefault((row, "same_verb"), []).append(values)
    return _measured("clips", index["video_uid"], cells)


def _measured(unit: str, videos: ArrayLike, cells: Mapping[Cell, Sequence[NDArray[np.float64]]]) -> Measured:
    videos = np.asarray(videos)
    return Measured(unit, len(videos), len(set(videos)), {cell: np.stack(values) for cell, values in cells.items()})
