"""Sweep runner: train methods under config overrides, measure them, write tables (`mc3 sweep NAME`).

`mc3.paper.trials` reads what a sweep is. Finished trainings are kept, so that a stopped sweep continues, and DVC can
push and pull them.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import psutil
import yaml
from joblib.externals.loky.process_executor import TerminatedWorkerError

from mc3 import cost, embed, methods, train
from mc3.config import Config, as_dict, override
from mc3.data import manifest, prepare
from mc3.errors import DataError
from mc3.files import code_identity, sha256, write_atomic
from mc3.paper import measure, probe, provenance
from mc3.paper.repro import typical_seconds
from mc3.paper.trials import Sweep, Trial, load, plan
from mc3.progress import Forecast, format_duration

FIGURES = Path("figures")
HALF_THREADS = 1.4  # seconds of a training beside another with half the threads, for each second alone (mini)


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
        files = [(trial.setting, trial.config, _record(trial, "world", "")) for trial in done]
        tables = measure.world_tables(files, sweep.names, sweep.reference)
    elif "tables" in sweep.measure:
        tables = measure.seed_tables(override(done[0].config, {"seeds": [trial.seed for trial in done]}))
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
    if set(sweep.measure) <= {"validation"} or sweep.extends is not None:
        return
    for trial in trials:
        for name in sweep.names:
            config = trial.config_of(name)
            if config is trial.pipeline and not embed.is_current(config, name, trial.seed):
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
    """Do the steps of all trials, `processes` jobs at a time, and return the trials that are finished.

    A job is a trial, or all trials that share clips of their own. An error in one job, a killed process or SIGTERM ends
    all; after SIGTERM the trainings save their state first.
    """
    jobs: dict[str, list[Trial]] = {}
    for trial in trials:
        jobs.setdefault(f"{trial.group}: {trial.setting}" if trial.own_clips else trial.name, []).append(trial)
    expected = {name: sum(_seconds(config, trial) for trial in job) for name, job in jobs.items()}
    waiting = [name for name, seconds in expected.items() if seconds]
    processes = max(1, min(processes, len(waiting)))
    threads = max(1, config.train.threads // processes)
    forecast = Forecast({n: expected[n] * (HALF_THREADS if processes > 1 else 1.0) for n in waiting}, processes)
    finished = set(jobs) - set(waiting)
    to_go = f"about {format_duration(forecast.left())} to go{f', {processes} at a time' * (processes > 1)}"
    print(f"{len(jobs)} jobs, {len(finished)} finished before; {to_go}", flush=True)

    stopping: list[int] = []  # signals

    def forward(number: int, _: Any) -> None:
        stopping.append(number)
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.terminate()

    def admitted() -> Iterator[Any]:
        """Start jobs as workers become free, but none that would end after `hours`, and none after SIGTERM."""
        for name in waiting:
            due = forecast.elapsed() + forecast.expected[name] * forecast.pace()
            if hours is not None and due > 3600 * hours:
                del forecast.expected[name]
            elif not stopping:
                forecast.start(name)
                print(forecast.line(name), flush=True)
                yield joblib.delayed(_run)(name, jobs[name], threads, processes > 1)

    parallel = joblib.Parallel(processes, return_as="generator_unordered", pre_dispatch=processes, batch_size=1)
    before = signal.signal(signal.SIGTERM, forward)
    try:
        for name, stopped in parallel(admitted()):
            if stopped:
                stopping.append(signal.SIGTERM)
            else:
                forecast.finish(name)
                finished.add(name)
    except TerminatedWorkerError:
        if not stopping:
            lost = f"one of {processes} processes was killed, perhaps for lack of memory"
            raise DataError(f"{lost}; the same command continues from what was saved") from None
    finally:
        signal.signal(signal.SIGTERM, before)
    if stopping:
        sys.exit(train.STOPPED)
    if skipped := [name for name in waiting if name not in finished]:
        print(f"{len(skipped)} jobs did not fit into {hours:g} hours: {'; '.join(skipped)}; the same command continues")
    return [trial for name, job in jobs.items() if name in finished for trial in job]


_clip_cache: dict[Path, dict[str, Any]] = {}  # decoded clips of one folder of shards, kept by each process


def _run(name: str, job: list[Trial], threads: int, in_pool: bool) -> tuple[str, bool]:
    """Do a job in this process; returns its name, and whether SIGTERM stopped it (with the state of a training saved).

    An idle process of a pool ignores SIGTERM: if it ended, the pool would kill the others while they save.
    """
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(train.STOPPED))
    try:
        for trial in job:
            config = override(trial.config, {"train.threads": threads})
            if trial.steps and not trial.own_align:
                _link(trial, trial.pipeline.paths.checkpoint("align", trial.seed))
            for step, method in [] if _is_finished(trial) else trial.steps:
                if not _is_done(trial, step, method):
                    made_from = "" if step == "train" else _inputs(trial, step, method)
                    found = _do(config, trial, step, method)
                    record = {"made_from": made_from or _inputs(trial, step, method), **found}
                    write_atomic(_record(trial, step, method), json.dumps(record).encode())
        if not trial.sweep.keep:
            for left in config.paths.work.iterdir():
                if left.name != "results":
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
    except SystemExit:
        return name, True
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN if in_pool else before)
    return name, False


def _do(config: Config, trial: Trial, step: str, method: str) -> dict[str, Any]:
    """One step; returns what a world showed."""
    if step == "clips":
        _cut(config, trial.pipeline)
    elif step == "link":
        paths, seed = trial.pipeline.paths, trial.seed
        results = [
            of(name, seed) for name in ("align", *methods.METHODS) for of in (paths.checkpoint, paths.embeddings)
        ]
        for result in (*results, paths.probe_metrics(seed), paths.probe_scores(seed)):
            _link(trial, result)
    elif step == "train":
        train.run(config, method, trial.seed)
        shutil.rmtree(config.paths.run(method, trial.seed))
    elif step == "embed":
        if config.paths.shards not in _clip_cache:
            _clip_cache.clear()
        embed.run(config, method, trial.seed, _clip_cache.setdefault(config.paths.shards, {}))
    elif step == "probe":
        probe.run(config, trial.seed)
    else:
        return measure.world(config, trial.sweep.names, trial.seed)
    return {}


def _record(trial: Trial, step: str, method: str) -> Path:
    """What a step was made from, beside the results, so that nothing depends on it; and what a world showed."""
    name = "-".join(filter(None, (step, method, str(trial.seed))))
    return trial.config.paths.work / ("results" if step == "world" else "made") / f"{name}.json"


def _is_done(trial: Trial, step: str, method: str) -> bool:
    """Whether a step was done with the present settings, clips, checkpoints and code."""
    try:
        return json.loads(_record(trial, step, method).read_text())["made_from"] == _inputs(trial, step, method)
    except FileNotFoundError:  # never done, or no clips or no align checkpoint any more
        return False


def _is_finished(trial: Trial) -> bool:
    return all(_is_done(trial, *step) for step in (trial.steps if trial.sweep.keep else trial.steps[-1:]))


def _inputs(trial: Trial, step: str, method: str) -> str:
    """A hash of everything that decides the output of a step."""
    config, seed = trial.config, trial.seed
    if step == "train":
        return train.fingerprint(config, method, seed)
    if step == "embed":
        return embed.made_from(config, method, seed)
    settings, clips = as_dict(config), (config.source.code, "mc3.data.manifest", "mc3.data.prepare")
    for group in ("world", "clips", "train"):
        (settings[group] or {}).pop("workers", None)
    settings["train"].pop("threads")
    if step == "clips":
        facts = [settings[key] for key in ("world", "ego4d", "clips")]
        facts += [settings["model"]["text"], str(config.paths.raw), code_identity(*clips)]
    elif step == "world":
        facts = [settings[key] for key in ("world", "clips", "model", "init", "loss", "train")]
        facts += [seed, code_identity("mc3.train", "mc3.embed", "mc3.paper.measure", *clips)]
    else:  # the probe, and what is linked
        paths = trial.pipeline.paths if step == "link" else config.paths
        facts = [settings["probe"], code_identity("mc3.paper.probe")]
        names = [*methods.METHODS, *["ssast"] * (step == "probe" and config.probe.ssast == "train")]
        facts += [sha256(paths.final(name, seed) / "model.safetensors") for name in names]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _cut(config: Config, pipeline: Config) -> None:
    """Cut clips of Ego4D, from a world of its own if it is not the pipeline's; EPIC-Sounds' events are left out."""
    if config.paths.raw != pipeline.paths.raw:
        params = config.paths.work / "params.yaml"
        write_atomic(params, yaml.safe_dump(as_dict(config), sort_keys=False).encode())
        command = [sys.executable, "-m", "mc3.cli", "source", "--config", str(params)]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode:
            last = (ran.stderr.strip() or "no message").splitlines()[-1]
            raise DataError(f"`mc3 source` failed for {params}: {last}")
    with contextlib.redirect_stdout(io.StringIO()):  # the pipeline's run said what was dropped
        table = manifest.write(config)
        clips = manifest.read(table)
        clips[clips["dataset"] == "ego4d"].to_parquet(table, index=False)
        prepare.write(config)


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
        epochs = {**of.train.epochs, "both": sum(of.train.epochs.values())}
        return sum(epochs[stage.epochs] * cost.training_flops(of.model, stage) for stage in methods.get(name).stages)

    if step == "train":
        stages = {"align": "align@0", **{name: f"train@{name}-0" for name in methods.METHODS}}
        rates = {name: known[stage] / work(config, name) for name, stage in stages.items() if known.get(stage)}
        return rates.get(method, max(rates.values(), default=0.0)) * work(trial, method)
    return {
        "clips": known.get("raw", 0.0) + known.get("shards", 0.0),
        "embed": max(1.0, known.get("embed@0", 0.0) / (1 + len(methods.METHODS))),
        "probe": known.get("probe@0", 0.0),
    }.get(step, 1.0)
