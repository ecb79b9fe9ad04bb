"""Ego4D's videos: which ones a profile needs, before anything is downloaded, and what is wrong with those on disk.

`plan` reads annotations only and writes the list for Ego4D's own downloader; `write` compares what
is there with what the metadata promise and the clips need. Files are judged by their headers: an
MP4 file says where each of its packets lies, so that one cut short is recognised without decoding.
"""

from __future__ import annotations

import json
import shutil
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import pandas as pd

from mc3.config import Config
from mc3.data import ego4d
from mc3.data.annotations import Report, read_table
from mc3.data.media import TRUNCATED_SEC, frame_times
from mc3.data.prepare import FAILED_VIDEOS, REPORT_EVERY_SEC
from mc3.errors import DataError
from mc3.files import write_atomic

COMMAND = "data ego4d check"
COLUMNS = ["video_uid", "path", "bytes", "duration_sec", "has_audio", "problem"]
UNUSABLE = {"missing", "unreadable", "no pictures", "no audio", "too short"}
"""Problems for which `mc3 shards` leaves a video out; the others cost single clips, or their sound."""
SHOWN = 5
GB_PER_HOUR = {"full_scale": 1.93}
"""By folder of Ego4D's release: 7.1 TB, as its users report, in 3,670 hours. Single files' sizes are not published."""


@dataclass(frozen=True)
class Header:
    """What a file's header says: seconds, from the first picture, to which each kind of stream is really there.

    0 where there is no such stream; `cut` where the file ends before a packet that its header lists;
    `fault` where FFmpeg cannot open it at all.
    """

    pictures_sec: float = 0.0
    sound_sec: float = 0.0
    cut: bool = False
    fault: str = ""


def needed(config: Config) -> pd.DataFrame:
    """The videos that the manifest's Ego4D clips come from, by the manifest's own code.

    Returns:
        One row a video, sorted: video_uid (index), path (relative to `paths.raw`), splits ("test+validation"),
        clips, duration_sec (ego4d.json's), narrated_sec (its last narration's) and picture_sec (its last picture's).

    Raises:
        DataError: an annotation file is absent or unusable, or nothing in them is needed.
    """
    report = Report(config.paths.raw)
    clips = pd.DataFrame(ego4d.clips(config, report))
    if clips.empty:
        raise DataError(f"no clip of {config.ego4d.narrations} can be used; `mc3 manifest` lists the reasons")
    videos = ego4d.read_videos(config.paths.raw / config.ego4d.metadata, Report(config.paths.raw))
    wanted = clips.groupby("video_uid").agg(
        path=("path", "first"),
        splits=("split", lambda split: "+".join(sorted(set(split)))),
        clips=("clip_id", "size"),
        narrated_sec=("narration_time", "max"),
    )
    before, after = config.clips.before_sec, config.clips.after_sec
    last = [frame_times(t - before, t + after, config.clips.frames)[-1] for t in wanted["narrated_sec"]]
    return wanted.assign(duration_sec=[videos[uid].duration_sec for uid in wanted.index], picture_sec=last)


def plan(config: Config) -> Path:
    """Write `work/video_uids.txt`, one video a line, and print what it amounts to and how to download it.

    Videos that the release's manifest.csv (the downloader brings it) does not list are left out and
    named: the downloader refuses a list that has them. Raises what `needed` raises.
    """
    wanted = needed(config)
    print(_by_split(wanted).to_string(index=False))
    released = _released(config)
    gone = sorted(set(wanted.index) - released) if released else []
    if gone:
        print(f"{len(gone)} of them are not in this release's manifest.csv: {_some(gone)}")
    wanted = wanted.drop(index=gone)
    videos = ego4d.read_videos(config.paths.raw / config.ego4d.metadata, Report(config.paths.raw))
    silent = [v.duration_sec for v in videos.values() if not v.has_audio]
    print(
        f"to download: {len(wanted)} videos, {_hours(wanted['duration_sec'])}, all with audio; "
        f"not needed: {len(videos) - len(wanted)} of the {len(videos)} in {config.ego4d.metadata}, "
        f"{len(silent)} of which ({_hours(silent)}) have no audio"
    )
    print(_bytes(config, wanted))
    path = config.paths.work / "video_uids.txt"
    write_atomic(path, "".join(f"{uid}\n" for uid in wanted.index).encode())
    print(f"{path} lists them; Ego4D's own downloader says their exact size and asks before it starts:")
    print(f"    {command(config, path)}")
    return path


def _bytes(config: Config, wanted: pd.DataFrame) -> str:
    """How many bytes there are and about how many come, at the rate of what is there, else of the whole release."""
    sizes = {
        uid: path.stat().st_size for uid, name in wanted["path"].items() if (path := config.paths.raw / name).is_file()
    }
    there = sum(sizes.values()) / 1e9
    hours = wanted["duration_sec"] / 3600
    known = hours[list(sizes)].sum()
    rate = there / known if known else GB_PER_HOUR.get(config.ego4d.videos.name)
    if rate is None:
        return f"how many GB that is shows with the first file in {config.paths.raw / config.ego4d.videos}"
    coming = rate * (hours.sum() - known)
    basis = f"as the {len(sizes)} that are there" if known else "as the whole release has"
    existing = next(folder for folder in (config.paths.raw, *config.paths.raw.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 1e9
    return (
        f"about {there + coming:,.1f} GB at {rate:.2f} GB an hour, {basis}; {there:,.1f} GB of it are there, "
        f"and the disk has {free:,.0f} GB free" + (", which is NOT enough" if coming > free else "")
    )


def command(config: Config, uids: Path) -> str:
    """The call of Ego4D's downloader that puts the videos of `uids` where the profile expects them."""
    folder = config.ego4d.videos
    version = f" --version {folder.parent.name}" if folder.parent.name else ""
    return f"ego4d --output_directory {config.paths.raw} --datasets {folder.name}{version} --video_uid_file {uids}"


def write(config: Config) -> Path:
    """Check the videos that are needed and write inventory.csv, the output of the source `data ego4d check`.

    One row a video, sorted: `COLUMNS`; duration_sec is what is really there, `problem` is empty for a
    good file. Headers that were read before are remembered in `work/inventory.cache.jsonl`, so that an
    interrupted check, or one after another download, only looks at what is new.

    Raises:
        DataError: no needed video is there, or so many are unusable that `mc3 shards` would refuse them.
    """
    raw, wanted = config.paths.raw, needed(config)
    files = {uid: raw / path for uid, path in wanted["path"].items()}
    there = {uid: path for uid, path in files.items() if path.is_file()}
    if not there:
        raise DataError(
            f"none of the {len(files)} videos that are needed is in {raw / config.ego4d.videos}; "
            "`mc3 data ego4d plan` prints the command that downloads them"
        )
    headers = _headers(there, config.paths.work / "inventory.cache.jsonl", config.clips.workers)
    rows = []
    for video in wanted.itertuples():
        header = headers.get(video.Index)
        row = {"video_uid": video.Index, "path": video.path, "problem": "missing"}
        if header is not None:
            row |= {
                "bytes": there[video.Index].stat().st_size,
                "duration_sec": f"{header.pictures_sec or header.sound_sec:.3f}",
                "has_audio": header.sound_sec > 0,
                "problem": "; ".join(problems(header, video.duration_sec, video.narrated_sec, video.picture_sec)),
            }
        rows.append(row)
    table = pd.DataFrame(rows, columns=COLUMNS).astype({"bytes": "Int64", "has_audio": "boolean"})
    path = config.source.out if config.source.command == COMMAND else config.paths.work / "inventory.csv"
    write_atomic(path, table.to_csv(index=False, lineterminator="\n").encode())
    _tell(table, wanted, path)
    unusable = sum(bool(UNUSABLE & set(_kinds(problem))) for problem in table["problem"])
    if unusable > max(1, FAILED_VIDEOS * len(table)):
        raise DataError(
            f"{unusable} of {len(table)} videos cannot be used ({path}), more than the {FAILED_VIDEOS:.0%} that "
            "`mc3 shards` tolerates; run the command of `mc3 data ego4d plan` again, it fetches what is missing"
        )
    return path


def problems(header: Header, duration: float, narrated: float, picture: float) -> list[str]:
    """What is wrong with a file, each as "kind: facts"; nothing if it is good.

    Args:
        header: of the file.
        duration: seconds that the metadata promise.
        narrated: the last narration that a clip is cut around, in seconds.
        picture: the last picture that a clip needs, in seconds.
    """
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
    """Read the header of a media file, and of its packets only where they lie."""
    size = path.stat().st_size
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            video: Any = next(iter(container.streams.video), None)
            audio: Any = next(iter(container.streams.audio), None)
            first = video or audio
            zero = float((first.start_time or 0) * first.time_base) if first else 0.0
            whole = (container.duration or 0) / av.time_base
            pictures, pictures_cut = _end(video, size, whole, zero) if video else (0.0, False)
            sound, sound_cut = _end(audio, size, whole, zero) if audio else (0.0, False)
    except av.error.FFmpegError as error:
        return Header(fault=error.strerror or type(error).__name__)
    return Header(round(pictures, 3), round(sound, 3), pictures_cut or sound_cut)


def _end(stream: Any, size: int, whole: float, zero: float) -> tuple[float, bool]:
    """Where a stream really ends, in seconds after `zero`, and whether that is because the file is cut short."""
    entries = stream.index_entries
    present = bisect_left(range(len(entries)), True, key=lambda i: entries[i].pos + entries[i].size > size)
    if present < len(entries):
        return max(0.0, float(entries[present].timestamp * stream.time_base) - zero), True
    if stream.duration is None:
        return whole, False
    return float(((stream.start_time or 0) + stream.duration) * stream.time_base) - zero, False


def _headers(files: dict[str, Path], cache: Path, workers: int) -> dict[str, Header]:
    """Headers by uid, from `cache` where size and time of the file are those noted there."""
    known = _remembered(cache)
    keys = {uid: (str(path), path.stat().st_size, path.stat().st_mtime_ns) for uid, path in files.items()}
    headers = {uid: known[key] for uid, key in keys.items() if key in known}
    new = [uid for uid in files if uid not in headers]
    cache.parent.mkdir(parents=True, exist_ok=True)
    started = reported = time.monotonic()
    pool = ThreadPoolExecutor(max(1, workers))  # threads: it is the disk that is waited for
    try:
        futures = {pool.submit(examine, files[uid]): uid for uid in new}
        with cache.open("a", encoding="utf-8") as file:
            for done, future in enumerate(as_completed(futures), 1):
                uid = futures[future]
                headers[uid] = future.result()
                # the line feed first: what a killed run left unfinished must not spoil the next entry
                file.write("\n" + json.dumps([*keys[uid], asdict(headers[uid])]))
                now = time.monotonic()
                if now - reported > REPORT_EVERY_SEC:
                    reported, left = now, (now - started) / done * (len(new) - done)
                    file.flush()
                    print(f"{done} of {len(new)} files, {left:.0f} s left", flush=True)
    finally:
        pool.shutdown(cancel_futures=True)
    return headers


def _remembered(cache: Path) -> dict[tuple[str, int, int], Header]:
    if not cache.exists():
        return {}
    known = {}
    for line in cache.read_text(encoding="utf-8").splitlines():
        try:
            path, size, changed, header = json.loads(line)
            known[path, size, changed] = Header(**header)
        except (ValueError, TypeError):  # empty, or a run was killed while it wrote this line
            continue
    return known


def _released(config: Config) -> set[str]:
    """The videos that the release's manifest.csv lists; none if it is not there."""
    for folder in (config.paths.raw / config.ego4d.videos, config.paths.raw):
        if (folder / "manifest.csv").exists():
            return set(read_table(folder / "manifest.csv", ("video_uid",), "Ego4D's list of videos")["video_uid"])
    return set()


def _by_split(wanted: pd.DataFrame) -> pd.DataFrame:
    groups = wanted.groupby("splits").agg(
        videos=("clips", "size"), clips=("clips", "sum"), hours=("duration_sec", "sum")
    )
    return groups.assign(hours=(groups["hours"] / 3600).round(1)).reset_index()


def _tell(table: pd.DataFrame, wanted: pd.DataFrame, path: Path) -> None:
    """Print what was found: sums, then each kind of problem with its first videos."""
    good = table["problem"] == ""
    there = table["bytes"].notna()
    seconds = table.loc[there, "duration_sec"].astype(float)
    print(
        f"{path}: {there.sum()} of {len(table)} videos are there, {_hours(seconds)}, "
        f"{table['bytes'].sum() / 1e9:.1f} GB; {good.sum()} are good, "
        f"with {wanted.loc[list(table.loc[good, 'video_uid']), 'clips'].sum()} of {wanted['clips'].sum()} clips"
    )
    counts = Counter(kind for problem in table["problem"] for kind in _kinds(problem))
    for kind, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        print(f"{count} {kind}")
        for row in table[[kind in _kinds(problem) for problem in table["problem"]]].head(SHOWN).itertuples():
            facts = next(part for part in row.problem.split("; ") if part.startswith(kind)).removeprefix(kind)
            print(f"    {row.path}{facts}")


def _kinds(problem: str) -> Iterator[str]:
    """The kinds of problem in a row: of "truncated: 3.0 of 9.0 s; no audio" they are truncated, no audio."""
    return (part.partition(":")[0] for part in problem.split("; ") if part)


def _hours(seconds: Any) -> str:
    return f"{sum(seconds) / 3600:.1f} h"


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
