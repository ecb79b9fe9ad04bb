"""Compare the numbers in `figures/` with the committed ones.

Default tolerance, per number: |ours - committed| <= 0.02 + 0.05 * |committed|. On one machine the
pipeline is deterministic and everything agrees exactly. On another one, other kernels round
differently and training carries that into the tables: they then differ as two seeds do, by about
.02 on an AUC of the generated world's test clips and by a twentieth of a retrieval rate given in
percent. A wrong build, a lost seed or another data set is well outside.
"""

from __future__ import annotations

import io
import json
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

Key = tuple[str, str]


class Difference(NamedTuple):
    """A number outside the tolerance; `ours` or `committed` is None where only the other exists."""

    file: str
    row: str
    column: str
    ours: float | None
    committed: float | None


def run(figures: Path, absolute: float, relative: float) -> list[Difference]:
    """Compare, print one line when all agree and one line a difference otherwise; return these."""
    committed = _committed(figures)
    ours = {path.name: path.read_bytes() for path in figures.glob("*") if _is_result(path.name)}
    if not committed:
        print(f"no committed numbers in {figures}/ to compare with")
        return []
    total, differences = compare(ours, committed, absolute, relative)
    if not differences:
        print(f"{total} of {total} numbers within tolerance of the committed results")
        return []
    print(f"{total - len(differences)} of {total} numbers within tolerance of the committed results; the others:")
    for file, row, column, mine, theirs in differences:
        print(f"  {figures / file}, row {row}, column {column}: ours {_show(mine)}, committed {_show(theirs)}")
    return differences


def compare(
    ours: dict[str, bytes], committed: dict[str, bytes], absolute: float, relative: float
) -> tuple[int, list[Difference]]:
    """Count of numbers in either set of files (name -> content) and those that do not agree.

    Rows of a CSV are matched by their text columns, numbers of a JSON by their place, so order does
    not matter. A number that only one side has is a difference; NaN agrees with NaN.
    """
    total, differences = 0, []
    for file in sorted(ours.keys() | committed.keys()):
        mine, theirs = (numbers(file, side[file]) if file in side else {} for side in (ours, committed))
        total += len(mine.keys() | theirs.keys())
        for row, column in [*theirs, *(key for key in mine if key not in theirs)]:
            a, b = mine.get((row, column)), theirs.get((row, column))
            if a is None or b is None or not _close(a, b, absolute, relative):
                differences.append(Difference(file, row, column, a, b))
    return total, differences


def numbers(file: str, content: bytes) -> dict[Key, float]:
    """Every number of a CSV or JSON file by (row, column), in the file's order."""
    if file.endswith(".json"):
        return dict(_walk(json.loads(content), ()))
    import pandas as pd

    table = pd.read_csv(io.BytesIO(content))
    if "verdict" in table:  # a claim's words follow from its numbers
        table = table.drop(columns=[c for c in table.select_dtypes(exclude="number") if c != "claim"])
    numeric = table.select_dtypes("number")
    labels = table.drop(columns=numeric.columns).fillna("").astype(str).agg(" / ".join, axis=1)
    found: dict[Key, float] = {}
    seen: dict[str, int] = {}
    for position in range(len(table)):
        label = labels.iloc[position] if len(numeric.columns) < len(table.columns) else str(position + 1)
        seen[label] = seen.get(label, 0) + 1
        row = label if seen[label] == 1 else f"{label} ({seen[label]})"
        for column in numeric.columns:
            found[row, str(column)] = float(numeric[column].iloc[position])
    return found


def _walk(value: Any, place: tuple[str, ...]) -> Iterator[tuple[Key, float]]:
    if isinstance(value, dict):
        for key in value:
            yield from _walk(value[key], (*place, str(key)))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _walk(item, (*place, str(position)))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield (".".join(place[:-1]) or "-", place[-1] if place else "-"), float(value)


def _close(ours: float, committed: float, absolute: float, relative: float) -> bool:
    if math.isnan(ours) or math.isnan(committed):
        return math.isnan(ours) and math.isnan(committed)
    return ours == committed or abs(ours - committed) <= absolute + relative * abs(committed)


def _is_result(name: str) -> bool:
    return name.endswith((".csv", ".json")) and not name.endswith(".provenance.json")


def _committed(figures: Path) -> dict[str, bytes]:
    """The result files of `figures` as HEAD has them; none outside git or before the first commit."""
    try:
        listing = _git(figures, "ls-tree", "--name-only", "-z", "HEAD", "./").decode().split("\0")
        return {name: _git(figures, "show", f"HEAD:./{name}") for name in listing if _is_result(name)}
    except (FileNotFoundError, NotADirectoryError, subprocess.CalledProcessError):
        return {}


def _git(folder: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=True).stdout


def _show(number: float | None) -> str:
    return "none" if number is None else f"{number:.6g}"
