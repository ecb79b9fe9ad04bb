"""Sweep runner: train methods under config overrides, measure them, write tables (`mc3 sweep NAME`).

`mc3.paper.trials` reads what a sweep is. Finished trainings are kept, so that a stopped sweep continues, and DVC can
push and pull them.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd

from mc3 import cost, methods
from mc3.config import Config, as_dict, override
from mc3.errors import DataError
from mc3.files import code_identity, sha256, write_atomic
from mc3.paper import jobs, measure, pretrain, provenance
from mc3.paper.repro import typical_seconds
from mc3.paper.trials import Sweep, Trial, load, plan

FIGURES = Path("figures")


def run(
    name: str, config: Config, seeds: Sequence[int] | None = None, processes: int = 1, hours: float | None = None
) -> bool:
    """Train and measure sweep `name`, as far as that was not done, and write figures/NAME/*.csv.

    `seeds` replace the sweep's. `processes` trainings run at a time, each with its share of `train.threads`, and none
    begins that would end after `hours`. Returns whether everything was measured; else the tables hold what there is.
    Raises `ConfigError` for a mistake in the file, `DataError` when the pipeline's results are missing or out of date
    or nothing fits into `hours`, `SystemExit` with code 75 after SIGTERM, the states of the trainings saved.
    """
    sweep = load(name)
    trials = plan(name, sweep, config, seeds or sweep.seeds or config.seeds)
    _require_current(sweep, trials)
    done = execute(trials, config, processes, hours)
    if not done:
        raise DataError(f"nothing of the sweep {name} fits into {hours:g} hours; give it more with --hours")
    if "worlds" in sweep.measure:
        files = [(trial.setting, trial.config, _record(trial, "world")) for trial in done]
        tables = measure.world_tables(files, sweep.names, sweep.reference)
    else:
        table = measure.summary(_scores(sweep, done), sweep.reference, sweep.choose)
        if sweep.choose:
            best = {(row.method, row.setting) for row in table.itertuples() if row.chosen or row.profile}
            tested = [replace(t, steps=[("embed", n) for n in sweep.names if (n, t.setting) in best]) for t in done]
            execute([trial for trial in tested if not trial.is_profile], config, processes, None)
            table = measure.summary(_scores(sweep, done, best), sweep.reference, sweep.choose)
        tables = {"trials": table}
    for stem, table in tables.items():
        write_atomic(FIGURES / name / f"{stem}.csv", table.to_csv(index=False, float_format="%.5f").encode())
    facts = {"sweep": as_dict(sweep), "seeds": sorted({trial.seed for trial in done})}
    provenance.write(FIGURES / name / "origin.json", {**provenance.origin(config, []), **facts})
    return len(done) == len(trials)


def _require_current(sweep: Sweep, trials: Sequence[Trial]) -> None:
    """Raise `DataError` where a result of the pipeline that a sweep takes is of other checkpoints, clips or code."""
    step = "train" if set(sweep.measure) <= {"validation"} else "embed"
    for trial in trials:
        for name in sweep.names:
            config = trial.config_of(name)
            if config is trial.pipeline and not jobs.is_done(config, step, name, trial.seed):
                raise DataError(f"the pipeline's results of {name}-{trial.seed} are not up to date; run `dvc repro`")


def _scores(sweep: Sweep, trials: Sequence[Trial], tested: Collection[tuple[str, str]] = ()) -> pd.DataFrame:
    """A row a trial and method with its scores; if something is chosen, test scores are those of `tested` only."""
    found = []
    for trial in trials:
        for name in sweep.names:
            kinds = sweep.measure if not sweep.choose or (name, trial.setting) in tested else ["validation"]
            about = {"group": trial.group, "setting": trial.setting, "profile": trial.is_profile, "method": name,
                     "label": methods.get(name).label, "seed": trial.seed}  # fmt: skip
            found.append(about | measure.scores(trial.config_of(name), name, trial.seed, kinds))
    return pd.DataFrame(found)


def execute(trials: Sequence[Trial], config: Config, processes: int, hours: float | None) -> list[Trial]:
    """Do the steps of all trials by `jobs.run`, and return the trials that are finished.

    A job is a trial, or all trials that share clips of their own.
    """
    together: dict[str, list[Trial]] = {}
    for trial in trials:
        together.setdefault(f"{trial.group}: {trial.setting}" if trial.own_clips else trial.name, []).append(trial)
    seconds = {name: sum(_seconds(config, trial) for trial in job) for name, job in together.items()}
    waiting = {name: partial(_run, job) for name, job in together.items() if seconds[name]}
    finished = together.keys() - waiting.keys()
    print(f"{len(together)} jobs, {len(finished)} finished before", flush=True)
    finished |= jobs.run(waiting, seconds, config.train.threads, processes, hours).keys()
    if skipped := [name for name in waiting if name not in finished]:
        print(f"{len(skipped)} jobs did not fit into {hours:g} hours: {'; '.join(skipped)}; the same command continues")
    return [trial for name, job in together.items() if name in finished for trial in job]


def _run(job: list[Trial], threads: int) -> None:
    """Do what is left of the steps of trials that share clips."""
    for trial in job:
        if trial.steps and not trial.own_align:
            _link(trial, trial.pipeline.paths.checkpoint("align", trial.seed))
        for step, method in [] if _is_finished(trial) else trial.steps:
            if not _is_done(trial, step, method):
                _do(override(trial.config, {"train.threads": threads}), trial, step, method)
    if not trial.sweep.keep:
        for left in trial.config.paths.work.iterdir():
            if left.name != "results":
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _do(config: Config, trial: Trial, step: str, method: str) -> None:
    """One step, and a record of what it was made from."""
    found = {}
    if step in jobs.MADE_FROM:
        jobs.do(config, step, method, trial.seed)
        if step == "train":
            shutil.rmtree(config.paths.run(method, trial.seed))
        return
    if step == "clips":
        pretrain.cut(config, own_source=config.paths.raw != trial.pipeline.paths.raw)
    else:
        found = measure.world(config, trial.sweep.names, trial.seed)
    record = {"made_from": _inputs(trial, step), **found}
    write_atomic(_record(trial, step), json.dumps(record).encode())


def _record(trial: Trial, step: str) -> Path:
    """What clips, or the measurements of a world, were made from; and what the world showed."""
    return trial.config.paths.work / "results" / f"{step}-{trial.seed}.json"


def _is_done(trial: Trial, step: str, method: str) -> bool:
    """Whether a step was done with the present settings, clips, checkpoints and code."""
    if step in jobs.MADE_FROM:
        return jobs.is_done(trial.config, step, method, trial.seed)
    record = _record(trial, step)
    return record.exists() and json.loads(record.read_text())["made_from"] == _inputs(trial, step)


def _is_finished(trial: Trial) -> bool:
    return all(_is_done(trial, *step) for step in (trial.steps if trial.sweep.keep else trial.steps[-1:]))


def _inputs(trial: Trial, step: str) -> str:
    """A hash of everything that decides the clips of a trial, or what is measured in its world."""
    config = trial.config
    settings, clips = as_dict(config), (config.source.code, "mc3.data.manifest", "mc3.data.prepare")
    for group in ("world", "clips", "train"):
        (settings[group] or {}).pop("workers", None)
    settings["train"].pop("threads")
    if step == "clips":
        facts = [settings[key] for key in ("world", "ego4d", "clips")]
        facts += [settings["model"]["text"], str(config.paths.raw), code_identity(*clips)]
    else:
        facts = [settings[key] for key in ("world", "clips", "model", "init", "loss", "train")]
        facts += [sha256(path) for path in config.init.values() if path is not None]
        facts += [trial.seed, code_identity("mc3.train", "mc3.embed", "mc3.paper.measure", *clips)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _link(trial: Trial, source: Path) -> None:
    """Take over an output of the pipeline by hard links, or by copying across disks, unless it is the same."""
    target = trial.config.paths.work / source.relative_to(trial.pipeline.paths.work)
    if not source.exists():
        raise DataError(f"{source} is missing; `dvc repro` makes it")
    if target.exists() and sha256(target) == sha256(source):
        return
    shutil.rmtree(target, ignore_errors=True)
    for file in filter(Path.is_file, (source, *source.rglob("*"))):
        new = target / file.relative_to(source)
        new.parent.mkdir(parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        try:
            os.link(file, new)
        except OSError:
            shutil.copyfile(file, new)


def _seconds(config: Config, trial: Trial) -> float:
    """About what a trial's remaining steps take, from what the pipeline's took; 0 if nothing is left."""
    if _is_finished(trial):
        return 0.0
    known = typical_seconds(config)
    own, usual = (sum(c.world.videos.values()) if c.world else 1 for c in (trial.config, config))
    share = own / usual if trial.own_clips else 1.0
    todo = [step for step in trial.steps if not _is_done(trial, *step)]
    return max(1.0, sum(share * _step_seconds(config, trial.config, *step, known) for step in todo))


def _step_seconds(config: Config, trial: Config, step: str, method: str, known: Mapping[str, float]) -> float:
    """A training in proportion to the encoders' arithmetic and the epochs; one never timed counts as the slowest."""

    def work(of: Config, name: str) -> float:
        stages = methods.get(name).stages
        return sum(of.train.length(stage.epochs) * cost.training_flops(of.model, stage) for stage in stages)

    if step == "train":
        timed = {name: known.get(f"train {name}", 0.0) for name in ("align", *methods.METHODS)}
        rates = {name: seconds / work(config, name) for name, seconds in timed.items() if seconds}
        return rates.get(method, max(rates.values(), default=0.0)) * work(trial, method)
    return {
        "clips": known.get("raw", 0.0) + known.get("shards", 0.0),
        "embed": known.get(f"embed {method}", 1.0),
    }.get(step, 1.0)
