"""Readers of published annotation files (JSON, CSV, TSV) that list every row they cannot use."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mc3.errors import DataError
from mc3.files import is_safe_id, reading

REMEDY = "fetch it again"


@dataclass
class Report:
    """The rows of annotation files that do not become clips, with file names relative to `root`.

    `dropped` lists what is wrong with the data, by row or video; `set_aside` counts what is left out by design.
    """

    root: Path
    dropped: list[dict[str, Any]] = field(default_factory=list)
    set_aside: Counter[str] = field(default_factory=Counter)

    def drop(self, file: Path, row: str, reason: str, clips: int = 1) -> None:
        """List `clips` clips lost at `row` of `file`, and why."""
        name = file.relative_to(self.root) if self.root in file.parents else file
        row = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in row)  # which a terminal would obey
        self.dropped.append({"file": name.as_posix(), "row": row, "reason": reason, "clips": clips})

    def sift(self, table: pd.DataFrame, row: str, reasons: Sequence[str | None], file: Path) -> pd.DataFrame:
        """The rows of a table with no reason against them; the others are dropped, named `row` and its value there."""
        for value, reason in zip(table[row], reasons, strict=True):
            if reason is not None:
                self.drop(file, f"{row} {value}", reason)
        return table.loc[[reason is None for reason in reasons]]

    def by_reason(self) -> dict[str, int]:
        """The number of clips lost for each reason, the most frequent first."""
        clips = pd.DataFrame(self.dropped, columns=["reason", "clips"]).groupby("reason")["clips"].sum()
        return clips.sort_values(ascending=False, kind="stable").to_dict()


def read_text(path: Path, what: str) -> str:
    """A file's text. Raises `DataError` if it (`what` it is) is missing, empty or not UTF-8 (naming the byte)."""
    if not path.exists():
        raise DataError(f"no {path} ({what}); see `source` in the settings for the command that provides it")
    with reading(path, REMEDY):
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, byte {error.start}: not UTF-8; {REMEDY}") from None
    if not text.strip():
        raise DataError(f"{path} is empty; fetch it again")
    return text


def read_json(path: Path, what: str) -> Any:
    """Parse a JSON file. Raises `DataError` as `read_text` does, for a broken line (named), and a key given twice."""
    text = read_text(path, what)
    with reading(path, REMEDY):
        try:
            return json.loads(text, object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg}); {REMEDY}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a key given twice, Python would keep the last value without a word."""
    if len(found := dict(pairs)) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} is there twice in one object")
    return found


def read_rows(
    path: Path, columns: tuple[str, ...], what: str, report: Report | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, cells by column) for each row of a file, a TSV if its header has a tab, otherwise a CSV.

    Every line is one row: no published file has line breaks inside quotes, so a stray quote damages only its own line.
    Rows with misplaced quotes or another number of cells than the header (EgoClip's table has some) go to `report`;
    without a report they are errors. Raises `DataError` as `read_text` does, or for a header without one of `columns`.
    """
    header, *lines = read_text(path, what).split("\n")
    separator = "\t" if "\t" in header else ","
    names, problem = _split(header, separator)
    if problem or '"' in "".join(names):
        raise DataError(f"{path}, line 1: misplaced quote in the header; fetch it again")
    if missing := [name for name in columns if name not in names]:
        raise DataError(f"{path} has no column `{missing[0]}`; its columns are {', '.join(names)}")
    for number, line in enumerate(lines, 2):
        cells, problem = _split(line, separator)
        if not problem and cells and len(cells) != len(names):
            problem = f"{len(cells)} cells where the header has {len(names)}"
        if problem and report is not None:
            report.drop(path, f"line {number}", problem)
        elif problem:
            raise DataError(f"{path}, line {number}: {problem}; fetch it again")
        elif cells:
            yield number, dict(zip(names, cells, strict=True))


def _split(line: str, separator: str) -> tuple[list[str], str]:
    """The cells of one line, and what is wrong with it ("" if nothing)."""
    try:
        cells = next(csv.reader([line], delimiter=separator, strict=True), [])
    except csv.Error as error:
        return [], "misplaced quote" if '"' in line else f"malformed row ({error})"
    return cells, "misplaced quote" if line.count('"') % 2 else ""


def read_table(path: Path, columns: tuple[str, ...], what: str, report: Report | None = None) -> pd.DataFrame:
    """All rows of `read_rows` as strings, and a column `line` (int). `DataError` as there, and if there are no rows."""
    rows = [{**row, "line": line} for line, row in read_rows(path, columns, what, report)]
    if not rows:
        raise DataError(f"{path} has a header but no usable rows; fetch it again")
    return pd.DataFrame(rows)


def fragments(path: Path, what: str) -> set[str]:
    """Whatever is between separators or line ends in a CSV or TSV file, without quotes; malformed rows included."""
    return {cell.strip() for cell in re.split(r"[\t,\n]", read_text(path, what).replace('"', ""))}


def usable_rows(table: pd.DataFrame, key: str, faults: Mapping[str, pd.Series], path: Path, report: Report) -> pd.Index:
    """The usable rows of an EPIC table, from `read_table(path, ...)`, with one row for each id in its column `key`.

    `faults`: what else may be wrong, with places for the row's cells, and which rows have it. Rows go to `report` with
    their first fault. Raises `DataError` if none is left.
    """
    unsafe = {f"unsafe {c} {{{c}!r}}": ~table[c].map(is_safe_id) for c in (key, "video_id")}
    faults = {**unsafe, f"duplicated {key}": table[key].duplicated(), **faults}
    first = np.select(list(faults.values()), list(faults), default="")
    reasons = [reason.format(**table.loc[i]) if reason else None for i, reason in enumerate(first)]
    kept = report.sift(table, "line", reasons, path).index
    if kept.empty:
        raise DataError(f"{path}: every row is at fault, the first because: {report.dropped[-len(table)]['reason']}")
    return kept
