"""The clips of a split as MP4 and WAV files, cut from the raw videos, so that other models can be run on them."""

from functools import partial
from pathlib import Path

import h5py
import pandas as pd

from mc3.config import Config
from mc3.data import cutting, epic_sounds, media
from mc3.data.shards import read_index, rows_of
from mc3.errors import ConfigError, DataError
from mc3.files import is_safe_id, replace_folder, write_atomic
from mc3.pools import pool
from mc3.progress import bar

COLUMNS = ["clip_id", "split", "video_uid", "start_sec", "end_sec", "text", "mp4", "wav"]


def export(
    config: Config, folder: Path, split: str = "test", dataset: str = "ego4d", rate: int | None = None
) -> pd.DataFrame:
    """Write CLIP_ID.mp4, CLIP_ID.wav and clips.csv of the clips in the shards' index; returns the table (`COLUMNS`).

    `mp4` (H.264 + AAC) and `wav` (16 bits) are file names, "" without pictures or sound; EPIC-Sounds' events have sound
    alone. Sound is mono, at `rate` or the source's own. `folder` is replaced when all is written. Raises `DataError` if
    shards, clips or a raw file are missing, a file is damaged, or `folder` holds files that are not an export's.
    """
    if rate is not None and rate < 1:
        raise ConfigError(f"--rate {rate}: give samples a second, for example 16000")
    index = read_index(config.paths.shards)
    rows = rows_of(index, dataset, split)
    if rows.empty:
        known = ", ".join(sorted(set(index["dataset"] + " " + index["split"])))
        raise DataError(f"{config.paths.shards} has no clips of {dataset} {split}; it has {known}")
    if unsafe := [name for name in rows["clip_id"] if not is_safe_id(name)]:
        raise DataError(f"clip id {unsafe[0]!r} in {config.paths.shards} is no file name; run `mc3 shards` again")
    if missing := [path for path in rows["path"].unique() if not (config.paths.raw / path).exists()]:
        where = f"{len(missing)} raw files are missing, the first {config.paths.raw / missing[0]}"
        raise DataError(f"{where}; download them or check `paths.raw`")
    # One pass over each video. Its pictures are cut at one length, which is the same in all Ego4D's clips.
    lengths = (rows["end_sec"] - rows["start_sec"]).round(3).where(rows["dataset"] == "ego4d", 0.0)
    jobs = [own for _, own in rows.sort_values("start_sec", kind="stable").groupby([rows["video_uid"], lengths])]
    cut, workers = partial(_write, raw=config.paths.raw, rate=rate), config.clips.workers
    with replace_folder(folder, "mc3 clips", "--export") as new, pool(workers) as cutters:
        written: dict[str, tuple[str, str]] = {}
        with bar(len(rows), 0, main=True) as show:
            for names in (cutters.map if workers > 1 else map)(partial(cut, folder=new), jobs):
                written |= names
                show(len(written), "writing clips")
        files = pd.DataFrame([written[name] for name in rows["clip_id"]], columns=["mp4", "wav"])
        table = rows[COLUMNS[:-2]].join(files)
        write_atomic(new / "clips.csv", table.to_csv(index=False, lineterminator="\n").encode())
    silent, blind = ((table[column] == "").sum() for column in ("wav", "mp4"))
    print(f"{len(table)} clips of {dataset} {split} in {folder}: {blind} without pictures, {silent} without sound")
    return table


def _write(rows: pd.DataFrame, folder: Path, raw: Path, rate: int | None) -> dict[str, tuple[str, str]]:
    """Write the files of one video's clips; their names by clip, "" for one that is not there."""
    path, windows = raw / rows["path"].iloc[0], list(zip(rows["start_sec"], rows["end_sec"], strict=True))
    if rows["dataset"].iloc[0] == "ego4d":
        cuts = cutting.cuts(path, windows, rate)
    else:
        rate = rate or (epic_sounds.RATE if h5py.is_hdf5(path) else media.probe(path).audio_rate)
        sounds = epic_sounds.clips_of(path, rows["video_uid"].iloc[0], windows, rate)
        cuts = ((b"", cutting.wav(sound, rate)) for sound in sounds)
    written = {}
    for clip_id, members in zip(rows["clip_id"], cuts, strict=True):
        names = f"{clip_id}.mp4", f"{clip_id}.wav"
        for name, data in zip(names, members, strict=True):
            if data:
                (folder / name).write_bytes(data)
        written[clip_id] = (names[0] if members[0] else "", names[1] if members[1] else "")
    return written
