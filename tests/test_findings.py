"""The figures' data equal the files' content: against a world whose order is known and against brute force."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from mc3 import config, evaluate, store
from mc3.config import Config
from mc3.errors import ConfigError, DataError
from mc3.paper import findings, priors


@pytest.fixture(scope="module")
def index(small: Config) -> pd.DataFrame:
    return findings.clips(small)


def test_a_clips_region_is_the_worlds_and_without_a_truth_file_labels_tell_region_one_from_the_rest(small, index):
    truth = pd.read_csv(small.paths.raw / "truth.csv")
    joined = index.merge(truth, on=["video_uid", "narration_time"], suffixes=("", "_true"))
    assert len(joined) == len(index)
    assert (joined["region"] == joined["region_true"]).all()
    blind = findings.clips(config.override(small, {"paths.raw": str(small.paths.work)}))
    assert (blind["region"] == blind["positive"].map({1: "I", 0: "II-IV"})).all()


def test_long_tail_counts_every_sounding_clip_with_a_group_once(index: pd.DataFrame) -> None:
    counts = findings.long_tail(index)
    assert counts["count"].sum() == ((index["positive"] == 1) & (index["action_group"] != "")).sum()
    assert counts["count"].is_monotonic_decreasing
    assert counts["action_group"].is_unique


def test_sounding_rates_stand_in_the_papers_order_beside_the_papers(index: pd.DataFrame) -> None:
    rates = findings.sounding_rates(index).set_index("verb")
    assert rates.index[:3].tolist() == ["wash", "close", "cut"]
    assert rates.at["wash", "paper"] == 0.90
    clips = index[(index["verb"] == "wash") & index["positive"].notna()]
    assert rates.at["wash", "sounding_rate"] == clips["positive"].sum() / len(clips)


@pytest.mark.parametrize(
    ("label", "expected"),
    [("cut_(trim,_slice,_chop)", "cut"), ("turn_on_(switch_on,_start)", "turn on"),
     ("wash_(rinse,_wash) plate_(dish)", "wash plate"), ("", "")],
)  # fmt: skip
def test_a_taxonomy_label_is_shown_without_its_synonyms(label: str, expected: str) -> None:
    assert priors.short(label) == expected


def test_real_taxonomies_keep_their_groups_apart_when_shortened(shared_data: Path) -> None:
    for name in ("verb", "noun"):
        labels = pd.read_csv(shared_data / f"annotations/ego4d/narration_{name}_taxonomy.csv")["label"]
        assert labels.map(priors.short).str.len().gt(0).all()
        assert labels.map(priors.short).nunique() > 0.98 * len(labels)


def test_curves_reach_each_recall_with_the_precision_of_the_highest_threshold(small: Config, index) -> None:
    curves, prevalence = findings.curves(small, 0, points=20)
    test = ((index["split"] == "test") & index["positive"].notna()).to_numpy()
    labels = index.loc[test, "positive"].to_numpy(dtype=int)
    found = store.embeddings(small, "mc3", 0)
    scores = (found["audio"] * found["video"]).sum(axis=1)[test]
    expected = []
    for recall in np.arange(1, 21) / 20:
        threshold = max(t for t in scores if labels[scores >= t].sum() >= recall * labels.sum() - 1e-9)
        expected.append(labels[scores >= threshold].mean())
    ours = curves[(curves["pair"] == "AV") & (curves["method"] == "MC3")]["precision"]
    np.testing.assert_allclose(ours, expected)
    assert prevalence["AV"] == pytest.approx(labels.mean())
    assert set(curves.loc[curves["pair"] == "AV", "method"]).isdisjoint({"CLAP"})


def test_the_pair_that_disagrees_in_a_region_is_the_less_similar_one_there(small: Config) -> None:
    table = findings.by_region(findings.similarities(small, 0))
    means = table[table["checkpoint"] == "MC3"].pivot_table(index="region", columns="pair", values="mean")
    assert means.loc["I"].min() > 0.3
    assert means.loc["II"].idxmax() == "audio-video"  # the text is elsewhere
    assert means.loc["III"].idxmax() == "video-text"  # the audio is elsewhere
    assert means.loc["IV"].idxmax() == "audio-text"  # the video is elsewhere


def test_the_area_of_a_region_is_the_chance_that_region_one_is_more_similar(small: Config) -> None:
    points = findings.similarities(small, 0, ["mc3"])
    table = findings.by_region(points).set_index(["pair", "region"])
    first, second = (points.loc[points["region"] == region, "av"].to_numpy() for region in ("I", "III"))
    wins = (first[:, None] > second).mean() + 0.5 * (first[:, None] == second).mean()
    assert table.at[("audio-video", "III"), "roc"] == pytest.approx(wins)
    assert table.at[("audio-video", "I"), "roc"] == pytest.approx(0.5)


def test_agreement_is_the_mean_gap_and_the_smaller_similarity(small: Config) -> None:
    points = findings.similarities(small, 0, ["align"])
    row = findings.agreement(points).set_index("region").loc["II"]
    pairs = points.loc[points["region"] == "II", ["av", "al"]].to_numpy()
    assert row["gap"] == pytest.approx(np.mean([abs(v - t) for v, t in pairs]))
    assert row["consensus"] == pytest.approx(np.mean([min(pair) for pair in pairs]))
    found = store.embeddings(small, "align", 0)
    test = (findings.clips(small)["split"] == "test").to_numpy()
    everything = findings.agreement(points).set_index("region").loc["all"]
    assert everything["n"] == test.sum()
    for pair, (a, b) in {"av": ("audio", "video"), "al": ("audio", "text"), "vl": ("video", "text")}.items():
        cosines = [u @ v for u, v in zip(found[a][test], found[b][test], strict=True)]
        assert everything[pair] == pytest.approx(np.mean(cosines))


@pytest.mark.parametrize(("video", "text"), [(0.5, 1.0), (1.0, 1.0), (2.0, 1.0), (0.25, 2.0)])
def test_the_line_of_figure_3_is_where_the_consensus_loss_is_zero_in_closed_form(small, video: float, text: float):
    def line(inverse: str) -> pd.DataFrame:
        changes = {"loss.consensus.inverse": inverse, "loss.consensus.alpha": {"video": video, "text": text}}
        return findings.zero_loss(config.override(small, changes))

    step = 2 / 800
    np.testing.assert_allclose(line("minimum")["av"], line("minimum")["al"])
    own = line("own")  # K_video(av) = K_text(al)
    np.testing.assert_allclose(own["av"], 2 * ((own["al"] + 1) / 2) ** (text / video) - 1, atol=step)
    linear = line("linear")
    zero = linear["av"].notna()
    if max(video, text) == 1:  # of equal similarities the larger exponent gives the minimum, here y = (x + 1) / 2
        np.testing.assert_allclose(linear["av"], linear["al"], atol=step)
    else:  # only at the ends is 2y - 1 the similarity whose K is y
        assert linear["al"][zero].abs().min() > 1 - 3 * step
    changes = {"loss.consensus.anchor": "video", "loss.consensus.alpha": {"audio": 1.0, "text": 1.0}}
    assert findings.zero_loss(config.override(small, changes))["av"].isna().all()


def test_cluster_members_are_its_test_clips_nearest_first_and_purest_median_and_least_pure_are_shown(small, index):
    members, video = findings.clusters(small, "mc3", 0, top=4), store.embeddings(small, "mc3", 0)["video"]
    assert set(index.loc[members["row"], "split"]) == {"test"}
    assert members.groupby("cluster")["row"].nunique().eq(members.groupby("cluster").size()).all()
    assert members.drop_duplicates("cluster")["size"].sum() == (index["split"] == "test").sum()
    assert (index.loc[members["row"], "clip_id"].to_numpy() == members["clip_id"]).all()
    test = np.flatnonzero(index["split"] == "test")
    labels = evaluate.clusters(video[test], small.evaluate.clusters)
    for cluster, part in members.groupby("cluster"):
        assert part["title"].iloc[0].startswith(f"Cluster {cluster}: {(labels == cluster).sum()} clips, ")
        centre = video[test[labels == cluster]].mean(axis=0)
        distance = np.linalg.norm(video[part["row"]] - centre, axis=1)
        assert (np.diff(distance) > -1e-6).all()
    purity = members.drop_duplicates("cluster")["purity"]
    shown = findings.purest_median_and_least(members).drop_duplicates("cluster")["purity"].tolist()
    assert shown == [purity.max(), purity.median(), purity.min()]


def test_figure_7_of_a_row_without_a_modality_is_refused_with_the_rows_that_have_all(small: Config) -> None:
    with pytest.raises(ConfigError, match=r"^clap has no video, which Figure 7 compares; rows with all .*: .*\bmc3\b"):
        findings.retrieved(small, "clap", 0)


def test_retrieved_clips_are_the_pools_best_and_marked_by_group(small: Config, index: pd.DataFrame) -> None:
    examples, found = findings.retrieved(small, "mc3", 0), store.embeddings(small, "mc3", 0)
    for row in examples.itertuples():
        query, got = index.loc[row.query], index.loc[row.retrieved]
        assert row.correct == (query["action_group"] == got["action_group"])
        assert query["positive"] == got["positive"] == 1
        assert (query["clip_id"], got["clip_id"]) == (row.query_clip, row.retrieved_clip)
    for (direction, query), part in examples.groupby(["direction", "query"]):
        source, target = direction.split(" → ")
        similarity = found[target][part["retrieved"]] @ found[source][query]
        assert (np.diff(similarity) < 1e-6).all()
        assert part["correct"].any() == (part["first_correct"].iloc[0] <= 3)


def test_class_results_have_every_class_and_average_to_table_4(small: Config) -> None:
    table = findings.class_results(small, 0)
    scores = load_file(small.paths.work / "probe" / "0.safetensors")
    one = table[table["probe"] == "MC3, linear-probe"]
    assert one["class_id"].tolist() == list(range(44))
    assert one["n"].tolist() == np.bincount(scores["labels"], minlength=44).tolist()
    assert one["train"].sum() == 60
    assert one["name"].tolist() == [f"sound {c} / <b>" for c in range(44)]
    known = one[one["n"] > 0].iloc[0]
    predicted = scores["linear-probe/mc3"][scores["labels"] == known["class_id"]].argmax(axis=1)
    assert known["recall"] == (predicted == known["class_id"]).mean()
    assert one.loc[one["n"] == 0, ["recall", "ap", "auc"]].isna().all(axis=None)
    whole = evaluate.classification(scores["linear-probe/mc3"], scores["labels"])
    for column, metric in (("recall", "mca"), ("ap", "map"), ("auc", "mauc")):
        assert one[column].mean() == pytest.approx(whole[metric])
    assert {"untrained, fine-tune", "MC3, fine-tune", "untrained, linear-probe"} < set(table["probe"])


def test_confusion_counts_what_each_class_is_taken_for_the_most_frequent_first(small: Config) -> None:
    table = findings.confusion(small, 0, "mc3", store.FINETUNE)
    scores = load_file(small.paths.work / "probe" / "0.safetensors")
    assert table["n"].is_monotonic_decreasing
    assert table["n"].sum() == len(scores["labels"])
    assert len(table.columns) == 3 + 44
    for row in table.to_dict("records"):
        mine = scores["fine-tune/mc3"][scores["labels"] == row["class_id"]].argmax(axis=1)
        assert {int(c): row[c] for c in table.columns[3:]} == {c: (mine == c).mean() for c in range(44)}
    with pytest.raises(DataError, match=r"no scores linear-probe-official/clap in .*fine-tune/mc3"):
        findings.confusion(small, 0, "clap", "linear-probe-official")


def test_training_curves_go_on_where_the_align_stage_ends(small: Config) -> None:
    curves = findings.training(small, 0)
    steps = curves[curves["metric"] == "AV ROC"].groupby("method")["step"].apply(list)
    assert steps["align stage"] == [5, 10]
    assert steps["MC3"] == [15, 20]
    assert steps["CMC"] == [5, 10]
    assert "CLAP" not in steps
    lines = (small.paths.checkpoint("mc3", 0) / "metrics.jsonl").read_text().splitlines()
    last = curves[(curves["method"] == "MC3") & (curves["metric"] == "AL ROC")]["value"].iloc[-1]
    assert last == json.loads(lines[-1])["al_roc"]


def test_failures_are_the_clips_that_consensus_moved_furthest_to_the_wrong_side(small: Config, index) -> None:
    rows, notes = findings.failures(small, 0)
    test = index[index["split"] == "test"]
    ranks = {}
    for method in ("wo_consensus", "mc3"):
        found = store.embeddings(small, method, 0)
        similarity = (found["audio"] * found["video"]).sum(axis=1)[test.index]
        ranks[method] = np.array([(similarity <= value).mean() for value in similarity])
    moved = pd.Series(ranks["mc3"] - ranks["wo_consensus"], test.index)
    assert [index["region"][row] for row in rows] == sorted(test["region"].unique())
    for row, note in zip(rows, notes, strict=True):
        others = moved[test["region"] == index["region"][row]]
        assert moved[row] == pytest.approx(others.min() if index["region"][row] == "I" else others.max())
        assert note.startswith(f"region {index['region'][row]}: ")


def test_examples_have_a_clip_of_each_region_with_its_own_cosines(small: Config) -> None:
    table, index = findings.examples(small, 0), findings.clips(small)
    assert table["title"].tolist() == ["region I", "region II", "region III", "region IV"]
    assert [f"region {region}" for region in index.loc[table["row"], "region"]] == table["title"].tolist()
    assert set(index.loc[table["row"], "split"]) == {"test"}
    for name, when in (("align", "before"), ("mc3", "after")):
        found = store.embeddings(small, name, 0)
        for pair, other in (("av", "video"), ("al", "text")):
            own = [float(found["audio"][row] @ found[other][row]) for row in table["row"]]
            np.testing.assert_allclose(table[f"{pair}_{when}"], own, atol=1e-6)
