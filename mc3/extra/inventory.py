"""Ego4D's videos: which ones a profile needs, before anything is downloaded, and what is wrong with those on disk.

`plan` writes the list for Ego4D's own downloader. `write` compares the files with what the metadata promise and the
clips need; an MP4 header lists where each packet lies, so a truncated file is recognised without decoding.
"""

import json
import shutil
from bisect import bisect_left
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import pandas as pd

from mc3.config import Config
from mc3.data import ego4d
from mc3.data.annotations import Report, read_table
from mc3.data.media import TRUNCATED_SEC, frame_times, open_file
from mc3.data.prepare import FAILED_VIDEOS
from mc3.errors import DataError
from mc3.files import write_atomic
from mc3.progress import bar

COMMAND = "data ego4d check"
COLUMNS = ["video_uid", "path", "bytes", "duration_sec", "has_audio", "problem"]
# Problems for which `mc3 shards` drops a video; the others cost single clips, or their sound.
UNUSABLE = {"missing", "unreadable", "no pictures", "no audio", "too short"}
SHOWN = 5
# By folder of Ego4D's release: 7.1 TB, as its users report, in 3,670 hours. Single files' sizes are not published.
GB_PER_HOUR = {"full_scale": 1.93}


@dataclass(frozen=True)
class Header:
    """A file's header: seconds from the first picture up to which pictures and sound are in the file (0: no stream)."""

    pictures_sec: float = 0.0
    sound_sec: float = 0.0
    cut: bool = False  # the file ends before a packet that its header lists
    fault: str = ""  # why FFmpeg cannot open it


def needed(config: Config) -> pd.DataFrame:
    """The videos of the manifest's Ego4D clips, determined by the manifest's own code: a row for each, sorted.

    Columns: video_uid (index), path (relative to `paths.raw`), splits ("test+validation"), clips, duration_sec (from
    ego4d.json), narrated_sec and picture_sec (times of the last narration and of the last picture that its clips need).
    Raises `DataError` if an annotation file is missing or unusable, or no clip is usable.
    """
    clips = pd.DataFrame(ego4d.clips(config, Report(config.paths.raw)))
    if clips.empty:
        raise DataError(f"no clip of {config.ego4d.narrations} can be used; `mc3 manifest` lists the reasons")
    videos = _videos(config)
    wanted = clips.groupby("video_uid").agg(
        path=("path", "first"), splits=("split", lambda split: "+".join(sorted(set(split)))),
        clips=("clip_id", "size"), narrated_sec=("narration_time", "max"),
    )  # fmt: skip
    before, after = config.clips.before_sec, config.clips.after_sec
    last = [frame_times(t - before, t + after, config.clips.frames)[-1] for t in wanted["narrated_sec"]]
    return wanted.assign(duration_sec=[videos[uid].duration_sec for uid in wanted.index], picture_sec=last)


def _videos(config: Config) -> dict[str, ego4d.Video]:
    return ego4d.read_videos(config.paths.raw / config.ego4d.metadata, Report(config.paths.raw))


def plan(config: Config) -> Path:
    """Write `work/video_uids.txt`, one video a line, and print its totals and the command that downloads it.

    Videos that are not in the release's manifest.csv (which the downloader brings) are left out and named, because the
    downloader refuses a list with them. Raises what `needed` raises.
    """
    wanted = needed(config)
    sums = {"videos": ("clips", "size"), "clips": ("clips", "sum"), "hours": ("duration_sec", "sum")}
    groups = wanted.groupby("splits").agg(**sums)
    print(groups.assign(hours=(groups["hours"] / 3600).round(1)).reset_index().to_string(index=False))
    if gone := _unreleased(config, wanted):
        more = f" and {len(gone) - SHOWN} more" if len(gone) > SHOWN else ""
        print(f"{len(gone)} of them are not in this release's manifest.csv: {', '.join(gone[:SHOWN])}{more}")
    wanted, videos = wanted.drop(index=gone), _videos(config)
    silent = [v.duration_sec for v in videos.values() if not v.has_audio]
    print(
        f"to download: {len(wanted)} videos, {_hours(wanted['duration_sec'])}, all with audio; "
        f"not needed: {len(videos) - len(wanted)} of the {len(videos)} in {config.ego4d.metadata}, "
        f"{len(silent)} of which ({_hours(silent)}) have no audio"
    )
    print(_describe_size(config, wanted))
    path = config.paths.work / "video_uids.txt"
    write_atomic(path, "".join(f"{uid}\n" for uid in wanted.index).encode())
    print(f"{path} lists them; Ego4D's own downloader says their exact size and asks before it starts:")
    folder = config.ego4d.videos
    version = f" --version {folder.parent.name}" if folder.parent.name else ""
    print(f"    ego4d --output_directory {config.paths.raw} --datasets {folder.name}{version} --video_uid_file {path}")
    return path


def _describe_size(config: Config, wanted: pd.DataFrame) -> str:
    """The download's size, extrapolated from the files that are there or from the whole release, and the free space."""
    files = {uid: config.paths.raw / name for uid, name in wanted["path"].items()}
    sizes = {uid: path.stat().st_size for uid, path in files.items() if path.is_file()}
    present, hours = sum(sizes.values()) / 1e9, wanted["duration_sec"] / 3600
    known = hours[list(sizes)].sum()
    rate = present / known if known else GB_PER_HOUR.get(config.ego4d.videos.name)
    if rate is None:
        return f"how many GB that is shows with the first file in {config.paths.raw / config.ego4d.videos}"
    missing = rate * (hours.sum() - known)
    basis = f"as the {len(sizes)} that are there" if known else "as the whole release has"
    existing = next(folder for folder in (config.paths.raw, *config.paths.raw.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 1e9
    total = f"about {present + missing:,.1f} GB at {rate:.2f} GB an hour, {basis}; {present:,.1f} GB of it are there"
    return f"{total}, and the disk has {free:,.0f} GB free{', which is NOT enough' if missing > free else ''}"


def write(config: Config) -> Path:
    """Check the needed videos and write inventory.csv, the output of the source `data ego4d check`.

    It has a row for each video, sorted, with `COLUMNS`; duration_sec is the length of the file itself, `problem` is
    empty for a good file. Headers are cached in `work/inventory.cache.jsonl`, so a repeated check reads new files only.
    Raises `DataError` if no needed video is there, or so many are unusable that `mc3 shards` would refuse them.
    """
    raw, wanted = config.paths.raw, needed(config)
    files = {uid: raw / path for uid, path in wanted["path"].items()}
    present = {uid: path for uid, path in files.items() if path.is_file()}
    if not present:
        fault = f"none of the {len(files)} videos that are needed is in {raw / config.ego4d.videos}"
        raise DataError(f"{fault}; `mc3 data ego4d plan` prints the command that downloads them")
    headers = _headers(present, config.paths.work / "inventory.cache.jsonl", config.clips.workers)
    rows = []
    for video in wanted.itertuples():
        header = headers.get(video.Index)
        row = {"video_uid": video.Index, "path": video.path, "problem": "missing"}
        if header is not None:
            row |= {
                "bytes": present[video.Index].stat().st_size,
                "duration_sec": f"{header.pictures_sec or header.sound_sec:.3f}",
                "has_audio": header.sound_sec > 0,
                "problem": "; ".join(_problems(header, video.duration_sec, video.narrated_sec, video.picture_sec)),
            }
        rows.append(row)
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"bytes": "Int64", "has_audio": "boolean"})
    path = config.source.out if config.source.command == COMMAND else config.paths.work / "inventory.csv"
    write_atomic(path, table.to_csv(index=False, lineterminator="\n").encode())
    faults = table[["path", "problem"]].assign(problem=table["problem"].str.split("; ")).explode("problem")
    faults[["kind", "facts"]] = faults["problem"].str.extract("([^:]*)(.*)")  # of "truncated: 3.0 of 9.0 s"
    _print_summary(table, faults[faults["kind"] != ""], wanted, path)
    unusable = faults.loc[faults["kind"].isin(UNUSABLE), "path"].nunique()
    if unusable > max(1, FAILED_VIDEOS * len(table)):
        fault = f"{unusable} of {len(table)} videos cannot be used ({path})"
        remedy = "run the command of `mc3 data ego4d plan` again, it fetches what is missing"
        raise DataError(f"{fault}, more than the {FAILED_VIDEOS:.0%} that `mc3 shards` tolerates; {remedy}")
    return path


def _problems(header: Header, duration: float, narrated: float, picture: float) -> list[str]:
    """A file's problems, each as "kind: facts"; times as `needed` gives them."""
    if header.fault:
        return [f"unreadable: {header.fault}"]
    found = []
    ends = [end for end in (header.pictures_sec, header.sound_sec) if end]
    if header.cut or max(ends, default=0.0) < duration - TRUNCATED_SEC:
        found.append(f"truncated: {min(ends, default=0.0):.1f} of {duration:.1f} s")
    if not header.pictures_sec:
        found.append("no pictures")
    elif picture > header.pictures_sec + TRUNCATED_SEC:
        found.append(f"too short: pictures to {header.pictures_sec:.1f} s, a narration at {narrated:.1f} s")
    if not header.sound_sec:
        found.append("no audio")
    elif min(narrated, header.pictures_sec) > header.sound_sec + TRUNCATED_SEC:
        found.append(f"sound ends early: at {header.sound_sec:.1f} s, a narration at {narrated:.1f} s")
    return found


def examine(path: Path) -> Header:
    """Read the header of a media file and the positions of its packets."""
    size = path.stat().st_size
    try:
        with open_file(path) as container:
            streams = [next(iter(each), None) for each in (container.streams.video, container.streams.audio)]
            first: Any = streams[0] or streams[1]
            zero = float((first.start_time or 0) * first.time_base) if first else 0.0
            whole = (container.duration or 0) / av.time_base
            ends = [_end(stream, size, whole, zero) if stream else (0.0, False) for stream in streams]
    except av.error.FFmpegError as error:
        return Header(fault=error.strerror or type(error).__name__)
    return Header(round(ends[0][0], 3), round(ends[1][0], 3), ends[0][1] or ends[1][1])


def _end(stream: Any, size: int, whole: float, zero: float) -> tuple[float, bool]:
    """Where a stream really ends, in seconds after `zero`, and whether that is because the file is truncated."""
    entries = stream.index_entries
    present = bisect_left(range(len(entries)), True, key=lambda i: entries[i].pos + entries[i].size > size)
    if present < len(entries):
        return max(0.0, float(entries[present].timestamp * stream.time_base) - zero), True
    if stream.duration is None:
        return whole, False
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - zero, False


def _headers(files: dict[str, Path], cache: Path, workers: int) -> dict[str, Header]:
    """Headers by uid, from `cache` if the file's size and time are the same there."""
    known: dict[tuple[str, int, int], Header] = {}
    for line in cache.read_text(encoding="utf-8").splitlines() if cache.exists() else []:
        with suppress(ValueError, TypeError):  # empty, or left unfinished by a killed run
            *key, header = json.loads(line)
            known[tuple(key)] = Header(**header)
    keys = {uid: (str(path), path.stat().st_size, path.stat().st_mtime_ns) for uid, path in files.items()}
    headers = {uid: known[key] for uid, key in keys.items() if key in known}
    new = [uid for uid in files if uid not in headers]
    cache.parent.mkdir(parents=True, exist_ok=True)
    pool = ThreadPoolExecutor(max(1, workers))  # threads, because reading waits for the disk
    try:
        futures = {pool.submit(examine, files[uid]): uid for uid in new}
        with cache.open("a", encoding="utf-8", buffering=1) as file, bar(len(new), 0, main=bool(new)) as show:
            for done, future in enumerate(as_completed(futures), 1):
                uid = futures[future]
                headers[uid] = future.result()
                # line feed first: a line left unfinished by a killed run must not spoil this one
                file.write("\n" + json.dumps([*keys[uid], asdict(headers[uid])]))
                show(done, "reading headers")
    finally:
        pool.shutdown(cancel_futures=True)
    return headers


def _unreleased(config: Config, wanted: pd.DataFrame) -> list[str]:
    """The wanted videos that are not in the release's manifest.csv; none if there is no such file."""
    for folder in (config.paths.raw / config.ego4d.videos, config.paths.raw):
        if (folder / "manifest.csv").exists():
            released = read_table(folder / "manifest.csv", ("video_uid",), "Ego4D's list of videos")
            return sorted(set(wanted.index) - set(released["video_uid"]))
    return []


def _print_summary(table: pd.DataFrame, faults: pd.DataFrame, wanted: pd.DataFrame, path: Path) -> None:
    good, present = table["problem"] == "", table["bytes"].notna()
    length = _hours(table.loc[present, "duration_sec"].astype(float))
    there = f"{present.sum()} of {len(table)} videos are there, {length}, {table['bytes'].sum() / 1e9:.1f} GB"
    usable = wanted.loc[list(table.loc[good, "video_uid"]), "clips"].sum()
    print(f"{path}: {there}; {good.sum()} are good, with {usable} of {wanted['clips'].sum()} clips")
    for kind, rows in sorted(faults.groupby("kind"), key=lambda group: -len(group[1])):
        print(f"{len(rows)} {kind}")
        for row in rows.head(SHOWN).itertuples():
            print(f"    {row.path}{row.facts}")


def _hours(seconds: Iterable[float]) -> str:
    return f"{sum(seconds) / 3600:.1f} h"
