"""EPIC-Sounds' annotation CSVs -> clips, and its HDF5 file of sound (1-D, 24 kHz, one array a video)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from mc3.config import Config
from mc3.data import DataError, is_safe_id
from mc3.data.annotations import Report, read_table

RATE = 24000
AGREE_SEC = 0.01  # timestamps are rounded to a millisecond; samples must say the same
OVERHANG_SEC = 1.0  # an event may end this much after its sound does
SCALES = (  # samples / (RATE * seconds), and what it tells; both have occurred in published annotations
    (1.0, None),
    (1 / RATE, "seconds where samples belong"),
    (10.0, "samples ten times too large"),
    (0.1, "samples ten times too small"),
)
COLUMNS = ("annotation_id", "video_id", "start_timestamp", "stop_timestamp", "start_sample", "stop_sample")


def seconds(timestamp: str) -> float:
    """A timestamp, HH:MM:SS.sss, as seconds; NaN if it is written otherwise."""
    parts = timestamp.split(":")
    try:
        hours, minutes, rest = int(parts[0]), int(parts[1]), float(parts[2])
    except (IndexError, ValueError):
        return math.nan
    return 3600 * hours + 60 * minutes + rest if len(parts) == 3 else math.nan


def problem(start: float, stop: float, start_sample: float, stop_sample: float) -> str | None:
    """What is wrong with an event whose times stand there twice, in seconds and in samples; None if they agree."""
    times, samples = np.array([start, stop]), np.array([start_sample, stop_sample])
    if not np.isfinite([*times, *samples]).all():
        return "times or samples are no numbers"
    if start < 0:
        return "starts before the video"
    if stop <= start:
        return "ends before it starts"
    for factor, reason in SCALES:
        if np.abs(samples - factor * RATE * times).max() <= factor * RATE * AGREE_SEC:
            return reason
    return "timestamps and samples disagree"


def window(start: float, stop: float, shortest: float, longest: float) -> tuple[float, float]:
    """The stretch cut for an event: around its centre, the event's length but within [shortest, longest] seconds."""
    centre, length = (start + stop) / 2, min(max(stop - start, shortest), longest)
    return centre - length / 2, centre + length / 2


def read_events(path: Path, report: Report) -> pd.DataFrame:
    """An annotation CSV -> sound events: annotation_id, video_id, start, stop (s), class_id.

    `class_id` is Int16, NA where it is not published (the test split). Rows at fault go to
    `report`. Raises `DataError` if no row is left.
    """
    table = read_table(path, COLUMNS, "EPIC-Sounds annotations")
    start, stop = table["start_timestamp"].map(seconds), table["stop_timestamp"].map(seconds)
    samples = [pd.to_numeric(table[c], errors="coerce") for c in ("start_sample", "stop_sample")]
    classes = table["class_id"] if "class_id" in table else pd.Series("", index=table.index)
    class_id = pd.to_numeric(classes, errors="coerce")
    duplicated = table["annotation_id"].duplicated()
    kept = []
    for i, row in enumerate(table.itertuples(index=False)):
        reason = problem(start[i], stop[i], samples[0][i], samples[1][i])
        if not is_safe_id(row.annotation_id):
            reason = f"unsafe annotation_id {row.annotation_id!r}"
        elif not is_safe_id(row.video_id):
            reason = f"unsafe video_id {row.video_id!r}"
        elif duplicated[i]:
            reason = "duplicated annotation_id"
        elif reason is None and classes[i] and not (class_id[i] >= 0 and class_id[i] == int(class_id[i])):
            reason = "class_id is no whole number"
        if reason is None:
            kept.append(i)
        else:
            report.drop(path, f"line {i + 2}", reason)
    if not kept:
        raise DataError(f"{path}: every row is at fault, the first because: {report.dropped[-len(table)]['reason']}")
    events = pd.DataFrame({"annotation_id": table["annotation_id"], "video_id": table["video_id"],
                           "start": start, "stop": stop, "class_id": class_id})  # fmt: skip
    return events.iloc[kept].reset_index(drop=True).astype({"class_id": "Int16"})


def clips(config: Config, report: Report) -> list[dict[str, Any]]:
    """All EPIC-Sounds clips of the manifest, a row an event; `start_sec` and `end_sec` are its `window`.

    Events of videos without sound in the HDF5 file, or beyond its end, go to `report`. Raises
    `DataError` if the file is absent or has none of an annotation file's videos.
    """
    files, shortest = config.epic_sounds, config.clips.before_sec + config.clips.after_sec
    lengths = _lengths(config.paths.raw / files.audio)
    rows, seen = [], set()
    for split, name in sorted(files.annotations.items()):
        events = read_events(config.paths.raw / name, report)
        if not set(events["video_id"]) & set(lengths):
            raise DataError(
                f"{config.paths.raw / files.audio} has none of the videos of {config.paths.raw / name}; "
                "extract the sound of these videos as EPIC-Sounds' authors describe"
            )
        for event in events.itertuples():
            row = f"annotation_id {event.annotation_id}"
            length = lengths.get(event.video_id)
            if length is None:
                report.drop(name, row, f"no sound in {files.audio.name}")
            elif event.start >= length or event.stop > length + OVERHANG_SEC:
                report.drop(name, row, "event beyond the end of the sound")
            elif event.annotation_id in seen:
                report.drop(name, row, "annotation_id is in another split too")
            else:
                seen.add(event.annotation_id)
                start, end = window(event.start, event.stop, shortest, config.clips.max_event_sec)
                rows.append({
                    "clip_id": event.annotation_id, "dataset": "epic_sounds", "split": split,
                    "video_uid": event.video_id, "narration_time": math.nan, "start_sec": start, "end_sec": end,
                    "text": "", "verb": "", "noun": "", "action_group": "", "class_id": event.class_id,
                    "path": files.audio.as_posix(),
                })  # fmt: skip
    return rows


def clips_of(path: Path, video: str, windows: Sequence[tuple[float, float]], rate: int) -> Iterator[np.ndarray]:
    """Cut stretches of one video's sound out of the HDF5 file; silence where they overhang its ends.

    Yields float32 [round((end - start) * rate)] for each (start, end) in seconds. Raises
    `DataError` naming file and video if that is absent or unreadable.
    """
    from mc3.data import media  # brings torch, which reading annotations does without

    try:
        with h5py.File(path, "r") as file:
            sound = file[video]

            def samples(first: int, count: int) -> np.ndarray:
                own = np.zeros(count, np.float32)
                low, high = max(0, first), min(len(sound), first + count)
                if low < high:
                    own[low - first : high - first] = sound[low:high]
                return own

            for start, end in windows:
                yield media.cut(samples, start, end, RATE, rate)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: the sound of {video} cannot be read ({error}); make the file again") from None


def _lengths(path: Path) -> dict[str, float]:
    """Seconds of sound of each video of the HDF5 file."""
    try:
        with h5py.File(path, "r") as file:
            return {video: len(sound) / RATE for video, sound in file.items()}
    except FileNotFoundError:
        raise DataError(f"no {path}; see `source` in the settings for the command that provides it") from None
    except (OSError, TypeError) as error:
        raise DataError(f"{path} is no HDF5 file of sound arrays ({error}); make it again") from None
