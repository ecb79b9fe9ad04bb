"""The ablations of Section 6 and of the supplement, and the readings that the paper leaves open (`mc3 ablate`).

An ablation is a list of changed settings, each at its dotted place; MC3 is trained under each and scored on the
validation and the test clips. What decides the align stage is aligned anew and what decides the clips is cut anew;
every other trial refines the pipeline's own align checkpoint. To add an ablation, add an entry to `ABLATIONS`.
The supplement's recall at 1 needs no training: Table 3 has it, and the report shows it.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from mc3 import experiments, trials
from mc3.config import Config, ConfigError, as_dict
from mc3.data import manifest, prepare
from mc3.losses import INVERSES
from mc3.plots import save

TABLE = Path("figures") / "ablations.csv"
METHOD = "mc3"
LOSS = "loss.consensus"
HOP_SEC, WINDOW_SEC = 0.01, 0.025  # of the log-mel frames whose number the audio encoder is built for

Changes = dict[str, Any]


def duration(before: float, after: float) -> Changes:
    """Clips from `before` seconds ahead of the narration to `after` behind it, and an audio encoder of that length."""
    frames = 1 + int((before + after - WINDOW_SEC) / HOP_SEC + 1e-6)
    return {"clips.before_sec": before, "clips.after_sec": after, "model.audio.length": frames}


ABLATIONS: dict[str, dict[str, Changes]] = {
    "anchor": {
        anchor: {f"{LOSS}.anchor": anchor, f"{LOSS}.alpha": {"audio": 1.0, "video": 0.5, "text": 1.0}}
        for anchor in ("audio", "video", "text")
    },
    "alpha": {
        f"video {video:g}, text {text:g}": {f"{LOSS}.alpha": {"video": video, "text": text}}
        for video, text in product((0.25, 0.5, 1.0, 2.0), (0.5, 1.0, 2.0))
    },
    "reading": {
        f"{inverse}, {'constant' if stop else 'moving'}": {f"{LOSS}.inverse": inverse, f"{LOSS}.stop_gradient": stop}
        for inverse, stop in product(INVERSES, (True, False))
    },
    "weight": {f"{weight:g}": {"loss.consensus_weight": weight} for weight in (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)},
    "temperature": {f"{value:g}": {"loss.temperature": value} for value in (0.03, 0.05, 0.07, 0.1)},
    "duration": {
        f"{before + after:g} s": duration(before, after)
        for before, after in ((0.25, 0.5), (0.5, 1.0), (0.75, 1.5), (1.0, 2.0))
    },
    "frames": {f"{n}": {"clips.frames": n, "model.video.frames": n} for n in (1, 2, 4, 8)},
}  # fmt: skip


def needs(changes: Changes) -> tuple[bool, bool]:
    """Whether changed settings need clips of their own, and an align stage of their own."""
    cut = any(place.startswith(("clips.", "model.text.tokenizer", "model.text.vocab")) for place in changes)
    refine_only = all(place.startswith(LOSS) for place in changes)
    return cut, not refine_only


def placed(config: Config, changes: Changes, seed: int) -> Config:
    """The trial's settings in its folder, or `config` where they are the profile's own, which the pipeline trained."""
    trial = trials.changed(config, changes)
    others = {m: a for m, a in trial.loss.consensus.alpha.items() if m != trial.loss.consensus.anchor}
    if trials.changed(trial, {f"{LOSS}.alpha": others}) == config:
        return config
    cut, align = needs(changes)
    return trials.placed(config, changes, seed, own_clips=cut, own_align=align)


def make_clips(trial: Config) -> None:
    """Cut the trial's own clips of Ego4D, without the events of EPIC-Sounds, which no ablation probes."""
    settings = {**as_dict(trial.clips), "workers": 0}
    facts = [settings, as_dict(trial.ego4d), as_dict(trial.model.text), as_dict(trial.world), str(trial.paths.raw)]
    made = trials.fingerprint_of(facts, ("data",))
    if trials.is_done(trial, "shards", made):
        return
    with contextlib.redirect_stdout(io.StringIO()):  # the pipeline said what was dropped; here it is the same
        table = manifest.write(trial)
    rows = manifest.read(table)
    rows[rows["dataset"] == "ego4d"].to_parquet(table, index=False)
    prepare.write(trial)
    trials.mark_done(trial, "shards", made)


def scores(trial: Config, seed: int) -> dict[str, float]:
    """What an embedded training scored: validation and test ROCs, recall at every cut-off."""
    seen = {f"validation_{name}": value for name, value in trials.validation(trial, METHOD, seed).items()}
    return {**seen, **trials.discovery(trial, METHOD, seed), **trials.recalls(trial, METHOD, seed)}


@dataclass(frozen=True)
class Job:
    """One setting of an ablation, with its settings in its folder."""

    ablation: str
    setting: str
    trial: Config
    seed: int


def jobs_of(config: Config, names: Sequence[str], seeds: Sequence[int]) -> dict[str, Job]:
    """Every setting of the ablations called `names` on every seed by what is printed of them, their folders made."""
    return {
        f"{name}: {setting}, seed {seed}": Job(name, setting, placed(config, changes, seed), seed)
        for name in names
        for setting, changes in ABLATIONS[name].items()
        for seed in seeds
    }


def training(job: Job) -> trials.Job:
    """What there is to train and embed for a setting other than the profile's."""
    linked = (job.trial.paths.work / "checkpoints" / f"align-{job.seed}").is_symlink()
    return trials.Job(job.trial, job.seed, (METHOD,) if linked else ("align", METHOD), embed=True)


def run(
    config: Config, names: Sequence[str] = (), seeds: Sequence[int] | None = None, processes: int = 1
) -> pd.DataFrame:
    """Train and score the ablations called `names`, all without any, and write `TABLE` and its figure.

    Rows of other ablations that the table has already are kept. `processes` trainings run at once. `ConfigError` for a
    name that is none.
    """
    for name in names:
        if name not in ABLATIONS:
            raise ConfigError(f"no ablation {name!r}; known: {', '.join(ABLATIONS)}")
    names, seeds = names or list(ABLATIONS), seeds or config.seeds
    if unknown := set(seeds) - set(config.seeds):
        raise ConfigError(
            f"seed {min(unknown)} has no align checkpoint in the pipeline; add it to `seeds` in params.yaml"
        )
    trials.require(config, ["align", METHOD])
    jobs = jobs_of(config, names, seeds)
    own = {name: job for name, job in jobs.items() if job.trial != config}
    cut = {job.trial.paths.work: job for job in own.values() if not (job.trial.paths.work / "shards").is_symlink()}
    for number, job in enumerate(cut.values(), 1):
        print(f"clips {number}/{len(cut)}: {job.ablation} {job.setting}", flush=True)
        make_clips(job.trial)
    trials.train_all({name: training(job) for name, job in own.items()}, config, processes)
    rows = []
    for job in jobs.values():
        row = {"ablation": job.ablation, "setting": job.setting, "profile": job.trial == config, "seed": job.seed}
        rows.append({**row, **scores(job.trial, job.seed)})
    table = merged(pd.DataFrame(rows))
    trials.write_table(TABLE, table)
    save(experiments.ablations(table), TABLE.with_suffix(""))
    trials.record(config, "ablations", {"ablations": ABLATIONS}, [config.paths.work / "shards"])
    return table


def merged(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with the rows of other ablations in `TABLE`, in the order of `ABLATIONS`."""
    if TABLE.exists():
        before = pd.read_csv(TABLE, dtype={"setting": str})
        others = before["ablation"].isin(set(ABLATIONS) - set(table["ablation"]))
        table = pd.concat([before[others], table], ignore_index=True)
    order = {name: number for number, name in enumerate(ABLATIONS)}
    return table.sort_values("ablation", key=lambda column: column.map(order), kind="stable", ignore_index=True)
