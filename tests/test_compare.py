"""Comparing results with the committed ones, and the tables shown at the end."""

import json
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mc3 import cli
from mc3.paper import compare

TABLE = "method,label,av_roc,paper_av_roc\nmc3,MC3,0.6,0.7\ncmc,CMC,0.5,\n"


def compared(ours: str, committed: str, file: str = "t.csv"):
    return compare.compare({file: ours.encode()}, {file: committed.encode()}, 0.02, 0.05)


def test_a_table_agrees_with_itself_whatever_the_order_of_its_rows():
    head, *rows = TABLE.splitlines()
    assert compared("\n".join([head, *reversed(rows)]), TABLE) == (4, [])


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_a_number_agrees_exactly_when_it_is_within_the_documented_tolerance(ours, committed):
    _, differences = compared(f"a,x\nrow,{ours!r}\n", f"a,x\nrow,{committed!r}\n")
    assert bool(differences) == (abs(ours - committed) > 0.02 + 0.05 * abs(committed))


def test_a_number_outside_the_tolerance_is_listed_with_file_row_column_and_both_values():
    assert compared(TABLE.replace("0.6", "0.66"), TABLE) == (
        4,
        [compare.Difference("t.csv", "mc3 / MC3", "av_roc", 0.66, 0.6)],
    )


def test_missing_and_extra_rows_columns_and_files_are_listed():
    _, rows = compared("a,x\nk,1\nl,2\n", "a,x\nk,1\nm,3\n")
    assert [(d.row, d.ours, d.committed) for d in rows] == [("m", None, 3), ("l", 2, None)]
    _, columns = compared("a,x\nk,1\n", "a,x,y\nk,1,2\n")
    assert [(d.column, d.ours, d.committed) for d in columns] == [("y", None, 2)]
    total, files = compare.compare({"new.csv": b"a,x\nk,1\n"}, {"old.json": b'{"x": 2}'}, 0.02, 0.05)
    assert total == 2
    assert [(d.file, d.ours, d.committed) for d in files] == [("new.csv", 1, None), ("old.json", None, 2)]


def test_rows_with_the_same_text_or_without_any_are_numbered():
    assert [d.row for d in compared("a,x\nk,1\nk,5\n", "a,x\nk,1\nk,2\n")[1]] == ["k (2)"]
    assert [d.row for d in compared("x\n1\n5\n", "x\n1\n2\n")[1]] == ["2"]


def test_not_a_number_agrees_only_with_itself():
    assert compared("a,x,y\nk,,1\nl,1,1\n", "a,x,y\nk,,1\nl,1,1\n") == (4, [])
    assert len(compared("a,x\nk,3\nl,1\n", "a,x\nk,\nl,1\n")[1]) == 1


def test_numbers_of_json_are_found_at_every_depth_and_truth_values_are_not_numbers():
    content = json.dumps({"a": [1, {"b": 2.5}], "c": True, "d": "3", "e": None, "f": 4}).encode()
    assert compare.numbers("x.json", content) == {("a", "0"): 1, ("a.1", "b"): 2.5, ("-", "f"): 4}


@pytest.fixture
def figures(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "figures"
    folder.mkdir()
    (folder / "t.csv").write_text(TABLE)
    (folder / "t.provenance.json").write_text('{"x": 1}')
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "r"]):
        subprocess.run(["git", *command], check=True)
    return folder


def test_the_work_tree_is_compared_with_the_last_commit(figures, capsys):
    (figures / "t.provenance.json").write_text('{"x": 100}')
    assert cli.main(["compare", "--strict"]) == 0
    assert capsys.readouterr().out == "4 of 4 numbers within tolerance of the committed results\n"
    (figures / "t.csv").write_text(TABLE.replace("0.6", "0.9"))
    assert cli.main(["compare"]) == 0
    out = capsys.readouterr().out
    assert "3 of 4 numbers" in out
    assert "t.csv, row mc3 / MC3, column av_roc: ours 0.9, committed 0.6" in out
    assert cli.main(["compare", "--strict"]) == 1
    assert cli.main(["compare", "--strict", "--absolute", "0.3"]) == 0


def test_without_committed_results_that_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert cli.main(["compare", "--strict"]) == 0
    assert capsys.readouterr().out == "no committed numbers in figures/ to compare with\n"


def test_the_closing_tables_show_ours_and_the_papers_in_one_cell(tmp_path, capsys):
    row = {"method": "mc3", "label": "MC3", "seeds": 3, "av_roc": 0.6123, "av_roc_std": 0.011, "paper_av_roc": 0.598}
    rows = [row, {"method": "new", "label": "[New]", "seeds": 3, "av_roc": 0.5}]
    pd.DataFrame(rows).assign(al_roc=0.75, al_roc_std=0.0).to_csv(tmp_path / "table2_discovery.csv", index=False)
    compare.show(tmp_path, width=100)
    lines = capsys.readouterr().out.splitlines()
    (mc3,) = [line for line in lines if "MC3" in line]
    assert "0.612 ± 0.011 (0.598, +0.014)" in mc3
    assert "0.750 ± 0.000" in mc3
    (new,) = [line for line in lines if "[New]" in line]
    assert "0.500" in new
    assert any("report/index.html" in line for line in lines)
    assert lines[-1].endswith("source .venv/bin/activate")


def test_without_tables_the_command_that_makes_them_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", "--tables"]) == 1
    assert "mc3 repro" in capsys.readouterr().err
