"""Compare the numbers in `figures/` with the committed ones, and show the two main tables.

Default tolerance, per number: |ours - committed| <= 0.02 + 0.05 * |committed|. On one machine the pipeline is
deterministic and everything agrees exactly. On another one, other kernels round differently and training carries that
into the tables: they then differ as two seeds do, by about .02 on an AUC of the generated world's test clips and by a
twentieth of a retrieval rate given in percent. A wrong build, a lost seed or another data set is well outside.
"""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mc3.errors import DataError
from mc3.paper.provenance import output

Files = dict[str, bytes]  # name -> content

TABLES = {
    "table2_discovery.csv": ("Table 2, sounding-action discovery: area under the ROC curve", ["av_roc", "al_roc"]),
    "table3_retrieval.csv": ("Table 3, retrieval: recall in percent", ["v2a_r5", "a2v_r5", "l2a_r5", "a2l_r5"]),
}
CLOSING = """Another data set changes levels: compare the ranking of the rows with the paper's, not the numbers.
All tables and figures: open {figures}/report/index.html. To explore the embeddings: make lab, then explore.ipynb.
To use mc3 and dvc in this shell: source .venv/bin/activate"""


class Difference(NamedTuple):
    """A number outside the tolerance; `ours` or `committed` is None where only the other exists."""

    file: str
    row: str
    column: str
    ours: float | None
    committed: float | None


def run(figures: Path, absolute: float, relative: float) -> list[Difference]:
    """Compare, print one line if all numbers agree and otherwise one line a difference; return the differences."""
    ours = {path.name: path.read_bytes() for path in figures.glob("*") if _is_result(path.name)}
    if not (committed := _committed(figures)):
        print(f"no committed numbers in {figures}/ to compare with")
        return []
    total, differences = compare(ours, committed, absolute, relative)
    agree = f"{total - len(differences)} of {total} numbers within tolerance of the committed results"
    print(f"{agree}; those outside:" if differences else agree)
    for file, row, column, mine, theirs in differences:
        print(f"  {figures / file}, row {row}, column {column}: ours {_format(mine)}, committed {_format(theirs)}")
    return differences


def show(figures: Path, width: int | None = None) -> None:
    """Print those of Tables 2 and 3 that are in `figures`, and where to go from there; `DataError` if neither is."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from mc3.paper import tables

    found = [name for name in TABLES if (figures / name).exists()]
    if not found:
        raise DataError(f"no {' or '.join(TABLES)} in {figures}/; `mc3 repro` makes them")
    console = Console(width=width)
    for name in found:
        title, metrics = TABLES[name]
        data = pd.read_csv(figures / name)
        cells = tables.cells(data, metrics).drop(columns=["A", "V", "L"], errors="ignore")
        shown = Table(*cells, title=title, caption=tables.note(data), title_justify="left", caption_justify="left")
        for row in cells.itertuples(index=False):
            shown.add_row(*map(Text, row))
        console.print(shown)
    print(CLOSING.format(figures=figures))


def compare(ours: Files, committed: Files, absolute: float, relative: float) -> tuple[int, list[Difference]]:
    """Count of numbers in either set of files and those that do not agree.

    Rows of a CSV are matched by their text columns, numbers of a JSON by their key, so order does not matter. A number
    that only one side has is a difference; NaN agrees with NaN.
    """
    total, differences = 0, []
    for file in sorted(ours.keys() | committed.keys()):
        mine, theirs = (numbers(file, side[file]) if file in side else {} for side in (ours, committed))
        keys = dict.fromkeys((*theirs, *mine))
        total += len(keys)
        for key in keys:
            a, b = mine.get(key), theirs.get(key)
            if a is None or b is None or not np.isclose(a, b, rtol=relative, atol=absolute, equal_nan=True):
                differences.append(Difference(file, *key, a, b))
    return total, differences


def numbers(file: str, content: bytes) -> dict[tuple[str, str], float]:
    """Every number of a CSV or JSON file by (row, column), in the file's order."""
    if file.endswith(".json"):
        return dict(_walk(json.loads(content), ()))
    table = pd.read_csv(io.BytesIO(content))
    if "verdict" in table:  # the words of a claim follow from its numbers
        table = table.drop(columns=[c for c in table.select_dtypes(exclude="number") if c != "claim"])
    numeric = table.select_dtypes("number")
    text = table.drop(columns=numeric.columns).fillna("").astype(str)
    labels = text.agg(" / ".join, axis=1) if len(text.columns) else pd.Series(range(1, len(table) + 1)).astype(str)
    again = labels.groupby(labels).cumcount() + 1
    labels = labels.where(again == 1, labels + " (" + again.astype(str) + ")")
    return {(label, str(c)): float(v) for c in numeric for label, v in zip(labels, numeric[c], strict=True)}


def _walk(value: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, str], float]]:
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _walk(item, (*keys, str(key)))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield (".".join(keys[:-1]) or "-", keys[-1] if keys else "-"), float(value)


def _is_result(name: str) -> bool:
    return name.endswith((".csv", ".json")) and not name.endswith((".provenance.json", ".origin.json"))


def _committed(figures: Path) -> Files:
    """The result files of `figures` in HEAD; none outside git or before the first commit."""
    listing = output("git", "-C", str(figures), "ls-tree", "--name-only", "-z", "HEAD", "./") or ""
    names = filter(_is_result, listing.split("\0"))
    return {name: (output("git", "-C", str(figures), "show", f"HEAD:./{name}") or "").encode() for name in names}


def _format(number: float | None) -> str:
    return "none" if number is None else f"{number:.6g}"
