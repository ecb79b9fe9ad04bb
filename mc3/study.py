"""When does consensus help? MC3, and its rival Peers, beside w/o consensus in worlds that differ in a rate, or in two.

The paper's answer is one world, Ego4D. Here each point is a world of its own, smaller than the profile's: it is
generated, cut, aligned and refined from the same align checkpoint with Eq. 3, without it, and with peers choosing
instead (`mc3.objectives.Peers`), for every seed. What counts is the gap to w/o consensus in Table 2's areas on that
world's test clips. Worlds share their seed, so that what a rate does not touch stays alike. A point's files are removed
when its numbers are written; what is done is not done again, and more seeds may be added later.
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


def fingerprint(point: Config) -> str:
    """A hash of all that decides a point's numbers, but for the seed: settings, recipes, code."""
    settings = as_dict(point)
    for group, name in (("world", "workers"), ("clips", "workers"), ("train", "workers"), ("train", "threads")):
        del settings[group][name]
    kept = {name: settings[name] for name in ("world", "clips", "model", "init", "loss", "train")}
    recipes = [repr(methods.get(name)) for name in ("align", *COMPARED.values())]
    return trials.fingerprint_of([kept, recipes], CODE)


def make_clips(point: Config) -> None:
    """Generate a point's world and cut its clips, unless a killed run did."""
    done = trials.fingerprint_of([as_dict(point.world), as_dict(point.clips)], CODE)
    if not trials.is_done(point, "shards", done):
        world.write(point)
        manifest.write(point)
        prepare.write(point)
        trials.mark_done(point, "shards", done)


def measure(point: Config, seed: int) -> dict[str, Any]:
    """Train and score one seed of a point.

    Returns:
        {"world": what the test clips are, "areas": see `areas`, "regions": rows of `findings.by_region`}.
    """
    held: dict[str, Any] = {}
    for method in ("align", *COMPARED.values()):
        trials.embedded(point, method, seed, held)
    scored = tables.discovery_scores(point, COMPARED["mc3"], seed)
    region = findings.clips(point).loc[scored["row"], "region"]
    world = {"clips": len(scored), "prevalence": float(scored["positive"].mean())}
    world |= {f"share_{name}": float((region == name).mean()) for name in ("I", "II", "III", "IV", "none")}
    world["videos"] = embed.clips(point).loc[scored["row"], "video_uid"].nunique()
    regions = findings.by_region(findings.similarities(point, seed)).to_dict("records")
    drawn = {name: values.tolist() for name, values in areas(point, seed).items()}
    return {"world": world, "areas": drawn, "regions": regions}


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


def gap(seeds: Sequence[dict[str, Any]]) -> dict[str, float]:
    """ROCs and gaps over what `measure` found of `seeds`, with 95 % intervals over videos, and seeds if several.

    What the clips are is the same for every seed.
    """
    row, drawn = dict(seeds[0]["world"]), [own["areas"] for own in seeds]
    videos = row.pop("videos")
    for pair in evaluate.PAIRS:
        row |= {f"{pair}_{name}": float(np.mean([own[f"{pair}_{name}"][0] for own in drawn])) for name in COMPARED}
        for column, name in GAPS.items():
            total = np.stack([np.subtract(own[f"{pair}_{name}"], own[f"{pair}_without"]) for own in drawn])
            found = uncertainty.contrast(total, videos)
            row |= dict(zip((f"{pair}_{column}{end}" for end in ("", "_low", "_high")), found, strict=True))
    return row


def train(
    jobs: dict[str, dict[str, float]], hours: float, seeds: Sequence[int], config: Config, names: Sequence[str]
) -> None:
    """Measure the points called `names`, as many as fit into `hours`."""
    made = {name: configured(config, jobs[name]) for name in names}
    for name in trials.Schedule({name: cost(point, seeds) for name, point in made.items()}, 3600 * hours):
        one(made[name], seeds)


def result(point: Config, seed: int) -> Path:
    """The file of a point's and seed's numbers."""
    return point.paths.work / "study" / f"{fingerprint(point)[:16]}-{seed}.json"


def cost(point: Config, seeds: Sequence[int]) -> float:
    """Seconds that those of `seeds` will take that were not measured."""
    left = sum(not result(point, seed).exists() for seed in seeds)
    return bool(left) * POINT_SEC["world"] + left * POINT_SEC["seed"]


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
    costs = {name: cost(point, seeds) for name, point in made.items()}
    trials.side_by_side(partial(train, jobs, hours, seeds), config, costs, processes)
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for name, point in made.items():
        files = {seed: result(point, seed) for seed in seeds}
        if measured := {seed: json.loads(file.read_text()) for seed, file in files.items() if file.exists()}:
            found[name] = measured
    if not found:
        raise DataError(
            f"no point fits into {hours:g} hours; the first takes about {max(costs.values()) / 60:.0f} minutes"
        )
    rows: dict[Path, list[dict[str, Any]]] = {TABLE: [], POINTS: [], REGIONS: []}
    for name, own in found.items():
        at_levels = {"point": name, **levels_of(config, jobs[name])}
        rows[TABLE] += [{**at_levels, "seed": seed, **gap([numbers])} for seed, numbers in own.items()]
        rows[POINTS].append({**at_levels, "seeds": len(own), **gap(list(own.values()))})
        rows[REGIONS] += [{**at_levels, "seed": seed, **row} for seed in own for row in own[seed]["regions"]]
    tables_of = {path: pd.DataFrame(lines) for path, lines in rows.items()}
    for path, table in tables_of.items():
        trials.write_table(path, table)
    gaps, regions = tables_of[TABLE], tables_of[REGIONS]
    save(experiments.study(gaps), TABLE.with_suffix(""))
    save(experiments.study_regions(regions), REGIONS.with_suffix(""))
    draw_failures(config)
    prints = {name: {"fingerprint": fingerprint(made[name]), "seeds": list(own)} for name, own in found.items()}
    trials.record(config, "study", {"points": prints})
    if skipped := [name for name in jobs if len(found.get(name, ())) < len(seeds)]:
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


def one(point: Config, seeds: Sequence[int]) -> None:
    """`measure` those of `seeds` that were not, in a folder that is removed when their numbers are written."""
    folder = point.paths.work / "study" / fingerprint(point)[:16]
    placed = trials.changed(point, {"paths.work": str(folder / "work"), "paths.raw": str(folder / "raw")})
    (folder / "work").mkdir(parents=True, exist_ok=True)
    results = {
        seed: result(point, seed) for seed in seeds
    }  # named by the code that measures, if it is edited meanwhile
    make_clips(placed)
    for seed, file in results.items():
        if not file.exists():
            write_whole(file, json.dumps(measure(placed, seed)).encode())
    shutil.rmtree(folder)


def levels_of(config: Config, changed: dict[str, float]) -> dict[str, float]:
    """The level of every axis where those of `changed` differ from the profile's."""
    assert config.world is not None
    usual = {**as_dict(config.world.rates), "videos": SIZE["world.videos"]["train"]}
    return {axis: changed.get(axis, usual[axis]) for axis in AXES}
