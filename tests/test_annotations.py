"""Reading the publishers' tables: every line is a usable row, a listed one, or an error."""

import csv
import re
from pathlib import Path

import pytest
import small_work
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import EVENTS_HEADER, LABELS_HEADER, write_raw

from mc3 import config
from mc3.config import Config
from mc3.data import ego4d, epic_sounds, manifest
from mc3.data.annotations import Report, fragments, read_rows, read_table
from mc3.errors import DataError


def label_rows(uid: str, rows: int, start: float = 0.0) -> list[str]:
    """Label rows with list cells, as the publishers write them."""
    return [f'{start + i / 10}\t{uid}\t#C C cuts "it", then rests\t{i % 2}\t[{i}, 3]\t[1]\t0,{i % 2},{i % 2}\n'
            for i in range(rows)]  # fmt: skip


def boundaries(text: str) -> list[int]:
    """Where cells begin and end in `text`."""
    separators = [m.start() for m in re.finditer(r"[\t,\n]", text)]
    return sorted({0, *separators, *(at + 1 for at in separators[:-1])})


def with_quote(text: str, at: int) -> str:
    return text[:at] + '"' + text[at:]


def counted(path: Path) -> tuple[int, int]:
    """The numbers of rows read and of rows listed."""
    report = Report(Path())
    return sum(1 for _ in read_rows(path, (), "a table", report)), len(report.dropped)


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00\r\n"), max_size=12), min_size=1))
def test_any_text_on_one_line_survives_a_table_in_either_separator(tmp_path_factory, cells):
    for separator in "\t,":
        path = tmp_path_factory.mktemp("tables") / "t.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=separator, lineterminator="\n")
            writer.writerow(["a", "b"])
            writer.writerows([cell, "x"] for cell in cells)
        assert [row["a"] for _, row in read_rows(path, ("a", "b"), "text")] == cells
        assert read_table(path, ("a",), "text")["a"].tolist() == cells


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_a_cell_with_a_line_break_is_listed_at_each_of_its_lines(tmp_path: Path, ending: str):
    path = tmp_path / "t.csv"
    path.write_bytes(ending.join(["a,b", "1,2", '3,"4', '5",6', "", "7,8", ""]).encode())
    report = Report(Path())
    assert [(line, row["a"]) for line, row in read_rows(path, (), "a table", report)] == [(2, "1"), (6, "7")]
    assert [(d["row"], d["clips"]) for d in report.dropped] == [("line 3", 1), ("line 4", 1)]
    with pytest.raises(DataError, match=r"t\.csv, line 3: misplaced quote"):
        list(read_rows(path, (), "a table"))


@pytest.mark.parametrize("header", ['"a,b', 'a",b', 'a,"b" c'])
def test_a_header_with_a_stray_quote_is_refused(tmp_path: Path, header: str):
    (tmp_path / "t.csv").write_text(f"{header}\n1,2\n")
    with pytest.raises(DataError, match=r"t\.csv, line 1: misplaced quote"):
        list(read_rows(tmp_path / "t.csv", (), "a table"))


def test_a_table_in_which_every_row_is_malformed_has_no_usable_rows(tmp_path: Path):
    (tmp_path / "t.csv").write_text('a,b\n"1,2\n')
    with pytest.raises(DataError, match="no usable rows"):
        read_table(tmp_path / "t.csv", ("a",), "a table", Report(Path()))


def test_rows_between_two_quotes_on_different_lines_are_kept(mini_config: Config, raw: Path):
    """Two quotes 35 rows apart used to swallow the rows between them, and to release their videos for training."""
    path = raw / mini_config.ego4d.labels["test"]
    lines = [LABELS_HEADER, *(row.replace('"', "") for row in label_rows("e0", 60))]
    path.write_text("".join(lines))
    whole = ego4d.read_labels(path, Report(raw))
    lines[10] = lines[10].replace("\t#C", '\t"#C')
    lines[45] = lines[45].replace("rests", 'rests"')
    path.write_text("".join(lines))
    report = Report(raw)
    left = ego4d.read_labels(path, report)
    assert [d["row"] for d in report.dropped] == ["line 11", "line 46"]
    assert left["line"].tolist() == [line for line in whole["line"] if line not in (11, 46)]


def test_an_unclosed_quote_costs_one_event(tmp_path: Path):
    path = tmp_path / "EPIC_Sounds_train.csv"
    rows = [f"P01_01_{i},P01,P01_01,00:00:00.000,00:00:00.500,0,12000,tap,c,3" for i in range(160)]
    rows[3] = rows[3].replace(",tap", ',"tap')
    path.write_text("\n".join([EVENTS_HEADER, *rows]) + "\n")
    report = Report(Path())
    assert len(epic_sounds.read_events(path, report)) == 159
    assert [(d["row"], d["reason"]) for d in report.dropped] == [("line 5", "misplaced quote")]


ROWS = [row for uid in ("e0", "t0", "t2", "e0") for row in label_rows(uid, 5, start=1 + ord(uid[0]) / 100)]
TEXT = "".join(ROWS)


@settings(max_examples=60)
@given(
    first=st.sampled_from(boundaries(TEXT)) | st.integers(0, len(TEXT) - 1),
    second=st.none() | st.sampled_from(boundaries(TEXT)),
)
def test_stray_quotes_lose_no_label_and_release_no_test_video(tmp_path_factory, first: int, second: int | None):
    folder = tmp_path_factory.mktemp("raw")
    built = config.build(Config, small_work.mini(folder))
    raw = write_raw(built, media=False, train=4)
    path = raw / built.ego4d.labels["test"]
    text = with_quote(TEXT, first)
    path.write_text(LABELS_HEADER + (text if second is None else with_quote(text, second)))
    assert sum(counted(path)) == len(ROWS)
    assert second is not None or counted(path) == (len(ROWS) - 1, 1)
    report = Report(raw)
    labels = ego4d.read_labels(path, report)
    assert len(labels) + len(report.dropped) == len(ROWS)
    clips = ego4d.clips(built, Report(raw))
    assert {clip["video_uid"] for clip in clips if clip["split"] == "train"} == {"t1", "t3"}


@pytest.mark.parametrize(
    "row",
    [
        '1.0\t"t1\t#C C cuts\t1\t[0]\t[0]\t1,1,1',  # an unclosed quote
        "1.0\tt1\t#C C cuts",  # too few cells
        "soon\tt1\t#C C cuts\t1\t[0]\t[0]\t1,1,1",  # no time
        "1.0\tt1 \t#C C cuts\t1\t[0]\t[0]\t1,1,1",  # no id
        "99.0\tt1\t#C C cuts\t1\t[0]\t[0]\t1,1,1",  # beyond the video
        "1.0\tt1\t#C C cuts\t1\t[0]\t[0]\t0,0,1",  # a label against the votes
        "1.0\tt1\t#C C cuts\t?\t[0]\t[0]\t",  # neither label nor votes
    ],
)
def test_the_video_of_a_dropped_label_is_not_trained_on(mini_config: Config, raw: Path, row: str):
    with (raw / mini_config.ego4d.labels["test"]).open("a") as file:
        file.write(row + "\n")
    report = Report(raw)
    clips = ego4d.clips(mini_config, report)
    assert {clip["video_uid"] for clip in clips if clip["split"] == "train"} == {"t0", "t2"}
    assert any(entry["row"] == "line 4" for entry in report.dropped)


def test_the_report_of_the_manifest_names_the_line_of_a_stray_quote(mini_config: Config, raw: Path, capsys):
    path = raw / mini_config.epic_sounds.annotations["train"]
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], '"' + lines[2], *lines[3:]]))
    table = manifest.read(manifest.write(mini_config))
    assert (table["dataset"] == "epic_sounds").sum() == 5
    assert "dropped 1: misplaced quote\n    EPIC_Sounds_train.csv, line 3\n" in capsys.readouterr().out


REAL = [
    ("epic_sounds/EPIC_Sounds_validation.csv", 8035), ("epic_sounds/sound_events_not_categorised.csv", 39187),
    ("epic_sounds/EPIC_Sounds_recognition_test_timestamps.csv", 5131), ("ego4d/narration_verb_taxonomy.csv", 125),
    ("ego4d/narration_noun_taxonomy.csv", 627), ("epic_kitchens_100/EPIC_100_validation.csv", 9668),
    ("epic_kitchens_100/EPIC_100_verb_classes.csv", 97), ("epic_kitchens_100/EPIC_100_noun_classes_v2.csv", 305),
    ("epic_kitchens_100/EPIC_100_video_info.csv", 700),
]  # fmt: skip


@pytest.mark.parametrize(("name", "rows"), REAL)
def test_every_line_of_a_published_file_is_a_row(shared_data: Path, name: str, rows: int):
    path = shared_data / "annotations" / name
    with path.open(newline="", encoding="utf-8") as file:
        expected = list(csv.DictReader(file))
    assert [row for _, row in read_rows(path, (), "a published table")] == expected
    assert len(expected) == rows


@pytest.mark.parametrize("name", [name for name, _ in REAL])
def test_a_stray_quote_in_a_published_file_loses_no_row_unlisted(shared_data: Path, tmp_path: Path, name: str):
    lines = (shared_data / "annotations" / name).read_text().splitlines(keepends=True)[:40]
    path = tmp_path / "t.csv"
    text = "".join(lines[1:])
    for at in boundaries(text)[::7]:
        path.write_text(lines[0] + with_quote(text, at))
        assert counted(path) == (len(lines) - 2, 1)


def test_fragments_are_the_cells_of_malformed_rows_too(tmp_path: Path):
    (tmp_path / "t.tsv").write_text('\ufeffa\tb\n"x\t y \nz"w\tu,v\r\n')
    assert fragments(tmp_path / "t.tsv", "a table") - {""} == {"a", "b", "x", "y", "zw", "u", "v"}
