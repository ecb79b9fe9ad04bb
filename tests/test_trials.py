"""Trials beside the pipeline: found again when done, done again when changed, and never more than the time given."""

import dataclasses
import itertools

import pytest
import small_training
import yaml
from conftest import ROOT

from mc3 import config, methods, trials
from mc3.config import Config, ConfigError
from mc3.data import DataError


@pytest.fixture
def profile() -> Config:
    return config.load(ROOT / "profiles" / "mini.yaml")


@pytest.fixture(scope="module")
def trainable(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A training of seconds, with the align checkpoint of its seed."""
    folder = tmp_path_factory.mktemp("trials")
    settings = yaml.safe_load((ROOT / "profiles" / "mini.yaml").read_text())
    settings["paths"] = {"raw": str(folder / "raw"), "work": str(folder / "work")}
    shards = small_training.make_shards(folder / "shards")
    made = small_training.configured(small_training.settings(settings, shards))
    trials.trained(made, "align", 0)
    return made


class Clock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_setting_is_changed_at_its_dotted_place_and_nothing_else(profile):
    changed = trials.changed(profile, {"loss.consensus.anchor": "video", "train.learning_rate": 0.5})
    assert changed.loss.consensus.anchor == "video"
    assert changed.train.learning_rate == 0.5
    assert trials.changed(changed, {"loss.consensus.anchor": "audio", "train.learning_rate": 2e-3}) == profile


@pytest.mark.parametrize("changes", [{"loss.wieght": 1.0}, {"train.epochs": 3}, {"los.temperature": 0.1}])
def test_a_setting_that_does_not_exist_is_refused_by_name(profile, changes):
    (name,) = changes
    with pytest.raises(ConfigError, match=name.split(".")[0]):
        trials.changed(profile, changes)


def test_a_finished_training_is_not_repeated_and_another_seed_or_setting_is_another(trainable):
    folder = trials.trained(trainable, "align", 0)
    before = (folder / "metrics.jsonl").stat().st_mtime_ns
    assert trials.trained(trainable, "align", 0) == folder
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == before
    faster = trials.changed(trainable, {"train.learning_rate": 1e-3})
    assert trials.trained(faster, "align", 0) == folder
    assert (folder / "metrics.jsonl").stat().st_mtime_ns != before
    trials.trained(trainable, "align", 0)


def test_a_placed_trial_links_what_it_shares_and_leaves_the_pipelines_files_alone(trainable):
    work = trainable.paths.work
    before = sorted(path for path in work.rglob("*") if "trials" not in path.parts)
    trial = trials.placed(trainable, {"loss.consensus_weight": 2.0}, 0)
    assert trial.loss.consensus_weight == 2.0
    assert (trial.paths.work / "shards").resolve() == (work / "shards").resolve()
    assert (trial.paths.work / "checkpoints" / "align-0").resolve() == (work / "checkpoints" / "align-0").resolve()
    found = trials.validation(trial, "mc3", 0)
    assert set(found) == {"av_roc", "al_roc"}
    assert all(0 <= value <= 1 for value in found.values())
    assert sorted(path for path in work.rglob("*") if "trials" not in path.parts) == before
    own = trials.placed(trainable, {"loss.consensus_weight": 2.0}, 0, own_align=True)
    assert own.paths.work != trial.paths.work
    assert not (own.paths.work / "checkpoints" / "align-0").exists()


def test_a_trial_whose_pipeline_was_not_run_says_what_to_run(profile, tmp_path):
    nowhere = dataclasses.replace(profile, paths=dataclasses.replace(profile.paths, work=tmp_path / "work"))
    with pytest.raises(DataError, match=r"shards is missing; `make repro` makes it"):
        trials.placed(nowhere, {}, 0)


def test_a_schedule_begins_nothing_that_would_end_too_late_and_goes_on_with_what_fits():
    clock, ran = Clock(), []
    schedule = trials.Schedule({"a": 10.0, "b": 50.0, "done": 0.0, "c": 10.0}, 40.0, clock, lambda line: None)
    for name in schedule:
        ran.append(name)
        clock.now += {"a": 10.0, "c": 10.0}.get(name, 0.0)
    assert ran == ["a", "done", "c"]
    assert schedule.skipped == ["b"]


def test_a_schedule_corrects_its_forecast_by_the_pace_so_far():
    clock, lines = Clock(), []
    for _ in trials.Schedule({"a": 10.0, "b": 10.0, "c": 10.0}, None, clock, lines.append):
        clock.now += 20.0
    left = [line.split("about ")[1].split(" left")[0] for line in lines]
    assert left == ["0:00:30", "0:00:40", "0:00:20"]


def test_a_schedule_within_its_budget_ends_within_it_if_jobs_take_what_the_pace_says():
    for slowness, budget in itertools.product((0.5, 1.0, 3.0), (50.0, 200.0)):
        clock = Clock()
        for _ in trials.Schedule({str(n): 10.0 for n in range(30)}, budget, clock, lambda line: None):
            clock.now += 10.0 * slowness
        assert clock.now <= max(budget, 10.0 * slowness)


def test_the_forecast_of_the_profiles_own_training_is_what_it_took(profile, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("mc3.repro.typical", lambda config: {"train@mc3-0": 43.0, "align@0": 49.0, "embed@0": 18.0})
    share = 18.0 / (1 + len(methods.METHODS))
    assert trials.seconds(profile, profile, "mc3") == pytest.approx(43.0 + share)
    twice = trials.changed(profile, {"train.epochs": {"align": 10, "refine": 10}})
    assert trials.seconds(profile, twice, "align") == pytest.approx(98.0 + share)
