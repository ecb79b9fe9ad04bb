"""Reading the publishers' annotation files, and keeping account of what is wrong with them."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mc3.errors import DataError
from mc3.files import is_safe_id


@dataclass
class Report:
    """What became of the rows of annotation files that are not in the manifest.

    `dropped` lists what is wrong with the data, one entry a row or a video; `set_aside` only
    counts what is left out by design (narrations of other people, training clips not sampled).
    Files are named relative to `root`.
    """

    root: Path
    dropped: list[dict[str, Any]] = field(default_factory=list)
    set_aside: Counter[str] = field(default_factory=Counter)

    def drop(self, file: Path, row: str, reason: str, clips: int = 1) -> None:
        """List `clips` clips lost at `row` of `file` for one reason."""
        name = file.relative_to(self.root) if self.root in file.parents else file
        self.dropped.append({"file": name.as_posix(), "row": row, "reason": reason, "clips": clips})

    def by_reason(self) -> dict[str, int]:
        """Clips lost for each reason, the most frequent first."""
        counts: Counter[str] = Counter()
        for entry in self.dropped:
            counts[entry["reason"]] += entry["clips"]
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def read_json(path: Path) -> Any:
    """Parse a JSON file. `DataError` if it is absent, empty, broken (with the line) or not UTF-8 (with the byte)."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"no {path}; see `source` in the settings for the command that provides it") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, byte {error.start}: not UTF-8; fetch it again") from None
    if not text.strip():
        raise DataError(f"{path} is empty; fetch it again")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg}); fetch it again") from None


def read_rows(
    path: Path, columns: tuple[str, ...], what: str, report: Report | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, cells by column) for each row of a file, a TSV if its header has a tab, otherwise a CSV.

    Every line is one row: no published file has line breaks inside quotes, so a stray quote damages only its own line.
    Rows with misplaced quotes or with more or fewer cells than the header (EgoClip's table has some) go to `report`;
    without a report they are errors. Empty lines are skipped. `what` describes the file in messages.

    Raises:
        DataError: the file is missing, empty, no table or not UTF-8 (naming the byte), or lacks one of `columns`.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            separator = "\t" if "\t" in header else ","
            names, fault = _split(header, separator)
            if fault or '"' in "".join(names):
                raise DataError(f"{path}, line 1: misplaced quote in the header; fetch it again")
            if not any(names):
                raise DataError(f"{path} is empty; fetch it again")
            if missing := [name for name in columns if name not in names]:
                raise DataError(f"{path} has no column `{missing[0]}`; its columns are {', '.join(names)}")
            for number, line in enumerate(file, 2):
                cells, fault = _split(line, separator)
                if not fault and cells and len(cells) != len(names):
                    fault = f"{len(cells)} cells where the header has {len(names)}"
                if fault and report is None:
                    raise DataError(f"{path}, line {number}: {fault}; fetch it again")
                if fault and report is not None:
                    report.drop(path, f"line {number}", fault)
                elif cells:
                    yield number, dict(zip(names, cells, strict=True))
    except FileNotFoundError:
        raise DataError(f"no {path} ({what}); see `source` in the settings for the command that provides it") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}, byte {_first_bad_byte(path)}: not UTF-8; fetch it again") from None


def _split(line: str, separator: str) -> tuple[list[str], str]:
    """The cells of one line, and what is wrong with it ("" if nothing)."""
    if line.count('"') % 2:
        return [], "misplaced quote"
    try:
        return next(csv.reader([line], delimiter=separator, strict=True), []), ""
    except csv.Error as error:
        return [], "misplaced quote" if '"' in line else f"malformed row ({error})"


def read_table(path: Path, columns: tuple[str, ...], what: str, report: Report | None = None) -> pd.DataFrame:
    """All rows of `read_rows` as strings, and a column `line` (int). `DataError` as there, and if there are no rows."""
    rows = [{**row, "line": line} for line, row in read_rows(path, columns, what, report)]
    if not rows:
        raise DataError(f"{path} has a header but no usable rows; fetch it again")
    return pd.DataFrame(rows)


def fragments(path: Path) -> set[str]:
    """Whatever stands between separators or line ends in a CSV or TSV file, without quotes; malformed rows included."""
    text = path.read_text(encoding="utf-8-sig").replace('"', "")
    return {cell.strip() for cell in re.split(r"[\t,\r\n]", text)}


def usable_rows(
    table: pd.DataFrame, id_column: str, problem: Callable[[int], str | None], path: Path, report: Report
) -> list[int]:
    """Positions of the rows of an EPIC table that can be used; the others go to `report` with their line.

    Args:
        table: of `read_table`, with columns `id_column` and video_id.
        id_column: what each row is called, once.
        problem: what else is wrong with the row at a position, if anything.
        path: of the table.
        report: gets the rows at fault.

    Raises:
        DataError: no row is left.
    """
    ids, videos, duplicated = table[id_column], table["video_id"], table[id_column].duplicated()
    kept = []
    for i in range(len(table)):
        if not is_safe_id(ids[i]):
            reason: str | None = f"unsafe {id_column} {ids[i]!r}"
        elif not is_safe_id(videos[i]):
            reason = f"unsafe video_id {videos[i]!r}"
        elif duplicated[i]:
            reason = f"duplicated {id_column}"
        else:
            reason = problem(i)
        if reason is None:
            kept.append(i)
        else:
            report.drop(path, f"line {table['line'][i]}", reason)
    if not kept:
        raise DataError(f"{path}: every row is at fault, the first because: {report.dropped[-len(table)]['reason']}")
    return kept


def _first_bad_byte(path: Path) -> int:
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError as error:
        return error.start
    return -1
