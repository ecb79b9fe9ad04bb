"""Compare the tables in `figures/` with the committed ones, and show the two main tables.

Numbers are equal (to 1e-4), within the spread of seeds (no number that has a standard deviation is more than four from
the committed one) or different. The deviation is the largest of its column in the committed table: a row's own, of
three seeds, is often near zero by chance, and other seeds then had 5 to 55 of 289 numbers beyond four deviations.
"""

import io
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mc3.errors import DataError
from mc3.files import write_atomic
from mc3.paper import tables
from mc3.paper.provenance import output

Files = dict[str, bytes]  # name -> content
Key = tuple[str, str, str]  # file, row, column

EQUAL, WITHIN, DIFFERENT = 0, 3, 4  # exit codes
TOLERANCE = 1.0001e-4  # absolute, above 1 relative; the last of four decimals may differ by one
LIMIT = 4.0  # standard deviations
RUN = "discovery.provenance.json"  # has the seeds
ALL = "everything"

TABLES = {
    "table2_discovery": ("Table 2, sounding-action discovery: area under the ROC curve", ["av_roc", "al_roc"]),
    "table3_retrieval": ("Table 3, retrieval: recall in percent", ["v2a_r5", "a2v_r5", "l2a_r5", "a2l_r5"]),
}
CLOSING = """Another data set changes levels: compare the ranking of the rows with the paper's, not the numbers.
All tables and figures: open {figures}/report/index.html. To explore the embeddings: make lab, then explore.ipynb.
To use mc3 and dvc in this shell: source .venv/bin/activate"""


def run(figures: Path, rest: Path) -> int:
    """Print the verdict in at most 15 lines, write all numbers that deviate to `rest` and return the exit code."""
    git = ("git", "-C", str(figures))
    names = (output(*git, "ls-tree", "--name-only", "-z", "HEAD", "./") or "").split("\0")
    committed = {name: (output(*git, "show", f"HEAD:./{name}") or "").encode() for name in filter(_is_compared, names)}
    ours = {path.name: path.read_bytes() for path in figures.glob("*") if _is_compared(path.name)}
    code, lines, deviating = compare(ours, committed)
    rest.unlink(missing_ok=True)
    if len(deviating):
        write_atomic(rest, deviating.to_csv(float_format="%.6g").encode())
        lines.append(f"all {len(deviating):,} numbers that deviate: {rest}")
    print(*lines, sep="\n")
    return code


def show(figures: Path, width: int | None = None) -> None:
    """Print those of Tables 2 and 3 that are in `figures`, and where to go from there; `DataError` if neither is."""
    found = [name for name in TABLES if (figures / f"{name}.csv").exists()]
    if not found:
        raise DataError(f"no {'.csv or '.join(TABLES)}.csv in {figures}/; `mc3 repro` makes them")
    console = Console(width=width)
    for name in found:
        title, metrics = TABLES[name]
        data = tables.read(name, name.partition("_")[2], figures)
        cells = tables.cells(data, metrics).drop(columns=["A", "V", "L"], errors="ignore")
        shown = Table(*cells, title=title, caption=tables.note(data), title_justify="left", caption_justify="left")
        for row in cells.itertuples(index=False):
            shown.add_row(*map(Text, row))
        console.print(shown)
    print(CLOSING.format(figures=figures))


def compare(ours: Files, committed: Files) -> tuple[int, list[str], pd.DataFrame]:
    """Exit code, at most 14 lines of which the first is the verdict, and the numbers that deviate, the worst first.

    These are by file, row and column: ours, committed, gap, deviations (gap in standard deviations, NaN if unknown).
    """
    mine, theirs = numbers(ours), numbers(committed)
    if not theirs:
        raise DataError("git has no committed numbers to compare with; clone the repository instead of downloading it")
    missing, new = _only(theirs, mine), _only(mine, theirs)
    index = pd.MultiIndex.from_tuples(theirs, names=["file", "row", "column"])
    table = pd.DataFrame({"ours": [mine.get(key) for key in theirs], "committed": theirs.values()}, index, dtype=float)
    std = table["committed"][index.get_level_values("column").str.endswith("_std")].dropna()
    std = std.rename(lambda column: column.removesuffix("_std"), level="column")
    std = std.groupby(level=["file", "column"]).transform("max").reindex(index)
    seeds, whose = [_seeds(side[RUN]) for side in (ours, committed) if RUN in side], ""
    if len(seeds) == 2 and seeds[0] != seeds[1]:
        whose = " (seeds {}; committed {})".format(*(", ".join(map(str, side)) for side in seeds))
    table["gap"] = (table["ours"] - table["committed"]).abs()
    agree = table["gap"] <= TOLERANCE * table["committed"].abs().clip(lower=1)
    agree |= table["ours"].isna() & table["committed"].isna()
    table["deviations"] = (table["gap"].fillna(np.inf) / std).where(~agree, 0)
    deviating = table[~agree].sort_values(["deviations", "gap"], ascending=False)
    present = deviating.loc[[key in mine for key in deviating.index]]
    worst = [f"missing: {name}" for name in missing] + [_describe(*row) for row in present.head(10).itertuples()]
    far, counted, others = (present["deviations"] > LIMIT).sum(), std.count(), (std.isna() & ~agree).sum()
    if agree.all() and not missing:
        code, lines = EQUAL, [f"equal{whose}: {len(agree):,} numbers agree with the committed ones to 1e-4"]
    elif counted and not far and not missing:
        furthest = worst[0] if present["deviations"].max() > 0 else "none deviates"
        code, lines = WITHIN, [f"within the spread of seeds{whose}; furthest of {counted:,} numbers: {furthest}"]
    else:
        known = f"{far:,} of {counted:,} numbers are more than {LIMIT:g} standard deviations away"
        beyond = known if counted else f"spread unknown, largest gap {table['gap'].max():.3g}"
        lost = f", {len(missing)} files, rows or columns are missing" if missing else ""
        code, lines = DIFFERENT, [f"different{whose}: {beyond}{lost}; the worst:", *worst[:10]]
    if others:
        unknown = f"{std.isna().sum():,} numbers without a standard deviation (curves, clusters)"
        lines.append(f"{others:,} of {unknown} deviate")
    if new:
        lines.append(shorten(f"new: {', '.join(new)}", 160, placeholder=" ..."))
    now, then = (_verdicts(side) for side in (ours, committed))
    if changed := [f"{name} {now[name]}, was {then[name]}" for name in then if now.get(name, then[name]) != then[name]]:
        text = f"{len(changed)} of {len(then)} verdicts of claims differ: {'; '.join(changed)}"
        lines.append(shorten(text, 160, placeholder=" ..."))
    return code, lines, deviating


def numbers(files: Files) -> dict[Key, float]:
    """Every number of the CSV files by file, row and column; NaN where a cell is empty.

    A row's name is its text before the first number, without `label`, and its count among rows of the same name.
    """
    found: dict[Key, float] = {}
    for file in sorted(files.keys() - {RUN}):
        table = _parsed(file, files[file])
        if (numeric := table.select_dtypes("number")).empty:
            continue
        text = table.iloc[:, : table.columns.get_loc(numeric.columns[0])].drop(columns="label", errors="ignore")
        text = text.filter(items=["claim"]) if "claim" in text else text  # the rest follows from the numbers
        seen = Counter[str]()
        for words, values in zip(text.fillna("").to_numpy(str), numeric.to_dict("records"), strict=True):
            seen[row := " / ".join(filter(None, words))] += 1
            row = row if row and seen[row] == 1 else f"{row} ({seen[row]})".lstrip()
            found |= {(file, row, str(column)): value for column, value in values.items()}
    return found


def _only(these: Iterable[Key], others: Iterable[Key]) -> list[str]:
    """Names of files, rows and columns that only `these` have, without rows that their count tells apart."""
    names = [{(name, f) for f, r, c in keys for name in (ALL, f"row {r}", f"column {c}")} for keys in (these, others)]
    where: dict[str, list[str]] = {}
    for name, file in sorted(names[0] - names[1]):
        if name == ALL or ((ALL, file) in names[1] and not re.search(r"\(\d+\)$", name)):
            where.setdefault(name, []).append(file)
    return [f"{n} in {', '.join(files) if len(files) < 4 else f'{len(files)} files'}" for n, files in where.items()]


def _verdicts(files: Files) -> dict[str, str]:
    table = _parsed("claims.csv", files.get("claims.csv", b"claim,verdict")).reindex(columns=["claim", "verdict"])
    return dict(zip(table["claim"], table["verdict"], strict=True))


def _parsed(name: str, content: bytes) -> pd.DataFrame:
    try:
        return pd.read_csv(io.BytesIO(content))
    except ValueError as error:  # also what is no UTF-8, or empty
        raise DataError(f"{name} is damaged ({error}); `mc3 repro` makes it again") from error


def _seeds(content: bytes) -> list[Any]:
    try:
        return list(json.loads(content)["settings"]["seeds"])
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{RUN} is damaged ({error!r}); `mc3 repro` makes it again") from error


def _describe(key: Key, ours: float, committed: float, gap: float, deviations: float) -> str:
    apart = f"{gap:.2g} apart" if np.isnan(deviations) else f"{deviations:.1f} standard deviations"
    return "{}, row {}, column {}: ours {:.6g}, committed {:.6g}, {}".format(*key, ours, committed, apart)


def _is_compared(name: str) -> bool:
    return name == RUN or name.endswith(".csv")
