"""The study: a point is one world with one or two rates changed, and its numbers are of that world's test clips."""

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import ROOT
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from mc3 import config, embed, experiments, study, trials
from mc3.config import Config, ConfigError
from mc3.data import DataError
from mc3.data.world import plan

TINY = {
    "world.videos": {"train": 4, "validation": 1, "test": 3},
    "world.silent_videos": 0,
    "world.epic_events": {"train": 8, "validation": 8},
    "world.seconds": 20.0,
    "train.epochs": {"align": 1, "refine": 1},
    "train.batch_size": 16,
}


@pytest.fixture
def profile() -> Config:
    return config.load(ROOT / "profiles" / "mini.yaml")


@pytest.fixture
def tiny(repository, monkeypatch) -> Config:
    """The profile with narrow encoders, and points of seconds."""
    monkeypatch.setattr(study, "SIZE", TINY)
    settings = yaml.safe_load((repository / "params.yaml").read_text())
    settings["model"]["embedding_dim"] = 16
    for encoder in ("audio", "video", "text"):
        settings["model"][encoder] |= {"dim": 16, "depth": 1, "heads": 2}
    for group in ("world", "clips"):
        settings[group]["workers"] = 1
    settings["train"]["threads"] = 1
    return config.build(Config, settings)


def gaps(levels: list[dict[str, float]]) -> pd.DataFrame:
    """A table as `run` writes it, with a gap that grows with on_screen."""
    usual = {**config.as_dict(config.load(ROOT / "profiles" / "mini.yaml").world.rates), "videos": 48}
    usual = {axis: usual[axis] for axis in study.AXES}
    rows = []
    for point in levels:
        for seed in (0, 1):
            size = 0.1 * point.get("on_screen", 0.35) + 0.01 * seed
            numbers = {f"{p}_gap{end}": size + shift for p in ("av", "al") for end, shift in
                       (("", 0), ("_low", -0.02), ("_high", 0.02))}  # fmt: skip
            numbers |= {"av_peers_gap": 2 * size, "al_peers_gap": 0.0}
            rows.append({"point": study.label(point), **usual, **point, "seed": seed, **numbers})
    return pd.DataFrame(rows)


def test_the_points_are_the_profile_each_rate_alone_and_the_pairs_without_repetition(profile):
    found = study.points()
    assert found[0] == {}
    assert len({study.label(levels) for levels in found}) == len(found)
    assert {len(levels) for levels in found} == {0, 1, 2}
    assert {tuple(levels) for levels in found if len(levels) == 2} == set(study.PAIRS)
    for levels in found:
        for axis, value in levels.items():
            assert value in study.AXES[axis]


def test_a_point_differs_from_the_first_in_its_rates_alone(profile):
    first = study.configured(profile, {})
    for levels in study.points():
        point = study.configured(profile, levels)
        undone = {f"world.rates.{axis}": getattr(first.world.rates, axis) for axis in levels if axis != "videos"}
        if "videos" in levels:
            undone |= {"world.videos": first.world.videos, "train.epochs": first.train.epochs}
        assert trials.changed(point, undone) == first


def test_more_videos_are_trained_for_as_many_steps(profile):
    def steps(point: Config) -> int:
        clips = sum(len(plan.video_plan(point.world, "train", n).narrations) for n in range(6)) / 6
        return round(point.world.videos["train"] * clips * sum(point.train.epochs.values()))

    first = steps(study.configured(profile, {}))
    for videos in study.AXES["videos"]:
        assert steps(study.configured(profile, {"videos": videos})) == first


@pytest.mark.parametrize(
    ("axis", "level", "measured", "low", "high"),
    [
        ("on_screen", 0.0, "II", 0.0, 0.0),
        ("on_screen", 0.7, "II", 0.2, 0.5),
        ("unseen", 0.0, "none", 0.0, 0.03),
        ("unseen", 0.5, "IV", 0.1, 0.3),
        ("sounding", 0.5, "I", 0.2, 0.35),
        ("sounding", 1.4, "I", 0.65, 0.85),
    ],
)
def test_a_rate_changes_the_share_of_its_region(profile, axis, level, measured, low, high):
    point = study.configured(profile, {axis: level})
    actions = [action for video in plan.plan(point.world) for action in video.actions if action.actor == "C"]
    assert low <= np.mean([action.region == measured for action in actions]) <= high


def test_wrong_narrations_are_of_training_clips_alone_and_leave_all_else_as_it_was(profile):
    usual, noisy = (study.configured(profile, levels).world for levels in ({}, {"misnarrated": 0.5}))
    pairs = list(zip(plan.plan(usual), plan.plan(noisy), strict=True))
    changed = {split: [] for split in ("train", "validation", "test")}
    for before, after in pairs:
        assert before.actions == after.actions
        assert [(n.time, n.votes, n.action) for n in before.narrations] == [
            (n.time, n.votes, n.action) for n in after.narrations
        ]
        named = zip(before.narrations, after.narrations, strict=True)
        changed[before.split] += [one.text != two.text for one, two in named if one.action is not None]
    assert not any(changed["validation"] + changed["test"])
    assert 0.42 < np.mean(changed["train"]) < 0.52  # half, less those that say the same by chance


def test_louder_actions_are_louder_by_as_many_decibels(profile):
    usual, loud = (study.configured(profile, levels).world for levels in ({}, {"signal_db": 6.0}))
    for before, after in zip(plan.plan(usual)[:5], plan.plan(loud)[:5], strict=True):
        assert [a.level + 6.0 for a in before.actions] == pytest.approx([a.level for a in after.actions])


def test_a_point_measures_the_gap_on_its_own_clips_and_is_not_measured_twice(tiny, monkeypatch, capsys):
    kept: dict[str, Config] = {}
    monkeypatch.setattr(study.shutil, "rmtree", lambda folder, *rest, **more: None)
    whole = study.areas
    monkeypatch.setattr(study, "areas", lambda point, seed: kept.setdefault("point", point) and whole(point, seed))
    drawn = experiments.study(gaps([{}, {"on_screen": 0.7}]))
    monkeypatch.setattr(experiments, "study", lambda table: drawn)  # which takes more than one point
    table = study.run(tiny, 1.0, [0], [{"on_screen": 0.7}])
    point, (row,) = kept["point"], table.to_dict("records")
    index = embed.clips(point)
    rows = index[(index["split"] == "test") & index["positive"].notna()]
    for pair, other in (("av", "video"), ("al", "text")):
        for column, method in study.COMPARED.items():
            found = embed.read(point, method, 0)[1]
            cosine = (found["audio"] * found[other]).sum(axis=1)[rows.index]
            assert row[f"{pair}_{column}"] == pytest.approx(roc_auc_score(rows["positive"].astype(int), cosine))
        assert row[f"{pair}_gap"] == pytest.approx(row[f"{pair}_mc3"] - row[f"{pair}_without"])
        assert row[f"{pair}_peers_gap"] == pytest.approx(row[f"{pair}_peers"] - row[f"{pair}_without"])
        assert row[f"{pair}_gap_low"] <= row[f"{pair}_gap"] <= row[f"{pair}_gap_high"]
    assert row["on_screen"] == 0.7
    assert row["clips"] == len(rows)
    (whole_point,) = pd.read_csv("figures/study_points.csv").to_dict("records")
    assert whole_point["seeds"] == 1
    assert whole_point["av_gap_low"] == pytest.approx(row["av_gap_low"], abs=1e-5)
    regions = pd.read_csv("figures/study_regions.csv")
    assert set(regions["checkpoint"]) == {"align stage", "w/o consensus", "MC3", "Peers (not the paper's)"}

    measure, asked = study.measure, []
    monkeypatch.setattr(study, "measure", lambda config, seed: (asked.append(seed), measure(config, seed))[1])
    pd.testing.assert_frame_equal(study.run(tiny, 1.0, [0], [{"on_screen": 0.7}]), table)
    assert "1 done before" in capsys.readouterr().out
    both = study.run(tiny, 1.0, [0, 1], [{"on_screen": 0.7}])
    assert asked == [1]
    pd.testing.assert_frame_equal(both[both["seed"] == 0], table)
    (over,) = pd.read_csv("figures/study_points.csv").to_dict("records")
    assert over["seeds"] == 2
    assert over["av_mc3"] == pytest.approx(both["av_mc3"].mean(), abs=1e-5)
    assert set(pd.read_csv("figures/study_regions.csv")["seed"]) == {0, 1}


def test_hours_that_suffice_for_some_seeds_alone_are_said(tiny, monkeypatch, capsys):
    world = {"clips": 9, "prevalence": 0.5, "videos": 3}
    areas = {f"{pair}_{name}": [0.5, 0.4, 0.6] for pair in ("av", "al") for name in study.COMPARED}
    monkeypatch.setattr(study, "make_clips", lambda point: None)
    monkeypatch.setattr(study, "measure", lambda point, seed: {"world": world, "areas": areas, "regions": []})
    for name in ("study", "study_regions"):
        monkeypatch.setattr(experiments, name, lambda table: Figure())
    study.run(tiny, 1.0, [0], [{"on_screen": 0.7}])
    table = study.run(tiny, 0.01, [0, 1], [{"on_screen": 0.7}, {"on_screen": 0.0}])
    assert table["seed"].tolist() == [0]
    assert "2 points did not fit into 0.01 hours: on_screen 0.7; on_screen 0" in capsys.readouterr().out


def test_points_that_do_not_fit_the_hours_are_named_and_none_at_all_is_an_error(tiny):
    with pytest.raises(DataError, match=r"no point fits into 0.001 hours"):
        study.run(tiny, 0.001)


def test_a_profile_without_a_world_has_no_study():
    with pytest.raises(ConfigError, match="has no `world` to vary"):
        study.configured(config.load(ROOT / "profiles" / "ego4d.yaml"), {})


def test_the_figure_draws_each_rate_and_each_pair():
    figure = experiments.study(gaps(study.points()))
    curves = [ax.get_xlabel() for ax in figure.subfigs[0].axes if ax.get_visible()]
    assert curves == [experiments.RATES[axis] for axis in study.AXES]
    assert [ax.get_title() for ax in figure.subfigs[1].axes] == ["AV gap, MC3", "AL gap, MC3"] * len(study.PAIRS)
    heat = figure.subfigs[1].axes[0]
    shown = [text.get_text() for text in heat.texts]
    assert shown == [f"{0.1 * x + 0.005:+.3f}" for _ in range(3) for x in (0.0, 0.35, 0.7)]


def test_the_words_count_the_worlds_and_name_the_rate_that_matters_most():
    points = gaps([{}, {"on_screen": 0.0}, {"on_screen": 0.7}, {"unseen": 0.5}])
    points = points[points["seed"] == 0].rename(columns={"seed": "seeds"}).assign(prevalence=0.5)
    for pair in ("av", "al"):
        for end, shift in (("_low", -0.05), ("_high", 0.05)):
            points[f"{pair}_peers_gap{end}"] = points[f"{pair}_peers_gap"] + shift
    told = experiments.study_told(points)
    assert (
        "MC3 is above w/o consensus in AV ROC in 3 of 4 worlds (its interval in 3), and its interval is below in 0"
        in told
    )
    assert "Peers is above w/o consensus in AL ROC in 0 of 4 worlds (its interval in 0)" in told
    assert (
        "changes most with on-screen source (0: +0.000, 0.35: +0.035, 0.7: +0.070) and least with actions not seen"
        in told
    )
    shown = experiments.study_cells(points)
    assert shown["World"].tolist() == points["point"].tolist()
    assert shown["MC3, AV ROC"].iloc[0] == "+0.035 [+0.015, +0.055]"
    assert shown["Peers, AV ROC"].iloc[0] == "+0.070 [+0.020, +0.120]"
