"""Sweeps: data that fit the profile; trainings kept, shared and resumed; summaries against closed forms."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import small_training
import small_work
import yaml
from conftest import ROOT
from raw_files import contents
from scipy.stats import qmc, ttest_1samp
from sklearn.metrics import roc_auc_score

from mc3 import cli, config, cost, embed, methods, store, train
from mc3.config import Config, override
from mc3.errors import ConfigError, DataError
from mc3.paper import measure, sweep
from mc3.world import plan as plans

NAMES = sorted(path.stem for path in (ROOT / "experiments").glob("*.yaml") if path.stem != "dvc")
SPACE = {"train.learning_rate": 4.0, "loss.temperature": 2.0, "loss.consensus_weight": 4.0}
PLAIN = {
    "about": "a test", "methods": ["mc3"], "seeds": None, "base": {}, "settings": {"profile": {"": {}}}, "align": "own",
    "measure": ["validation"], "reference": None, "choose": False, "keep": True,
}  # fmt: skip


@pytest.fixture
def profile(monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(ROOT)
    return config.load("profiles/mini.yaml")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a pipeline of seconds: align and mc3 of seed 0."""
    top = tmp_path_factory.mktemp("top")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(top)
        settings = small_training.settings(small_work.mini(Path("work")), small_training.make_shards(top / "clips"))
        made = small_training.configured(settings)
        train.run(made, "align", 0)
        train.run(made, "mc3", 0)
    (top / "params.yaml").write_text(yaml.safe_dump(config.as_dict(made)))
    shutil.copy(ROOT / "requirements.lock", top)
    (top / "experiments").mkdir()
    return top


@pytest.fixture
def pipeline(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A copy of it, which is the present folder; trainings count as current."""
    top = tmp_path / "top"
    shutil.copytree(trained, top, symlinks=True)
    monkeypatch.chdir(top)
    return config.load("params.yaml")


def write(name: str, **changes: object) -> None:
    Path("experiments", f"{name}.yaml").write_text(yaml.safe_dump({**PLAIN, **changes}, sort_keys=False))


def planned(name: str, settings: Config) -> list[sweep.Trial]:
    found = sweep.load(name)
    return sweep.plan(name, found, settings, found.seeds or settings.seeds)


def videos(settings: Config, *names: str) -> list[list[plans.VideoPlan]]:
    """The planned videos of the study's worlds of these names."""
    worlds = {trial.setting: trial.config.world for trial in planned("study", settings)}
    return [plans.plan_videos(worlds[name]) for name in names]


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_of_every_sweep_is_a_profile_that_fits_together(profile, name):
    found = planned(name, profile)
    assert sweep.load(name).names
    for trial in found:
        cost.make_encoders(trial.config.model)
        assert trial.config.clips.frames == trial.config.model.video.frames
        samples = round((trial.config.clips.before_sec + trial.config.clips.after_sec) * trial.config.clips.sample_rate)
        assert trial.config.model.audio.length == 1 + (samples - 400) // 160  # 25 ms windows every 10 ms
        consensus = trial.config.loss.consensus
        assert {"audio", "video", "text"} - {consensus.anchor} <= set(consensus.alpha)
    assert len({(trial.config.paths.work, trial.seed) for trial in found}) == len(found)


def test_each_ablation_has_the_papers_setting_and_once_the_profiles_which_is_the_pipelines_training(profile):
    table = pd.DataFrame([vars(trial) for trial in planned("ablations", profile)])
    trained = set(table["seed"]) & set(profile.seeds)
    assert trained
    assert (table.groupby("group")["is_pipeline"].sum() == len(trained)).all()
    # Sec. 4.2: audio is the anchor, alpha_v .5 and alpha_l 1; Sec. 5: clips of 1.5 s; EgoVLP: 4 frames
    papers = {"anchor": "audio", "alpha": "video 0.5, text 1", "duration": "1.5 s", "frames": "4"}
    assert set(papers.items()) <= set(table[["group", "setting"]].itertuples(index=False, name=None))


def test_clips_and_align_stage_are_made_anew_where_a_setting_decides_them(profile):
    anew = {"anchor": (False, False), "alpha": (False, False), "weight": (False, False),
            "temperature": (False, True), "duration": (True, True), "frames": (True, True)}  # fmt: skip
    others = [t for t in planned("ablations", profile) if not t.is_profile and t.seed in profile.seeds]
    assert {trial.group for trial in others} >= set(anew)
    for trial in others:
        if trial.group in anew:
            assert (trial.own_clips, trial.own_align) == anew[trial.group], trial
            assert (trial.config.paths.shards == profile.paths.shards) != trial.own_clips


def test_every_method_is_tuned_at_the_same_points_of_a_halton_sequence_around_the_profile(profile):
    settings = sweep.load("tuning").settings["tuning"]
    assert settings.pop("profile") == {}
    sequence = qmc.Halton(len(SPACE), scramble=False)
    sequence.fast_forward(2)
    usual = {"train.learning_rate": profile.train.learning_rate, "loss.temperature": profile.loss.temperature,
             "loss.consensus_weight": profile.loss.consensus_weight}  # fmt: skip
    for found, point in zip(settings.values(), sequence.random(len(settings)), strict=True):
        expected = {name: usual[name] * SPACE[name] ** (2 * at - 1) for name, at in zip(SPACE, point, strict=True)}
        assert found == pytest.approx(expected, rel=5e-3)
    assert all(not trial.own_align for trial in planned("tuning", profile))


def test_worlds_differ_in_what_their_name_says_and_train_for_as_many_steps(profile):
    first, *others = planned("study", profile)[:: len(sweep.load("study").seeds)]
    assert first.setting == "as generated"

    def steps(of: Config) -> int:
        clips = sum(len(plans.plan_video(of.world, "train", n).narrations) for n in range(6)) / 6
        return round(of.world.videos["train"] * clips * sum(of.train.epochs.values()))

    for trial in others:
        undone = {}
        for part in trial.setting.split(", "):
            axis, value = part.split(" ")
            if axis == "videos":
                assert trial.config.world.videos["train"] == float(value)
                undone |= {"world.videos": first.config.world.videos, "train.epochs": first.config.train.epochs}
            else:
                assert getattr(trial.config.world.rates, axis) == float(value)
                undone[f"world.rates.{axis}"] = getattr(first.config.world.rates, axis)
        same = {"paths": config.as_dict(first.config.paths), "source.out": str(first.config.source.out)}
        assert override(trial.config, {**undone, **same}) == first.config
        if trial.setting.startswith("videos"):
            assert steps(trial.config) == steps(first.config)


@pytest.mark.parametrize(
    ("setting", "measured", "low", "high"),
    [("on_screen 0", "II", 0.0, 0.0), ("on_screen 0.7", "II", 0.2, 0.5), ("unseen 0", "none", 0.0, 0.03),
     ("unseen 0.5", "IV", 0.1, 0.3), ("sounding 0.5", "I", 0.2, 0.35), ("sounding 1.4", "I", 0.65, 0.85)],
)  # fmt: skip
def test_a_rate_changes_the_share_of_its_region(profile, setting, measured, low, high):
    (planned_videos,) = videos(profile, setting)
    actions = [action for video in planned_videos for action in video.actions if action.actor == "C"]
    assert low <= np.mean([action.region == measured for action in actions]) <= high


def test_wrong_narrations_are_of_training_clips_alone_and_leave_all_else_as_it_was(profile):
    changed = {split: [] for split in ("train", "validation", "test")}
    for before, after in zip(*videos(profile, "as generated", "misnarrated 0.5"), strict=True):
        assert before.actions == after.actions
        for one, two in zip(before.narrations, after.narrations, strict=True):
            assert dataclasses.replace(one, text=two.text) == two
            changed[before.split] += [one.text != two.text] * (one.action is not None)
    assert not any(changed["validation"] + changed["test"])
    assert 0.42 < np.mean(changed["train"]) < 0.52  # half, less those that say the same by chance


def test_louder_actions_are_louder_by_as_many_decibels(profile):
    louder = 6.0 - profile.world.rates.signal_db
    for before, after in zip(*videos(profile, "as generated", "signal_db 6"), strict=True):
        assert [a.level + louder for a in before.actions] == pytest.approx([a.level for a in after.actions])


def test_a_sweep_that_does_not_exist_is_refused_with_the_known_ones(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert cli.main(["sweep", "ablation"]) == 1
    message = capsys.readouterr().err
    assert "did you mean ablations?" in message
    assert all(name in message for name in NAMES)


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"measure": ["tset"]}, r"experiments/x.yaml: measure\[0\] is 'tset'; it must be one of validation"),
     ({"align": "none"}, r"experiments/x.yaml: align is 'none'"), ({"methods": ["mc4"]}, "no method 'mc4'"),
     ({"sedes": [1]}, r"experiments/x.yaml: unknown setting sedes; did you mean seeds"),
     ({"settings": {"a": {"b": {"loss.wieght": 1}}}}, "unknown setting loss.wieght")],
)  # fmt: skip
def test_mistakes_in_a_sweep_are_named(pipeline, changes, match):
    write("x", **changes)
    with pytest.raises(ConfigError, match=match):
        sweep.run("x", pipeline)


def test_a_pipeline_that_was_not_run_or_is_out_of_date_is_an_error_that_says_what_to_run(pipeline):
    write("x", measure=["validation", "test"])
    with pytest.raises(DataError, match=r"mc3-0 are not up to date; run `dvc repro`"):
        sweep.run("x", pipeline)
    shutil.rmtree(pipeline.paths.checkpoint("align", 0))
    write("x", settings={"weight": {"2": {"loss.consensus_weight": 2.0}}})
    with pytest.raises(DataError, match=r"align-0 is missing; `dvc repro` makes it"):
        sweep.run("x", pipeline)


def test_a_finished_sweep_trains_nothing_and_leaves_the_pipelines_files_alone(pipeline, monkeypatch, capsys):
    before = {path: path.stat().st_mtime_ns for path in pipeline.paths.work.rglob("*") if path.is_file()}
    runs, training = [], train.run
    monkeypatch.setattr(train, "run", lambda of, *job: (runs.append((job[0], of.loss.temperature)), training(of, *job)))
    settings = {"weight": {"5": {}, "2": {"loss.consensus_weight": 2.0}}, "tau": {"0.09": {"loss.temperature": 0.09}}}
    write("x", settings=settings)
    assert sweep.run("x", pipeline)
    assert runs == [("mc3", 0.07), ("align", 0.09), ("mc3", 0.09)]  # the profile's own setting is the pipeline's
    table = pd.read_csv("figures/x/trials.csv", dtype={"setting": str}).set_index("setting")
    assert table["profile"].tolist() == [True, False, False]
    for setting, trial in zip(table.index, planned("x", pipeline), strict=True):
        expected = store.validation_scores(trial.config_of("mc3"), "mc3", 0)
        for name in ("av_roc", "al_roc", "av_similarity", "al_similarity", "vl_similarity"):
            assert table.loc[setting, f"validation_{name}"] == pytest.approx(expected[name], abs=1e-5)
        rocs = expected["av_roc"], expected["al_roc"]
        assert table.loc[setting, "selection"] == pytest.approx(np.mean(rocs), abs=1e-5)
    about = json.loads(Path("figures/x/origin.json").read_text())
    assert about["sweep"]["settings"] == settings
    assert {path: path.stat().st_mtime_ns for path in before} == before
    runs.clear()
    assert sweep.run("x", pipeline)
    assert runs == []
    assert "3 jobs, 3 finished before" in capsys.readouterr().out

    monkeypatch.setattr(methods, "METHODS", {**methods.METHODS, "mc3": {**methods.METHODS["mc3"], "label": "MC4"}})
    monkeypatch.setattr(train, "code_identity", lambda *entries: "other code")
    write("x", settings={"weight": {"2": {"loss.consensus_weight": 2.0}}})
    assert sweep.run("x", pipeline)
    assert runs == [("mc3", 0.07)]


def test_side_by_side_trainings_have_the_weights_of_sequential_ones(pipeline):
    rates = {str(rate): {"train.learning_rate": rate} for rate in (1e-3, 3e-3)}
    write("x", settings={"rate": rates}, align="shared")
    found = []
    folder = pipeline.paths.work / "experiments" / "x"
    for processes in (2, 1):
        assert sweep.run("x", pipeline, processes=processes)
        found.append(
            {name: data for name, data in contents(folder).items() if name.endswith("final/model.safetensors")}
        )
        shutil.rmtree(folder)
    assert found[0] == found[1]
    assert len({data for name, data in found[0].items() if "mc3-0" in name}) == 2


def test_an_error_in_one_process_is_raised_and_ends_the_others(pipeline):
    write("x", settings={"rate": {"long": {"train.epochs": {"align": 1, "refine": 3000}},
                                  "bad": {"train.batch_size": 1000}}}, align="shared")  # fmt: skip
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"train.batch_size is 1000"):
        sweep.run("x", pipeline, processes=2)
    assert time.monotonic() - began < 60


@pytest.fixture
def two_long_trainings(pipeline: Config) -> subprocess.Popen:
    """A sweep in which both trainings have saved a state."""
    long = {"train.epochs": {"align": 1, "refine": 3000}}
    rates = {str(rate): {"train.learning_rate": rate, **long} for rate in (1e-3, 2e-3)}
    write("x", settings={"rate": rates}, align="shared")
    command = [sys.executable, "-m", "mc3.cli", "sweep", "x", "--processes", "2"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)
    deadline = time.monotonic() + 120
    while len(with_states(pipeline)) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process


def with_states(pipeline: Config) -> set[Path]:
    return {state.parent for state in pipeline.paths.work.glob("experiments/x/*/runs/mc3-0/state-*.pt")}


def test_sigterm_ends_all_trainings_with_their_states_saved(pipeline, two_long_trainings):
    process = two_long_trainings
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == train.STOPPED, errors
    assert errors.count("rerun the same command to resume") == 2
    assert len(with_states(pipeline)) == 2
    assert not list(pipeline.paths.work.glob("experiments/x/*/checkpoints/mc3-0"))


def test_a_killed_training_does_not_hang_the_others(pipeline, two_long_trainings):
    process, children = two_long_trainings, psutil.Process(two_long_trainings.pid).children()
    next(child for child in children if "popen_loky_posix" in " ".join(child.cmdline())).kill()
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "mc3: one of 2 processes was killed" in errors.splitlines()[-1]
    assert with_states(pipeline)  # to continue from


def test_a_job_that_would_end_too_late_is_not_begun_and_the_exit_code_says_so(pipeline, monkeypatch, capsys):
    write("x", settings={"weight": {"2": {"loss.consensus_weight": 2.0}, "3": {"loss.consensus_weight": 3.0}}})
    monkeypatch.setattr(sweep, "_seconds", lambda config, trial: {"2": 1e-3, "3": 7200.0}[trial.setting])
    assert not sweep.run("x", pipeline, hours=1.0)
    assert pd.read_csv("figures/x/trials.csv")["setting"].tolist() == [2]
    assert "1 jobs did not fit into 1 hours: weight: 3, seed 0" in capsys.readouterr().out
    monkeypatch.setattr(sweep, "_seconds", lambda *arguments: 7200.0)
    with pytest.raises(DataError, match="nothing of the sweep x fits into 1 hours"):
        sweep.run("x", pipeline, hours=1.0)


def test_a_training_is_expected_to_take_what_its_arithmetic_and_epochs_say(profile):
    known = {"train mc3": 40.0, "train align": 50.0}
    assert sweep._step_seconds(profile, profile, "train", "mc3", known) == pytest.approx(40.0)
    twice = override(profile, {"train.epochs": {"pretrain": 10, "align": 10, "refine": 10}})
    assert sweep._step_seconds(profile, twice, "train", "align", known) == pytest.approx(100.0)
    assert sweep._step_seconds(profile, profile, "train", "wo_consensus", known) == pytest.approx(50.0)  # the slowest


def test_a_world_is_measured_on_its_own_clips_once_and_its_files_are_removed(repository, monkeypatch, capsys):
    tiny = config.build(Config, small_work.tiny(small_work.mini(Path("data/mini"))))
    Path("experiments").mkdir()
    base = {
        "world.videos": {"train": 4, "validation": 1, "test": 4}, "world.silent_videos": 1, "world.seconds": 30.0,
        "world.epic_events": {"train": 8, "validation": 8}, "train.epochs": {"align": 1, "refine": 1},
        "train.batch_size": 16, "train.warmup_steps": 1,
    }  # fmt: skip
    changes = {
        "methods": ["mc3", "wo_consensus"], "base": base, "measure": ["worlds"], "reference": "wo_consensus",
        "settings": {"world": {"on_screen 0.7": {"world.rates.on_screen": 0.7}}}, "keep": False,
    }  # fmt: skip
    write("study", seeds=[0], **changes)
    kept, whole = {}, measure.world

    def keep_scores(of: Config, names: list[str], seed: int) -> dict:
        for name in names:
            kept[name] = store.discovery_scores(of, name, seed)
        return whole(of, names, seed)

    monkeypatch.setattr(measure, "world", keep_scores)
    assert sweep.run("study", tiny)
    (row,) = pd.read_csv("figures/study/seeds.csv").to_dict("records")
    for pair in ("av", "al"):
        for name, scored in kept.items():
            assert row[f"{pair}_{name}"] == pytest.approx(roc_auc_score(scored["positive"], scored[pair]), abs=1e-5)
        assert row[f"{pair}_mc3_gap"] == pytest.approx(row[f"{pair}_mc3"] - row[f"{pair}_wo_consensus"], abs=2e-5)
        assert row[f"{pair}_mc3_gap_low"] <= row[f"{pair}_mc3_gap"] <= row[f"{pair}_mc3_gap_high"]
    assert (row["world"], row["on_screen"], row["videos"]) == ("on_screen 0.7", 0.7, 4)
    folder = tiny.paths.work / "experiments" / "study" / "world-on_screen-0.7"
    assert [path.name for path in folder.iterdir()] == ["results"]
    regions = pd.read_csv("figures/study/regions.csv")
    assert set(regions["checkpoint"]) == {methods.get(name).label for name in ("align", "mc3", "wo_consensus")}

    kept.clear()
    write("study", seeds=[0, 1], **changes)
    assert sweep.run("study", tiny)
    assert set(kept) == {"mc3", "wo_consensus"}  # of the second seed; the first is not measured again
    assert pd.read_csv("figures/study/seeds.csv")["seed"].tolist() == [0, 1]
    assert pd.read_csv("figures/study/seeds.csv").to_dict("records")[0] == row
    (over,) = pd.read_csv("figures/study/worlds.csv").to_dict("records")
    assert over["seeds"] == 2
    kept.clear()
    assert sweep.run("study", tiny)
    assert not kept
    assert "1 jobs, 1 finished before" in capsys.readouterr().out


def trials_of(scores: dict[str, list[float]], settings: tuple[str, ...] = ("",)) -> pd.DataFrame:
    """A row a method, setting and seed; both validation ROCs are the method's number of the seed."""
    return pd.DataFrame(
        {"group": "g", "setting": setting, "profile": setting == "", "method": method, "label": method.upper(),
         "seed": seed, "validation_av_roc": value + 0.01 * n, "validation_al_roc": value - 0.01 * n}
        for method, values in scores.items() for n, setting in enumerate(settings) for seed, value in enumerate(values)
    )  # fmt: skip


def test_a_difference_is_paired_by_seed_with_students_interval():
    scores = {"a": [0.5, 0.6, 0.7], "b": [0.55, 0.62, 0.78]}
    table = measure.summary(trials_of(scores), "a", choose=False).set_index("method")
    assert table.loc["a", ["difference", "low", "high"]].tolist() == [0, 0, 0]
    interval = ttest_1samp(np.subtract(scores["b"], scores["a"]), 0).confidence_interval(0.95)
    expected = [np.mean(scores["b"]) - np.mean(scores["a"]), interval.low, interval.high]
    assert table.loc["b", ["difference", "low", "high"]].tolist() == pytest.approx(expected)
    assert table.loc["b", "selection"] == pytest.approx(np.mean(scores["b"]))
    assert table.loc["b", "selection_std"] == pytest.approx(np.std(scores["b"], ddof=1))
    assert table["seeds"].tolist() == [3, 3]


def test_the_best_setting_of_each_method_is_chosen_the_first_of_equals_and_unequal_budgets_are_an_error():
    table = trials_of({"a": [0.5], "b": [0.6]}, ("", "1", "2"))
    table.loc[(table["method"] == "b") & (table["setting"] == "2"), "validation_av_roc"] += 0.1
    found = measure.summary(table, None, choose=True)
    assert found.loc[found["chosen"], ["method", "setting"]].to_numpy().tolist() == [["a", ""], ["b", "2"]]
    with pytest.raises(ValueError, match="different numbers of trials"):
        measure.summary(table.iloc[:-1], None, choose=True)


def test_a_chosen_setting_and_the_profiles_are_measured_on_test_and_no_other(pipeline, monkeypatch):
    write("x", measure=["validation", "test"], choose=True, align="shared",
          settings={"rate": {str(rate): {"train.learning_rate": rate} for rate in (2e-3, 1e-3, 4e-3)}})  # fmt: skip
    asked, embedded, embedding = [], [], embed.run

    def scores(of: Config, method: str, seed: int, kinds: list[str]) -> dict[str, float]:
        rate = of.train.learning_rate
        asked.append((rate, "test" in kinds))
        found = {"validation_av_roc": {2e-3: 0.5, 1e-3: 0.6, 4e-3: 0.7}[rate]}
        return found | ({"av_roc": 0.9} if "test" in kinds else {})

    monkeypatch.setattr(sweep, "_require_current", lambda *arguments: None)
    monkeypatch.setattr(measure, "scores", scores)
    monkeypatch.setattr(embed, "run", lambda of, *job: (embedded.append(of.train.learning_rate), embedding(of, *job)))
    assert sweep.run("x", pipeline)
    assert {rate for rate, test in asked if test} == {2e-3, 4e-3}
    assert embedded == [4e-3]
    table = pd.read_csv("figures/x/trials.csv")
    assert table["chosen"].tolist() == [False, False, True]
    assert table["av_roc"].notna().tolist() == [True, False, True]
