"""Paired bootstrap over videos and seeds: intervals of differences between rows of Tables 1-4 and Figures 2, 5, 6.

A resample draws videos with all their clips (Table 2), queries (Table 3, whose pool stays) or events (Table 4), because
clips of one video share hands, room and noise and err together. All rows and seeds share the resamples; `contrast`
resamples seeds as well, the same for all rows, as seed s starts every method from the same weights.

Two sources have no clips: "deviation", Table 2's over seeds, and "ablations", what figures/ablations/trials.csv has.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2, norm, t

from mc3 import evaluate, methods, store
from mc3.config import Config
from mc3.errors import DataError
from mc3.paper import findings, priors, provenance, tables
from mc3.paper.tables import PERCENT, RANDOM, Cell

SOURCES = ("table1", "table2", "deviation", "figure5", "table3", "table4", "figure2", "figure6", "ablations")
RECALLS = (0.1, 0.3, 0.5, 0.7, 0.9)  # of Figure 5's curves, at which precision is compared
ENOUGH = 10  # labelled clips of a verb by which it is judged
RARE = 0.1  # share of a verb's clips that may be errors of the annotators
EXACT = 10**9  # "videos" of draws from the exact distribution: `contrast` does not widen their interval

Draws = dict[Cell, list[NDArray[np.float64]]]  # of each seed [1 + draws]


@dataclass(frozen=True)
class Measured:
    """Numbers of the same `n` clips, queries or events (`unit`) of `videos`, and of the same resamples of these."""

    unit: str
    n: int
    videos: int
    # [seeds, 1 + draws], one seed for rows that have no more; the first column is of all clips, not resampled
    cells: dict[Cell, NDArray[np.float64]]


def measure(config: Config, draws: int = 1000, figures: Path = Path("figures")) -> dict[str, Measured]:
    """The numbers of `SOURCES` on all test clips and on `draws` resamples of them; in percent where the paper is."""
    makers = {"table1": _table1, "table4": _table4, "figure2": _figure2, "figure6": _figure6}
    found = embedded(config, store.rows(config), draws) | {name: make(config, draws) for name, make in makers.items()}
    found["ablations"] = _ablations(config, draws, figures / "ablations")
    return found | {"deviation": _deviation(found["table2"])}


def embedded(config: Config, rows: Sequence[str], draws: int = 1000) -> dict[str, Measured]:
    """Those of `measure` that come from embeddings, of `rows`: table2 (with `mc3.paper.priors`), figure5 and table3."""
    return _table2_and_figure5(config, rows, draws) | {"table3": _table3(config, rows, draws)}


def contrast(total: NDArray[np.float64], videos: int) -> tuple[float, float, float]:
    """Mean over seeds of a number, or of a sum or difference of numbers, and its 95 % interval over videos and seeds.

    `total` is [seeds, 1 + draws], the first column of all clips. With one seed the interval is over videos only; with
    one of `videos` it is NaN. A bootstrap of n videos or seeds finds (n - 1) / n of their variance, so deviations are
    scaled by the root of n / (n - 1), and widened to Student's t with Satterthwaite's degrees of freedom.
    """
    seeds, value, drawn = len(total), float(total[:, 0].mean()), total[:, 1:]
    if videos < 2:
        return value, np.nan, np.nan
    spread = np.sqrt(videos / (videos - 1)) * (drawn.mean(axis=0) - value)
    between, tail = np.nanvar(spread) ** 2 / (videos - 1), (1 + evaluate.LEVEL) / 2
    if seeds > 1:
        picked = np.random.default_rng(0).integers(0, seeds, size=drawn.shape)
        deviation = np.take_along_axis(drawn, picked, axis=0).mean(axis=0) - drawn.mean(axis=0)
        spread = spread + np.sqrt(seeds / (seeds - 1)) * deviation
        between += (total[:, 0].var(ddof=1) / seeds) ** 2 / (seeds - 1)
    if between > 0:
        freedom = np.nanvar(spread) ** 2 / between
        spread = spread * (t.ppf(tail, max(1.0, freedom)) / norm.ppf(tail))
    return (value, *evaluate.interval(value + spread))


def differences(measured: Mapping[str, Measured], reference: str = "") -> pd.DataFrame:
    """The reference row, by default that of METHODS, minus every other of Tables 2-4 in every metric and protocol.

    Columns: table, protocol, metric, method, label, one named after the reference row and `other` (means over seeds),
    difference, its 95 % interval low and high, seeds, and the sample's n, unit and videos. Without a reference row it
    is a `DataError`.
    """
    reference, rows = reference or methods.with_role("reference"), []
    for name in sorted(measured.keys() & {"table2", "table3", "table4"}):
        sample = measured[name]
        for (method, metric, protocol), other in sample.cells.items():
            ours = sample.cells.get(Cell(reference, metric, protocol))
            if ours is not None and method != reference:
                row: dict[str, Any] = {"table": name, "protocol": protocol, "metric": metric, "method": method}
                row |= {"label": tables.label(method), reference: ours[:, 0].mean(), "other": other[:, 0].mean()}
                total = ours - other
                row |= dict(zip(("difference", "low", "high"), contrast(total, sample.videos), strict=True))
                rows.append({**row, "seeds": len(total), "n": sample.n, "unit": sample.unit, "videos": sample.videos})
    if not rows:
        raise DataError('no row of METHODS in mc3/methods.py has the role "reference"; differences are to that row')
    return pd.DataFrame(rows)


def significant(differences: pd.DataFrame) -> set[Cell]:
    """The cells of `differences`, also when read back from its CSV, whose interval excludes 0."""
    found = differences[(differences["low"] > 0) | (differences["high"] < 0)].fillna({"protocol": ""})
    return {Cell(*row) for row in found[["method", "metric", "protocol"]].itertuples(index=False)}


def note(differences: pd.DataFrame) -> str:
    """One sentence on the sample under the intervals of `differences`."""
    kinds = differences[["n", "unit", "videos"]].drop_duplicates().to_numpy()
    sizes = ", ".join(f"{n:,} {unit} of {videos} videos" for n, unit, videos in kinds)
    seeds = int(differences["seeds"].max())
    over = f"and {seeds} seeds" if seeds > 1 else "with one seed: they exclude what another seed would change"
    return f"95 % intervals, paired bootstrap over videos ({sizes}) {over}."


def forest(differences: pd.DataFrame) -> pd.DataFrame:
    """Data of `mc3.paper.plots.differences`: the trained rows in the paper's metrics, in the order of panels."""
    cut = differences["metric"].str.extract(r"_r(\d+)$")[0]
    shown = differences[(differences["method"] != RANDOM) & (cut.isna() | cut.isin(["5", "10"]))]
    short = shown["label"].str.split(" (", regex=False).str[0]
    clear = (shown.groupby(short)["method"].transform("nunique") == 1) & ~shown["method"].str.startswith(store.FOREIGN)
    short = short.where(clear, shown["label"])
    columns = {name: number for number, name in enumerate([*evaluate.DISCOVERY, *evaluate.DIRECTIONS])}
    foreign = sorted(row for row in set(shown["method"]) if row.startswith(store.FOREIGN))
    rows = [*store.PROBED, *methods.METHODS, *foreign, *priors.LABELS]
    protocols = ["", store.LINEAR, store.OFFICIAL, store.FINETUNE]
    shown = shown.assign(
        line=shown["table"] + ("@" + cut[shown.index].str.zfill(3)).fillna(""),
        panel=shown["metric"].map(tables.header),
        label=short + np.where(shown["protocol"] == "", "", ", " + shown["protocol"].str.replace("-probe", "")),
        column=shown["metric"].str.split("_").str[0].map(columns).fillna(0),
        row=100 * shown["protocol"].map(protocols.index) + shown["method"].map(rows.index),
    )
    shown = shown.sort_values(["line", "column"], kind="stable", ignore_index=True)
    return shown[["line", "panel", "label", "row", "difference", "low", "high"]]


def resamples(videos: ArrayLike, draws: int) -> NDArray[np.float32]:
    """How often each clip is drawn, [1 + draws, N]: once in row 0, in the others with its video of `videos` [N]."""
    names, codes = np.unique(np.asarray(videos), return_inverse=True)
    drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return np.concatenate([np.ones((1, len(codes))), drawn[:, codes]]).astype(np.float32)


def classification(scores: ArrayLike, labels: ArrayLike, weights: NDArray[np.float32]) -> dict[str, NDArray]:
    """`mc3.evaluate.classification` of scores [N, C] and labels [N], drawn `weights` [draws, N] times: each [draws]."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    first = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")[:, :5]
    every = weights.sum(axis=1, dtype=np.float64)  # float32 is exact for counts below 2**24
    found = {"top1": weights @ (first[:, 0] == labels).astype(np.float32) / every}
    found["top5"] = weights @ (first == labels[:, None]).any(axis=1).astype(np.float32) / every
    by_class: dict[str, list[NDArray]] = {"mca": [], "map": [], "mauc": []}
    with np.errstate(invalid="ignore"):  # of a class that a resample lacks
        for number in np.unique(labels):
            own = np.flatnonzero(labels == number)
            mine, column = weights[:, own], scores[:, number]
            at_least = (column >= column[own, None]).astype(np.float32)
            precision = mine @ at_least[:, own].T / np.maximum(weights @ at_least.T, 1)
            size = mine.sum(axis=1, dtype=np.float64)
            by_class["mca"].append(mine @ (first[own, 0] == number).astype(np.float32) / size)
            by_class["map"].append(np.sum(mine * precision, axis=1, dtype=np.float64) / size)
            by_class["mauc"].append(evaluate.weighted_roc(column, labels == number, weights))
        return found | {name: np.nansum(v, axis=0) / np.isfinite(v).sum(axis=0) for name, v in by_class.items()}


def alike(
    clusters: ArrayLike, names: ArrayLike, videos: ArrayLike, weights: NDArray[np.float32]
) -> tuple[NDArray, NDArray]:
    """Share of pairs of clips of two videos in a cluster with one name, and share of all such pairs: each [draws]."""
    drawn = pd.DataFrame(weights.T.astype(np.float64))  # resamples have more pairs within a video

    def pairs(*keys: ArrayLike) -> NDArray[np.float64]:
        every, within = (drawn.groupby([np.asarray(k) for k in by]).sum() for by in (keys, (*keys, videos)))
        return ((every**2).sum() - (within**2).sum()).to_numpy()

    return pairs(clusters, names) / pairs(clusters), pairs(names) / pairs(np.zeros(len(drawn)))


def _table1(config: Config, draws: int) -> Measured:
    """`sounding`, the share of a verb's labelled clips, and of all, that sound; `mixed`, of verbs with both kinds."""
    index = store.clips(config).dropna(subset="positive")
    weights, verbs = resamples(index["video_uid"], draws), index["verb"].map(priors.short)
    of_verb = pd.get_dummies(verbs, dtype=float).drop(columns="", errors="ignore").assign(clips=1.0)  # and all clips
    with np.errstate(invalid="ignore"):  # of a verb that a resample lacks
        rates = weights @ of_verb.mul(index["positive"].astype(float), axis=0).to_numpy() / (weights @ of_verb)
    mixed = rates.loc[:, of_verb.sum() >= ENOUGH].drop(columns="clips").map(lambda rate: RARE <= rate <= 1 - RARE)
    cells = {Cell(str(verb), "sounding"): [rate.to_numpy()] for verb, rate in rates.items()}
    cells |= {Cell("half", metric): [np.full(len(weights), 0.5)] for metric in ("sounding", "mixed")}
    return _measured("clips", index["video_uid"], {**cells, Cell("verbs", "mixed"): [mixed.mean(axis=1).to_numpy()]})


def _deviation(table2: Measured) -> Measured:
    """`_std` of the reference row's numbers over seeds, NaN of one, with draws from the chi-square distribution."""
    seeds, cells = max(map(len, table2.cells.values())), {}
    for (method, metric, _), values in table2.cells.items():
        if method == methods.with_role("reference"):
            quantiles = (np.arange(values.shape[1] - 1) + 0.5) / (values.shape[1] - 1)
            spread = np.sqrt((seeds - 1) / chi2.ppf(quantiles, seeds - 1)) if seeds > 1 else np.nan * quantiles
            std = values[:, 0].std(ddof=1) if seeds > 1 else np.nan
            cells[Cell(method, f"{metric}_std")] = std * np.r_[1, spread][None]
            cells[Cell("0.01", f"{metric}_std")] = np.full((1, values.shape[1]), 0.01)
    return Measured("seeds", seeds, EXACT if seeds > 1 else 1, cells)


def _ablations(config: Config, draws: int, folder: Path) -> Measured:
    """Scores of "group setting", means over unpaired seeds (Student's t); none if not run with these settings."""
    seeds, cells, rng = 0, {}, np.random.default_rng(0)
    if provenance.is_current(folder / "origin.json", config):
        trials = tables.read("trials", "experiments/dvc.yaml:ablations", folder)
        seeds = int(trials["seeds"].min())
        for row, metric in product(trials.to_dict("records"), ("av_roc", "al_roc", "selection")):
            error = row[f"{metric}_std"] / np.sqrt(row["seeds"]) * rng.standard_t(max(1, row["seeds"] - 1), draws)
            cells[Cell(f"{row['group']} {row['setting']}", metric)] = row[metric] + np.r_[0, error][None]
    return Measured("seeds", seeds, EXACT if seeds > 1 else 1, cells)


def _table2_and_figure5(config: Config, rows: Sequence[str], draws: int) -> dict[str, Measured]:
    clips = priors.scores(config)
    cells: Draws = defaultdict(list)
    weights = resamples(clips["video_uid"], draws)
    for name in rows:
        for seed in store.seeds(config, name):
            scored = store.discovery_scores(config, name, seed)
            for pair in scored.columns.intersection(evaluate.DISCOVERY):
                drawn = evaluate.resampled_discovery(scored[pair], scored["positive"], weights, RECALLS)
                for metric, values in drawn.items():
                    cells[Cell(name, f"{pair}_{metric}")].append(values)
    for name in priors.LABELS:
        for metric, values in evaluate.resampled_discovery(clips[name], clips["positive"], weights).items():
            cells[Cell(name, f"{priors.PAIR}_{metric}")].append(values)
    # A constant score ties all clips: area one half, and the resample's prevalence as precision.
    chance = evaluate.resampled_discovery(np.zeros(len(clips)), clips["positive"], weights, RECALLS)
    for metric, pair in product(chance, evaluate.DISCOVERY):
        cells[Cell(RANDOM, f"{pair}_{metric}")] = [chance[metric]]
    points = {cell: cells.pop(cell) for cell in list(cells) if not cell.metric.endswith(("_roc", "_pr"))}
    return {n: _measured("clips", clips["video_uid"], part) for n, part in (("table2", cells), ("figure5", points))}


def _table3(config: Config, rows: Sequence[str], draws: int) -> Measured:
    ks, chunk = config.evaluate.recall_at, config.evaluate.chunk
    groups, (queries, pool) = store.retrieval_split(config)
    videos = store.clips(config)["video_uid"].to_numpy()[queries]
    weights = resamples(videos, draws).astype(np.float64)
    weights *= 100 / weights.sum(axis=1, keepdims=True)
    cells: Draws = defaultdict(list)
    for name in rows:
        for seed in store.seeds(config, name):
            found = store.embeddings(config, name, seed)
            for direction, case in evaluate.retrieval_directions(found, groups, (queries, pool)):
                by_query = evaluate.retrieval_by_query(*case, ks, chunk)
                for k in ks:
                    cells[Cell(name, f"{direction}_r{k}")].append(weights @ by_query[f"recall@{k}"])
    chance = evaluate.random_retrieval(groups[queries], groups[pool], ks)
    for direction, k in product(evaluate.DIRECTIONS, ks):
        values = np.full(len(weights), 100 * chance[f"recall@{k}"])
        cells[Cell(RANDOM, f"{direction}_r{k}")] = [values]
    return _measured("queries", videos, cells)


def _table4(config: Config, draws: int) -> Measured:
    per_seed = [store.probe_scores(config, seed) for seed in config.seeds]
    videos = store.events(config)["video_uid"]
    weights = resamples(videos, draws)
    known = {*store.PROBED, *methods.METHODS}  # a method that was removed keeps its scores until the next probe
    rows = sorted(row for row in set.intersection(*map(set, per_seed)) if row.rpartition("/")[2] in known)
    cells: Draws = defaultdict(list)
    scored = [(row, scores[row], scores["labels"]) for scores, row in product(per_seed, rows)]
    foreign = store.foreign_probes(config).items()
    scored += [(f"{store.LINEAR}/{row}", scores, per_seed[0]["labels"]) for row, scores in foreign]
    for row, scores, labels in scored:
        protocol, _, method = row.partition("/")
        for metric, values in classification(scores, labels, weights).items():
            cells[Cell(method, metric, protocol)].append(values * (100 if metric in PERCENT else 1))
    return _measured("events", videos, cells)


def _figure2(config: Config, draws: int) -> Measured:
    """Mean cosine of region I and of all others, and how well the cosine separates region I from each other."""
    index = findings.clips(config).query("split == 'test' and region != 'unknown'")
    region, weights = index["region"].to_numpy(), resamples(index["video_uid"], draws)
    inside = region == "I"
    cells: Draws = defaultdict(list)
    for seed, name in product(config.seeds, findings.checkpoints(config)):
        points = findings.similarities(config, seed, [name]).query("region != 'unknown'")
        for pair in evaluate.DISCOVERY:
            cosine = points[pair].to_numpy()
            for part, which in (("I", inside), ("others", ~inside)):
                counts = weights[:, which].astype(np.float64)
                cells[Cell(name, f"{pair}_mean_{part}")].append(counts @ cosine[which] / counts.sum(axis=1))
            for other in sorted(set(region) - {"I"}):
                two = inside | (region == other)
                areas = evaluate.resampled_discovery(cosine[two], inside[two].astype(int), weights[:, two])["roc"]
                cells[Cell(name, f"{pair}_roc_{other}")].append(areas)
                cells[Cell(RANDOM, f"{pair}_roc_{other}")] = [np.full(len(weights), 0.5)] * len(config.seeds)
    return _measured("clips", index["video_uid"], cells)


def _figure6(config: Config, draws: int) -> Measured:
    """`same_*`: how many pairs share it, in the reference row's clusters; `agreement_*`: their excess over random."""
    index = store.clips(config).query("split == 'test' and verb != ''")
    names = {"verb": index["verb"], "scenario": index["video_uid"].map(findings.scenarios(config)).dropna()}
    weights = resamples(index["video_uid"], draws)
    reference, cells = methods.with_role("reference"), defaultdict(list)
    for seed in config.seeds if reference else ():
        video = store.embeddings(config, reference, seed)["video"][index.index]
        clusters = evaluate.clusters(video, config.evaluate.clusters)
        for name, values in names.items():
            if len(values) == len(index):
                with np.errstate(invalid="ignore"):  # of a resample without such pairs
                    inside, every = alike(clusters, values, index["video_uid"], weights)
                    cells[Cell(reference, f"agreement_{name}")].append((inside - every) / (1 - every))
                cells[Cell(reference, f"same_{name}")].append(inside)
                cells[Cell(RANDOM, f"same_{name}")].append(every)
    return _measured("clips", index["video_uid"], cells)


def _measured(unit: str, videos: ArrayLike, cells: Draws) -> Measured:
    videos = np.asarray(videos)
    return Measured(unit, len(videos), len(set(videos)), {cell: np.stack(values) for cell, values in cells.items()})
