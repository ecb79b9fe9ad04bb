"""Reading the publishers' annotation files, and keeping account of what is wrong with them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mc3.data import DataError


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
    """Parse a JSON file. `DataError` if it is absent, empty or broken, with the line."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"no {path}; see `source` in the settings for the command that provides it") from None
    if not text.strip():
        raise DataError(f"{path} is empty; fetch it again")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg}); fetch it again") from None


def read_table(path: Path, columns: tuple[str, ...], what: str) -> pd.DataFrame:
    """A CSV or TSV (its header tells) as strings, with at least `columns`; `what` it is, for messages.

    `DataError` if it is absent, no table, without rows or without one of the columns.
    """
    try:
        with path.open(encoding="utf-8") as file:
            separator = "\t" if "\t" in file.readline() else ","
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise DataError(f"no {path} ({what}); see `source` in the settings for the command that provides it") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path} is no table ({str(error).strip()}); fetch it again") from None
    if missing := [c for c in columns if c not in table]:
        raise DataError(f"{path} has no column `{missing[0]}`; its columns are {', '.join(table.columns)}")
    if table.empty:
        raise DataError(f"{path} has a header but no rows; fetch it again")
    return table
