"""EPIC-Sounds: annotation CSVs -> clips, and its sound, one HDF5 file (a 1-D array a video, 24 kHz) or a file a video.

`epic_sounds.audio` names the HDF5 file or a folder that holds, at any depth, {video_id}.wav, .flac, .mp3, the videos
themselves, or any other container that PyAV reads, at any sample rate; they are mixed down to mono.
"""

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd

from mc3.config import Config
from mc3.data import media
from mc3.data.annotations import Report, read_table, usable_rows
from mc3.data.audio import cut, fault_of, overlay
from mc3.errors import DataError
from mc3.files import is_safe_id, reading, write_atomic

RATE = 24000
CLASSES = 44
VIDEO_INFO = "EPIC_100_video_info.csv"  # EPIC-KITCHENS-100's durations, in the raw folder or beside the sound; optional
DURATION_SEC, DURATION_SHARE = 2.0, 0.05  # sound and video differ by less than the larger; another rate by 8 % or more
SUFFIXES = {".aac", ".aif", ".aiff", ".avi", ".flac", ".m4a", ".m4v", ".mka", ".mkv", ".mov", ".mp3", ".mp4", ".oga",
            ".ogg", ".opus", ".ts", ".wav", ".webm", ".wma"}  # fmt: skip
AGREE_SEC = 0.01  # timestamps are rounded to milliseconds; samples must agree with them
OVERHANG_SEC = 1.0  # an event may end this much after its sound does
SLIPS = {  # in published annotations, and the samples a second that they imply
    "seconds where samples belong": 1.0, "samples ten times too large": 10.0 * RATE,
    "samples ten times too small": 0.1 * RATE,
}  # fmt: skip
REMEDY = "make the file again"
COLUMNS = ("annotation_id", "video_id", "start_timestamp", "stop_timestamp", "start_sample", "stop_sample")


def seconds(timestamp: str) -> float:
    """A timestamp HH:MM:SS.sss in seconds; NaN in any other form."""
    try:
        hours, minutes, rest = timestamp.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(rest)
    except (ValueError, OverflowError):
        return math.nan


def time_faults(times: pd.DataFrame, samples: pd.DataFrame) -> dict[str, pd.Series]:
    """What may be wrong with events' `start` and `stop`, in seconds and in samples, and which rows have it."""
    rates = (RATE, *SLIPS.values())
    agree = {rate: (samples - rate * times).abs().max(axis=1) <= rate * AGREE_SEC for rate in rates}
    return {
        "times or samples are no numbers": ~(np.isfinite(times) & np.isfinite(samples)).all(axis=1),
        "starts before the video": times["start"] < 0,
        "ends before it starts": times["stop"] <= times["start"],
        **{slip: agree[rate] & ~agree[RATE] for slip, rate in SLIPS.items()},
        "timestamps and samples disagree": ~agree[RATE],
    }


def window(start: float, stop: float, shortest: float, longest: float) -> tuple[float, float]:
    """The window cut for an event: around its centre, as long as the event but within [shortest, longest] seconds."""
    centre, length = (start + stop) / 2, min(max(stop - start, shortest), longest)
    return centre - length / 2, centre + length / 2


class Sound(NamedTuple):
    """One video's sound: its file, its length in seconds, and why it cannot be used (None if it can)."""

    file: Path
    seconds: float
    fault: str | None = None


def read_events(path: Path, report: Report) -> pd.DataFrame:
    """Usable rows of an annotation CSV: annotation_id, video_id, start, stop (s), class_id (Int16, NA if not given)."""
    table = read_table(path, COLUMNS, "EPIC-Sounds annotations", report)
    times = pd.DataFrame({edge: table[f"{edge}_timestamp"].map(seconds) for edge in ("start", "stop")})
    samples = pd.DataFrame({edge: pd.to_numeric(table[f"{edge}_sample"], errors="coerce") for edge in times})
    class_id, class_faults = _classes(table)
    events = table.assign(**times, class_id=class_id)
    kept = usable_rows(events, "annotation_id", {**time_faults(times, samples), **class_faults}, path, report)
    events = events.loc[kept, ["annotation_id", "video_id", "start", "stop", "class_id"]].reset_index(drop=True)
    return events.astype({"class_id": "Int16"})


def clips(config: Config, report: Report) -> list[dict[str, Any]]:
    """The manifest's EPIC-Sounds clips, a row for each event with sound; `start_sec` and `end_sec` are its `window`.

    Raises `DataError` if there is no sound of an annotation file's videos, or a split other than "test" has no classes.
    """
    files, shortest = config.epic_sounds, config.clips.before_sec + config.clips.after_sec
    found, folder = sounds(config), config.paths.raw / config.epic_sounds.audio
    rows: list[dict[str, Any]] = []
    for split, name in sorted(files.annotations.items()):
        events = read_events(config.paths.raw / name, report)
        if split != "test" and events["class_id"].isna().any():
            raise DataError(f"{config.paths.raw / name} has no column `class_id`, which the split {split} needs")
        if found.keys().isdisjoint(events["video_id"]):
            remedy = "extract the sound of these videos as EPIC-Sounds' authors describe"
            raise DataError(f"{folder} has none of the videos of {config.paths.raw / name}; {remedy}")
        seen = {row["clip_id"] for row in rows}
        problems = [_problem(event, found, folder.name, seen) for event in events.itertuples()]
        for event in report.sift(events, "annotation_id", problems, name).itertuples():
            start, end = window(event.start, event.stop, shortest, config.clips.max_event_sec)
            rows.append({
                "clip_id": event.annotation_id, "dataset": "epic_sounds", "split": split, "video_uid": event.video_id,
                "start_sec": start, "end_sec": end, "class_id": event.class_id,
                "path": (files.audio / found[event.video_id].file.relative_to(folder)).as_posix(),
            })  # fmt: skip
    return rows


def _problem(event: Any, found: Mapping[str, Sound], audio: str, seen: Collection[str] = ()) -> str | None:
    sound = found.get(event.video_id)
    if sound is None:
        return f"no sound in {audio}"
    if sound.fault is not None:
        return f"sound of {event.video_id} {sound.fault}"
    if event.start >= sound.seconds or event.stop > sound.seconds + OVERHANG_SEC:
        return "event beyond the end of the sound"
    return "annotation_id is in another split too" if event.annotation_id in seen else None


def clips_of(path: Path, video: str, windows: Sequence[tuple[float, float]], rate: int) -> Iterator[np.ndarray]:
    """Yield float32 [round((end - start) * rate)] for each window (start, end) in seconds of one video's sound.

    `path` is an HDF5 file with an array `video`, or the video's own media file, for which windows must ascend by start.
    Beyond the ends there is silence. Raises `DataError` if file or video are missing or unreadable.
    """
    if path.is_file() and not h5py.is_hdf5(path):
        yield from media.waveforms_of(path, windows, rate)
        return
    with reading(path, REMEDY), h5py.File(path, "r") as file:
        if fault := _array_fault(file, video):
            raise DataError(f"{path}: the sound of {video} {fault}; {REMEDY}")
        samples = partial(overlay, [(0, file[video])])
        for start, end in windows:
            sound = cut(samples, start, end, RATE, rate)
            if fault := fault_of(sound):
                raise DataError(f"{path}: the sound of {video} has {fault} after {start:.1f} s; {REMEDY}")
            yield sound


def sounds(config: Config) -> dict[str, Sound]:
    """The sound of every video in `epic_sounds.audio`, from headers alone; with a `fault` if it cannot be used.

    A length other than that in `VIDEO_INFO` is one, because another sample rate would shift every event. Raises
    `DataError` if nothing is there, or if two files belong to one video.
    """
    path = config.paths.raw / config.epic_sounds.audio
    found = _in_folder(path) if path.is_dir() else _in_hdf5(path)
    info = next((f for f in (config.paths.raw / VIDEO_INFO, path.parent / VIDEO_INFO) if f.exists()), None)
    if info is None:
        return found
    table = read_table(info, ("video_id", "duration"), "EPIC-KITCHENS-100's durations")
    lengths = pd.to_numeric(table["duration"], errors="coerce")
    duration = dict(zip(table["video_id"], lengths.where(lengths > 0), strict=True))
    for video, sound in found.items():
        expected = duration.get(video, math.nan)
        if sound.fault is None and abs(sound.seconds - expected) > max(DURATION_SEC, DURATION_SHARE * expected):
            fault = f"lasts {sound.seconds:.1f} s, its video {expected:.1f} s"
            if not path.is_dir():
                fault += f": about {RATE * sound.seconds / expected:.0f} samples a second, not {RATE}"
            found[video] = sound._replace(fault=fault)
    return found


def check(config: Config) -> dict[str, Any]:
    """Compare annotations and sound, print what fits, write work/epic_sounds_check.json and return its content.

    That is "splits" with counts, "faults", the unusable sounds by video, and "refused", the rows. It first writes
    work/epic_video_ids.txt, the videos needed. Raises `DataError` if annotations or sound are missing or unusable.
    """
    raw, work, names = config.paths.raw, config.paths.work, config.epic_sounds.annotations
    path = raw / config.epic_sounds.audio
    reports, events = {split: Report(raw) for split in sorted(names)}, {}
    for split, report in reports.items():
        table = events[split] = read_events(raw / names[split], report)
        print(f"{split}: {len(table)} events in {table['video_id'].nunique()} videos, in {raw / names[split]}")
    needed = sorted(set().union(*(set(table["video_id"]) for table in events.values())))
    ids = work / "epic_video_ids.txt"
    write_atomic(ids, "".join(f"{video}\n" for video in needed).encode())
    print(f"{len(needed)} videos are needed; their ids are in {ids}")
    found = sounds(config)
    faults = {v: fault for v in needed if v in found and (fault := found[v].fault or _values(path, v))}
    summary: dict[str, Any] = {}
    for split, table in events.items():
        problems = [_problem(event, found, path.name) for event in table.itertuples()]
        fits = reports[split].sift(table, "annotation_id", problems, names[split])
        videos, with_sound = table["video_id"].nunique(), sorted(found.keys() & set(table["video_id"]))
        counts = summary[split] = {
            "events": len(fits), "refused": reports[split].by_reason(),
            "videos": videos, "videos_with_sound": len(with_sound),
            "hours_of_events": round(float((fits["stop"] - fits["start"]).sum()) / 3600, 3),
            "hours_of_sound": round(sum(found[video].seconds for video in with_sound) / 3600, 3),
            "classes": int(fits["class_id"].nunique()),
        }  # fmt: skip
        print(
            "{split}: {events} events of {classes} classes can be cut, {hours_of_events} h; {videos_with_sound} of "
            "{videos} videos have sound, {hours_of_sound} h".format(split=split, **counts)
        )
        for reason, rows in counts["refused"].items():
            print(f"    {rows} refused: {reason}")
    for video, fault in faults.items():
        print(f"    {video} {fault}")
    refused = [entry for report in reports.values() for entry in report.dropped]
    facts = {"splits": summary, "faults": faults, "refused": refused}
    write_atomic(work / "epic_sounds_check.json", (json.dumps(facts, indent=1) + "\n").encode())
    if not any(counts["events"] for counts in summary.values()):
        problem = f"{path} has usable sound of none of the {len(needed)} videos in {ids}"
        raise DataError(f"{problem}; get their sound as EPIC-Sounds' authors describe")
    return facts


def _classes(table: pd.DataFrame) -> tuple[pd.Series, dict[str, pd.Series]]:
    if "class_id" not in table:
        return pd.Series(math.nan, index=table.index), {}
    number, whole = pd.to_numeric(table["class_id"], errors="coerce"), table["class_id"].str.isdigit()
    known = number.isin(range(CLASSES))
    faults = {f"class_id is not in 0..{CLASSES - 1}": ~known & whole, "class_id is no whole number": ~known & ~whole}
    if "class" in table:
        # a name and a number belong together if each is the other's most frequent partner
        pairs = pd.DataFrame({"id": number, "name": table["class"]})
        counts = pairs[known].value_counts().reset_index()
        best = counts[~counts["id"].duplicated() & ~counts["name"].duplicated()]
        odd = pairs["name"] != number.map(best.set_index("id")["name"])
        faults["class {class!r} with class_id {class_id:.0f}, against the rest of the file"] = known & odd
    return number, faults


def _in_hdf5(path: Path) -> dict[str, Sound]:
    if not path.exists():
        raise DataError(f"no sound at {path}; `mc3 data epic-sounds check` lists the videos that are needed")
    if path.is_file() and not h5py.is_hdf5(path):
        raise DataError(f"{path} is no HDF5 file of sound arrays; {REMEDY}")
    with reading(path, REMEDY), h5py.File(path, "r") as file:
        faults = {video: _array_fault(file, video) for video in file}
        return {video: Sound(path, 0.0 if fault else len(file[video]) / RATE, fault) for video, fault in faults.items()}


def _array_fault(file: h5py.File, video: str) -> str | None:
    """Why an HDF5 file's entry is no sound of its own; None if it is. What lies in other files is never opened."""
    if file.get(video, getclass=True, getlink=True) not in (h5py.HardLink, None):
        return "is a link, perhaps to another file"
    try:
        array = file[video]
        if not isinstance(array, h5py.Dataset) or array.ndim != 1 or array.dtype.kind != "f":
            return "is no 1-D array of floats"
        return "is stored in another file" if array.external or array.is_virtual else None
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        return f"cannot be read ({error})"


def _in_folder(folder: Path) -> dict[str, Sound]:
    found: dict[str, Sound] = {}
    for file in sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and is_safe_id(f.stem)):
        if file.stem in found:
            raise DataError(f"{found[file.stem].file} and {file} are both the sound of {file.stem}; keep one of them")
        length, fault = 0.0, None
        try:
            length, _, _, rate = media.probe(file)
            if not rate:
                fault = f"is not in {file.name}, which has no audio stream"
            elif not length:
                fault = f"has no duration in {file.name}'s header; write the file again, for example as FLAC"
        except DataError as error:
            fault = f"cannot be read: {error}"
        found[file.stem] = Sound(file, length, fault)
    if not found:
        raise DataError(f"no media files in {folder}; name them {{video_id}}.wav, .flac or as their format is called")
    return found


def _values(path: Path, video: str) -> str | None:
    """What is wrong with the samples of one array of the HDF5 file; media files are not decoded for this."""
    if path.is_dir():
        return None
    try:
        with h5py.File(path, "r") as file:
            for first in range(0, len(file[video]), 60 * RATE):
                part = file[video][first : first + 60 * RATE]
                if not np.isfinite(part).all():
                    return f"has samples that are no finite numbers after {first // RATE} s"
                if np.abs(part).max(initial=0) > 1:
                    return f"has samples outside [-1, 1] (up to {np.abs(part).max():g}) after {first // RATE} s"
    except (OSError, RuntimeError) as error:
        return f"cannot be read ({error})"
    return None
