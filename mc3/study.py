"""When does consensus help? MC3, and its rival Peers, beside w/o consensus in worlds that differ in a rate, or in two.

The paper's answer is one world, Ego4D. Here each point is a world of its own, smaller than the profile's: it is
generated, cut, aligned and refined from the same align checkpoint with Eq. 3, without it, and with peers choosing
instead (`mc3.objectives.Peers`), for every seed. What counts is the gap to w/o consensus in Table 2's areas on that
world's test clips. Worlds share their seed, so that what a rate does not touch stays alike. A point's files are removed
when its numbers are written; what is done is not done again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mc3 import embed, evaluate, experiments, findings, methods, tables, trials, uncertainty
from mc3.config import Config, ConfigError, as_dict
from mc3.data import DataError, manifest, prepare, world, write_whole
from mc3.data.shards import ClipDataset
from mc3.plots import clip_cards, save

TABLE = Path("figures") / "study.csv"
POINTS = Path("figures") / "study_points.csv"
REGIONS = Path("figures") / "study_regions.csv"
FAILURES = Path("figures") / "study_failures"
SEEDS = (0, 1)
COMPARED = {"mc3": "mc3", "without": "wo_consensus", "peers": "peers"}
GAPS = {"gap": "mc3", "peers_gap": "peers"}  # of these in `COMPARED` to "without"
DRAWS = 1000

SIZE: dict[str, Any] = {
    "world.videos": {"train": 48, "validation": 4, "test": 24},
    "world.silent_videos": 2,
    "world.epic_events": {"train": 8, "validation": 8},
    "train.epochs": {"align": 6, "refine": 6},
    "train.warmup_steps": 20,
}
"""What makes a point's world smaller and its training shorter than the profile's."""

AXES: dict[str, tuple[float, ...]] = {
    "on_screen": (0.0, 0.7),
    "off_screen": (0.0, 0.8),
    "unseen": (0.0, 0.5),
    "sounding": (0.5, 1.4),
    "signal_db": (-12.0, 6.0),
    "misnarrated": (0.25, 0.5),
    "videos": (24, 96),
}
"""The levels tried beside the profile's own: `mc3.config.Rates`, and training videos at the same number of steps."""

PAIRS: tuple[tuple[str, str], ...] = (("on_screen", "misnarrated"), ("on_screen", "signal_db"))
"""Rates varied together, for a heat map each: every combination of their levels."""

CODE = ("baselines.py", "batches.py", "data/annotations.py", "data/ego4d.py", "data/manifest.py", "data/media.py",
        "data/prepare.py", "data/shards.py", "data/tokenizer.py", "data/world", "embed.py", "encoders", "evaluate.py",
        "findings.py", "losses.py", "model.py", "objectives.py", "study.py", "tables.py", "train.py",
        "uncertainty.py")  # fmt: skip

POINT_SEC = {"world": 30.0, "seed": 75.0}
"""What a point of `SIZE` takes on two cores: generating and cutting, and each seed's trainings."""


def label(levels: dict[str, float]) -> str:
    """A point's name: "on_screen 0.7, misnarrated 0.5"; the profile's own rates are "as generated"."""
    return ", ".join(f"{name} {value:g}" for name, value in levels.items()) or "as generated"


def points() -> list[dict[str, float]]:
    """Every point as the levels that differ from the profile's: its own first, then one rate at a time, then pairs."""
    single = [{name: value} for name, values in AXES.items() for value in values]
    both = [{a: x, b: y} for a, b in PAIRS for x, y in product(AXES[a], AXES[b])]
    return [{}, *single, *both]


def configured(config: Config, levels: dict[str, float]) -> Config:
    """The settings of a point. `ConfigError` where the profile generates no world."""
    if config.world is None:
        raise ConfigError(f"profile {config.profile} has no `world` to vary; `mc3 profile mini` has one")
    changes = {**SIZE, **{f"world.rates.{name}": value for name, value in levels.items() if name != "videos"}}
    if "videos" in levels:
        usual, wanted = SIZE["world.videos"]["train"], int(levels["videos"])
        changes["world.videos"] = {**SIZE["world.videos"], "train": wanted}
        changes["train.epochs"] = {stage: round(n * usual / wanted) for stage, n in SIZE["train.epochs"].items()}
    return trials.changed(config, changes)


def fingerprint(point: Config, seeds: Sequence[int]) -> str:
    """A hash of all that decides a point's numbers: settings, recipes, seeds, code."""
    settings = as_dict(point)
    for group, name in (("world", "workers"), ("clips", "workers"), ("train", "workers"), ("train", "threads")):
        del settings[group][name]
    kept = {name: settings[name] for name in ("world", "clips", "model", "init", "loss", "train")}
    recipes = [repr(methods.get(name)) for name in ("align", *COMPARED.values())]
    return trials.fingerprint_of([kept, recipes, list(seeds)], CODE)


def measure(point: Config, seeds: Sequence[int]) -> dict[str, list[dict[str, Any]]]:
    """Make a point's world, train and score.

    Returns:
        {"gaps": a row a seed, "points": one row over all seeds, "regions": rows of `findings.by_region`}.
    """
    done = trials.fingerprint_of([as_dict(point.world), as_dict(point.clips)], CODE)
    if not trials.is_done(point, "shards", done):
        world.write(point)
        manifest.write(point)
        prepare.write(point)
        trials.mark_done(point, "shards", done)
    drawn, regions = [], []
    for seed in seeds:
        held: dict[str, Any] = {}
        for method in ("align", *COMPARED.values()):
            trials.embedded(point, method, seed, held)
        drawn.append(areas(point, seed))
        found = findings.by_region(findings.similarities(point, seed))
        regions += [{"seed": seed, **row} for row in found.to_dict("records")]
    gaps = [{"seed": seed, **gap(point, seed, [own])} for seed, own in zip(seeds, drawn, strict=True)]
    return {"gaps": gaps, "points": [{"seeds": len(seeds), **gap(point, seeds[0], drawn)}], "regions": regions}


def areas(point: Config, seed: int) -> dict[str, NDArray[np.float64]]:
    """Test ROC by pair of modalities and row, "av_mc3" and so on: [1 + DRAWS], of all clips and of drawn videos."""
    found = {}
    for name, method in COMPARED.items():
        scored = tables.discovery_scores(point, method, seed)
        videos = embed.clips(point).loc[scored["row"], "video_uid"]
        weights = uncertainty.resamples(videos, DRAWS)
        for pair in evaluate.PAIRS:
            found[f"{pair}_{name}"] = evaluate.resampled_discovery(scored[pair], scored["positive"], weights)["roc"]
    return found


def gap(point: Config, seed: int, drawn: Sequence[dict[str, NDArray[np.float64]]]) -> dict[str, float]:
    """ROCs and gaps over the seeds in `drawn`, with 95 % intervals over videos, and seeds if there are several.

    What the clips are is the same for every seed; `seed` is one of them.
    """
    scored = tables.discovery_scores(point, COMPARED["mc3"], seed)
    region = findings.clips(point).loc[scored["row"], "region"]
    videos = embed.clips(point).loc[scored["row"], "video_uid"].nunique()
    row = {"clips": len(scored), "prevalence": float(scored["positive"].mean())}
    row |= {f"share_{name}": float((region == name).mean()) for name in ("I", "II", "III", "IV", "none")}
    for pair in evaluate.PAIRS:
        row |= {f"{pair}_{name}": float(np.mean([own[f"{pair}_{name}"][0] for own in drawn])) for name in COMPARED}
        for column, name in GAPS.items():
            total = np.stack([own[f"{pair}_{name}"] - own[f"{pair}_without"] for own in drawn])
            found = uncertainty.contrast(total, videos)
            row |= dict(zip((f"{pair}_{column}{end}" for end in ("", "_low", "_high")), found, strict=True))
    return row


def train(
    jobs: dict[str, dict[str, float]], hours: float, seeds: Sequence[int], config: Config, names: Sequence[str]
) -> None:
    """Measure the points called `names`, as many as fit into `hours`."""
    cost = POINT_SEC["world"] + len(seeds) * POINT_SEC["seed"]
    schedule = trials.Schedule(dict.fromkeys(names, cost), 3600 * hours)
    for name in schedule:
        point = configured(config, jobs[name])
        at = folder(point, seeds)
        one(point, at, at.with_suffix(".json"), seeds)


def folder(point: Config, seeds: Sequence[int]) -> Path:
    """Where a point is measured; its numbers are beside it in a file of this name and `.json`."""
    return point.paths.work / "study" / fingerprint(point, seeds)[:16]


def run(
    config: Config,
    hours: float = 2.0,
    seeds: Sequence[int] = SEEDS,
    at: Sequence[dict[str, float]] | None = None,
    processes: int = 1,
) -> pd.DataFrame:
    """Measure the points, as many as fit into `hours`, and write `TABLE`, `REGIONS`, the figure and its provenance.

    Finished points are read from `work/study`; the same command goes on with the others, `processes` at once.
    """
    jobs = {label(levels): levels for levels in (points() if at is None else at)}
    made = {name: configured(config, levels) for name, levels in jobs.items()}
    results = {name: folder(point, seeds).with_suffix(".json") for name, point in made.items()}
    cost = POINT_SEC["world"] + len(seeds) * POINT_SEC["seed"]
    costs = {name: 0.0 if file.exists() else cost for name, file in results.items()}
    trials.side_by_side(partial(train, jobs, hours, seeds), config, costs, processes)
    found = {name: json.loads(file.read_text()) for name, file in results.items() if file.exists()}
    if not found:
        raise DataError(f"no point fits into {hours:g} hours; the first takes about {cost / 60:.0f} minutes")
    gaps = collected(found, jobs, config, "gaps")
    regions = collected(found, jobs, config, "regions")
    trials.write_table(TABLE, gaps)
    trials.write_table(POINTS, collected(found, jobs, config, "points"))
    trials.write_table(REGIONS, regions)
    save(experiments.study(gaps), TABLE.with_suffix(""))
    save(experiments.study_regions(regions), REGIONS.with_suffix(""))
    draw_failures(config)
    prints = {name: fingerprint(made[name], seeds) for name in found}
    trials.record(config, "study", {"points": prints, "seeds": list(seeds)})
    if skipped := [name for name in jobs if name not in found]:
        print(f"{len(skipped)} points did not fit into {hours:g} hours: {'; '.join(skipped)}")
        print("the same command goes on with them")
    return gaps


def draw_failures(config: Config) -> None:
    """Clips of the pipeline's own world where consensus failed, as cards; said and left out before `make repro`."""
    seed = config.seeds[0]
    if not all(embed.path(config, name, seed).exists() for name in COMPARED.values()):
        print(f"no embeddings of the pipeline's seed {seed}, so {FAILURES.name} is not drawn; `make repro` makes them")
        return
    rows, notes = findings.failures(config, seed, COMPARED["without"], COMPARED["mc3"])
    save(
        clip_cards(ClipDataset(config.paths.work / "shards", "ego4d", findings.SPLITS), rows, notes), FAILURES, dpi=120
    )


def one(point: Config, folder: Path, result: Path, seeds: Sequence[int]) -> None:
    """`measure` in `folder`, which is removed when its numbers are in `result`."""
    placed = trials.changed(point, {"paths.work": str(folder / "work"), "paths.raw": str(folder / "raw")})
    (folder / "work").mkdir(parents=True, exist_ok=True)
    numbers = measure(placed, seeds)
    write_whole(result, (json.dumps(numbers, indent=1) + "\n").encode())
    shutil.rmtree(folder)


def collected(
    found: dict[str, dict[str, Any]], jobs: dict[str, dict[str, float]], config: Config, kind: str
) -> pd.DataFrame:
    """Rows of all points, each with the point's name and the level of every axis."""
    assert config.world is not None
    usual = {**as_dict(config.world.rates), "videos": SIZE["world.videos"]["train"]}
    rows = []
    for name, numbers in found.items():
        levels = {axis: jobs[name].get(axis, usual[axis]) for axis in AXES}
        rows += [{"point": name, **levels, **row} for row in numbers[kind]]
    return pd.DataFrame(rows)
