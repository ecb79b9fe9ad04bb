"""EPIC-100's published files, rows that cannot be used, and the table of sounds by verb."""

import csv
import functools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from mc3.data.annotations import Report
from mc3.errors import DataError
from mc3.extra import epic_kitchens

TABLE = ROOT / "data" / "epic" / "verb_sounds.csv"
HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
)
VERBS = pd.Series({0: "take", 1: "put"})


def line(name="P01_01_0", video="P01_01", start="00:00:01.00", stop="00:00:02.50", verb="0", noun="2") -> str:
    return f"{name},P01,{video},{start},{start},{stop},60,150,take plate,take,{verb},plate,{noun},['plate'],[2]"


@pytest.fixture
def published(shared_data: Path) -> Path:
    return shared_data / "annotations" / "epic_kitchens_100"


def test_the_published_files_are_read_whole_and_agree_with_each_other(published: Path):
    verbs = epic_kitchens.read_classes(published / "EPIC_100_verb_classes.csv")
    nouns = epic_kitchens.read_classes(published / "EPIC_100_noun_classes_v2.csv")
    durations = epic_kitchens.read_durations(published / "EPIC_100_video_info.csv")
    assert (len(verbs), len(nouns), len(durations)) == (97, 305, 700)
    report = Report(Path())
    narrations = epic_kitchens.read_narrations(published / "EPIC_100_validation.csv", report, verbs, nouns, durations)
    assert report.dropped == []
    assert (len(narrations), narrations["video_id"].nunique()) == (9668, 138)
    with (published / "EPIC_100_validation.csv").open(newline="") as file:
        rows = {row["narration_id"]: row for row in csv.DictReader(file)}
    for own in narrations.sample(50, random_state=0).itertuples():
        row = rows[own.narration_id]
        assert (own.text, own.verb_class, own.verb) == (row["narration"], int(row["verb_class"]), verbs[own.verb_class])
        assert pd.Timedelta(row["stop_timestamp"]).total_seconds() == pytest.approx(own.stop)


def test_the_table_has_every_verb_class_and_only_names_of_the_published_sounds(published: Path, shared_data: Path):
    events = shared_data / "annotations" / "epic_sounds" / "EPIC_Sounds_validation.csv"
    with events.open(newline="") as file:
        names = {int(row["class_id"]): row["class"] for row in csv.DictReader(file)}
    assert names == dict(enumerate(epic_kitchens.SOUNDS))
    epic_kitchens.check_sounds(events)
    verbs = epic_kitchens.read_classes(published / "EPIC_100_verb_classes.csv")
    keys, compatible = epic_kitchens.read_verb_sounds(TABLE, verbs)
    assert keys.to_dict() == verbs.to_dict()
    with TABLE.open(newline="") as file:
        for row, own in zip(csv.DictReader(file), compatible, strict=True):
            wanted = set(filter(None, row["sounds"].split("; ")))
            if "collision" in wanted:
                wanted |= {name for name in names.values() if name.endswith(" collision")}
            assert {names[j] for j in np.flatnonzero(own)} == wanted - {"collision"}


def test_the_table_matches_the_names_of_verbs_and_sounds():
    keys, compatible = epic_kitchens.read_verb_sounds(TABLE)
    names = [{epic_kitchens.SOUNDS[j] for j in np.flatnonzero(row)} for row in compatible]
    sounds = dict(zip(keys, names, strict=True))
    assert sounds["cut"] == {"cut / chop"}
    assert "water" in sounds["wash"]
    assert "open / close" in sounds["close"]
    assert len(sounds["pat"]) == sum("collision" in name for name in epic_kitchens.SOUNDS) == 24
    assert [verb for verb in ("look", "hold", "wait", "choose") if sounds[verb]] == []
    assert not compatible[:, epic_kitchens.SOUNDS.index("background")].any()


def test_rows_at_fault_are_listed_with_their_line_and_reason(tmp_path: Path):
    rows = [
        (line(), None), (line("P01_01_1", start="00:00:03.00", stop="00:00:02.00"), "ends before it starts"),
        (line("P01_01_2", stop="2.5"), "times are not timestamps"), (line(), "duplicated narration_id"),
        (line("P01_01_3", start="-1:00:00.00"), "starts before the video"),
        (line("../P01"), "unsafe narration_id '../P01'"), (line("P01_01_4", video="a/b"), "unsafe video_id 'a/b'"),
        *((line(f"P01_01_{i}", verb=verb), f"unknown verb_class '{verb}'") for i, verb in ((5, "97"), (6, "take"))),
        *((line(f"P01_01_{i}", noun=noun), f"unknown noun_class '{noun}'") for i, noun in ((7, "-1"), (8, "305"))),
        (line("P01_01_9", stop="00:01:02.00"), "ends after the video"),
        (line("P01_01_10", video="P02_01"), "video without a known duration"),
        (line("P01_01_11") + ",more", "16 cells where the header has 15"),
        (line("P01_01_12", stop="00:01:00.90"), None),
    ]  # fmt: skip
    path = tmp_path / "EPIC_100_validation.csv"
    path.write_text("\n".join([HEADER, *(row for row, _ in rows)]) + "\n")
    report = Report(tmp_path)
    nouns, durations = pd.Series({2: "plate"}), pd.Series({"P01_01": 60.0})
    narrations = epic_kitchens.read_narrations(path, report, VERBS, nouns, durations)
    assert narrations["narration_id"].tolist() == ["P01_01_0", "P01_01_12"]
    wanted = [(path.name, f"line {i}", reason) for i, (_, reason) in enumerate(rows, start=2) if reason]
    assert sorted((d["file"], d["row"], d["reason"]) for d in report.dropped) == sorted(wanted)


def narrations_of(path: Path) -> pd.DataFrame:
    return epic_kitchens.read_narrations(path, Report(Path()), VERBS)


sounds_of = functools.partial(epic_kitchens.read_verb_sounds, verbs=VERBS)


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (narrations_of, f"{HEADER}\n{line(verb='9')}\n", "every row is at fault, .* because: unknown verb_class '9'"),
        (narrations_of, "narration_id,video_id\na,b\n", "has no column `start_timestamp`"),
        (narrations_of, f"{HEADER}\n\xe2,", rf"n\.csv, byte {len(HEADER) + 1}: not UTF-8"),
        (epic_kitchens.read_classes, "id,key\n0,take\n0,put\n", "line 3: '0' is not a class number, or a repeated one"),
        (epic_kitchens.read_durations, "video_id,duration\nP01_01,12.5\nP01_02,long\n", "line 3: no video with a dura"),
        (epic_kitchens.check_sounds, "class,class_id\nmetal-only collision,0\nmeow,1\n", "class_id '1' is 'meow'"),
        (sounds_of, "0,take,water; meow\n1,put,\n", "line 2: 'meow' is neither a class of EPIC-Sounds nor `collision`"),
        (sounds_of, "0,take,water\n2,put,\n", "must count 0, 1, 2"),
        (sounds_of, "0,take,water\n", "differ at 1, 'put'; every class needs a row"),
        (sounds_of, "0,take,\n1,place,\n", "differ at 1, 'place'"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_fault(tmp_path: Path, read, text: str, message: str):
    path = tmp_path / "n.csv"
    path.write_text(f"verb_class,verb,sounds\n{text}" if read is sounds_of else text, encoding="latin-1")
    with pytest.raises(DataError, match=message):
        read(path)
