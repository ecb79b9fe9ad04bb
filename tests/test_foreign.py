"""Another model's embeddings: our own give our row, random ones chance, and a file that does not fit is refused."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import small_work
from conftest import ROOT
from safetensors.numpy import save_file

from mc3 import config, methods, store
from mc3.config import Config
from mc3.errors import ConfigError, DataError
from mc3.paper import bootstrap, claims, findings, foreign, jobs, priors, tables

NAME = store.FOREIGN + "mine"
NUMBERS = [*tables.BOARD, "v2a_hit10", "l2a_r10"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_work.make(tmp_path_factory.mktemp("made")).parent


@pytest.fixture
def work(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A small work folder, and the folder that holds it as the present one."""
    monkeypatch.chdir(shutil.copytree(made, tmp_path / "top"))
    paths = {"paths.raw": "world", "paths.shards": "mini/shards", "paths.work": "mini"}
    return config.override(config.load("params.yaml"), paths)


def write(config: Config, tensors: dict[str, np.ndarray], ids: Any = None, file: str = "mine.safetensors") -> Path:
    ids = store.clips(config)["clip_id"].tolist() if ids is None else ids
    save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, file, {"clip_id": json.dumps(ids)})
    return Path(file)


def cells(table: pd.DataFrame, row: str) -> pd.Series:
    return table.set_index("method").loc[row].filter(items=NUMBERS).astype(float)


@pytest.mark.parametrize("form", ["as they are", "shuffled Parquet", "longer vectors", "other dtype"])
def test_released_embeddings_of_a_method_get_exactly_its_row(work: Config, form: str) -> None:
    own, ids = store.embeddings(work, "mc3", 0), store.clips(work)["clip_id"].to_numpy()
    if form == "shuffled Parquet":
        order = np.random.default_rng(0).permutation(len(ids))
        file = Path("mine.parquet")
        columns = {name: list(tensor[order]) for name, tensor in own.items()}
        pd.DataFrame({"clip_id": ids[order], **columns}).to_parquet(file)
    elif form == "longer vectors":  # a power of two changes no digit of a direction
        file = write(work, {name: 4 * tensor for name, tensor in own.items()})
    else:
        file = write(work, {n: t.astype(np.float64 if form == "other dtype" else t.dtype) for n, t in own.items()})
    assert foreign.add(work, file, "mine", None, keep=False) == []
    guest = foreign.guest(work)
    for make in (tables.table2, tables.table3):
        theirs, ours = make(guest, [NAME]), make(work)
        pd.testing.assert_series_equal(cells(theirs, NAME), cells(ours, "mc3"), check_names=False, rtol=0, atol=0)
    same = foreign.measured(work, NAME, draws=30)
    for sample in same.values():
        for cell, values in sample.cells.items():
            if cell.method == "mc3":
                np.testing.assert_array_equal(values, sample.cells[cell._replace(method=NAME)])
    differences = bootstrap.differences(same, NAME).query("method == 'mc3'")
    assert (differences[["difference", "low", "high"]] == 0).all(axis=None)


def test_random_embeddings_get_chance_in_every_cell(work: Config) -> None:
    """The mean over 30 files differs from the row of chance by less than four standard errors."""
    found, rng = [], np.random.default_rng(0)
    for _ in range(30):
        tensors = {m: rng.normal(size=(len(store.clips(work)), 8)).astype(np.float32) for m in methods.MODALITIES}
        foreign.add(work, write(work, tensors), "mine", None, keep=False)
        made = [make(foreign.guest(work), [NAME]) for make in (tables.table2, tables.table3)]
        found.append(pd.concat([cells(table, NAME) for table in made]))
    chance = pd.concat([cells(table, "random") for table in made])
    values = pd.DataFrame(found)[chance.index]
    error = (values.mean() - chance) / (values.std() / np.sqrt(len(values)))
    precise = [name for name in chance.index if not name.endswith("_pr")]  # average precision is biased on few clips
    assert error[precise].abs().max() < 4
    assert (values.mean() - chance).filter(like="_pr").abs().max() < 0.05


def test_a_kept_row_stands_in_every_table_figure_and_difference_marked_as_foreign(work: Config) -> None:
    before = tables.table2(work)
    foreign.add(work, write(work, store.embeddings(work, "cmc", 0)), "mine", None, keep=True)
    foreign.install(work)
    assert store.rows(work) == [*methods.METHODS, NAME]
    table = tables.table2(work)
    pd.testing.assert_frame_equal(table[table["method"] != NAME].reset_index(drop=True), before)
    assert table.set_index("method").loc[NAME, "label"] == "mine (foreign)"
    assert table.set_index("method").loc[NAME, ["audio", "video", "text"]].tolist() == [1, 1, 1]
    assert NAME in tables.table3(work)["method"].tolist()
    assert "mine (foreign)" in findings.curves(work, 0)[0]["method"].unique()
    assert "mine (foreign)" in findings.similarities(work, 0)["checkpoint"].unique()
    measured = bootstrap.measure(work, draws=20)
    differences = bootstrap.differences(measured)
    assert {"table2", "table3"} <= set(differences.query("method == @NAME")["table"])
    assert "mine (foreign)" in bootstrap.forest(differences)["label"].unique()
    # the verdicts on the paper's claims do not see it
    assert NAME not in claims.checks(measured).to_string()
    foreign.FOLDER.joinpath("mini", "mine.safetensors").unlink()
    foreign.install(work)
    pd.testing.assert_frame_equal(tables.table2(work), before)


def test_the_stage_embed_takes_over_kept_rows_and_removes_deleted_ones(work: Config, monkeypatch) -> None:
    monkeypatch.setattr(jobs, "is_done", lambda *_: True)
    monkeypatch.setattr(jobs, "note_hash", lambda *_: None)
    foreign.add(work, write(work, store.embeddings(work, "cmc", 0)), "mine", None, keep=True)
    jobs.make(work, "embed")
    assert store.rows(work)[-1] == NAME
    Path("data/foreign/mini/mine.safetensors").unlink()
    jobs.make(work, "embed")
    assert store.rows(work) == [*methods.METHODS]


def test_a_row_of_two_modalities_has_only_their_cells(work: Config) -> None:
    own = store.embeddings(work, "cmc", 0)
    foreign.add(work, write(work, {m: own[m] for m in ("audio", "text")}), "mine", None, keep=False)
    guest = foreign.guest(work)
    row = tables.table2(guest, [NAME]).set_index("method").loc[NAME]
    assert row[["audio", "video", "text"]].tolist() == [1, 0, 1]
    assert row[["av_roc", "av_pr"]].isna().all()
    assert not row[["al_roc", "al_pr"]].isna().any()
    assert cells(tables.table3(guest, [NAME]), NAME)[["v2a_r5", "a2v_r5"]].isna().all()


def test_features_of_epic_sounds_get_a_row_of_table_4(work: Config) -> None:
    index = pd.read_parquet(work.paths.shards / "index.parquet").query("dataset == 'epic_sounds'")
    separable = 1000 * np.eye(44, dtype=np.float32)[index["class_id"].to_numpy(int)]
    events = write(
        work, {"audio": np.stack([separable, separable], axis=1)}, index["clip_id"].tolist(), "e.safetensors"
    )
    file = write(work, store.embeddings(work, "cmc", 0))
    foreign.add(work, file, "mine", events, keep=True)
    foreign.install(work)
    table = tables.table4(work).set_index(["method", "protocol"])
    found = table.loc[(NAME, "linear-probe")]
    assert found["top1"] > 3 * table.loc[("random", ""), "top1"]
    assert found[["audio", "seeds"]].tolist() == [1, 1]
    assert store.embeddings(work, NAME, 0).keys() == set(methods.MODALITIES)
    measured = bootstrap.measure(work, draws=20)["table4"]
    value = measured.cells[tables.Cell(NAME, "top1", "linear-probe")][0, 0]
    assert value == pytest.approx(found["top1"])
    write(work, {"audio": separable[1:]}, index["clip_id"].tolist()[1:], "e.safetensors")
    with pytest.raises(DataError, match=r"lacks 1 of 60 train events of EPIC-Sounds, first 'P01_01_0'"):
        foreign.add(work, file, "mine", events, keep=False)


def test_validation_clips_may_be_missing_and_other_ids_are_listed(work: Config) -> None:
    clips, own = store.clips(work), store.embeddings(work, "cmc", 0)
    test = np.flatnonzero(clips["split"] == "test")
    train = pd.read_parquet(work.paths.shards / "index.parquet").query("split == 'train' and dataset == 'ego4d'")
    ids = [*clips["clip_id"].iloc[test], train["clip_id"].iloc[0], "stranger"]
    rows = np.r_[test, 0, 0]
    notes = foreign.add(work, write(work, {m: t[rows] for m, t in own.items()}, ids), "mine", None, keep=False)
    assert notes == ["1 training clips are ignored.", "1 ids are no clips here, first 'stranger'.",
                     "60 validation clips are missing; no table needs them."]  # fmt: skip
    theirs = tables.table2(foreign.guest(work), [NAME])
    assert cells(theirs, NAME)["al_roc"] == cells(tables.table2(work), "cmc")["al_roc"]


def faulty(case: str, own: dict[str, np.ndarray], ids: list[str], train: list[str]) -> tuple[dict, Any]:
    audio = own["audio"].copy()
    if case in ("NaN", "infinite", "zero"):
        audio[7] = {"NaN": np.nan, "infinite": np.inf, "zero": 0}[case]
    changed = {
        "half": ({m: t[::2] for m, t in own.items()}, ids[::2]),
        "doubled": (own, [ids[1], *ids[1:]]),
        "training clips": ({m: t[: len(train)] for m, t in own.items()}, train),
        "widths": ({**own, "text": own["text"][:, :5]}, ids),
        "rows": ({**own, "audio": own["audio"][1:]}, ids),
        "integers": ({"audio": own["audio"].astype(np.int64), "text": own["text"]}, ids),
        "views": ({"audio": audio[:, None], "text": own["text"][:, None]}, ids),
        "no modality": ({"sound": audio}, ids),
        "no ids": (own, None),
        "numbers as ids": (own, list(range(len(ids)))),
    }
    return changed.get(case, ({**own, "audio": audio}, ids))


@pytest.mark.parametrize(("case", "message"), [
    ("half", r"lacks 60 of 120 test clips \(50.0%\), first 'test-\d+_\d+'; numbers of a part would not compare"),
    ("doubled", r"has 1 clip ids twice, first 'validation-"),
    ("training clips", r"has training clips only; embed what `mc3 clips --export --split test` writes"),
    ("widths", r"different widths \(audio 16, video 16, text 5\)"),
    ("rows", r"has 179 rows of audio for 180 clip ids"),
    ("integers", r"audio of shape \(180, 16\), int64; give a vector of floats a clip"),
    ("views", r"several vectors a clip; give their mean"),
    ("NaN", r"clip 'validation-\d+_\d+' of audio has length nan, but must have a direction; 1 such"),
    ("infinite", r"of audio has length inf"),
    ("zero", r"of audio has length 0.0"),
    ("no modality", r"none of audio, video, text"),
    ("no ids", r"its metadata has no \"clip_id\""),
    ("numbers as ids", r"a clip_id that is no text"),
])  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_in_one_sentence_and_nothing_is_kept(work, case, message) -> None:
    index = pd.read_parquet(work.paths.shards / "index.parquet").query("dataset == 'ego4d'")
    ids, train = (index[index["split"] == s]["clip_id"].tolist() for s in ("test", "train"))
    tensors, ids = faulty(case, store.embeddings(work, "cmc", 0), store.clips(work)["clip_id"].tolist(), train)
    file = Path("mine.safetensors")
    save_file({n: np.ascontiguousarray(t) for n, t in tensors.items()}, file, {"clip_id": json.dumps(ids)})
    with pytest.raises(DataError, match=message) as error:
        foreign.add(work, file, "mine", None, keep=True)
    assert "\n" not in str(error.value)
    assert not foreign.FOLDER.exists()


@pytest.mark.parametrize(("name", "content", "message"), [
    ("absent.parquet", None, "no file absent.parquet"),
    ("mine.npz", b"PK", "neither .safetensors nor .parquet"),
    ("mine.safetensors", b"nonsense", "is damaged .* again, as safetensors"),
    ("mine.parquet", b"PAR1nonsense", "is damaged .* again, as parquet"),
])  # fmt: skip
def test_a_file_of_another_kind_is_named(work: Config, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        foreign.add(work, Path(name), "mine", None, keep=False)


@pytest.mark.parametrize("name", ["../up", "a b", ".hidden", ""])
def test_a_row_has_a_plain_name(work: Config, name: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{name!r} is no name for a row")):
        foreign.add(work, Path("mine.safetensors"), name, None, keep=True)


def test_a_kept_row_of_other_clips_is_named_with_the_remedy(work: Config) -> None:
    foreign.add(work, write(work, store.embeddings(work, "cmc", 0)), "mine", None, keep=True)
    index = pd.read_parquet(work.paths.shards / "index.parquet")
    index.assign(text="other").to_parquet(work.paths.shards / "index.parquet", index=False)
    with pytest.raises(
        DataError, match=r"mine.safetensors is of other clips; run `mc3 evaluate` again with --row mine"
    ):
        foreign.install(work)


def test_the_papers_claims_about_mc3_are_asked_of_the_row(work: Config) -> None:
    foreign.add(work, write(work, store.embeddings(work, "mc3", 0)), "mine", None, keep=False)
    measured = foreign.measured(work, NAME, draws=30)
    asked = foreign.in_place_of_reference(NAME, measured)
    ours = {claim.name: claim for claim in claims.load()}
    theirs = claims.checks(measured, asked)
    original = claims.checks(measured, [ours[claim.name] for claim in asked])
    led = original[original["above"].str.contains("MC3, ")].reset_index(drop=True)
    assert len(asked) > 5
    pd.testing.assert_series_equal(theirs["difference"], led["difference"])
    assert theirs["above"].str.contains("mine, ").all()
    assert not any("MC3" in claim.text for claim in asked)


def test_rows_without_a_model_equal_their_definition(work: Config) -> None:
    index = pd.read_parquet(work.paths.shards / "index.parquet").replace({"verb": {"stir": "knead"}})
    index.to_parquet(work.paths.shards / "index.parquet", index=False)  # a verb that Table 1 does not have
    found, clips = priors.scores(work), store.clips(work)
    validation = clips[clips["split"] == "validation"]
    for verb, part in found.groupby("verb"):
        assert part["verb_prior"].unique() == pytest.approx([validation[validation["verb"] == verb]["positive"].mean()])
    rates = pd.read_csv(tables.PAPER / "table1_verb_groups.csv").set_index("verb")["sounding_rate"]
    known = found["verb"].isin(rates.index)
    assert 0 < known.sum() < len(found)
    assert found.loc[known, "verb_rates"].tolist() == rates[found.loc[known, "verb"]].tolist()
    assert found.loc[~known, "verb_rates"].unique() == pytest.approx([rates.mean()])
    video = clips[clips["video_uid"] == found["video_uid"].iloc[0]].sort_values("narration_time")
    times = video["narration_time"].tolist()
    gaps = dict(zip(video["clip_id"], np.gradient(times) * 2, strict=True))
    own = found[found["video_uid"] == found["video_uid"].iloc[0]]
    np.testing.assert_allclose(own["spacing"], [gaps[i] for i in own["clip_id"]])
    table = tables.table2(work).set_index("method")
    assert table.index[-4:].tolist() == list(priors.LABELS)
    assert table.loc[list(priors.LABELS), ["av_roc", "av_pr"]].isna().all(axis=None)
    pairs = [
        (a, b) for a in found.query("positive == 1")["verb_prior"] for b in found.query("positive == 0")["verb_prior"]
    ]
    area = np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs])
    assert table.loc["verb_prior", "al_roc"] == pytest.approx(area)


def test_the_leaderboards_file_has_the_columns_that_evaluate_writes(work: Config) -> None:
    assert tuple(pd.read_csv(ROOT / "docs" / "leaderboard.csv").columns) == foreign.ENTRY
    foreign.add(work, write(work, store.embeddings(work, "mc3", 0)), "mine", None, keep=False)
    guest = foreign.guest(work)
    entry = foreign.entry(work, "mine", tables.table2(guest, [NAME]), tables.table3(guest, [NAME])).iloc[0]
    assert entry["row"] == "mine"
    assert entry["av_roc"] == cells(tables.table2(work), "mc3")["av_roc"]
