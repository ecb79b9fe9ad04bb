"""The tables: every method, every seed, the paper's numbers beside ours, and what is printed of them."""

import dataclasses
import json
import re
import shutil
from io import StringIO

import numpy as np
import pandas as pd
import pytest
import small_work
from safetensors.numpy import load_file

from mc3 import evaluate, methods, store
from mc3.config import Config
from mc3.data.clip_table import COLUMNS
from mc3.errors import DataError
from mc3.paper import priors, tables
from mc3.paper.tables import Cell

CLIPS, GROUPS = 60, ("cut onion", "wash pan", "stir pot")
MAKERS = tables.table2, tables.table3, tables.table4


@pytest.fixture
def work(mini_config: Config, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Two seeds of every method's embeddings and EPIC-Sounds metrics, without any training or any sound."""
    monkeypatch.setattr(priors, "loudness", lambda _, rows: np.arange(len(rows)))
    config = dataclasses.replace(mini_config, seeds=[0, 1])
    rng = np.random.default_rng(0)
    index = pd.DataFrame({
        "clip_id": [f"c{i}" for i in range(CLIPS)], "dataset": "ego4d", "verb": "cut",
        "video_uid": "v", "narration_time": np.arange(CLIPS),
        "split": np.repeat(["train", "validation", "test"], [10, 10, 40]), "action_group": np.resize(GROUPS, CLIPS),
        "positive": pd.array([None] * 10 + [i % 3 != 1 for i in range(48)] + [None] * 2, dtype="Int8"),
    })  # fmt: skip
    config.paths.shards.mkdir(parents=True)
    others = {name: "" if kind == "str" else 0 for name, kind in COLUMNS.items() if name not in index}
    index.assign(**others).to_parquet(config.paths.shards / "index.parquet")
    for name in methods.METHODS:
        for seed in config.seeds:
            arrays = {m: small_work.unit(rng.normal(size=(50, 6))) for m in methods.get(name).modalities}
            store.write_tensors(config.paths.embeddings(name, seed), arrays, {"method": name, "seed": str(seed)})
    for seed in config.seeds:
        one = dict.fromkeys(("top1", "top5", "mca", "map", "mauc"), 0.25 + 0.5 * seed)
        metrics = {"random": {"random": one}, "linear-probe": {"untrained": one, "mc3": one}, "fine-tune": {"mc3": one}}
        file = config.paths.probe_metrics(seed)
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"seed": seed, "test_events": 700, "metrics": metrics}))
    return config


def test_every_method_has_a_row_after_random_with_ticks_and_the_papers_numbers(work: Config) -> None:
    table = tables.table2(work).set_index("method")
    assert list(table.index) == ["random", *methods.METHODS, *priors.LABELS]
    assert table.loc["cm_acc", ["audio", "video", "text"]].tolist() == [1, 1, 0]
    assert table.loc["mc3", "paper_av_roc"] == 0.598
    assert table.loc["clap", ["av_roc", "paper_av_roc"]].isna().all()
    assert table.loc["random", "av_roc"] == 0.5
    assert table["clips"].unique().tolist() == [38]
    paper = pd.read_csv(tables.PAPER / "table2_discovery.csv").set_index("method")["al_pr"]
    labels = {methods.get(name).paper: table.loc[name, "paper_al_pr"] for name in methods.METHODS}
    assert np.isnan(labels.pop(""))  # the row that is not the paper's
    pd.testing.assert_series_equal(pd.Series(labels), paper.drop("Random"), check_names=False)


def test_a_cell_is_the_mean_and_deviation_of_the_seeds_own_metrics(work: Config) -> None:
    row = tables.table2(work).set_index("method").loc["mc3"]
    clips = store.clips(work)
    keep = ((clips["split"] == "test") & clips["positive"].notna()).to_numpy()
    values = []
    for seed in (0, 1):
        found = load_file(work.paths.embeddings("mc3", seed))
        scores = (found["audio"] * found["video"]).sum(axis=1)[keep]
        values.append(evaluate.discovery(scores, clips["positive"][keep].astype(int))["roc"])
    assert row["av_roc"] == pytest.approx(np.mean(values), abs=1e-6)
    assert row["av_roc_std"] == pytest.approx(abs(values[0] - values[1]) / np.sqrt(2), abs=1e-6)
    single = tables.table2(dataclasses.replace(work, seeds=[0])).set_index("method").loc["mc3"]
    assert np.isnan(single["av_roc_std"])


def test_retrieval_uses_sounding_test_clips_only_and_prints_percent(work: Config) -> None:
    table = tables.table3(work).set_index("method")
    groups, (query_rows, pool_rows) = store.retrieval_split(work)
    clips = store.clips(work)
    sounding = np.flatnonzero((clips["split"] == "test") & (clips["positive"] == 1).fillna(False))
    assert sorted(np.r_[query_rows, pool_rows]) == sounding.tolist()
    assert table.loc["random", "v2a_r5"] == pytest.approx(100 * 5 / len(pool_rows))
    assert table.loc["mc3", "paper_a2l_r10"] == 73.8
    assert (table["l2a_hit10"].dropna() >= table["l2a_r10"].dropna() - 1e-9).all()
    numbers = table.filter(regex="_(r|hit)[0-9]+$").filter(regex="^(?!paper)")
    assert (numbers.drop("bound").max() <= numbers.loc["bound"] + 1e-9).all()
    assert (numbers.loc["bound"].filter(like="hit") == 100).all()
    found = load_file(work.paths.embeddings("clap", 0))
    asked, pool = (found["text"][query_rows], found["audio"][pool_rows]), (groups[query_rows], groups[pool_rows])
    one = evaluate.retrieval(*asked, *pool)
    single = tables.table3(dataclasses.replace(work, seeds=[0])).set_index("method")
    assert single.loc["clap", "l2a_r1"] == pytest.approx(100 * one["recall@1"])


def test_table_4_joins_the_paper_by_protocol_and_keeps_its_reference_rows(work: Config) -> None:
    table = tables.table4(work)
    rows = table.set_index(["method", "protocol"])
    assert table["method"].tolist() == ["random", "asf", "ssast", "untrained", "mc3", "asf", "ssast", "mc3"]
    assert rows.loc[("mc3", "linear-probe"), "paper_top1"] == 42.44
    assert rows.loc[("mc3", "fine-tune"), "paper_top1"] == 55.97
    assert rows.loc[("random", ""), "paper_top1"] == 7.71
    assert rows.loc[("asf", "fine-tune"), "paper_mauc"] == 0.873
    assert np.isnan(rows.loc[("asf", "fine-tune"), "top1"])
    assert (rows.loc[("mc3", "linear-probe"), ["top1", "map"]] == [50.0, 0.5]).all()
    assert np.isnan(rows.loc[("ssast", "linear-probe"), "top1"])
    assert "A row (published) is the paper's alone" in tables.note(table)


def test_an_ssast_that_was_probed_replaces_the_papers_row(work: Config) -> None:
    for seed in work.seeds:
        file = work.paths.probe_metrics(seed)
        result = json.loads(file.read_text())
        result["metrics"]["linear-probe"]["ssast"] = result["metrics"]["linear-probe"]["mc3"]
        file.write_text(json.dumps(result))
    rows = tables.table4(work).set_index(["method", "protocol"]).loc["ssast"]
    assert rows["label"].tolist() == ["SSAST", "SSAST (published)"]
    assert rows["audio"].tolist() == [1, 0]
    assert rows.loc["linear-probe", ["top1", "paper_top1"]].tolist() == [50.0, 28.74]
    assert tables.published()[Cell("ssast", "mca", "fine-tune")] == 20.22


def test_a_method_of_the_users_own_appears_in_every_table(work: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(methods.METHODS, "mine", {**methods.METHODS["mc3"], "label": "Mine | <b>", "paper": ""})
    for seed in work.seeds:
        shutil.copy(work.paths.embeddings("mc3", seed), work.paths.embeddings("mine", seed))
    for table in (tables.table2(work), tables.table3(work)):
        mine = table.set_index("method").loc["mine"]
        assert mine.isna().equals(mine.index.to_series().str.startswith("paper_"))
        assert r"| Mine \| &lt;b&gt; |" in tables.to_markdown(table)
        assert "Mine | &lt;b&gt;" in tables.to_html(table)


def test_a_cell_prints_ours_deviation_the_papers_and_the_difference(work: Config) -> None:
    table = tables.table4(work)
    cells = tables.cells(table)
    assert list(cells) == ["Method", "Protocol", "Top-1", "Top-5", "mCA", "mAP", "mAUC"]
    assert cells["Top-1"].tolist()[1] == "(45.53)"
    assert cells["Top-1"].tolist()[4] == "50.00 ± 35.36 (42.44, +7.56)"
    assert "2 seeds, 700 events" in tables.note(table)
    assert tables.cells(tables.table2(work))["AV ROC"].tolist()[1] == "–"
    assert list(tables.cells(tables.table3(work), ["v2a_r1", "a2l_hit10"]))[-2:] == ["V→A @1", "A→L hit@10"]


def test_a_table_of_one_seed_says_so_and_one_of_several_prints_deviations_also_read_back_from_csv(work: Config) -> None:
    for make in MAKERS:
        one, two = make(dataclasses.replace(work, seeds=[1])), make(work)
        assert "ours, of one seed: another would differ" in tables.note(one)
        assert "±" not in tables.cells(one).to_csv()
        assert "ours ± standard deviation over seeds" in tables.note(two)
        printed = tables.cells(two)[(two["seeds"] > 0).to_numpy()]
        numbers = printed.drop(columns=["Method", "A", "V", "L", "Protocol"], errors="ignore").to_numpy().ravel()
        assert all("±" in cell for cell in numbers if cell != "–")
        assert tables.to_markdown(pd.read_csv(StringIO(two.to_csv(index=False)))) == tables.to_markdown(two)
    frame = tables.overview(tables.table2(work), tables.table3(work))
    assert not set(frame["method"]) & {"Random", "Bound"}


def test_html_is_well_formed_and_has_a_caption(work: Config) -> None:
    text = tables.to_html(tables.table2(work))
    assert re.search(r"<table[^>]*>\s*<caption[^>]*>2 seeds, 38 test clips, prevalence", text)
    assert text.count("<tr") == text.count("</tr>") == 2 + len(methods.METHODS) + len(priors.LABELS)


def test_missing_results_and_those_of_other_clips_say_which_command_makes_them(work: Config) -> None:
    stale = dict.fromkeys(("audio", "video"), np.eye(3, dtype=np.float32))
    store.write_tensors(work.paths.embeddings("cmc", 1), stale, {"method": "cmc"})
    with pytest.raises(DataError, match=r"3 rows of audio for 50 clips.*mc3 embed --method cmc --seed 1"):
        tables.table3(work)
    work.paths.embeddings("cmc", 1).unlink()
    with pytest.raises(DataError, match="dvc repro embed`"):
        tables.table2(work)
    work.paths.probe_metrics(1).unlink()
    with pytest.raises(DataError, match="dvc repro probe`"):
        tables.table4(work)


def test_the_papers_tables_are_all_joined_and_hold_its_numbers() -> None:
    known = {entry["paper"] for entry in methods.METHODS.values()} | {"Random", "ASF", "SSAST"}
    for file in tables.PAPER.glob("table[234]*.csv"):
        assert set(pd.read_csv(file)["method"]) <= known
    numbers = tables.published()
    assert numbers[Cell("mc3", "av_roc")] - numbers[Cell("wo_consensus", "av_roc")] == pytest.approx(0.035)
    assert numbers[Cell("mc3", "l2a_r5")] - numbers[Cell("clap", "l2a_r5")] == pytest.approx(-3.6)
    assert (numbers[Cell("mc3", "top1", "linear-probe")], numbers[Cell("random", "al_pr")]) == (42.44, 0.559)
