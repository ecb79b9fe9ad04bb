"""Intervals of paired differences have the width that theory gives, and are of the tables' own numbers."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
import small_work
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from scipy.integrate import quad
from scipy.stats import chi2, norm, t

from mc3 import config, evaluate, methods, store
from mc3.config import Config
from mc3.errors import DataError
from mc3.paper import bootstrap, priors, tables
from mc3.paper.tables import Cell

DRAWS = 1000


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A small work folder of two seeds, the second with every method's embeddings disturbed."""
    made = config.load(small_work.make(tmp_path_factory.mktemp("small")))
    rng = np.random.default_rng(1)
    for name in ("align", *methods.METHODS):
        found = load_file(made.paths.embeddings(name, 0))
        moved = {m: small_work.unit(points + 0.05 * rng.normal(size=points.shape)) for m, points in found.items()}
        store.write_tensors(made.paths.embeddings(name, 1), moved, {})
    for file in (made.paths.work / "probe").iterdir():
        file.with_stem("1").write_bytes(file.read_bytes())
    return dataclasses.replace(made, seeds=[0, 1])


@pytest.fixture(scope="module")
def measured(settings: Config) -> dict[str, bootstrap.Measured]:
    return bootstrap.measure(settings, draws=100)


def of_means(values: np.ndarray, videos: np.ndarray, draws: int = DRAWS) -> tuple[float, float, float]:
    """`contrast` of the mean of `values`, [seeds, N]."""
    weights = bootstrap.resamples(videos, draws)
    return bootstrap.contrast(values @ (weights / weights.sum(axis=1, keepdims=True)).T, len(set(videos)))


def delong(scores: np.ndarray, others: np.ndarray, labels: np.ndarray) -> float:
    """Standard error of the difference of two ROC areas on the same clips (DeLong et al., Biometrics 1988)."""
    parts = []
    for values in (scores, others):
        yes, no = values[labels == 1], values[labels == 0]
        wins = (yes[:, None] > no) + (yes[:, None] == no) / 2
        parts.append((wins.mean(axis=1), wins.mean(axis=0)))
    return np.sqrt(sum(np.var(a - b, ddof=1) / len(a) for a, b in zip(*parts, strict=True)))


def test_an_interval_of_two_roc_areas_difference_is_delongs() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 600)
    shared = rng.normal(size=600) + labels
    scores, others = (shared + s * rng.normal(size=600) for s in (0.7, 1.0))
    weights = bootstrap.resamples(np.arange(600), DRAWS)
    drawn = [evaluate.resampled_discovery(s, labels, weights)["roc"] for s in (scores, others)]
    value, low, high = bootstrap.contrast((drawn[0] - drawn[1])[None], 600)
    expected = [evaluate.discovery(s, labels)["roc"] for s in (scores, others)]
    assert value == pytest.approx(expected[0] - expected[1])
    assert high - low == pytest.approx(2 * 1.96 * delong(scores, others, labels), rel=0.08)
    unpaired = drawn[0][1:] - np.random.default_rng(1).permutation(drawn[1][1:])
    assert np.ptp(evaluate.interval(unpaired)) > 1.3 * (high - low)


def test_an_interval_of_a_mean_is_students_whether_clips_few_videos_or_seeds_vary_and_one_video_has_none() -> None:
    rng = np.random.default_rng(0)
    clips, by_video, videos = rng.normal(size=400), rng.normal(size=8), np.repeat(np.arange(8), 50)
    shifts = np.array([-0.3, -0.1, 0.0, 0.1, 0.3])
    cases = [
        (clips[None], np.arange(400), 1.96 / np.sqrt(400), 0.1),
        (np.stack([clips] * 5), np.arange(400), 1.96 / np.sqrt(400), 0.1),  # the same clips again are no more clips
        (by_video[videos][None], videos, t.ppf(0.975, 7) * by_video.std(ddof=1) / np.sqrt(8), 0.15),
        (shifts[:, None] + 0 * clips, np.arange(400), t.ppf(0.975, 4) * shifts.std(ddof=1) / np.sqrt(5), 0.15),
    ]
    for values, drawn, half, tolerance in cases:
        value, low, high = of_means(values, drawn)
        assert value == pytest.approx(values.mean())
        assert (high - low) / 2 == pytest.approx(half, rel=tolerance)
    _, low, high = of_means(shifts[:, None] + clips, np.arange(400))
    assert (high - low) / 2 > norm.ppf(0.975) * np.sqrt(1 / 400 + shifts.var(ddof=1) / 5)
    value, low, high = of_means(rng.normal(size=(2, 9)), np.zeros(9))
    assert np.isfinite(value)
    assert np.isnan([low, high]).all()


@pytest.mark.parametrize(("seeds", "spread"), [(1, 0.0), (3, 0.05), (3, 0.3), (5, 0.3)])
def test_95_percent_of_intervals_cover_the_true_difference(seeds: int, spread: float) -> None:
    rng = np.random.default_rng(seeds)
    videos = np.repeat(np.arange(20), 10)
    covered, times = 0, 300
    for _ in range(times):
        by_video, by_seed = 0.3 * rng.normal(size=20), spread * rng.normal(size=(seeds, 1))
        values = 0.2 + by_seed + by_video[videos] + rng.normal(size=(1, 200)) + 0.5 * rng.normal(size=(seeds, 200))
        _, low, high = of_means(values, videos, draws=200)
        covered += low <= 0.2 <= high
    assert 0.91 * times <= covered <= 0.99 * times


def test_the_same_row_twice_has_no_difference_and_no_width(settings: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(methods.METHODS, "twin", {**methods.METHODS["mc3"], "label": "Twin"})
    for seed in settings.seeds:
        settings.paths.embeddings("twin", seed).write_bytes(settings.paths.embeddings("mc3", seed).read_bytes())
    found = bootstrap.differences(bootstrap.measure(settings, draws=50)).set_index("method")
    assert (found.loc["twin", ["difference", "low", "high"]] == 0).all(axis=None)
    assert len(found.loc["twin"]) == 4 + 12


def test_a_video_is_drawn_with_all_its_clips() -> None:
    videos = np.array(["b", "a", "b", "c", "a", "a"])
    weights = bootstrap.resamples(videos, 200)
    assert (weights[0] == 1).all()
    counts = np.stack([weights[1:, videos == v][:, 0] for v in "abc"], axis=1)
    assert (weights[1:] == counts[:, ["abc".index(v) for v in videos]]).all()
    assert (counts.sum(axis=1) == 3).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(3), abs=0.2)


@given(st.integers(0, 10_000), st.booleans())
@hypothesis_settings(max_examples=25, deadline=None)
def test_classification_of_a_resample_is_that_of_the_rows_repeated(seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.choice(7, 40, p=[0.4, 0.2, 0.2, 0.1, 0.05, 0.03, 0.02])
    scores = rng.normal(size=(40, 8)) + 1.5 * np.eye(8)[labels]
    scores = (np.round(scores) if ties else scores).astype(np.float32)
    weights = bootstrap.resamples(np.arange(40), 6)
    found = bootstrap.classification(scores, labels, weights)
    for k, counts in enumerate(weights.astype(int)):
        rows = np.repeat(np.arange(40), counts)
        if len(set(labels[rows])) > 1:
            for metric, value in evaluate.classification(scores[rows], labels[rows]).items():
                assert found[metric][k] == pytest.approx(value, abs=1e-6), metric


def test_a_resample_of_one_class_has_no_areas_but_a_recall() -> None:
    found = bootstrap.classification(np.eye(2), np.array([0, 1]), np.array([[1, 1], [2, 0]], np.float32))
    assert found["mca"].tolist() == [1, 1]
    assert found["mauc"] == pytest.approx([1, np.nan], nan_ok=True)


def test_alike_counts_pairs_of_clips_of_different_videos() -> None:
    rng = np.random.default_rng(0)
    clusters, names, videos = rng.integers(0, 3, 12), rng.choice(["cut", "wash"], 12), np.arange(12) // 2
    weights = bootstrap.resamples(videos, 4)
    found = bootstrap.alike(clusters, names, videos, weights)
    for k, w in enumerate(weights):
        inside = same = every = pairs = 0.0
        for i, j in itertools.combinations(range(12), 2):
            weight = w[i] * w[j] * (videos[i] != videos[j])
            pairs += weight
            every += weight * (names[i] == names[j])
            inside += weight * (clusters[i] == clusters[j])
            same += weight * (clusters[i] == clusters[j] and names[i] == names[j])
        assert [part[k] for part in found] == pytest.approx([same / inside, every / pairs])


def test_pairs_of_clusters_that_ignore_the_background_agree_as_often_as_any_in_every_resample_on_average() -> None:
    rng = np.random.default_rng(0)
    videos = np.arange(600) // 10
    weights, scenario = bootstrap.resamples(videos, 400), videos % 3
    inside, every = bootstrap.alike(rng.integers(0, 5, 600), scenario, videos, weights)
    assert every[1:].mean() == pytest.approx(every[0], abs=0.01)  # no bias from videos that are drawn twice
    assert (inside - every)[1:].mean() == pytest.approx(0, abs=0.01)


def test_rates_of_verbs_are_counted_by_hand_and_mixed_verbs_have_a_tenth_of_each_label(settings, measured) -> None:
    cells, index = measured["table1"].cells, store.clips(settings)
    labelled = index[index["positive"].notna()]
    mixed = []
    for verb, part in labelled.groupby("verb"):
        sounding = sum(part["positive"] == 1)
        assert cells[Cell(str(verb), "sounding")][0, 0] == pytest.approx(sounding / len(part))
        mixed += [0.1 * len(part) <= sounding <= 0.9 * len(part)] * (len(part) >= 10)
    assert cells[Cell("verbs", "mixed")][0, 0] == pytest.approx(sum(mixed) / len(mixed))
    assert cells[Cell("clips", "sounding")][0, 0] == pytest.approx((labelled["positive"] == 1).mean())
    weights = bootstrap.resamples(labelled["video_uid"], 100)[7]
    drawn = labelled.loc[np.repeat(labelled.index, weights.astype(int))]
    cut = drawn.loc[drawn["verb"] == "cut", "positive"]
    assert cells[Cell("cut", "sounding")][0, 7] == pytest.approx(cut.astype(float).mean())


def test_a_deviation_over_seeds_has_the_interval_of_a_normal_samples_and_that_of_one_seed_none() -> None:
    values = np.array([0.61, 0.64, 0.6, 0.63])
    std = values.std(ddof=1)
    limits = [std * np.sqrt(3 / chi2.ppf(p, 3)) for p in (0.975, 0.025)]
    for seeds, expected in ((4, (std, *limits)), (1, (np.nan,) * 3)):
        cells = {Cell("mc3", "av_roc"): np.repeat(values[:seeds, None], 2001, axis=1)}
        found = bootstrap._deviation(bootstrap.Measured("clips", 9, 9, cells))
        interval = bootstrap.contrast(found.cells[Cell("mc3", "av_roc_std")], found.videos)
        assert interval == pytest.approx(expected, rel=0.01, nan_ok=True)


def test_ablations_are_compared_by_students_t_of_each_unless_made_with_other_settings(settings, tmp_path) -> None:
    file = small_work.ablations(tmp_path, settings, seeds=5) / "ablations" / "trials.csv"
    other = config.override(settings, {"loss.temperature": 0.5})
    assert not bootstrap._ablations(other, 10, file.parent).cells
    assert not bootstrap._ablations(settings, 10, tmp_path / "nowhere").cells
    found = bootstrap._ablations(settings, 20_000, file.parent)
    audio, video = (found.cells[Cell(f"anchor {name}", "av_roc")] for name in ("audio", "video"))
    interval = bootstrap.contrast(audio - video, found.videos)
    error = 0.001 / np.sqrt(5)
    assert interval[0] == pytest.approx(0.01)
    for limit, share in zip(interval[1:], (0.025, 0.975), strict=True):  # of two t variables' difference
        below = quad(lambda x, end: t.pdf(x, 4) * t.cdf(end + x, 4), -50, 50, args=((limit - 0.01) / error,))[0]
        assert below == pytest.approx(share, abs=0.005)
    single = bootstrap._ablations(settings, 10, small_work.ablations(tmp_path / "one", settings, 1) / "ablations")
    total = single.cells[Cell("anchor audio", "av_roc")] - single.cells[Cell("anchor video", "av_roc")]
    assert bootstrap.contrast(total, single.videos) == pytest.approx((0.01, np.nan, np.nan), nan_ok=True)


def test_the_first_column_is_what_the_tables_print_and_the_curves_show(settings: Config, measured) -> None:
    for name in ("table2", "table3", "table4"):
        printed = getattr(tables, name)(settings).to_dict("records")
        rows = {(row["method"], row.get("protocol", "")): row for row in printed}
        assert measured[name].cells
        for cell, values in measured[name].cells.items():
            assert values.shape == (2 - (cell.method in ("random", *priors.LABELS)), 101)
            assert values[:, 0].mean() == pytest.approx(rows[cell.method, cell.protocol][cell.metric], rel=1e-6), cell
    scored = store.discovery_scores(settings, "cmc", 0)
    curve = evaluate.pr_curve(scored["av"], scored["positive"])
    for recall in bootstrap.RECALLS:
        reached = curve.loc[curve["recall"] >= recall - 1e-9, "precision"].iloc[0]
        assert measured["figure5"].cells[Cell("cmc", f"av_p{round(100 * recall)}")][0, 0] == pytest.approx(reached)


def test_regions_and_clusters_follow_the_small_world(measured: dict[str, bootstrap.Measured]) -> None:
    cells = measured["figure2"].cells | measured["figure6"].cells
    means = {(cell.method, cell.metric): values[:, 0].mean() for cell, values in cells.items()}
    assert means["mc3", "av_mean_I"] > means["mc3", "av_mean_others"] + 0.1
    assert means["mc3", "al_roc_II"] > 0.8  # the text of region II points elsewhere
    assert abs(means["mc3", "av_roc_II"] - 0.5) < 0.15  # but not its sound and picture
    assert means["mc3", "same_verb"] > means["random", "same_verb"] + 0.05


def test_differences_cover_every_row_and_metric_and_name_their_sample(settings: Config, measured) -> None:
    found = bootstrap.differences(measured)
    assert set(found.loc[found["table"] == "table2", "method"]) == {"random", *methods.METHODS, *priors.LABELS} - {
        "mc3"
    }
    assert set(found.loc[found["table"] == "table4", "protocol"]) == {"linear-probe", "fine-tune"}
    pd.testing.assert_series_equal(found["difference"], found["mc3"] - found["other"], check_names=False)
    assert (found["low"] <= found["difference"]).mean() > 0.95
    note = bootstrap.note(found)
    assert "120 clips of 6 videos" in note
    assert note.endswith("and 2 seeds.")
    row = found[(found["method"] == "cmc") & (found["metric"] == "av_roc")].iloc[0]
    assert (Cell("cmc", "av_roc") in bootstrap.significant(found)) == (row["low"] > 0 or row["high"] < 0)
    single = bootstrap.measure(dataclasses.replace(settings, seeds=[0]), draws=10)
    assert "with one seed: they exclude what another seed would change" in bootstrap.note(bootstrap.differences(single))


def test_the_forest_has_the_papers_metrics_and_rows_in_order(measured: dict[str, bootstrap.Measured]) -> None:
    drawn = bootstrap.forest(bootstrap.differences(measured))
    assert list(dict.fromkeys(drawn["panel"])) == [
        "AV ROC", "AV PR", "AL ROC", "AL PR", "V→A @5", "A→V @5", "L→A @5", "A→L @5", "V→A @10", "A→V @10", "L→A @10",
        "A→L @10", "Top-1", "Top-5", "mCA", "mAP", "mAUC",
    ]  # fmt: skip
    rows = drawn[drawn["line"] == "table4"].sort_values("row")["label"]
    assert list(dict.fromkeys(rows))[:3] == ["SSAST, linear", "untrained, linear", "CLAP, linear"]
    assert "Random" not in set(drawn["label"])


def test_without_a_reference_row_there_are_no_differences(settings: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "METHODS", {name: entry for name, entry in methods.METHODS.items() if name != "mc3"})
    measured = bootstrap.measure(settings, draws=5)
    with pytest.raises(DataError, match=r'no row of METHODS .* has the role "reference"'):
        bootstrap.differences(measured)
