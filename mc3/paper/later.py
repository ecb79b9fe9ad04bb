"""MC3 beside objectives that were published after it: differences, scores of three modalities at once, tuned rows."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mc3 import evaluate, methods, store
from mc3.config import Config
from mc3.paper import bootstrap, provenance, tables
from mc3.paper.bootstrap import Measured
from mc3.paper.tables import Cell

PARTS = {  # of the comparison: the columns of Tables 2 and 3
    "discovery": ("av_roc", "av_pr", "al_roc", "al_pr"),
    "retrieval": tuple(f"{direction}_r{k}" for direction in evaluate.DIRECTIONS for k in (5, 10)),
}
SCORES = {"volume": "- volume", "area": "- area", "product": "product"}  # of three embeddings, higher is more alike


def rows() -> list[str]:
    """The rows compared: those with a role, which all refine the same align stage for as many steps."""
    return [name for name, entry in methods.METHODS.items() if "role" in entry]


def joint(embeddings: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float64]]:
    """The scores of GRAM (- volume), TRIANGLE (- area) and Symile (product) of unit embeddings [N, D]: each [N]."""
    import torch

    from mc3.objectives import gram, symile, triangle

    a, v, t = (torch.from_numpy(embeddings[m].astype(np.float64)) for m in methods.MODALITIES)
    cosines = ((t * v).sum(dim=1), (t * a).sum(dim=1), (v * a).sum(dim=1))
    found = {"volume": -gram.volume(*cosines), "area": -triangle.area(*cosines), "product": symile.product(a, v, t)}
    return {name: score.numpy() for name, score in found.items()}


def joint_scores(config: Config, measured: Mapping[str, Measured], draws: int) -> pd.DataFrame:
    """ROC area of discovery by each of `SCORES`, for every row, beside its better cosine.

    Columns: method, label, score, roc, cosine (the pair with the higher area), difference to that with _low and _high,
    seeds. `measured` is of `mc3.paper.bootstrap.embedded` with as many `draws`.
    """
    clips, cells = store.labelled(config), defaultdict(list)
    weights = bootstrap.resamples(clips["video_uid"], draws)
    for name in rows():
        for seed in config.seeds:
            found = {m: e[clips["row"]] for m, e in store.embeddings(config, name, seed).items()}
            for score, values in joint(found).items():
                cells[name, score].append(evaluate.weighted_roc(values, clips["positive"], weights))
    lines = []
    for (name, score), drawn in cells.items():
        known = {pair: measured["table2"].cells[Cell(name, f"{pair}_roc")] for pair in evaluate.DISCOVERY}
        pair = max(known, key=lambda pair: known[pair][:, 0].mean())
        own = np.stack(drawn)
        line = {"method": name, "label": tables.label(name), "score": SCORES[score], "roc": own[:, 0].mean()}
        interval = bootstrap.contrast(own - known[pair], measured["table2"].videos)
        line |= {"cosine": f"{tables.header(pair)}, {known[pair][:, 0].mean():.3f}"}
        names = ("difference", "difference_low", "difference_high")
        lines.append({**line, **dict(zip(names, interval, strict=True)), "seeds": len(own)})
    return pd.DataFrame(lines)


def differences(measured: Mapping[str, Measured]) -> pd.DataFrame:
    """Each row minus the control, the reference and the proposal, with 95 % intervals.

    Columns: against, part (of `PARTS`), method, label, metric, difference, low, high, seeds, n, unit, videos.
    """
    kept = ["against", "method", "label", "metric", "difference", "low", "high", "seeds", "n", "unit", "videos"]
    frames = []
    for other in filter(None, map(methods.with_role, ("control", "reference", "proposal"))):
        found = bootstrap.differences(measured, other)
        found = found[found["method"].isin(rows())]
        turned = {"difference": -found["difference"], "low": -found["high"], "high": -found["low"]}
        frames.append(found.assign(**turned, against=tables.label(other))[kept])
    table = pd.concat(frames, ignore_index=True)
    part = {metric: name for name, metrics in PARTS.items() for metric in metrics}
    return table.assign(part=table["metric"].map(part)).dropna(subset="part")


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Of `differences`, by against, part and row: in how many of the part's columns it is above, below, or neither."""
    signs = table.assign(above=table["low"] > 0, below=table["high"] < 0)
    counts = signs.groupby(["against", "part", "label"], sort=False)[["above", "below"]].sum().reset_index()
    columns = counts["part"].map(lambda part: len(PARTS[part]))
    return counts.assign(inconclusive=columns - counts["above"] - counts["below"])


def sentences(table: pd.DataFrame) -> list[str]:
    """`verdicts` in words: a sentence for each part and each row that is compared against."""
    found = []
    for (against, part), counts in verdicts(table).groupby(["against", "part"], sort=False):
        above, below = (
            ", ".join(f"{row['label']} ({row[side]} of {len(PARTS[part])} columns)" for row in named.to_dict("records"))
            for side in ("above", "below")
            for named in [counts[counts[side] > 0]]
        )
        found.append(
            f"{part.capitalize()} against {against}: above is {above or 'no row'}; below is {below or 'no row'}."
        )
    return found


def forest(table: pd.DataFrame) -> pd.DataFrame:
    """Data of `mc3.paper.plots.differences` from `differences`: a line of panels for each row compared against."""
    shown = table[~table["metric"].str.endswith("_r10")]
    metrics = [metric for part in PARTS.values() for metric in part]
    shown = shown.assign(
        line=shown["against"] + shown["part"],
        panel=shown["metric"].map(tables.header) + "\nagainst " + shown["against"].str.split(" (", regex=False).str[0],
        label=shown["label"].str.split(" (", regex=False).str[0],
        row=shown["method"].map(rows().index),
        column=shown["metric"].map(metrics.index),
    )
    order = shown["against"].map(list(dict.fromkeys(shown["against"])).index)
    shown = shown.assign(order=order).sort_values(["order", "column"], kind="stable", ignore_index=True)
    return shown[["line", "panel", "label", "row", "difference", "low", "high"]]


def tuned(config: Config, figures: Path = Path("figures")) -> pd.DataFrame:
    """The rows' test scores at the trial that validation chose (figures/tuning); a note if it had other settings."""
    folder = figures / "tuning"
    if not provenance.is_current(folder / "origin.json", config):
        return pd.DataFrame({"note": ["not run with these settings; `dvc repro experiments/dvc.yaml:tuning` does"]})
    trials = tables.read("trials", "experiments/dvc.yaml:tuning", folder)
    shown = trials[trials["method"].isin(rows()) & trials["chosen"]]
    return shown[["label", "setting", "seeds", "validation_av_roc", "validation_al_roc", "av_roc", "al_roc"]]
