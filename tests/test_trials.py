"""Trials beside the pipeline: found again when done, done again when changed, and never more than the time given."""

import dataclasses
import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_training
import yaml
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from mc3 import config, embed, methods, train, trials
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
    trials.trained(trial, "mc3", 0)
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


@given(st.dictionaries(st.text(min_size=1), st.floats(0, 1e4), max_size=30), st.integers(1, 5))
def test_jobs_are_divided_each_once_and_about_evenly(costs, parts):
    shares = trials.divided(costs, parts)
    wanted = [name for name, cost in costs.items() if cost]
    assert sorted(name for share in shares for name in share) == sorted(wanted)
    for share in shares:
        assert share == [name for name in wanted if name in share]
    if wanted:
        sums = [sum(costs[name] for name in share) for share in shares]
        longest = max(costs.values())
        assert max(sums) - (min(sums) if len(shares) == parts else 0) <= longest * (1 + 1e-9)


def train_each(config: Config, names: list[str]) -> None:
    """Work of a process: a training a name, at the learning rate that the name is, and nothing for "idle"."""
    for name in sorted(set(names) - {"idle"}):
        trials.trained(trials.placed(config, {"train.learning_rate": float(name)}, 0), "mc3", 0)


def fail_at(config: Config, names: list[str]) -> None:
    """Work that fails on one of its jobs, in whichever process that is, while another's takes long."""
    if "bad" in names:
        raise DataError("this one cannot be trained")
    time.sleep(60)


def test_trainings_side_by_side_have_the_weights_that_they_have_one_after_the_other(trainable):
    rates = {"0.001": 2.0, "0.002": 1.0, "0.003": 1.0, "0.004": 0.0}
    single = trials.changed(trainable, {"train.threads": 1})
    weights = []
    for processes in (2, 1):
        trials.side_by_side(train_each, single, rates, processes)
        folders = [trials.placed(single, {"train.learning_rate": float(r)}, 0).paths.work for r in rates]
        files = [folder / "checkpoints" / "mc3-0" / "final" / "model.safetensors" for folder in folders]
        assert [file.exists() for file in files] == [True, True, True, False]
        weights.append([file.read_bytes() for file in files[:3]])
        for folder in folders:
            shutil.rmtree(folder)
    assert weights[0] == weights[1]


def test_jobs_are_trained_once_with_what_they_need_and_embedded_where_asked(trainable, monkeypatch, capsys):
    alone = trials.placed(trainable, {"loss.temperature": 0.09}, 0, own_align=True)
    shared = trials.placed(trainable, {"loss.consensus_weight": 3.0}, 0)
    jobs = {
        "both": trials.Job(alone, 0, ("align", "mc3"), embed=True),
        "one": trials.Job(shared, 0, ("mc3",)),
        "the same again": trials.Job(shared, 0, ("mc3",)),
    }
    costs = trials.costs(trainable, jobs)
    assert costs["both"] > costs["one"] > costs["the same again"] == 0
    asked: list[tuple[str, Path]] = []
    training = train.run
    monkeypatch.setattr(train, "run", lambda c, m, s: (asked.append((m, c.paths.work)), training(c, m, s)))
    embedded: list[Path] = []
    monkeypatch.setattr(embed, "unchanged", lambda c, m, s: c.paths.work in embedded)
    monkeypatch.setattr(embed, "run", lambda c, m, s, held: embedded.append(c.paths.work))
    for _ in range(2):
        trials.train_all(jobs, trainable, 1)
    own, other = alone.paths.work, shared.paths.work
    assert asked == [("align", own), ("mc3", own), ("mc3", other)]
    assert embedded == [own]
    assert not (own / "checkpoints" / "align-0").is_symlink()
    assert (other / "checkpoints" / "align-0").is_symlink()
    assert "3 jobs, 3 done before" in capsys.readouterr().out
    embedded.clear()
    assert costs["both"] > trials.costs(trainable, jobs)["both"] > trials.costs(trainable, jobs)["one"] == 0
    shutil.rmtree(own / "checkpoints" / "align-0")  # what is based on another align stage is not done
    assert trials.costs(trainable, jobs)["both"] == costs["both"]


def test_an_error_in_one_process_is_raised_and_ends_the_others(trainable):
    began = time.monotonic()
    with pytest.raises(DataError, match="this one cannot be trained"):
        trials.side_by_side(fail_at, trainable, {"long": 2.0, "bad": 1.0}, 2)
    assert time.monotonic() - began < 40
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("names", [("0.001", "0.002"), ("0.001", "idle")], ids=["both train", "one has finished"])
def test_sigterm_stops_trainings_side_by_side_with_their_states_saved(trainable, tmp_path, names):
    long = trials.changed(trainable, {"train.epochs": {"align": 1, "refine": 2000}, "train.threads": 1})
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(config.as_dict(long)))
    script = (
        "import sys; from pathlib import Path; import test_trials; from mc3 import config, trials\n"
        "if __name__ == '__main__':\n"
        " costs = dict.fromkeys(sys.argv[2:], 1.0)\n"
        " trials.side_by_side(test_trials.train_each, config.load(Path(sys.argv[1])), costs, 2)"
    )
    (tmp_path / "both.py").write_text(script)
    known = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)])}
    shutil.rmtree(long.paths.work / "trials", ignore_errors=True)
    process = subprocess.Popen([sys.executable, tmp_path / "both.py", tmp_path / "long.yaml", *names], env=known)
    runs, trained = long.paths.work / "trials", len(set(names) - {"idle"})
    deadline = time.monotonic() + 120
    while (
        len({state.parent for state in runs.glob("*/runs/mc3-0/state-*.pt")}) < trained and time.monotonic() < deadline
    ):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == train.STOPPED
    folders = {state.parent for state in runs.glob("*/runs/mc3-0/state-*.pt")}
    assert len(folders) == trained
    assert not any((folder.parents[1] / "checkpoints" / "mc3-0").exists() for folder in folders)


def test_of_another_recipe_or_code_a_training_is_not_done(trainable, monkeypatch):
    trials.trained(trainable, "align", 0)
    assert trials.is_trained(trainable, "align", 0)
    assert not trials.is_trained(trainable, "mc3", 5)
    monkeypatch.setattr(methods, "ALIGN", {**methods.ALIGN, "stages": [{"epochs": "align", "pairs": ["audio-text"]}]})
    assert not trials.is_trained(trainable, "align", 0)


def test_a_result_of_the_pipeline_takes_the_place_of_ones_own(profile, tmp_path):
    settings = trials.changed(profile, {"paths.work": str(tmp_path / "work")})
    theirs, mine = tmp_path / "work" / "checkpoints" / "align-1", tmp_path / "more" / "checkpoints" / "align-1"
    for folder in (theirs, mine):
        folder.mkdir(parents=True)
        (folder / "whose").write_text(folder.parts[-3])
    trials.place(settings, tmp_path / "more", ["checkpoints/align-1"])
    assert mine.is_symlink()
    assert (mine / "whose").read_text() == "work"
