"""Sweep runner: train methods under config overrides, measure them, write tables (`mc3 sweep NAME`).

experiments/NAME.yaml has settings (dotted overrides of the profile), methods, seeds and what is measured. Each setting
has a work folder, work/experiments/NAME/SETTING, which takes the pipeline's clips and align checkpoints where the
overrides do not touch them; the profile's own setting is the pipeline's training. Finished trainings are kept, so that
a stopped sweep continues, and DVC can push and pull them.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from mc3 import cost, methods, objectives
from mc3.config import Config, as_dict, build, override, read_yaml
from mc3.errors import ConfigError, DataError
from mc3.files import code_identity, link_or_copy, sha256, write_atomic
from mc3.paper import jobs, measure, pretrain, provenance, repro

FOLDER, FIGURES = Path("experiments"), Path("figures")
CLIP_SETTINGS = ("world.", "ego4d.", "clips.", "model.text.tokenizer", "model.text.vocab_size")

Step = tuple[str, str]  # "clips", "train", "embed" or "world"; and the method


@dataclass(frozen=True)
class Sweep:
    """experiments/NAME.yaml."""

    about: str  # the question, in a sentence
    methods: list[str]  # rows of `mc3.methods`, or ["all"]
    seeds: list[int] | None  # null for the profile's
    base: dict[str, Any]  # overrides of every setting, dotted as in "loss.temperature"
    settings: dict[str, dict[str, dict[str, Any]]]  # {group: {setting: overrides}}; {} is the profile's own
    align: Literal["own", "shared"]  # own: where overrides decide the align stage, train one; shared: the pipeline's
    measure: list[Literal["validation", "test", "retrieval", "worlds"]]
    reference: str | None  # the method that the others are compared with
    choose: bool  # marks the best setting of each method on validation; it and the profile's are measured on test
    keep: bool  # whether clips, checkpoints and embeddings stay when a setting is measured

    @property
    def names(self) -> list[str]:
        """The methods, "all" spelled out. `ConfigError` for one that does not exist."""
        return [methods.get(name).name for name in (methods.METHODS if self.methods == ["all"] else self.methods)]


@dataclass(frozen=True)
class Trial:
    """A setting on a seed. `config` has its overrides and its own folders, `pipeline` is where the profile's are."""

    sweep: Sweep
    group: str
    setting: str
    seed: int
    config: Config
    pipeline: Config
    is_profile: bool  # the overrides change nothing
    is_pipeline: bool  # and the pipeline has trained this seed
    own_clips: bool
    own_align: bool
    steps: Sequence[Step] = ()  # what it needs, in order; one done before is found to be so when it is reached

    def config_of(self, method: str) -> Config:
        """Where a method's training is: the pipeline's, if it has trained it."""
        return self.pipeline if self.is_pipeline and method in methods.METHODS else self.config


def load(name: str) -> Sweep:
    """Read experiments/NAME.yaml. Raises `ConfigError` naming the file and what is wrong."""
    file = FOLDER / f"{name}.yaml"
    data = read_yaml(file)
    try:
        return build(Sweep, data)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def plan(name: str, sweep: Sweep, config: Config, seeds: Sequence[int]) -> list[Trial]:
    """Every setting on every seed, in the order of the file."""
    trials = []
    for group, settings in sweep.settings.items():
        for setting, overrides in settings.items():
            changes = {**sweep.base, **overrides}
            changed = override(config, changes)
            is_profile = changed == config
            own_clips = any(key.startswith(CLIP_SETTINGS) for key in changes) and not is_profile
            refine_only = sweep.align == "shared" or all(key.startswith("loss.consensus") for key in changes)
            slug = re.sub(r"[^a-z0-9._+-]+", "-", f"{group} {setting}".lower()).strip("-")
            work = config.paths.work / "experiments" / name / slug
            folders: dict[str, Any] = {"paths.work": str(work)}
            if own_clips:
                folders["paths.shards"] = str(work / "shards")
            if own_clips and any(key.startswith("world.") for key in changes):
                folders |= {"paths.raw": str(work / "raw"), "source.out": str(work / "raw")}
            for seed in seeds:
                at = override(changed, {**folders, "seeds": [seed]})
                is_pipeline = is_profile and seed in config.seeds
                own_align = own_clips or not (refine_only or is_profile) or seed not in config.seeds
                trial = Trial(sweep, group, setting, seed, at, config, is_profile, is_pipeline, own_clips, own_align)
                trials.append(replace(trial, steps=_steps(trial)))
    return trials


def _steps(trial: Trial) -> list[Step]:
    names = [name for name in trial.sweep.names if trial.config_of(name) is trial.config]
    steps: list[Step] = [("clips", "")] * trial.own_clips
    steps += [("train", name) for name in ["align"] * trial.own_align + names]
    if {"test", "retrieval"} & set(trial.sweep.measure) and not trial.sweep.choose:
        steps += [("embed", name) for name in names]
    if "worlds" in trial.sweep.measure:
        steps += [*(("embed", name) for name in ("align", *names)), ("world", "")]
    return steps


def run(
    name: str, config: Config, seeds: Sequence[int] | None = None, processes: int = 1, hours: float | None = None
) -> bool:
    """Train and measure sweep `name`, as far as that was not done, and write figures/NAME/*.csv.

    `seeds` replace the sweep's; for `processes`, `hours` and SIGTERM see `jobs.run`. Returns whether everything was
    measured; else the tables hold what there is. Raises `ConfigError` for a mistake in the file, `DataError` when the
    pipeline's results are missing or out of date, or nothing fits into `hours`.
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
    for trial, name in product(trials, sweep.names):
        config = trial.config_of(name)
        if config is trial.pipeline and not jobs.is_done(config, step, name, trial.seed):
            raise DataError(f"the pipeline's results of {name}-{trial.seed} are not up to date; run `dvc repro`")


def _scores(sweep: Sweep, trials: Sequence[Trial], tested: Collection[tuple[str, str]] = ()) -> pd.DataFrame:
    """A row a trial and method with its scores; if something is chosen, test scores are those of `tested` only."""
    found = []
    for trial, name in product(trials, sweep.names):
        kinds = sweep.measure if not sweep.choose or (name, trial.setting) in tested else ["validation"]
        about = {"group": trial.group, "setting": trial.setting, "profile": trial.is_profile, "method": name,
                 "label": methods.get(name).label, "seed": trial.seed}  # fmt: skip
        found.append(about | measure.scores(trial.config_of(name), name, trial.seed, kinds))
    return pd.DataFrame(found)


def execute(trials: Sequence[Trial], config: Config, processes: int, hours: float | None) -> list[Trial]:
    """Do the steps of all trials, those that share clips of their own in one job; returns the finished trials."""
    together: dict[str, list[Trial]] = {}
    for trial in trials:
        setting, seed = f"{trial.group}: {trial.setting}", f"seed {trial.seed}"
        alone = f"{setting}, {seed}" if trial.setting else seed
        together.setdefault(setting if trial.own_clips else alone, []).append(trial)
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
            _link_align(trial)
        for step, method in [] if _is_finished(trial) else trial.steps:
            if not _is_done(trial, step, method):
                _do(trial, step, method, threads)
    if not trial.sweep.keep:
        for left in trial.config.paths.work.iterdir():
            if left.name != "results":
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _do(trial: Trial, step: str, method: str, threads: int) -> None:
    """One step, and a record of what it was made from."""
    config, found = override(trial.config, {"train.threads": threads}), {}
    if step in jobs.MADE_FROM:
        jobs.do(config, step, method, trial.seed, threads)
        if step == "train":
            shutil.rmtree(config.paths.run(method, trial.seed))
        return
    if step == "clips":
        pretrain.cut(config, own_source=config.paths.raw != trial.pipeline.paths.raw)
    else:
        found = measure.world(config, trial.sweep.names, trial.seed)
    write_atomic(_record(trial, step), json.dumps({"made_from": _inputs(trial, step), **found}).encode())


def _record(trial: Trial, step: str) -> Path:
    """What clips, or the measurements of a world, were made from; and what the world showed."""
    return trial.config.paths.work / "results" / f"{step}-{trial.seed}.json"


def _is_done(trial: Trial, step: str, method: str) -> bool:
    """Whether a step was done with the present settings, clips, checkpoints and code."""
    if step in jobs.MADE_FROM:
        return jobs.is_done(trial.config, step, method, trial.seed)
    record = _record(trial, step)
    return record.exists() and provenance.read(record, "remove it").get("made_from") == _inputs(trial, step)


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
        losses = {module for name in trial.sweep.names for module in objectives.modules(methods.get(name))}
        code = code_identity("mc3.train", "mc3.embed", "mc3.paper.measure", *clips, *sorted(losses))
        facts += [trial.seed, code]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _link_align(trial: Trial) -> None:
    """Take over the pipeline's align checkpoint by hard links, or by copying across disks, unless it is the same."""
    source, target = (c.paths.checkpoint("align", trial.seed) for c in (trial.pipeline, trial.config))
    if not source.exists():
        raise DataError(f"{source} is missing; `dvc repro` makes it")
    if not target.exists() or sha256(target) != sha256(source):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, copy_function=link_or_copy)


def _seconds(config: Config, trial: Trial) -> float:
    """About what a trial's remaining steps take, from what the pipeline's took; 0 if nothing is left."""
    if _is_finished(trial):
        return 0.0
    known = repro.typical_seconds(config)
    own, usual = (sum(c.world.videos.values()) if c.world else 1 for c in (trial.config, config))
    share = own / usual if trial.own_clips else 1.0
    todo = [step for step in trial.steps if not _is_done(trial, *step)]
    return max(1.0, sum(share * _step_seconds(config, trial.config, *step, known) for step in todo))


def _step_seconds(config: Config, trial: Config, step: str, method: str, known: Mapping[str, float]) -> float:
    """A training in proportion to the encoders' arithmetic and the epochs; one never timed counts as the slowest."""

    def work(of: Config, name: str) -> float:
        stages = methods.get(name).stages
        return sum(of.train.length(stage.epochs) * cost.training_flops(of.model, stage) for stage in stages)

    if step == "clips":
        return known.get("raw", 0.0) + known.get("shards", 0.0)
    if step == "train":
        timed = {name: known.get(f"train {name}", 0.0) for name in ("align", *methods.METHODS)}
        rates = {name: seconds / work(config, name) for name, seconds in timed.items() if seconds}
        return rates.get(method, max(rates.values(), default=0.0)) * work(trial, method)
    return known.get(f"embed {method}", 1.0)
