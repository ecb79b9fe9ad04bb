"""What sweeps measure: scores of a trial, summaries over seeds, gaps between methods in a generated world."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from mc3 import evaluate, store
from mc3.config import Config, as_dict
from mc3.paper import bootstrap, findings, provenance, tables

DRAWS = 1000  # resamples of the videos
ABOUT = ["group", "setting", "profile", "method", "label"]  # columns of a trial that are no scores


def scores(config: Config, method: str, seed: int, kinds: Collection[str]) -> dict[str, float]:
    """The scores of one training: "test" ROCs, "retrieval" recall in percent, "validation" ROCs and similarities."""
    found: dict[str, float] = {}
    if "validation" in kinds:
        found |= {f"validation_{n}": value for n, value in store.validation_scores(config, method, seed).items()}
    if "test" in kinds:
        found |= {n: value for n, value in tables.discovery(config, method, seed).items() if n.endswith("_roc")}
    if "retrieval" in kinds:
        found |= {n: value for n, value in tables.retrieval(config, method, seed).items() if "_r" in n}
    return found


def summary(trials: pd.DataFrame, reference: str | None, choose: bool) -> pd.DataFrame:
    """Trials (`ABOUT`, seed and scores; a row a seed) over seeds, a row a setting and method.

    Each score becomes its mean and `_std` over `seeds`, and so does `selection`, the mean of the validation ROCs. With
    a `reference`, `difference`, `low` and `high` are those of `selection` to that method's, paired by seed, with a 95 %
    interval over seeds (Student's t). With `choose`, `chosen` marks the first setting of each method with the highest
    `selection`; `ValueError` if methods or settings have different numbers of seeds.
    """
    trials = trials.assign(selection=trials.filter(regex="^validation_.*_roc$").mean(axis=1))
    baseline = trials[trials["method"] == reference].set_index("seed")["selection"]
    rows = []
    for about, part in trials.groupby(ABOUT, sort=False, dropna=False):
        row: dict[str, Any] = dict(zip(ABOUT, about, strict=True)) | {"seeds": len(part)}
        for name, values in part.drop(columns=[*ABOUT, "seed"]).items():
            row |= {str(name): values.mean(), f"{name}_std": values.std(ddof=1)}
        if reference is not None:
            paired = part.set_index("seed")["selection"] - baseline
            mean, half = paired.mean(), student.ppf(0.975, len(paired) - 1) * paired.std(ddof=1) / len(paired) ** 0.5
            row |= {"difference": mean, "low": mean - half, "high": mean + half}
        rows.append(row)
    table = pd.DataFrame(rows)
    if choose:
        if table["method"].value_counts().nunique() != 1 or table["seeds"].nunique() != 1:
            raise ValueError(f"methods had different numbers of trials: {table['method'].value_counts().to_dict()}")
        table["chosen"] = table.index.isin(table.groupby("method")["selection"].idxmax())
    return table


def world(config: Config, names: Sequence[str], seed: int) -> dict[str, Any]:
    """One seed in one world: its clips, its ROCs (with `DRAWS` resamples of videos), `mc3.paper.findings.by_region`."""
    clips, areas = store.labelled(config), {}
    weights = bootstrap.resamples(clips["video_uid"], DRAWS)
    for name in names:
        scored = store.discovery_scores(config, name, seed)
        for pair in evaluate.DISCOVERY:
            drawn = evaluate.resampled_discovery(scored[pair], scored["positive"], weights)
            areas[f"{pair}_{name}"] = drawn["roc"].tolist()
    region = findings.clips(config).loc[clips["row"], "region"]
    shares = {f"share_{name}": float((region == name).mean()) for name in ("I", "II", "III", "IV", "none")}
    about = {"clips": len(clips), "prevalence": float(clips["positive"].mean()), **shares}
    regions = findings.by_region(findings.similarities(config, seed, ("align", *names))).to_dict("records")
    return {"world": {**about, "videos": clips["video_uid"].nunique()}, "areas": areas, "regions": regions}


def world_tables(
    files: Sequence[tuple[str, Config, Path]], names: Sequence[str], reference: str | None
) -> dict[str, pd.DataFrame]:
    """The tables of a study of worlds, from setting, its config and the file of what `world` found, one a seed.

    "seeds" and "worlds" (over their seeds): ROCs, and gaps to `reference` with 95 % intervals; "regions": how
    similarities separate the regions, by world, seed and checkpoint.
    """
    seeds, worlds, regions = [], [], []
    for setting in dict.fromkeys(setting for setting, *_ in files):
        own = [(config, provenance.read(file, "remove it")) for name, config, file in files if name == setting]
        made = own[0][0].world
        assert made is not None
        levels = {"world": setting, **as_dict(made.rates), "videos": made.videos["train"]}
        worlds.append({**levels, "seeds": len(own), **gaps([numbers for _, numbers in own], names, reference)})
        for config, numbers in own:
            at = {**levels, "seed": config.seeds[0]}
            seeds.append({**at, **gaps([numbers], names, reference)})
            regions += [{**at, **row} for row in numbers["regions"]]
    return {"seeds": pd.DataFrame(seeds), "worlds": pd.DataFrame(worlds), "regions": pd.DataFrame(regions)}


def gaps(found: Sequence[dict[str, Any]], names: Sequence[str], reference: str | None) -> dict[str, float]:
    """ROCs over seeds, and gaps to `reference` with 95 % intervals over videos (and seeds, if there are several)."""
    row = dict(found[0]["world"])
    videos = row.pop("videos")
    areas = {name: np.array([numbers["areas"][name] for numbers in found]) for name in found[0]["areas"]}
    for pair in evaluate.DISCOVERY:
        row |= {f"{pair}_{name}": float(areas[f"{pair}_{name}"][:, 0].mean()) for name in names}
        for name in names:
            if name != reference:
                gap = bootstrap.contrast(areas[f"{pair}_{name}"] - areas[f"{pair}_{reference}"], videos)
                row |= dict(zip((f"{pair}_{name}_gap{end}" for end in ("", "_low", "_high")), gap, strict=True))
    return row
