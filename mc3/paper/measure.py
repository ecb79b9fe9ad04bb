"""What sweeps measure: scores of a trial, summaries over seeds, gaps between methods in a generated world."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student

from mc3 import evaluate, store
from mc3.config import Config, as_dict, override
from mc3.paper import bootstrap, claims, findings, tables

DRAWS = 1000  # resamples of the videos
ABOUT = ["group", "setting", "profile", "method", "label"]  # columns of a trial that are no scores


def scores(config: Config, method: str, seed: int, kinds: Collection[str]) -> dict[str, float]:
    """The scores of one training: "validation" and "test" ROCs, "retrieval" recall in percent at every cut-off."""
    found: dict[str, float] = {}
    if "validation" in kinds:
        rocs = store.validation_rocs(config, method, seed)
        found |= {f"validation_{name}": value for name, value in rocs.items()}
    if "test" in kinds:
        found |= {n: value for n, value in tables.discovery(config, method, seed).items() if n.endswith("_roc")}
    if "retrieval" in kinds:
        found |= {n: value for n, value in tables.retrieval(config, method, seed).items() if "_r" in n}
    return found


def summary(trials: pd.DataFrame, reference: str | None, choose: bool) -> pd.DataFrame:
    """Trials over seeds, a row a setting and method.

    Args:
        trials: group, setting, profile, method, label, seed and scores; a row a seed.
        reference: the method that the others are compared with.
        choose: mark the setting of each method that has the highest `selection`.

    Returns:
        The columns of `trials`, each score as mean and `_std` over `seeds` (their number), and `selection`: the mean of
        the validation ROCs. With `reference`, `difference`, `low` and `high`: of `selection` to the reference's, paired
        by seed, with a 95 % interval over seeds (Student's t). With `choose`, `chosen`: the first of equals.

    Raises:
        ValueError: methods or settings have different numbers of seeds, which would not be a fair comparison.
    """
    names = [name for name in trials if name not in (*ABOUT, "seed")]
    validation = [name for name in names if str(name).startswith("validation_")]
    trials = trials.assign(selection=trials[validation].mean(axis=1))
    baseline = trials[trials["method"] == reference].set_index("seed")["selection"]
    rows = []
    for about, part in trials.groupby(ABOUT, sort=False, dropna=False):
        row: dict[str, Any] = {**dict(zip(ABOUT, about, strict=True)), "seeds": len(part)}
        for name in [*names, "selection"]:
            row |= {str(name): part[name].mean(), f"{name}_std": part[name].std(ddof=1)}
        if reference is not None:
            paired = part.set_index("seed")["selection"] - baseline
            value = paired.mean()
            half = student.ppf(0.975, len(paired) - 1) * paired.std(ddof=1) / len(paired) ** 0.5
            row |= {"difference": value, "low": value - half, "high": value + half}
        rows.append(row)
    table = pd.DataFrame(rows)
    if choose:
        if table["method"].value_counts().nunique() != 1 or table["seeds"].nunique() != 1:
            counts = table["method"].value_counts().to_dict()
            raise ValueError(f"methods had different numbers of trials: {counts}")
        table["chosen"] = table.index.isin(table.groupby("method")["selection"].idxmax())
    return table


def world(config: Config, names: Sequence[str], seed: int) -> dict[str, Any]:
    """What one seed shows in one generated world.

    Returns:
        "world": what the test clips are; "areas": {pair_method: test ROC of all clips and of `DRAWS` resamples of the
        videos}; "regions": rows of `mc3.paper.findings.by_region` for the align stage and the methods.
    """
    areas: dict[str, NDArray[np.float64]] = {}
    for name in names:
        scored = store.discovery_scores(config, name, seed)
        videos = store.clips(config).loc[scored["row"], "video_uid"]
        weights = bootstrap.resamples(videos, DRAWS)
        for pair in evaluate.DISCOVERY:
            areas[f"{pair}_{name}"] = evaluate.resampled_discovery(scored[pair], scored["positive"], weights)["roc"]
    region = findings.clips(config).loc[scored["row"], "region"]
    about = {"clips": len(scored), "prevalence": float(scored["positive"].mean())}
    about |= {f"share_{name}": float((region == name).mean()) for name in ("I", "II", "III", "IV", "none")}
    regions = findings.by_region(findings.similarities(config, seed, ("align", *names)))
    return {
        "world": {**about, "videos": videos.nunique()},
        "areas": {name: values.tolist() for name, values in areas.items()},
        "regions": regions.to_dict("records"),
    }


def world_tables(
    files: Sequence[tuple[str, Config, Path]], names: Sequence[str], reference: str | None
) -> dict[str, pd.DataFrame]:
    """The tables of a study of worlds.

    Args:
        files: setting, its config and the file of what `world` found, one a seed.
        names: the methods.
        reference: the method to which gaps are taken.

    Returns:
        "seeds": a row a world and seed, "worlds": a row a world over its seeds, with ROCs, gaps and 95 % intervals;
        "regions": how similarities separate the regions, by world, seed and checkpoint.
    """
    found = [(setting, config, json.loads(file.read_text())) for setting, config, file in files]
    seeds, worlds, regions = [], [], []
    for setting in dict.fromkeys(setting for setting, *_ in found):
        own = [(config, numbers) for name, config, numbers in found if name == setting]
        levels = {"world": setting, **_levels(own[0][0])}
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
    areas = [numbers["areas"] for numbers in found]
    for pair in evaluate.DISCOVERY:
        row |= {f"{pair}_{name}": float(np.mean([own[f"{pair}_{name}"][0] for own in areas])) for name in names}
        for name in names:
            if name != reference:
                total = np.stack([np.subtract(own[f"{pair}_{name}"], own[f"{pair}_{reference}"]) for own in areas])
                ends = zip(("", "_low", "_high"), bootstrap.contrast(total, videos), strict=True)
                row |= {f"{pair}_{name}_gap{end}": value for end, value in ends}
    return row


def _levels(config: Config) -> dict[str, float]:
    """What distinguishes the worlds of a study: the rates of the generator and the number of training videos."""
    assert config.world is not None
    return {**as_dict(config.world.rates), "videos": config.world.videos["train"]}


def seed_tables(config: Config, draws: int = DRAWS) -> dict[str, pd.DataFrame]:
    """Tables 2-4 over `config.seeds`, the same numbers by seed, the claims with their checks, and all differences."""
    makers = {"table2_discovery": tables.table2, "table3_retrieval": tables.table3, "table4_epic_sounds": tables.table4}
    found, single = {}, []
    for stem, make in makers.items():
        found[stem] = make(config)
        for seed in config.seeds:
            table = make(override(config, {"seeds": [seed]}))
            metrics = [name for name in table if f"{name}_std" in table]
            keys = [key for key in ("method", "protocol") if key in table]
            long = table.loc[table["seeds"] > 0].melt(keys, metrics, "metric", "value").dropna(subset="value")
            single.append(long.assign(table=stem, seed=seed))
    columns = ["table", "method", "protocol", "metric", "seed", "value"]
    found["per_seed"] = pd.concat(single, ignore_index=True)[columns]
    measured = bootstrap.measure(config, draws)
    found["claim_checks"] = claims.checks(measured)
    found["claims"] = claims.table(found["claim_checks"])
    found["differences"] = bootstrap.differences(measured)
    return found
