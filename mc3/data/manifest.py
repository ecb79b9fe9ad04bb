"""The manifest: one table with a row for each clip to cut, of both data sets and all splits."""

import json
from pathlib import Path

import pandas as pd

from mc3.config import Config
from mc3.data import ego4d, epic_sounds
from mc3.data.annotations import Report
from mc3.data.clip_table import COLUMNS, read_table
from mc3.errors import DataError
from mc3.files import write_atomic

SHOWN = 5


def write(config: Config) -> Path:
    """Read the annotations under `paths.raw` and write `work/manifest.parquet` and `work/manifest_report.json`.

    The report has counts and each dropped row. Videos may be absent yet; `DataError` for a missing or unusable file.
    """
    report = Report(config.paths.raw)
    manifest = pd.DataFrame(ego4d.clips(config, report) + epic_sounds.clips(config, report), columns=list(COLUMNS))
    manifest = manifest.fillna(dict.fromkeys(("text", "verb", "noun", "action_group", "votes"), ""))
    manifest = manifest.astype(COLUMNS).sort_values(["dataset", "split", "video_uid", "start_sec", "clip_id"])
    path = config.paths.work / "manifest.parquet"
    write_atomic(path, manifest.to_parquet(index=False))
    counts = manifest.groupby(["dataset", "split"], sort=True).agg(
        videos=("video_uid", "nunique"), clips=("clip_id", "size"),
        positive=("positive", lambda p: int((p == 1).sum())), negative=("positive", lambda p: int((p == 0).sum())),
        classes=("class_id", "nunique"),
    ).reset_index()  # fmt: skip
    dropped = sorted(report.dropped, key=lambda d: (d["file"], d["reason"], d["row"]))
    facts = {"clips": counts.to_dict("records"), "dropped_by_reason": report.by_reason(),
             "set_aside": dict(sorted(report.set_aside.items())), "dropped": dropped}  # fmt: skip
    write_atomic(path.with_name("manifest_report.json"), (json.dumps(facts, indent=1) + "\n").encode())
    print(counts.to_string(index=False))
    for reason, clips in facts["dropped_by_reason"].items():
        print(f"dropped {clips}: {reason}")
        for entry in [d for d in dropped if d["reason"] == reason][:SHOWN]:
            print(f"    {entry['file']}, {entry['row']}")
    for reason, clips in facts["set_aside"].items():
        print(f"set aside {clips}: {reason}")
    return path


def read(path: Path) -> pd.DataFrame:
    """Read a manifest, perhaps with more columns after its own; `DataError` if it is missing, damaged or another."""
    if not path.exists():
        raise DataError(f"no manifest at {path}; `mc3 manifest` writes it")
    manifest = read_table(path, COLUMNS, "`mc3 manifest` writes it again")
    if list(manifest.columns)[: len(COLUMNS)] != list(COLUMNS):
        raise DataError(f"{path} has other columns than a manifest; `mc3 manifest` writes it again")
    start, end = manifest["start_sec"], manifest["end_sec"]
    if not ((start < end) & start.between(-ego4d.LONGEST_SEC, ego4d.LONGEST_SEC)).all():
        raise DataError(f"{path} is damaged (a clip has no length or no time); `mc3 manifest` writes it again")
    return manifest
