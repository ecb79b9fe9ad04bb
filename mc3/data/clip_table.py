"""Tables of clips in Parquet files: the manifest, and the index of the shards, which has its columns and more."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from mc3.files import reading

COLUMNS = {
    "clip_id": "str", "dataset": "str", "split": "str", "video_uid": "str", "narration_time": "float64",
    "start_sec": "float64", "end_sec": "float64", "text": "str", "verb": "str", "noun": "str", "action_group": "str",
    "positive": "Int8", "votes": "str", "class_id": "Int16", "path": "str",
}  # fmt: skip


def read_table(path: Path, columns: Mapping[str, str], remedy: str) -> pd.DataFrame:
    """A Parquet file with at least `columns`, as their types, no text missing; `DataError` if it is another."""
    with reading(path, remedy):
        table = pd.read_parquet(path)
        if lost := [name for name in columns if name not in table]:
            raise ValueError(f"it has other columns, and no {lost[0]}")
        table = table.astype(columns)
        for name in (name for name, kind in columns.items() if kind == "str"):
            if table[name].isna().any():
                raise ValueError(f"no text in rows of the column {name}")
            "".join(table[name])  # raises for what is no UTF-8, which the library finds out late
        return table
