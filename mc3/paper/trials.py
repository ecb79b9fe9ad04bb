"""What a sweep is: experiments/NAME.yaml, the trials that it stands for, and the steps of each.

Settings (dotted overrides of the profile) x methods x seeds, and what is measured. Each setting has a work folder,
work/experiments/NAME/SETTING, which takes the pipeline's clips and align checkpoints where the overrides do not touch
them; the profile's own setting is the pipeline's training.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from mc3 import methods
from mc3.config import Config, build, override
from mc3.errors import ConfigError

FOLDER = Path("experiments")
MEASURES = ("validation", "test", "retrieval", "worlds")
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
    align: str  # "own" trains an align stage under overrides that decide it, "shared" takes the pipeline's
    measure: list[str]  # of `MEASURES`
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

    @property
    def name(self) -> str:
        """What is printed, and a job of its own is called."""
        return f"{self.group}: {self.setting}, seed {self.seed}" if self.setting else f"seed {self.seed}"

    def config_of(self, method: str) -> Config:
        """Where a method's training is: the pipeline's, if it has trained it."""
        return self.pipeline if self.is_pipeline and method in methods.METHODS else self.config


def load(name: str) -> Sweep:
    """Read experiments/NAME.yaml. Raises `ConfigError` naming the file and what is wrong."""
    file = FOLDER / f"{name}.yaml"
    try:
        sweep: Sweep = build(Sweep, yaml.safe_load(file.read_text()))
        for key, found, known in (("measure", sweep.measure, MEASURES), ("align", [sweep.align], ("own", "shared"))):
            if wrong := [value for value in found if value not in known]:
                raise ConfigError(f"{key} has {wrong[0]!r}; known: {', '.join(known)}")
    except (ConfigError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: {error}") from None
    return sweep


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
                trials.append(replace(trial, steps=_steps(sweep, trial)))
    return trials


def _steps(sweep: Sweep, trial: Trial) -> list[Step]:
    names = [name for name in sweep.names if trial.config_of(name) is trial.config]
    steps: list[Step] = [("clips", "")] * trial.own_clips
    probed = ["ssast"] * ("tables" in sweep.measure and trial.config.probe.ssast == "train")
    steps += [("train", name) for name in ["align"] * trial.own_align + names + probed]
    if {"test", "retrieval"} & set(sweep.measure) and not sweep.choose:
        steps += [("embed", name) for name in names]
    if "worlds" in sweep.measure:
        steps += [*(("embed", name) for name in ("align", *names)), ("world", "")]
    return steps
