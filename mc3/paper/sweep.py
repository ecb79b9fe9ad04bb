"""Sweep runner: train methods under config overrides, measure them, write tables (`mc3 sweep NAME`).

A sweep is data, experiments/NAME.yaml: settings (dotted overrides of the profile) x methods x seeds, and what is
measured. Each setting has a work folder of its own, work/experiments/NAME/SETTING, which takes the pipeline's clips
and align checkpoints where the overrides do not touch them; the profile's own setting is the pipeline's training.
Finished trainings are kept, so that a stopped sweep continues, and DVC can push and pull them.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import psutil
import yaml
from joblib.externals.loky.process_executor import TerminatedWorkerError

from mc3 import cost, embed, methods, train
from mc3.config import Config, as_dict, build, override
from mc3.data import manifest, prepare
from mc3.errors import ConfigError, DataError
from mc3.files import code_identity, sha256, write_atomic
from mc3.paper import measure, probe, provenance
from mc3.paper.repro import typical_seconds
from mc3.progress import Forecast, format_duration

FOLDER = Path("experiments")
FIGURES = Path("figures")
MEASURES = ("validation", "test", "retrieval", "tables", "worlds")
CLIP_SETTINGS = ("world.", "ego4d.", "clips.", "model.text.tokenizer", "model.text.vocab_size")
HALF_THREADS = 1.4  # seconds of a training beside another with half the threads, for each second alone (mini)


@dataclass(frozen=True)
class Sweep:
    """experiments/NAME.yaml.

    about: the question, in a sentence. methods: rows of `mc3.methods`, or ["all"]. seeds: null for the profile's.
    base: overrides of every setting. settings: {group: {setting: overrides}}, dotted as in "loss.temperature"; {} is
    the profile's own. align: "own" trains an align stage under overrides that decide it, "shared" always starts from
    the pipeline's. measure: of `MEASURES`. reference: the method that the others are compared with. choose: the best
    setting of each method on validation is marked, and it and the profile's are measured on test. keep: whether clips,
    checkpoints and embeddings stay when a setting is measured. extends: a sweep of the profile's setting whose seeds
    count as the pipeline's, so that nothing is trained twice; null for none.
    """

    about: str
    methods: list[str]
    seeds: list[int] | None
    base: dict[str, Any]
    settings: dict[str, dict[str, dict[str, Any]]]
    align: str
    measure: list[str]
    reference: str | None
    choose: bool
    keep: bool
    extends: str | None


@dataclass(frozen=True)
class Trial:
    """A setting on a seed. `config` has its overrides and its own folders, `pipeline` is where the profile's are."""

    group: str
    setting: str
    seed: int
    config: Config
    pipeline: Config
    is_profile: bool  # the overrides change nothing
    is_pipeline: bool  # and the pipeline has trained this seed
    own_clips: bool
    own_align: bool

    @property
    def name(self) -> str:
        """What is printed."""
        return f"{self.group}: {self.setting}, seed {self.seed}" if self.setting else f"seed {self.seed}"

    def trained_by_pipeline(self, method: str) -> bool:
        """Whether a method's training is the pipeline's own."""
        return self.is_pipeline and method in methods.METHODS

    def config_of(self, method: str) -> Config:
        """Where a method's training is."""
        return self.pipeline if self.trained_by_pipeline(method) else self.config


def load(name: str) -> Sweep:
    """Read experiments/NAME.yaml. Raises `ConfigError` naming the file and what is wrong."""
    file = FOLDER / f"{name}.yaml"
    try:
        sweep: Sweep = build(Sweep, yaml.safe_load(file.read_text()))
    except (ConfigError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: {error}") from None
    for key, found, allowed in (("measure", sweep.measure, MEASURES), ("align", [sweep.align], ("own", "shared"))):
        if wrong := [value for value in found if value not in allowed]:
            raise ConfigError(f"{file}: {key} has {wrong[0]!r}; known: {', '.join(allowed)}")
    return sweep


def rows(sweep: Sweep) -> list[str]:
    """The methods of a sweep, "all" spelled out. `ConfigError` for one that does not exist."""
    names = list(methods.METHODS) if sweep.methods == ["all"] else sweep.methods
    return [methods.get(name).name for name in names]


def plan(name: str, sweep: Sweep, config: Config, seeds: Sequence[int]) -> list[Trial]:
    """Every setting on every seed, in the order of the file."""
    pipeline = config
    if sweep.extends is not None:
        base = load(sweep.extends)
        (first,) = plan(sweep.extends, base, config, (base.seeds or config.seeds)[:1])
        pipeline = override(first.config, {"seeds": base.seeds or config.seeds})
    trials = []
    for group, settings in sweep.settings.items():
        for setting, overrides in settings.items():
            changes = {**sweep.base, **overrides}
            changed = override(config, changes)
            is_profile = changed == config
            own_clips = any(key.startswith(CLIP_SETTINGS) for key in changes) and not is_profile
            refine_only = sweep.align == "shared" or all(key.startswith("loss.consensus") for key in changes)
            work = config.paths.work / "experiments" / name / _slug(f"{group} {setting}")
            folders: dict[str, Any] = {"paths.work": str(work)}
            if own_clips:
                folders["paths.shards"] = str(work / "shards")
            if own_clips and any(key.startswith("world.") for key in changes):
                folders |= {"paths.raw": str(work / "raw"), "source.out": str(work / "raw")}
            for seed in seeds:
                own_align = own_clips or not (refine_only or is_profile) or seed not in pipeline.seeds
                is_pipeline = is_profile and seed in pipeline.seeds
                placed = override(changed, {**folders, "seeds": [seed]})
                trials.append(
                    Trial(group, setting, seed, placed, pipeline, is_profile, is_pipeline, own_clips, own_align)
                )
    return trials


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9._+-]+", "-", text.lower()).strip("-")


def run(
    name: str, config: Config, seeds: Sequence[int] | None = None, processes: int = 1, hours: float | None = None
) -> bool:
    """Train and measure sweep `name`, as far as that was not done, and write figures/NAME/*.csv.

    Args:
        name: of experiments/NAME.yaml.
        config: the pipeline's settings.
        seeds: instead of the sweep's.
        processes: trainings at the same time, each with its share of `train.threads`.
        hours: begin no training that would end later.

    Returns:
        Whether everything was measured; False when `hours` did not suffice. Tables then hold what there is.
    """
    sweep = load(name)
    trials = plan(name, sweep, config, seeds or sweep.seeds or config.seeds)
    names = rows(sweep)
    _require_current(sweep, trials, names)
    done = execute([(trial, _steps(sweep, trial, names)) for trial in trials], sweep, config, processes, hours)
    if not done:
        raise DataError(f"nothing of the sweep {name} fits into {hours:g} hours; give it more with --hours")
    if "worlds" in sweep.measure:
        tables = measure.world_tables([(t.setting, t.config, _world_file(t)) for t in done], names, sweep.reference)
    elif "tables" in sweep.measure:
        tables = measure.seed_tables(override(done[0].config, {"seeds": [trial.seed for trial in done]}))
    else:
        table = measure.summary(_measured(sweep, done, names), sweep.reference, sweep.choose)
        if sweep.choose:
            best = {(row.method, row.setting) for row in table.itertuples() if row.chosen or row.profile}
            embeds: list[tuple[Trial, list[Step]]] = [
                (trial, [("embed", name) for name in names if (name, trial.setting) in best])
                for trial in done
                if not trial.is_profile
            ]
            execute(embeds, sweep, config, processes, None)
            table = measure.summary(_measured(sweep, done, names, best), sweep.reference, sweep.choose)
        tables = {"trials": table}
    folder = FIGURES / name
    for stem, table in tables.items():
        write_atomic(folder / f"{stem}.csv", table.to_csv(index=False, float_format="%.5f").encode())
    facts = {"sweep": as_dict(sweep), "seeds": sorted({trial.seed for trial in done})}
    provenance.write(folder / "origin.json", {**provenance.origin(config, []), **facts})
    return len(done) == len(trials)


def _require_current(sweep: Sweep, trials: Sequence[Trial], names: Sequence[str]) -> None:
    """Raise `DataError` where a result of the pipeline that a sweep takes is of other checkpoints, clips or code."""
    if set(sweep.measure) <= {"validation"} or sweep.extends is not None:
        return
    for trial in trials:
        for name in names:
            if trial.trained_by_pipeline(name) and not embed.is_current(trial.pipeline, name, trial.seed):
                raise DataError(f"the pipeline's results of {name}-{trial.seed} are not up to date; `dvc repro`")


Step = tuple[str, str]  # ("train" | "embed" | "probe" | "link" | "world", method)


def _steps(sweep: Sweep, trial: Trial, names: Sequence[str]) -> list[Step]:
    """What has to be done for a trial, in order; a step that was done before is found to be so when it is reached."""
    if trial.is_pipeline and "tables" in sweep.measure:
        return [("link", "")]
    names = [name for name in names if not trial.trained_by_pipeline(name)]
    steps: list[Step] = [("train", name) for name in ["align"] * trial.own_align + names]
    if {"test", "retrieval"} & set(sweep.measure) and not sweep.choose:
        steps += [("embed", name) for name in names]
    if {"tables", "worlds"} & set(sweep.measure):
        steps += [("embed", name) for name in ("align", *names)]
    if "tables" in sweep.measure:
        steps.append(("probe", ""))
    if "worlds" in sweep.measure:
        steps.append(("world", ""))
    return steps


def _measured(
    sweep: Sweep, trials: Sequence[Trial], names: Sequence[str], tested: set[tuple[str, str]] | None = None
) -> pd.DataFrame:
    """A row a trial and method with its scores; the test scores only of `tested` (method, setting), if given."""
    found = []
    for trial in trials:
        for name in names:
            wanted = [kind for kind in sweep.measure if kind == "validation" or not sweep.choose]
            if tested and (name, trial.setting) in tested:
                wanted = sweep.measure
            about = {"group": trial.group, "setting": trial.setting, "profile": trial.is_profile, "method": name}
            about |= {"label": methods.get(name).label, "seed": trial.seed}
            found.append({**about, **measure.scores(trial.config_of(name), name, trial.seed, wanted)})
    return pd.DataFrame(found)


# ------------------------------------------------------------------------------------------------- running


def execute(
    work: Sequence[tuple[Trial, list[Step]]],
    sweep: Sweep,
    config: Config,
    processes: int,
    hours: float | None,
) -> list[Trial]:
    """Do the steps of all trials, `processes` jobs at a time, and return the trials that are finished.

    A job is a trial, or all trials that share clips of their own. A step of a tiny encoder gains little from a second
    thread, so two trainings of one thread each take less time than one after the other with two. An error in one job,
    a killed process or SIGTERM ends all; after SIGTERM the trainings save their state first.
    """
    jobs: dict[str, list[tuple[Trial, list[Step]]]] = {}
    for trial, steps in work:
        name = f"{trial.group}: {trial.setting}" if trial.own_clips else trial.name
        jobs.setdefault(name, []).append((trial, steps))
    expected = {name: sum(_seconds(config, sweep, *one) for one in job) for name, job in jobs.items()}
    waiting = [name for name, seconds in expected.items() if seconds]
    processes = max(1, min(processes, len(waiting)))
    threads = max(1, config.train.threads // processes)
    slower = HALF_THREADS if processes > 1 else 1.0
    forecast = Forecast({name: slower * expected[name] for name in waiting}, processes)
    finished, skipped = set(jobs) - set(waiting), []
    to_go = f"about {format_duration(forecast.left())} to go{f', {processes} at a time' * (processes > 1)}"
    print(f"{len(jobs)} jobs, {len(finished)} finished before; {to_go}", flush=True)

    def admitted() -> Iterator[Any]:
        """Start jobs as workers become free, but none that would end after `hours`, and none after SIGTERM."""
        for name in waiting:
            due = forecast.elapsed() + forecast.expected[name] * forecast.pace()
            if hours is not None and due > 3600 * hours:
                forecast.skip(name)
                skipped.append(name)
            elif not stopping:
                forecast.start(name)
                print(forecast.line(name), flush=True)
                yield joblib.delayed(_run)(name, jobs[name], sweep, threads, processes > 1)

    parallel = joblib.Parallel(processes, return_as="generator_unordered", pre_dispatch=processes, batch_size=1)
    with _forward_sigterm() as stopping:
        try:
            for name, stopped in parallel(admitted()):
                if stopped:
                    stopping.append(signal.SIGTERM)
                else:
                    forecast.finish(name)
                    finished.add(name)
        except TerminatedWorkerError:
            if not stopping:
                raise DataError(
                    f"one of {processes} processes was killed, perhaps for lack of memory; "
                    "the same command continues from what was saved"
                ) from None
    if stopping:
        sys.exit(train.STOPPED)
    if skipped:
        print(f"{len(skipped)} jobs did not fit into {hours:g} hours: {'; '.join(skipped)}; the same command continues")
    return [trial for name in jobs if name in finished for trial, _ in jobs[name]]


@contextlib.contextmanager
def _forward_sigterm() -> Iterator[list[int]]:
    """Yields a list that is empty until SIGTERM comes, which then goes on to the processes of the pool."""
    stopping: list[int] = []

    def forward(number: int, _: Any) -> None:
        stopping.append(number)
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.terminate()

    before = signal.signal(signal.SIGTERM, forward)
    try:
        yield stopping
    finally:
        signal.signal(signal.SIGTERM, before)


_clip_cache: dict[Path, dict[str, Any]] = {}  # decoded clips of one folder of shards, kept by each process


def _run(name: str, job: list[tuple[Trial, list[Step]]], sweep: Sweep, threads: int, in_pool: bool) -> tuple[str, bool]:
    """Do a job in this process; returns its name, and whether SIGTERM stopped it (with the state of a training saved).

    An idle process of a pool ignores SIGTERM: if it ended, the pool would kill the others while they save.
    """
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(train.STOPPED))
    try:
        for trial, steps in job:
            config = override(trial.config, {"train.threads": threads})
            if _is_finished(trial, sweep, steps):
                continue
            if trial.own_clips:
                make_clips(config, own_world=config.paths.raw != trial.pipeline.paths.raw)
            if not trial.own_align and steps:
                align = trial.pipeline.paths.checkpoint("align", trial.seed)
                _link(align, config.paths.checkpoint("align", trial.seed))
            for step, method in steps:
                if not _is_done(trial, step, method):
                    _do(config, trial, step, method, sweep)
                    shutil.rmtree(config.paths.run(method, trial.seed), ignore_errors=True)
        if not sweep.keep:
            for left in config.paths.work.iterdir():
                if left.name != "results":
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
    except SystemExit:
        return name, True
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN if in_pool else before)
    return name, False


def _do(config: Config, trial: Trial, step: str, method: str, sweep: Sweep) -> None:
    if step == "train":
        fingerprint = train.fingerprint(config, method, trial.seed)
        train.run(config, method, trial.seed)
        write_atomic(_training_record(config, method, trial.seed), fingerprint.encode())
    elif step == "embed":
        if config.paths.shards not in _clip_cache:
            _clip_cache.clear()
        embed.run(config, method, trial.seed, _clip_cache.setdefault(config.paths.shards, {}))
    elif step == "probe":
        probe.run(config, trial.seed)
        write_atomic(_training_record(config, "probe", trial.seed), _probe_inputs(config, trial.seed).encode())
    elif step == "link":
        ours, theirs = config.paths, trial.pipeline.paths
        for name in ("align", *methods.METHODS):
            _link(theirs.checkpoint(name, trial.seed), ours.checkpoint(name, trial.seed))
            _link(theirs.embeddings(name, trial.seed), ours.embeddings(name, trial.seed))
        _link(theirs.probe_metrics(trial.seed), ours.probe_metrics(trial.seed))
        _link(theirs.probe_scores(trial.seed), ours.probe_scores(trial.seed))
    else:
        found = measure.world(config, rows(sweep), trial.seed)
        write_atomic(_world_file(trial), json.dumps({"made_from": _world_inputs(trial), **found}).encode())


def _is_done(trial: Trial, step: str, method: str) -> bool:
    """Whether a step was done with the present settings, clips, checkpoints and code."""
    config, seed = trial.config, trial.seed
    if step == "link":  # costs nothing
        return False
    try:
        if step == "train":
            record = _training_record(config, method, seed)
            trained = config.paths.final(method, seed).exists() and record.exists()
            return trained and record.read_text() == train.fingerprint(config, method, seed)
        if step == "embed":
            return embed.is_current(config, method, seed)
        if step == "probe":
            record = _training_record(config, "probe", seed)
            return record.exists() and record.read_text() == _probe_inputs(config, seed)
        file = _world_file(trial)
        return file.exists() and json.loads(file.read_text())["made_from"] == _world_inputs(trial)
    except FileNotFoundError:  # no clips or no align checkpoint yet
        return False


def _is_finished(trial: Trial, sweep: Sweep, steps: Sequence[Step]) -> bool:
    if not sweep.keep:
        steps = steps[-1:]
    return all(_is_done(trial, *step) for step in steps)


def _training_record(config: Config, method: str, seed: int) -> Path:
    """What a training or probe was made from; beside the results, so that nothing depends on it."""
    return config.paths.work / "made" / f"{method}-{seed}.txt"


def _probe_inputs(config: Config, seed: int) -> str:
    files = [config.paths.final(name, seed) / "model.safetensors" for name in methods.METHODS]
    facts = [as_dict(config.probe), code_identity("mc3.paper.probe"), *map(sha256, files)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _world_file(trial: Trial) -> Path:
    return trial.config.paths.work / "results" / f"{trial.seed}.json"


def _world_inputs(trial: Trial) -> str:
    """A hash of everything that decides what `measure.world` finds, clips and trainings included."""
    settings = as_dict(trial.config)
    for group, key in (("world", "workers"), ("clips", "workers"), ("train", "workers"), ("train", "threads")):
        (settings[group] or {}).pop(key, None)
    kept = {key: settings[key] for key in ("world", "clips", "model", "init", "loss", "train")}
    entries = (trial.config.source.code, "mc3.data.manifest", "mc3.data.prepare", "mc3.embed", "mc3.paper.measure")
    facts = [kept, trial.seed, code_identity("mc3.train", *entries)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def make_clips(config: Config, own_world: bool) -> None:
    """Cut a trial's own clips of Ego4D, from a world of its own if `own_world`; EPIC-Sounds' events are left out."""
    entries = (config.source.code, "mc3.data.manifest", "mc3.data.prepare")
    settings = [{**as_dict(config.clips), "workers": 0}, as_dict(config.ego4d), as_dict(config.model.text)]
    facts = json.dumps([settings, as_dict(config.world), str(config.paths.raw), code_identity(*entries)])
    record, made_from = config.paths.work / "made" / "shards.txt", hashlib.sha256(facts.encode()).hexdigest()
    if record.exists() and record.read_text() == made_from:
        return
    if own_world:
        params = config.paths.work / "params.yaml"
        write_atomic(params, yaml.safe_dump(as_dict(config), sort_keys=False).encode())
        command = [sys.executable, "-m", "mc3", "source", "--config", str(params)]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode:
            raise DataError(f"`mc3 source` failed for {params}: {ran.stderr.strip().splitlines()[-1:]}")
    with contextlib.redirect_stdout(io.StringIO()):  # the pipeline's run said what was dropped
        table = manifest.write(config)
    clips = manifest.read(table)
    clips[clips["dataset"] == "ego4d"].to_parquet(table, index=False)
    with contextlib.redirect_stdout(io.StringIO()):
        prepare.write(config)
    write_atomic(record, made_from.encode())


def _link(source: Path, target: Path) -> None:
    """Take over a finished output of the pipeline by hard links, or by copying across disks, unless it is the same."""
    if source == target:
        return
    if not source.exists():
        raise DataError(f"{source} is missing; `dvc repro` makes it")
    if target.exists() and sha256(target) == sha256(source):
        return

    def link(old: Any, new: Any) -> None:
        try:
            os.link(old, new)
        except OSError:
            shutil.copyfile(old, new)

    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_file():
        target.unlink(missing_ok=True)
        link(source, target)
    else:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, copy_function=link)


def _seconds(config: Config, sweep: Sweep, trial: Trial, steps: Sequence[Step]) -> float:
    """About what a job's remaining steps take, from what the pipeline's took; 0 if nothing is left."""
    if not steps or _is_finished(trial, sweep, steps):
        return 0.0
    known = typical_seconds(config)
    embedding = max(1.0, known.get("embed@0", 0.0) / (1 + len(methods.METHODS)))
    share = _world_size(trial.config) / _world_size(config) if trial.own_clips else 1.0
    total = share * (known.get("raw", 0.0) + known.get("shards", 0.0)) if trial.own_clips else 0.0
    redone = False
    for step, method in steps:
        redone = redone or not _is_done(trial, step, method)
        if redone and step == "train":
            total += share * _training_seconds(config, trial.config, method, known)
        elif redone:
            total += {"embed": share * embedding, "probe": known.get("probe@0", 0.0)}.get(step, 1.0)
    return max(total, 1.0)


def _world_size(config: Config) -> float:
    return float(sum(config.world.videos.values())) if config.world else 1.0


def _training_seconds(config: Config, trial: Config, method: str, known: Mapping[str, float]) -> float:
    """In proportion to the encoders' arithmetic and the epochs; a method never timed counts as the slowest one."""

    def work(of: Config, name: str) -> float:
        epochs = {**of.train.epochs, "both": sum(of.train.epochs.values())}
        return sum(epochs[stage.epochs] * cost.training_flops(of.model, stage) for stage in methods.get(name).stages)

    stages = {"align": "align@0", **{name: f"train@{name}-0" for name in methods.METHODS}}
    timed = {name: known[stage] / work(config, name) for name, stage in stages.items() if known.get(stage)}
    rate = timed.get(method, max(timed.values(), default=0.0))
    return rate * work(trial, method)
