"""Cutting the manifest's clips into the shards that `mc3.data.shards` reads, with any number of processes.

Finished shards lie in a folder `shards.partial` beside the shards' own, beside done markers, so any process that sees
it can cut any shard.
"""

import hashlib
import io
import json
import resource
import shutil
import socket
import time
import wave
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tarfile import BLOCKSIZE, GNU_FORMAT, TarFile, TarInfo
from typing import Any

import numpy as np
import pandas as pd
import psutil
from PIL import Image

from mc3.config import Clips, Config
from mc3.data import epic_sounds, manifest, media, tokenizer
from mc3.data.audio import fbank
from mc3.data.shards import MEMBERS, rows_of
from mc3.errors import ConfigError, DataError
from mc3.files import atomic, link_or_copy, reading, sha256, swapped, write_atomic
from mc3.pools import completed, pool
from mc3.progress import bar

FAILED_VIDEOS = 0.01  # if a larger share of the videos fails (and more than one), the download is broken
RUN_UP_SEC = 2.0  # of video decoded before a clip that stands alone: half of a common key frame interval
EVENT_COST_SEC = 0.05  # a clip without pictures takes as long as decoding this much video
PAPER_CLIPS = 250_000  # Sec. 5
PATIENCE_SEC, PATIENCE_SEC_PER_CLIP = 600.0, 5.0  # a process that needs longer for a shard hangs


@dataclass(frozen=True)
class ShardJob:
    """The work of one process at a time: cut the clips `rows` of the manifest into the shard `path`."""

    path: Path
    rows: list[dict[str, Any]]
    raw: Path
    clips: Clips

    @property
    def done_marker(self) -> Path:
        """JSON beside the finished shard: index records, failed videos, time and memory."""
        return self.path.with_suffix(".json")

    @property
    def key(self) -> str:
        """Hash of everything that the shard depends on; an interrupted run's shard is kept if it has the same."""
        files = [self.raw / path for path in sorted({row["path"] for row in self.rows})]
        stats = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists()]
        facts = [{**vars(self.clips), "workers": 0}, self.rows, stats]
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def cost(self) -> float:
        """About how many seconds of video are decoded: the clips, and the gap before each."""
        total, video, edge = 0.0, None, 0.0
        for row in self.rows:
            if row["dataset"] != "ego4d":
                total += EVENT_COST_SEC
                continue
            gap = RUN_UP_SEC if row["video_uid"] != video else row["start_sec"] - edge
            total += row["end_sec"] - row["start_sec"] + min(gap, RUN_UP_SEC)
            video, edge = row["video_uid"], row["end_sec"]
        return total


def write(config: Config, source: Path | None = None) -> Path:
    """Cut every clip of a manifest into `paths.shards`, with index and tokenizer; returns that folder.

    `source` is the manifest, by default `work/manifest.parquet`. The bytes do not depend on the number of processes.
    Shards that an earlier call or `write_share` finished are kept. Videos that cannot be decoded are left out and
    listed in `work/shards_report.json`. Time and memory, projected to the paper's number of clips, go to
    `work/runs/prepare/summary.json`. Raises `DataError` if there is no manifest, or
    more than 1 % of the videos (and more than one) fail.
    """
    folder, work, partial = config.paths.shards, config.paths.work, partial_folder(config)
    table = manifest.read(source or work / "manifest.parquet")
    jobs = plan(table, config, partial)
    done = _run(jobs, config.clips.workers)
    failures = [failure for facts in done for failure in facts["failures"]]
    videos = len(table[["dataset", "video_uid"]].drop_duplicates())
    if len(failures) > max(1, FAILED_VIDEOS * videos):
        reasons = "; ".join([f["reason"] for f in failures[:5]] + ["..."] * (len(failures) > 5))
        lost = f"{len(failures)} of {videos} videos cannot be used, more than {FAILED_VIDEOS:.0%}"
        raise DataError(f"{lost}: {reasons}; get them again, or take them out of the manifest")
    records = pd.DataFrame([record for facts in done for record in facts["records"]])
    index = table.merge(records, on="clip_id", how="inner", validate="one_to_one")
    words = tokenizer.make(config.model.text, rows_of(table, "ego4d", "train")["text"])
    with swapped(folder) as new:
        for job in jobs:
            link_or_copy(str(job.path), str(new / job.path.name))
        words.save(str(new / "tokenizer.json"))
        index.to_parquet(new / "index.parquet", index=False)
    shutil.rmtree(partial, ignore_errors=True)  # another process may still be at work on its share
    report = {"shards": len(jobs), "clips": len(index), "bytes": sum(facts["bytes"] for facts in done),
              "dropped_clips": len(table) - len(index), "failed_videos": failures}  # fmt: skip
    write_atomic(work / "shards_report.json", (json.dumps(report, indent=1) + "\n").encode())
    for failure in failures:
        print(f"dropped {failure['clips']} clips of {failure['video_uid']}: {failure['reason']}")
    print(f"{len(index)} clips in {len(jobs)} shards, {report['bytes'] / 1e6:.0f} MB")
    facts = _totals(done)
    filmed = _totals([each for each, job in zip(done, jobs, strict=True) if job.rows[0]["dataset"] == "ego4d"])
    print(f"{facts['clips_per_core_sec']:.1f} clips/s a core, {facts['peak_rss_bytes'] / 1e6:.0f} MB a process at most")
    if filmed["clips"]:
        hours, size = (PAPER_CLIPS / filmed["clips"] * amount for amount in (filmed["cpu_sec"] / 3600, filmed["bytes"]))
        facts["projected"] = {"clips": PAPER_CLIPS, "core_hours": hours, "bytes": size}
        print(f"{PAPER_CLIPS} Ego4D clips of such files would take {hours:.1f} core-hours and {size / 1e9:.1f} GB")
    write_atomic(work / "runs" / "prepare" / "summary.json", (json.dumps(facts, indent=1) + "\n").encode())
    return folder


def write_share(config: Config, rank: int, world: int, source: Path | None = None) -> None:
    """Cut the share of process `rank` of `world`, for `write` to join; `ConfigError` for a wrong rank."""
    if not 0 <= rank < world:
        raise ConfigError(f"rank {rank} is not one of a world of {world}; ranks count from 0 to {world - 1}")
    work = config.paths.work
    table = manifest.read(source or work / "manifest.parquet")
    jobs = share(plan(table, config, partial_folder(config)), rank, world)
    started = time.monotonic()
    done = _run(jobs, config.clips.workers)
    failures, elapsed = [failure for each in done for failure in each["failures"]], time.monotonic() - started
    facts = {"rank": rank, "world": world, "host": socket.gethostname(), **_totals(done)}
    facts |= {"elapsed_sec": elapsed, "failures": failures}
    path = work / "runs" / "prepare" / f"rank-{rank}.json"
    write_atomic(path, (json.dumps(facts, indent=1) + "\n").encode())
    print(f"rank {rank} of {world}: {facts['clips']} clips in {len(jobs)} shards; {path}")


def partial_folder(config: Config) -> Path:
    """Where shards lie until all are finished: beside `paths.shards`, behind a link too, so on the same disk."""
    folder = config.paths.shards.resolve()
    return folder.with_name(f"{folder.name}.partial")


def plan(table: pd.DataFrame, config: Config, folder: Path) -> list[ShardJob]:
    """The shards: by data set and split, whole videos in the manifest's order, closed at `clips_per_shard` clips."""
    jobs = []
    for (dataset, split), part in table.groupby(["dataset", "split"], sort=True):
        shards: list[list[dict[str, Any]]] = [[]]
        for _, video in part.groupby("video_uid", sort=False):
            if len(shards[-1]) >= config.clips.clips_per_shard:
                shards.append([])
            shards[-1] += video.to_dict("records")
        for number, rows in enumerate(shards):
            path = folder / f"{dataset}-{split}-{number:05d}.tar"
            jobs.append(ShardJob(path, rows, config.paths.raw, config.clips))
    return jobs


def share(jobs: Sequence[ShardJob], rank: int, world: int) -> list[ShardJob]:
    """The jobs of process `rank` of `world`: largest first, each to the process with the least work so far."""
    loads, taken = [0.0] * world, []
    for job in sorted(jobs, key=lambda job: (-job.cost, job.path)):
        idlest = loads.index(min(loads))
        loads[idlest] += job.cost
        if idlest == rank:
            taken.append(job)
    return taken


def _run(jobs: Sequence[ShardJob], workers: int) -> list[dict[str, Any]]:
    """Write those shards that are missing; returns the content of all done markers in the order of `jobs`."""
    for job in jobs:
        job.path.parent.mkdir(parents=True, exist_ok=True)
    # forked, so that torch is imported once; a pool for one worker too, so that their number cannot matter
    import torchaudio  # noqa: F401

    patience = PATIENCE_SEC + PATIENCE_SEC_PER_CLIP * max((len(job.rows) for job in jobs), default=0)
    with pool(workers, "fork") as cutters:
        # largest first, so that no process is left alone with it
        results = {cutters.submit(write_shard, job): job for job in sorted(jobs, key=lambda job: -job.cost)}
        done, clips = {}, 0
        with bar(sum(len(job.rows) for job in jobs), 0, main=True) as show:
            for result in completed({each: str(job.path) for each, job in results.items()}, patience):
                done[results[result].path] = result.result()
                clips += len(results[result].rows)
                show(clips, "cutting clips")
    return [done[job.path] for job in jobs]


def write_shard(job: ShardJob) -> dict[str, Any]:
    """Write one shard and its done marker, unless both are there and fit the job; returns the marker's content."""
    import torch

    torch.set_num_threads(1)
    key = job.key
    with suppress(DataError), reading(job.done_marker, "cut again"):  # no marker, or what a killed run left of one
        facts = json.loads(job.done_marker.read_text())
        if facts["key"] == key and facts.pop("seal") == _seal(facts, job.path):
            return facts
    job.done_marker.unlink(missing_ok=True)  # it must not vouch for the new shard
    began, used = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    records, failures = list[dict[str, Any]](), list[dict[str, Any]]()
    frame = pd.DataFrame(job.rows)
    try:
        with atomic(job.path) as own, own.open("wb") as file, TarFile(None, "w", file, GNU_FORMAT) as tar:
            for video, rows in frame.groupby("video_uid", sort=False):
                start, count = tar.offset, len(records)
                try:
                    for clip_id, members in _cut(job, str(video), rows):
                        records.append({"clip_id": clip_id, "shard": job.path.name, **_append(tar, clip_id, members)})
                except DataError as error:
                    name = rows["path"].iloc[0]
                    reason = str(error).replace(str(job.raw / name), name)
                    failures.append({"video_uid": str(video), "clips": len(rows), "reason": reason})
                    file.seek(start)  # remove what the shard has of this video
                    file.truncate()
                    tar.offset = start
                    del records[count:]
        now = resource.getrusage(resource.RUSAGE_SELF)
        facts = {
            "key": key, "records": records, "failures": failures, "videos": frame["video_uid"].nunique(),
            "bytes": job.path.stat().st_size, "wall_sec": time.monotonic() - began,
            "cpu_sec": now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime,
            "peak_rss_bytes": now.ru_maxrss * 1024,
        }  # fmt: skip
        with atomic(job.done_marker) as own:
            own.write_text(json.dumps({**facts, "seal": _seal(facts, job.path)}))
    except FileNotFoundError:
        if (folder := job.path.parent).exists():
            raise
        finished = folder.with_suffix("")
        if finished.exists() and finished.stat().st_mtime > psutil.Process().create_time():
            raise DataError(f"{folder} was finished and moved by another `mc3 shards`; nothing is left to do") from None
        raise DataError(f"{folder} was removed while its shards were cut; run `mc3 shards` again") from None
    return facts


def _seal(facts: dict[str, Any], shard: Path) -> str:
    """The hash of a done marker's content and of the shard for which it vouches."""
    return hashlib.sha256((json.dumps(facts) + sha256(shard)).encode()).hexdigest()


def _cut(job: ShardJob, video: str, rows: pd.DataFrame) -> Iterator[tuple[str, dict[str, bytes]]]:
    settings, path = job.clips, job.raw / rows["path"].iloc[0]
    windows = list(zip(rows["start_sec"], rows["end_sec"], strict=True))
    if rows["dataset"].iloc[0] == "ego4d":
        size, width = settings.frame_size, settings.frame_width
        clips = media.clips_of(path, windows, settings.frames, size, settings.sample_rate, width)
    else:
        clips = (media.Clip(None, sound) for sound in epic_sounds.clips_of(path, video, windows, settings.sample_rate))
    for clip_id, clip in zip(rows["clip_id"], clips, strict=True):
        if clip.waveform is None:
            raise DataError(f"{path} has no audio stream, though the metadata say so; fetch it again")
        yield clip_id, members_of(clip, settings)


def members_of(clip: media.Clip, settings: Clips) -> dict[str, bytes]:
    """A clip with sound as the files that a shard stores, by the names in `shards.MEMBERS`."""
    assert clip.waveform is not None
    members = {}
    if clip.frames is not None:
        _, height, width, _ = clip.frames.shape
        note = {} if height == width else {"comment": str(height)}
        strip = Image.fromarray(clip.frames.reshape(-1, width, 3))
        strip.save(buffer := io.BytesIO(), "JPEG", quality=settings.jpeg_quality, subsampling=0, **note)
        members["frames"] = buffer.getvalue()
    samples = np.clip(np.round(clip.waveform * 32768.0), -32768, 32767).astype("<i2")
    log_mel = fbank(samples / np.float32(32768), settings.sample_rate, settings.mel_bins)
    np.save(buffer := io.BytesIO(), log_mel.astype(np.float16), allow_pickle=False)
    members["fbank"] = buffer.getvalue()
    with wave.open(buffer := io.BytesIO(), "wb") as file:
        file.setparams((1, 2, settings.sample_rate, 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    members["audio"] = buffer.getvalue()
    return members


def _append(tar: TarFile, clip_id: str, members: dict[str, bytes]) -> dict[str, Any]:
    record: dict[str, Any] = {}
    for name, suffix in MEMBERS.items():
        data = members.get(name, b"")
        record |= {f"{name}_offset": 0, f"{name}_size": len(data)}
        if data:
            info = TarInfo(f"{clip_id}.{suffix}")  # its defaults: no owner, time 0
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            record[f"{name}_offset"] = tar.offset - len(data) - -len(data) % BLOCKSIZE  # before data and padding
    tar.members.clear()  # type: ignore[attr-defined]  # it would grow with the shard
    return {**record, "sha256": hashlib.sha256(b"".join(members.values())).hexdigest()}


def _totals(done: Sequence[dict[str, Any]]) -> dict[str, Any]:
    totals: dict[str, Any] = {"clips": sum(len(facts["records"]) for facts in done)}
    totals |= {name: sum(facts[name] for facts in done) for name in ("videos", "bytes", "wall_sec", "cpu_sec")}
    totals["clips_per_core_sec"] = totals["clips"] / totals["cpu_sec"] if done else 0.0
    return totals | {"peak_rss_bytes": max((facts["peak_rss_bytes"] for facts in done), default=0)}
