"""Ablations are settings that exist and share what they may share; tuning gives every method as many trials."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_work
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from mc3 import ablations, config, experiments, methods, train, trials, tune
from mc3.config import Config, ConfigError
from mc3.data import DataError

EVERY = [(name, setting) for name, settings in ablations.ABLATIONS.items() for setting in settings]


@pytest.fixture(scope="module")
def profile() -> Config:
    return config.load(ROOT / "profiles" / "mini.yaml")


@pytest.fixture
def pipeline(tmp_path, monkeypatch) -> Config:
    """A work folder with what trials link to, as the present folder's."""
    settings = config.load(small_work.make(tmp_path / "top"))
    (tmp_path / "top" / "requirements.lock").write_bytes((ROOT / "requirements.lock").read_bytes())
    monkeypatch.chdir(tmp_path / "top")
    return settings


def score(trial: Config, method: str, seed: int) -> dict[str, float]:
    """Numbers that a trial's settings decide, those of a perfect learning rate of 3e-3 being highest."""
    far = abs(np.log(trial.train.learning_rate / 3e-3)) + 0.01 * seed + 0.1 * abs(np.log(trial.loss.temperature / 0.05))
    known = methods.get(method).modalities
    pairs = {"av_roc": {"audio", "video"}, "al_roc": {"audio", "text"}}
    return {name: 0.9 - 0.05 * far for name, pair in pairs.items() if pair <= set(known)}


@pytest.mark.parametrize(("name", "setting"), EVERY)
def test_every_setting_of_an_ablation_is_a_profile_that_fits_together(profile, name, setting):
    trial = trials.changed(profile, ablations.ABLATIONS[name][setting])
    train.check(trial.train)
    assert trial.clips.frames == trial.model.video.frames
    samples = round((trial.clips.before_sec + trial.clips.after_sec) * trial.clips.sample_rate)
    assert trial.model.audio.length == 1 + (samples - 400) // 160  # 25 ms windows every 10 ms
    consensus = trial.loss.consensus
    assert {"audio", "video", "text"} - {consensus.anchor} <= set(consensus.alpha)


def test_each_ablation_has_the_profiles_own_setting_once_and_it_is_the_pipelines_training(pipeline):
    (pipeline.paths.work / "checkpoints" / "align-0" / "final").mkdir(parents=True)
    for name, settings in ablations.ABLATIONS.items():
        folders = [ablations.placed(pipeline, changes, 0).paths.work for changes in settings.values()]
        assert folders.count(pipeline.paths.work) == 1, name
        assert len(set(folders)) == len(folders), name


@pytest.mark.parametrize(
    ("name", "cut", "align"),
    [("anchor", False, False), ("alpha", False, False), ("reading", False, False), ("weight", False, False),
     ("temperature", False, True), ("duration", True, True), ("frames", True, True)],
)  # fmt: skip
def test_clips_and_align_stage_are_made_anew_where_the_setting_decides_them(name, cut, align):
    for changes in ablations.ABLATIONS[name].values():
        assert ablations.needs(changes) == (cut, align)


def test_the_papers_choices_are_among_the_settings():
    """Sec. 4.2: audio is the anchor, alpha_v .5 and alpha_l 1; Sec. 5: clips of 1.5 s; EgoVLP: 4 frames."""
    assert {"anchor": "audio", "alpha": "video 0.5, text 1", "duration": "1.5 s", "frames": "4"}.items() <= {
        name: setting for name, setting in EVERY if setting in ("audio", "video 0.5, text 1", "1.5 s", "4")
    }.items()


def test_a_table_of_ablations_keeps_what_was_measured_before_and_is_whole_with_a_figure(pipeline, monkeypatch, capsys):
    def scored(trial, seed):
        return {"validation_av_roc": 0.5, "validation_al_roc": 0.5, **score(trial, "mc3", seed), "v2a_r1": 1.0}

    (pipeline.paths.work / "checkpoints" / "align-0" / "final").mkdir(parents=True)
    monkeypatch.setattr(trials, "require", lambda *arguments: None)
    trained: list[tuple[str, float]] = []
    monkeypatch.setattr(ablations, "scores", scored)
    monkeypatch.setattr(
        trials, "embedded", lambda t, *rest: trained.append((t.loss.consensus.anchor, t.loss.consensus_weight))
    )
    monkeypatch.setattr(trials, "trained", lambda *arguments: None)
    ablations.run(pipeline, ["weight"])
    table = ablations.run(pipeline, ["anchor"])
    assert trained == [("audio", w) for w in (0, 0.5, 1, 2, 10)] + [
        ("video", 5),
        ("text", 5),
    ]  # the rest is the pipeline's
    read = pd.read_csv("figures/ablations.csv", dtype={"setting": str})
    assert list(dict.fromkeys(read["ablation"])) == ["anchor", "weight"]
    assert read["setting"].tolist() == [*ablations.ABLATIONS["anchor"], *ablations.ABLATIONS["weight"]]
    assert table["profile"].sum() == 2
    assert "about" in capsys.readouterr().out


def test_an_ablation_that_is_none_is_refused_with_the_known_ones(profile):
    with pytest.raises(ConfigError, match=r"no ablation 'ancor'; known: anchor, alpha"):
        ablations.run(profile, ["ancor"])


@given(count=st.integers(1, 9))
def test_every_method_gets_the_same_number_of_trials_and_the_same_learning_rates(count):
    profile = config.load(ROOT / "profiles" / "mini.yaml")
    drawn = {name: tune.settings(profile, name, count) for name in methods.METHODS}
    assert {len(found) for found in drawn.values()} == {count}
    rates = {tuple(trial.get("train.learning_rate") for trial in found) for found in drawn.values()}
    assert len(rates) == 1
    for name, found in drawn.items():  # no trial is spent on settings that were tried
        values = [{place: tune.usual(profile)[place] for place in tune.space(name)} | trial for trial in found]
        assert len({str(trial) for trial in values}) == count


def test_what_is_tuned_changes_the_method_and_stays_within_its_factor(profile):
    usual = {"train.learning_rate": profile.train.learning_rate, "loss.temperature": profile.loss.temperature,
             "loss.consensus_weight": profile.loss.consensus_weight}  # fmt: skip
    for name in methods.METHODS:
        recipe = methods.get(name)
        for place, value in itertools.chain(*(trial.items() for trial in tune.settings(profile, name, 30))):
            assert 1 / tune.SPACE[place] <= value / usual[place] <= tune.SPACE[place]
        fixed = all(stage.temperature is not None or not stage.contrastive for stage in recipe.stages)
        assert ("loss.temperature" in tune.space(name)) != fixed
        assert "loss.consensus_weight" not in tune.space(name) or any(stage.consensus for stage in recipe.stages)


def test_tuning_chooses_on_validation_and_scores_only_the_chosen_and_the_profiles_on_test(
    pipeline, monkeypatch, capsys
):
    tested: list[tuple[str, float]] = []

    def tests(trial, method, seed):
        tested.append((method, trial.train.learning_rate))
        return {name: value - 0.1 for name, value in score(trial, method, seed).items()}

    (pipeline.paths.work / "checkpoints" / "align-0" / "final").mkdir(parents=True)
    monkeypatch.setattr(trials, "validation", score)
    trained: list[tuple[str, Path]] = []
    monkeypatch.setattr(trials, "require", lambda *arguments: None)
    monkeypatch.setattr(trials, "trained", lambda trial, method, seed: trained.append((method, trial.paths.work)))
    monkeypatch.setattr(trials, "embedded", lambda *arguments: None)
    monkeypatch.setattr(trials, "discovery", tests)
    table = tune.run(pipeline, 4)
    assert table.groupby("method").size().to_dict() == dict.fromkeys(methods.METHODS, 4)
    assert table.groupby("method")["chosen"].sum().eq(1).all()
    for _, rows in table.groupby("method"):
        assert rows["mean"].max() == rows.loc[rows["chosen"], "mean"].item()
        tests_of = rows[["test_av_roc", "test_al_roc"]].notna().any(axis=1)
        assert tests_of.equals(rows["chosen"] | (rows["trial"] == 0))
    assert len(tested) == sum(table["chosen"] | (table["trial"] == 0))
    assert len(set(trained)) == len(trained) == 3 * len(methods.METHODS)  # the first is the pipeline's own training
    assert pipeline.paths.work not in {folder for _, folder in trained}
    assert pd.read_csv("figures/tuning.csv")["trial"].tolist() == table["trial"].tolist()


def test_unequal_budgets_are_an_error_and_not_a_table():
    rows = [{"method": m, "label": m, "trial": t, "seed": 0, "av_roc": 0.5} for m, t in (("a", 0), ("a", 1), ("b", 0))]
    with pytest.raises(ValueError, match="different numbers of trials"):
        tune.chosen(pd.DataFrame(rows))


def test_the_figure_of_ablations_has_a_panel_each_with_every_setting():
    rows = [{"ablation": n, "setting": s, "profile": False, "seed": 0, "av_roc": 0.5, "al_roc": 0.6} for n, s in EVERY]
    figure = experiments.ablations(pd.DataFrame(rows))
    shown = {
        ax.get_title(): [tick.get_text() for tick in ax.get_yticklabels()] for ax in figure.axes if ax.get_visible()
    }
    assert shown == {name: list(settings) for name, settings in ablations.ABLATIONS.items()}


def test_the_words_on_ablations_name_the_ranges_and_the_best_settings_over_seeds():
    rows = [
        {"ablation": "weight", "setting": setting, "profile": setting == "5", "seed": seed, "av_roc": av, "al_roc": al}
        for setting, av, al in (("1", 0.5, 0.8), ("5", 0.6, 0.7), ("10", 0.6, 0.75))
        for seed in (0, 1)
    ]
    rows[0]["av_roc"] = 0.7  # 1 on seed 0: the mean of 0.7 and 0.5 is as high as the others'
    told = experiments.ablations_told(pd.DataFrame(rows))
    assert told == (
        "weight: AV ROC 0.600 to 0.600, highest with 1 or 5 or 10 (the profile's); "
        "AL ROC 0.700 to 0.800, highest with 1."
    )
    alone = experiments.ablations_told(pd.DataFrame(rows[1::2]))
    assert alone.endswith("With one seed, settings close to each other are not told apart.")


def test_the_words_on_tuning_order_methods_by_what_their_chosen_trial_has_on_test():
    columns = ("method", "label", "trial", "chosen", "test_av_roc", "test_al_roc")
    rows = [("a", "A", 0, False, 0.61, 0.8), ("a", "A", 1, True, 0.65, 0.7), ("b", "B", 0, True, 0.7, np.nan),
            ("b", "B", 1, False, np.nan, np.nan)]  # fmt: skip
    assert experiments.tuning_told(pd.DataFrame(rows, columns=columns)) == (
        "2 trials each. AV ROC on test, tuned (and with the profile's settings): B 0.700 (0.700), A 0.650 (0.610). "
        "AL ROC on test, tuned (and with the profile's settings): A 0.700 (0.800)."
    )


def test_objectives_are_compared_by_paired_differences_over_seeds_and_the_best_comes_first():
    rng, rows = np.random.default_rng(0), []
    for seed, level in enumerate(rng.normal(0.7, 0.1, 5)):
        for name, shift in (("mc3", 0.0), ("peers", 0.05), ("relative", -0.04), ("peers_equal", 0.0)):
            mean = level + shift + 0.01 * rng.normal()
            rows.append({"objective": name, "label": name, "seed": seed, "av_roc": mean, "al_roc": mean, "mean": mean})
    each = pd.DataFrame(rows)
    table = tune.compared(each).set_index("objective")
    assert table.index[0] == "peers"
    wide = each.pivot(index="seed", columns="objective", values="mean")
    for name in ("peers", "relative", "peers_equal"):
        expected = ttest_rel(wide[name], wide["mc3"]).confidence_interval()
        assert table.loc[name, ["low", "high"]].tolist() == pytest.approx(list(expected))
        assert table.loc[name, "mean_std"] == pytest.approx(wide[name].std(ddof=1))
    assert table.loc["mc3", ["difference", "low", "high"]].tolist() == [0, 0, 0]
    said = experiments.objectives_told(table.reset_index())
    assert said.startswith("Best on validation over 5 seeds: peers, +0.0")
    assert said.endswith("; below MC3: relative; not to be told from MC3: peers_equal.")
    alone = experiments.objectives_told(table.loc[["mc3"]].reset_index())
    assert alone == "Best on validation over 5 seeds: mc3."


def test_objectives_without_the_seeds_rows_say_what_makes_them(pipeline, monkeypatch):
    monkeypatch.setattr(trials, "require", lambda *arguments: None)
    monkeypatch.setattr(trials, "place", lambda settings, folder, shared: settings)
    with pytest.raises(DataError, match=r"align-1 is missing .*; `mc3 seeds --seeds 0 1` trains it"):
        tune.objectives(pipeline, [0, 1])
