"""The verdict on a run's numbers beside the committed ones, and the tables shown before it."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_work
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from mc3 import cli
from mc3.paper import compare, tables

TABLE = "method,label,av_roc,av_roc_std,clips\nmc3,MC3,0.6,0.02,10\ncmc,CMC,0.5,0.01,10\n"
EQUAL, WITHIN, DIFFERENT = 0, 3, 4


def compared(ours: str, committed: str, file: str = "t.csv"):
    return compare.compare({file: ours.encode()}, {file: committed.encode()})


def test_a_table_is_equal_to_itself_whatever_the_order_of_its_rows():
    head, *rows = TABLE.splitlines()
    code, lines, deviating = compared("\n".join([head, *reversed(rows)]), TABLE)
    assert (code, lines) == (EQUAL, ["equal: 6 numbers agree with the committed ones to 1e-4"])
    assert deviating.empty


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(-3e-4, 3e-4))
def test_equal_is_one_ten_thousandth_absolute_or_above_one_relative(committed, gap):
    ours = committed + gap * max(1, abs(committed))
    apart = abs(ours - committed) / max(1, abs(committed))
    if abs(apart - 1e-4) > 1e-6:
        code, _, _ = compared(f"a,x\nrow,{ours!r}\n", f"a,x\nrow,{committed!r}\n")
        assert (code == EQUAL) == (apart < 1e-4)


METRICS = ("x", "y")
number = st.floats(0, 100).map(lambda value: round(value, 3))
deviation = st.none() | st.floats(0.01, 5).map(lambda value: round(value, 3))
row = st.fixed_dictionaries({m: st.tuples(number, deviation) for m in METRICS} | {"curve": number})
shift = st.sampled_from([0.0] * 6 + [1e-7, 0.5, 3.9, -3.9, 4.1, -9.0])
names = st.sampled_from(["a", "b", "c", "d"])


def to_csv(table: dict[str, dict]) -> str:
    lines = ["method,label," + ",".join(f"{m},{m}_std" for m in METRICS) + ",curve"]
    for name, cells in table.items():
        pairs = [f"{value!r},{'' if std is None else std}" for value, std in (cells[m] for m in METRICS)]
        lines.append(f"{name},{name.upper()},{','.join(pairs)},{cells['curve']!r}")
    return "\n".join(lines) + "\n"


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(names, row, min_size=1), st.data())
def test_the_verdict_is_that_of_a_plain_reading_of_both_tables(committed, data):
    widest = {m: max((std for cells in committed.values() if (std := cells[m][1])), default=None) for m in METRICS}
    few = st.sets(st.sampled_from(sorted(committed)), max_size=len(committed) - 1)
    lost = data.draw(few) if data.draw(st.integers(0, 3)) == 0 else set()
    added = data.draw(st.dictionaries(names.filter(lambda name: name not in committed), row, max_size=1))
    ours, deviates, far = dict(added), bool(lost), bool(lost)
    for name in committed.keys() - lost:
        moved = {}
        for m in METRICS:
            value, std = committed[name][m]
            by = data.draw(shift) * (widest[m] or 1)
            moved[m] = (value + by, std)
            if abs(by) > 1e-4 * max(1, value):
                deviates, far = True, far or (std is not None and abs(by) > 4 * widest[m])
        step = data.draw(st.sampled_from([0.0, 0.0, 0.0, 50.0]))
        ours[name] = {**moved, "curve": committed[name]["curve"] + step}
        deviates = deviates or step > 0
    expected = EQUAL if not deviates else DIFFERENT if far or not any(widest.values()) else WITHIN
    code, lines, _ = compared(to_csv(ours), to_csv(committed))
    assert code == expected, lines
    assert lines[0].startswith({EQUAL: "equal", WITHIN: "within the spread of seeds", DIFFERENT: "different"}[code])
    assert sum(line.startswith("missing: ") for line in lines) == len(lost)
    assert any(line.startswith("new: ") for line in lines) == bool(added)


def test_the_furthest_number_is_given_in_deviations_of_its_column():
    code, lines, _ = compared(TABLE.replace("0.5", "0.53").replace("10\n", "11\n"), TABLE)
    assert code == WITHIN
    assert lines == [
        "within the spread of seeds; furthest of 2 numbers: "
        "t.csv, row cmc, column av_roc: ours 0.53, committed 0.5, 1.5 standard deviations",
        "2 of 4 numbers without a standard deviation (curves, clusters) deviate",
    ]


def test_different_names_the_ten_worst_the_worst_first():
    rows = [f"m{i},{i / 100},0.01\n" for i in range(30)]
    moved = [f"m{i},{i / 100 + i / 50},0.01\n" for i in range(30)]
    code, lines, deviating = compared("method,x,x_std\n" + "".join(moved), "method,x,x_std\n" + "".join(rows))
    assert code == DIFFERENT
    assert lines[0] == "different: 27 of 30 numbers are more than 4 standard deviations away; the worst:"
    assert lines[1] == "t.csv, row m29, column x: ours 0.87, committed 0.29, 58.0 standard deviations"
    assert [line.split()[2] for line in lines[1:]] == [f"m{i}," for i in range(29, 19, -1)]
    assert len(deviating) == 29


def test_one_seed_leaves_the_spread_unknown_and_the_largest_gap_is_given():
    one = TABLE.replace("0.02", "").replace("0.01", "")
    code, lines, _ = compared(one.replace("0.6", "0.65"), one)
    assert code == DIFFERENT
    assert lines[0] == "different: spread unknown, largest gap 0.05; the worst:"
    assert lines[1] == "t.csv, row mc3, column av_roc: ours 0.65, committed 0.6, 0.05 apart"


def test_rows_columns_and_files_that_only_we_have_are_new_and_never_different():
    ours = {f"{name}.csv": (TABLE + "half,Half,1,0,1\n").encode() for name in "abcd"}
    ours |= {"a.csv": b"method,label,new,av_roc,av_roc_std,clips\nmc3,MC3,1,0.6,0.02,10\ncmc,CMC,2,0.5,0.01,10\n"}
    committed = {f"{name}.csv": TABLE.encode() for name in "abc"}
    code, lines, deviating = compare.compare(ours, committed)
    assert (code, deviating.empty) == (EQUAL, True)
    assert lines[1:] == ["new: column new in a.csv, everything in d.csv, row half in b.csv, c.csv"]


def test_rows_columns_and_files_that_only_the_committed_tables_have_are_missing():
    committed = {name: TABLE.encode() for name in ("a.csv", "b.csv", "c.csv")}
    ours = {"a.csv": TABLE.rsplit("cmc", 1)[0].encode(), "b.csv": TABLE.replace("clips", "n").encode()}
    code, lines, _ = compare.compare(ours, committed)
    assert code == DIFFERENT
    assert lines[0].startswith("different: 0 of 6 numbers are more than 4 standard deviations away, 3 files, rows or")
    assert lines[1:4] == ["missing: column clips in b.csv", "missing: everything in c.csv", "missing: row cmc in a.csv"]
    assert compare.compare({}, committed)[0] == DIFFERENT


def test_a_cluster_that_lacks_a_clip_is_no_missing_row():
    clips = "cluster,size,verb\n0,9,wash\n0,9,cut\n1,2,put\n"
    committed = {"t.csv": TABLE.encode(), "figure6_clusters.csv": clips.encode()}
    ours = {"t.csv": TABLE.encode(), "figure6_clusters.csv": clips.rsplit("1,", 1)[0].encode()}
    code, lines, _ = compare.compare(ours, committed)
    assert code == WITHIN
    assert lines == [
        "within the spread of seeds; furthest of 2 numbers: none deviates",
        "2 of 10 numbers without a standard deviation (curves, clusters) deviate",
    ]


def test_rows_are_named_by_their_text_before_the_first_number_and_counted_if_that_is_not_enough():
    table = b"method,label,protocol,x,verdict\nk,K,fine-tune,1,holds\nk,K,fine-tune,5,fails\nl,L,,2,holds\n"
    assert list(compare.numbers({"t.csv": table})) == [
        ("t.csv", "k / fine-tune", "x"), ("t.csv", "k / fine-tune (2)", "x"), ("t.csv", "l", "x")
    ]  # fmt: skip
    assert list(compare.numbers({"t.csv": b"x\n1\n5\n"})) == [("t.csv", "(1)", "x"), ("t.csv", "(2)", "x")]
    assert compare.numbers({"t.csv": b"a,b\nonly,text\n"}) == {}


def test_an_empty_cell_agrees_only_with_an_empty_cell():
    assert compared("a,x,y\nk,,1\nl,1,1\n", "a,x,y\nk,,1\nl,1,1\n")[0] == EQUAL
    code, lines, _ = compared(TABLE.replace("0.6,", ","), TABLE)
    assert code == DIFFERENT
    assert lines[1] == "t.csv, row mc3, column av_roc: ours nan, committed 0.6, inf standard deviations"


def test_claims_whose_verdict_differs_are_named_in_one_line():
    head = "claim,section,text,difference,verdict\n"
    rows = [f"claim_{i},6.1,Some text.,0.5,holds\n" for i in range(40)]
    ours = [*rows[:10], *(row.replace("holds", "inconclusive").replace("0.5", "-0.5") for row in rows[10:])]
    _, lines, _ = compared(head + "".join(ours), head + "".join(rows), "claims.csv")
    (line,) = [line for line in lines if "verdicts of claims" in line]
    assert line.startswith("30 of 40 verdicts of claims differ: claim_10 inconclusive, was holds; claim_11 ")
    assert line.endswith(" ...")
    assert len(line) <= 160
    assert len(compared(head + "".join(rows[1:]), head + "".join(rows), "claims.csv")[1]) == 3


def run_of(seeds: list[int], values: np.ndarray) -> compare.Files:
    """A table of `values` [seeds, rows] over some of the seeds, with that run's provenance."""
    chosen = values[seeds]
    std = chosen.std(0, ddof=1) if len(seeds) > 1 else np.nan
    names = [f"m{i}" for i in range(values.shape[1])]
    table = pd.DataFrame({"method": names, "seeds": len(seeds), "x": chosen.mean(0), "x_std": std})
    facts = {"settings": {"seeds": seeds}}
    return {"t.csv": table.to_csv(index=False).encode(), "discovery.provenance.json": json.dumps(facts).encode()}


def test_other_seeds_are_named_and_compared_by_the_spread_of_the_committed_ones():
    values = np.random.default_rng(0).uniform(0.4, 0.8, (5, 6))
    code, lines, _ = compare.compare(run_of([0], values), run_of([0, 1, 2], values))
    assert code == WITHIN
    assert lines[0].startswith("within the spread of seeds (seeds 0; committed 0, 1, 2); furthest of 6 numbers: ")


def test_another_seed_of_the_same_distribution_is_within_and_a_shift_of_ten_deviations_is_not():
    rng, within = np.random.default_rng(0), 0
    for _ in range(20):
        values = rng.normal(0.6, 0.02, (4, 10))
        committed = run_of([0, 1, 2], values)
        within += compare.compare(run_of([3], values), committed)[0] == WITHIN
        assert compare.compare(run_of([3], values + 0.3), committed)[0] == DIFFERENT
    assert within >= 18


cell = st.sampled_from(["", "0.1", "7", "-3e4", "text", "a longer text of a row, with more words", "nan"])
anything = st.lists(st.lists(cell, min_size=4, max_size=4), min_size=1, max_size=30)


@settings(max_examples=40, deadline=None)
@given(st.lists(anything, min_size=1, max_size=4), st.lists(anything, min_size=0, max_size=4), st.data())
def test_the_answer_has_at_most_fourteen_lines_whatever_differs(committed, ours, data):
    def files(tables):
        heads = st.permutations(["method", "x", "x_std", "y"])
        frames = [pd.DataFrame(rows, columns=data.draw(heads)) for rows in tables]
        drawn = {f"{i}.csv": frame.to_csv(index=False).encode() for i, frame in enumerate(frames)}
        return drawn | {"first.csv": TABLE.encode()}

    code, lines, deviating = compare.compare(files(ours), files(committed))
    assert len(lines) <= 14
    assert not any("\n" in line for line in lines)
    assert (code == EQUAL) <= deviating.empty


@pytest.fixture
def figures(tmp_path: Path, monkeypatch) -> Path:
    """A repository whose commit has a table, claims and a sweep's table, and whose settings name data/mini."""
    monkeypatch.chdir(tmp_path)
    for name in ("params.yaml", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path)
    folder = tmp_path / "figures"
    (folder / "seeds").mkdir(parents=True)
    (folder / "t.csv").write_text(TABLE)
    (folder / "claims.csv").write_text("claim,difference,verdict\nav,0.5,holds\n")
    (folder / "seeds" / "t.csv").write_text(TABLE)
    (folder / "metrics.json").write_text('{"x": 1}')
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "r"]):
        subprocess.run(["git", *command], check=True)
    return folder


def test_the_exit_code_is_the_verdict_on_the_work_tree_and_git_ignores_the_list_of_numbers(figures, capsys):
    (figures / "seeds" / "t.csv").write_text("method,x\nother,1\n")
    assert cli.main(["compare"]) == 0
    assert capsys.readouterr().out == "equal: 7 numbers agree with the committed ones to 1e-4\n"
    assert not Path("data").exists()

    (figures / "t.csv").write_text(TABLE.replace("0.6", "0.65"))
    assert cli.main(["compare"]) == 3
    assert capsys.readouterr().out.splitlines()[-1] == "all 1 numbers that deviate: data/mini/compare.csv"

    (figures / "t.csv").write_text(TABLE.replace("0.6", "0.9"))
    (figures / "claims.csv").write_text("claim,difference,verdict\nav,-0.5,does not hold\n")
    assert cli.main(["compare"]) == 4
    assert capsys.readouterr().out.splitlines() == [
        "different: 1 of 2 numbers are more than 4 standard deviations away; the worst:",
        "t.csv, row mc3, column av_roc: ours 0.9, committed 0.6, 15.0 standard deviations",
        "claims.csv, row av, column difference: ours -0.5, committed 0.5, 1 apart",
        "1 of 5 numbers without a standard deviation (curves, clusters) deviate",
        "1 of 1 verdicts of claims differ: av does not hold, was holds",
        "all 2 numbers that deviate: data/mini/compare.csv",
    ]
    first, _ = pd.read_csv("data/mini/compare.csv").to_dict("records")
    assert first == {"file": "t.csv", "row": "mc3", "column": "av_roc", "ours": 0.9, "committed": 0.6, "gap": 0.3,
                     "deviations": 15}  # fmt: skip
    changed = subprocess.check_output(["git", "status", "--porcelain"], text=True)
    assert "compare.csv" not in changed
    assert "data" not in changed

    subprocess.run(["git", "checkout", "-q", "."], check=True)
    assert cli.main(["compare"]) == 0
    assert not Path("data/mini/compare.csv").exists()


def test_without_committed_results_that_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    shutil.copy(ROOT / "params.yaml", tmp_path)
    assert cli.main(["compare"]) == 1
    assert capsys.readouterr().err.startswith("mc3: git has no committed numbers to compare with; clone ")


def test_every_exit_code_is_in_the_help(capsys):
    with pytest.raises(SystemExit):
        cli.main(["compare", "--help"])
    assert "Exit code: 0 equal, 3 within the spread of seeds, 4 different, 1 an error." in capsys.readouterr().out
    assert (compare.EQUAL, compare.WITHIN, compare.DIFFERENT) == (0, 3, 4)


@pytest.mark.parametrize("reader", ["true", "head -n 1"])
def test_a_closed_pipe_is_no_traceback(figures, reader):
    (figures / "t.csv").write_text(TABLE.replace("0.6", "0.9"))
    command = f"{sys.executable} -m mc3.cli compare | {reader}"
    inside = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    result = subprocess.run(command, shell=True, capture_output=True, text=True, env=inside)
    assert result.stderr == ""
    assert result.stdout.startswith("different" if reader != "true" else "")


@pytest.mark.parametrize("code", [0, 3, 4])
def test_make_repro_succeeds_whatever_the_verdict(code, tmp_path):
    python = small_work.scripts(tmp_path, python=f'echo "$@"\n[ "$3" != compare ] || exit {code}') / "python"
    command = ["make", "--no-print-directory", "-o", "setup", "repro", f"PY={python}"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout.splitlines()[-1] == "-m mc3.cli compare --tables"


def test_the_tables_show_ours_and_the_papers_in_one_cell(tmp_path, capsys):
    row = {"method": "mc3", "label": "MC3", "seeds": 3, "av_roc": 0.6123, "av_roc_std": 0.011, "paper_av_roc": 0.598}
    rows = [row, {"method": "new", "label": "[New]", "seeds": 3, "av_roc": 0.5}]
    table = pd.DataFrame(rows, columns=tables.COLUMNS["table2_discovery"]).assign(al_roc=0.75, al_roc_std=0.0)
    table.to_csv(tmp_path / "table2_discovery.csv", index=False)
    compare.show(tmp_path, width=100)
    lines = capsys.readouterr().out.splitlines()
    (mc3,) = [line for line in lines if "MC3" in line]
    assert "0.612 ± 0.011 (0.598, +0.014)" in mc3
    assert "0.750 ± 0.000" in mc3
    (new,) = [line for line in lines if "[New]" in line]
    assert "0.500" in new
    assert any("report/index.html" in line for line in lines)
    assert lines[-1].endswith("source .venv/bin/activate")


def test_the_verdict_follows_the_tables(figures, capsys):
    row = {"method": "mc3", "label": "MC3", "seeds": 3, "av_roc": 0.6, "al_roc": 0.7}
    table = pd.DataFrame([row], columns=tables.COLUMNS["table2_discovery"])
    table.to_csv(figures / "table2_discovery.csv", index=False)
    assert cli.main(["compare", "--tables"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "equal: 7 numbers agree with the committed ones to 1e-4"
    assert lines[-1] == "new: everything in table2_discovery.csv"
    assert any("MC3" in line for line in lines[:-2])


def test_without_tables_the_command_that_makes_them_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", "--tables"]) == 1
    assert "mc3 repro" in capsys.readouterr().err


def test_the_committed_figures_are_equal_to_themselves():
    files = {path.name: path.read_bytes() for path in (ROOT / "figures").glob("*.csv")}
    code, lines, _ = compare.compare(files, files)
    assert code == EQUAL
    assert int(lines[0].split()[1].replace(",", "")) > 10_000
    assert not math.isnan(next(iter(compare.numbers(files).values())))
