"""Reading the publishers' tables: every line is a usable row, a listed one, or an error."""

import csv
import re
from pathlib import Path

import pytest
import small_work
from hypothesis import example, given, settings
from hypothesis import strategies as st
from raw_files import LABELS_HEADER, write_raw

from mc3 import config
from mc3.config import Config
from mc3.data import ego4d, manifest
from mc3.data.annotations import Report, fragments, read_rows, read_table
from mc3.errors import DataError


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


@pytest.mark.parametrize(("text", "message"), [
    *((f"{header}\n1,2\n", r"t\.csv, line 1: misplaced quote") for header in ('"a,b', 'a",b', 'a,"b" c')),
    ('a,b\n"1,2\n', "no usable rows"),
])  # fmt: skip
def test_a_header_with_a_stray_quote_and_a_table_without_any_other_row_are_refused(tmp_path: Path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "t.csv", (), "a table", Report(Path()))


ROWS = [  # with list cells, as the publishers write them
    f'{time + i / 10}\t{uid}\t#C C cuts "it", then rests\t{i % 2}\t[{i}, 3]\t[1]\t0,{i % 2},{i % 2}\n'
    for uid, time in (("e0", 2.01), ("t0", 2.16), ("t2", 2.16), ("e0", 2.01)) for i in range(5)
]  # fmt: skip
TEXT = "".join(ROWS)
EDGES = st.sampled_from(boundaries(TEXT))


@settings(max_examples=60)
@given(first=EDGES | st.integers(0, len(TEXT) - 1), second=st.none() | EDGES)
@example(first=TEXT.index("#C"), second=TEXT.rindex("rests") + len("rests"))  # a cell over many lines, for Python's csv
def test_stray_quotes_lose_no_other_label_and_release_no_test_video(tmp_path_factory, first: int, second: int | None):
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
    assert len(report.dropped) <= 2
    clips = ego4d.clips(built, Report(raw))
    assert {clip["video_uid"] for clip in clips if clip["split"] == "train"} == {"t1", "t3"}


@pytest.mark.parametrize(("start", "end"), [
    pytest.param('1.0\t"t1', "1\t[0]\t[0]\t1,1,1", id="an unclosed quote"),
    pytest.param("1.0\tt1", None, id="too few cells"), pytest.param("soon\tt1", "1\t[0]\t[0]\t1,1,1", id="no time"),
    pytest.param("1.0\tt1 ", "1\t[0]\t[0]\t1,1,1", id="no id"),
    pytest.param("99.0\tt1", "1\t[0]\t[0]\t1,1,1", id="beyond the video"),
    pytest.param("1.0\tt1", "1\t[0]\t[0]\t0,0,1", id="a label against the votes"),
    pytest.param("1.0\tt1", "?\t[0]\t[0]\t", id="neither label nor votes"),
])  # fmt: skip
def test_the_video_of_a_dropped_label_is_not_trained_on(mini_config: Config, raw: Path, start: str, end: str | None):
    with (raw / mini_config.ego4d.labels["test"]).open("a") as file:
        file.write("\t".join([start, "#C C cuts", *filter(None, [end])]) + "\n")
    report = Report(raw)
    clips = ego4d.clips(mini_config, report)
    assert {clip["video_uid"] for clip in clips if clip["split"] == "train"} == {"t0", "t2"}
    assert any(entry["row"] == "line 4" for entry in report.dropped)


def test_an_unclosed_quote_costs_one_event_and_the_manifests_report_names_its_line(mini_config, raw: Path, capsys):
    path = raw / mini_config.epic_sounds.annotations["train"]
    header, first, second, *rest = path.read_text().splitlines(keepends=True)
    more = [first.replace("P01_00_0", f"more_{i}") for i in range(160)]
    path.write_text("".join([header, first, second.replace(",,", ',"tap,'), *rest, *more]))
    table = manifest.read(manifest.write(mini_config))
    assert (table["dataset"] == "epic_sounds").sum() == 5 + 160
    assert "dropped 1: misplaced quote\n    EPIC_Sounds_train.csv, line 3\n" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "rows"), [
    ("epic_sounds/EPIC_Sounds_validation.csv", 8035), ("epic_sounds/sound_events_not_categorised.csv", 39187),
    ("epic_sounds/EPIC_Sounds_recognition_test_timestamps.csv", 5131), ("ego4d/narration_verb_taxonomy.csv", 125),
    ("ego4d/narration_noun_taxonomy.csv", 627), ("epic_kitchens_100/EPIC_100_validation.csv", 9668),
    ("epic_kitchens_100/EPIC_100_verb_classes.csv", 97), ("epic_kitchens_100/EPIC_100_noun_classes_v2.csv", 305),
    ("epic_kitchens_100/EPIC_100_video_info.csv", 700),
])  # fmt: skip
def test_every_line_of_a_published_file_is_a_row_and_a_stray_quote_loses_one(shared_data, tmp_path, name, rows):
    path, damaged = shared_data / "annotations" / name, tmp_path / "t.csv"
    with path.open(newline="", encoding="utf-8") as file:
        expected = list(csv.DictReader(file))
    assert [row for _, row in read_rows(path, (), "a published table")] == expected
    assert len(expected) == rows
    lines = path.read_text().splitlines(keepends=True)[:40]
    text = "".join(lines[1:])
    for at in boundaries(text)[::7]:
        damaged.write_text(lines[0] + with_quote(text, at))
        assert counted(damaged) == (len(lines) - 2, 1)


def test_fragments_are_the_cells_of_malformed_rows_too(tmp_path: Path):
    (tmp_path / "t.tsv").write_text('\ufeffa\tb\n"x\t y \nz"w\tu,v\r\n')
    assert fragments(tmp_path / "t.tsv", "a table") - {""} == {"a", "b", "x", "y", "zw", "u", "v"}
