"""Cutting at scale: from a manifest to the shards that `mc3.data.shards` reads, by any number of processes.

The unit of work is a shard. Finished ones lie in `work/shards.partial` with a completion mark
beside them, so whoever sees that folder may cut any of them: worker processes, other machines
(`rank` of `world`), or SLURM tasks. `write` cuts what is left and puts the whole in its place.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import multiprocessing
import os
import resource
import shutil
import socket
import tarfile
import threading
import time
import wave
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from PIL import Image

from mc3.config import Clips, Config
from mc3.data.shards import MEMBERS
from mc3.errors import ConfigError, DataError
from mc3.files import write_atomic

FAILED_VIDEOS = 0.01  # more videos than this share at fault (and more than one) is a broken download, not bad luck
REPORT_EVERY_SEC = 5.0
RUN_UP_SEC = 2.0  # of video that is decoded before a clip that stands alone: half of common key frame intervals
EVENT_COST_SEC = 0.05  # a clip without pictures takes as long as decoding this much video
PAPER_CLIPS = 250_000  # Sec. 5


@dataclass(frozen=True)
class Job:
    """What one process does at a time: cut the clips `rows` of the manifest and write shard `name`."""

    name: str
    rows: list[dict[str, Any]]
    raw: Path
    folder: Path
    clips: Clips

    @property
    def path(self) -> Path:
        """The shard."""
        return self.folder / f"{self.name}.tar"

    @property
    def mark(self) -> Path:
        """Its completion mark: JSON with index records, failed videos and what it took."""
        return self.folder / f"{self.name}.json"

    @property
    def key(self) -> str:
        """Hash of all that the shard depends on, to know whether one left by an interrupted run is good."""
        media_files = sorted({row["path"] for row in self.rows})
        stats = [(self.raw / name).stat() for name in media_files if (self.raw / name).exists()]
        cut = {**vars(self.clips), "workers": 0}
        facts = [cut, self.rows, [(s.st_size, s.st_mtime_ns) for s in stats]]
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def cost(self) -> float:
        """Seconds of video that cutting it decodes, about: the clips, and the way to each from the one before."""
        total, video, edge = 0.0, None, 0.0
        for row in self.rows:
            if row["dataset"] != "ego4d":
                total += EVENT_COST_SEC
                continue
            gap = RUN_UP_SEC if row["video_uid"] != video else row["start_sec"] - edge
            total += row["end_sec"] - row["start_sec"] + min(gap, RUN_UP_SEC)
            video, edge = row["video_uid"], row["end_sec"]
        return total


def write(config: Config) -> Path:
    """Cut every clip of `work/manifest.parquet` into `work/shards`, with index and tokenizer.

    Work is spread over `clips.workers` processes, a shard at a time, and the bytes do not depend
    on their number, nor on who cut what. An interrupted run, `write_share` and `submit` leave
    finished shards in `work/shards.partial`, from which this goes on. Videos that cannot be
    decoded are listed in `work/shards_report.json` and their clips are left out of the index;
    what cutting took is in `work/runs/prepare/summary.json`.

    Raises:
        DataError: if the manifest is absent or more than 1 % of the videos (and more than one) fail.
    """
    from mc3.data import manifest, tokenizer

    work = config.paths.work
    folder, partial = work / "shards", work / "shards.partial"
    table = manifest.read(work / "manifest.parquet")
    jobs = plan(table, config, partial)
    marks = _run(jobs, config.clips.workers)
    failures = [failure for mark in marks for failure in mark["failures"]]
    _judge(failures, table)
    records = pd.DataFrame([record for mark in marks for record in mark["records"]])
    index = table.merge(records, on="clip_id", how="inner", validate="one_to_one")
    texts = table.loc[(table["dataset"] == "ego4d") & (table["split"] == "train"), "text"]
    words = tokenizer.make(config.model.text, texts)
    for other in set(partial.iterdir()) - {job.path for job in jobs}:  # marks, and what killed runs left
        other.unlink()
    words.save(str(partial / "tokenizer.json"))
    index.to_parquet(partial / "index.parquet", index=False)
    if folder.exists():
        shutil.rmtree(folder)
    partial.replace(folder)
    facts = {
        "shards": len(jobs),
        "clips": len(index),
        "bytes": sum(mark["bytes"] for mark in marks),
        "dropped_clips": len(table) - len(index),
        "failed_videos": failures,
    }
    write_atomic(work / "shards_report.json", (json.dumps(facts, indent=1) + "\n").encode())
    for failure in failures:
        print(f"dropped {failure['clips']} clips of {failure['video_uid']}: {failure['reason']}")
    print(f"{len(index)} clips in {len(jobs)} shards, {facts['bytes'] / 1e6:.0f} MB")
    _summarise(marks, jobs, work)
    return folder


def write_share(config: Config, rank: int, world: int) -> None:
    """Cut what falls to process `rank` of `world`, and leave `work/runs/prepare/rank-{rank}.json`.

    The shares depend on manifest, settings and `world` only. A share that was interrupted is
    taken up again at its first unfinished shard. `write` joins the shares.

    Raises:
        ConfigError: if `rank` is not one of 0 .. `world` - 1.
        DataError: if the manifest is absent.
    """
    from mc3.data import manifest

    if not 0 <= rank < world:
        raise ConfigError(f"rank {rank} is not one of a world of {world}; ranks count from 0 to {world - 1}")
    work = config.paths.work
    jobs = share(plan(manifest.read(work / "manifest.parquet"), config, work / "shards.partial"), rank, world)
    started = time.monotonic()
    marks = _run(jobs, config.clips.workers)
    facts = {"rank": rank, "world": world, "host": socket.gethostname(), **_totals(marks)}
    facts["elapsed_sec"] = time.monotonic() - started
    facts["failures"] = [failure for mark in marks for failure in mark["failures"]]
    path = work / "runs" / "prepare" / f"rank-{rank}.json"
    write_atomic(path, (json.dumps(facts, indent=1) + "\n").encode())
    print(f"rank {rank} of {world}: {facts['clips']} clips in {len(jobs)} shards; {path}")


def plan(table: pd.DataFrame, config: Config, folder: Path) -> list[Job]:
    """The shards: per data set and split, whole videos in the manifest's order, closed at `clips_per_shard` clips."""
    jobs = []
    for (dataset, split), part in table.groupby(["dataset", "split"], sort=True):
        shards: list[list[dict[str, Any]]] = [[]]
        for _, video in part.groupby("video_uid", sort=False):
            if len(shards[-1]) >= config.clips.clips_per_shard:
                shards.append([])
            shards[-1] += video.to_dict("records")
        jobs += [
            Job(f"{dataset}-{split}-{number:05d}", rows, config.paths.raw, folder, config.clips)
            for number, rows in enumerate(shards)
        ]
    return jobs


def share(jobs: Sequence[Job], rank: int, world: int) -> list[Job]:
    """The jobs of process `rank` of `world`: dearest first, each to the process with the least to do so far."""
    loads, taken = [0.0] * world, []
    for job in sorted(jobs, key=lambda job: (-job.cost, job.name)):
        idlest = loads.index(min(loads))
        loads[idlest] += job.cost
        if idlest == rank:
            taken.append(job)
    return taken


def _run(jobs: Sequence[Job], workers: int) -> list[dict[str, Any]]:
    """Write those shards that are not there yet; the completion marks of all, in the order of `jobs`."""
    total, done, started, reported = sum(len(job.rows) for job in jobs), 0, time.monotonic(), time.monotonic()
    for folder in {job.folder for job in jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    # forked, like DataLoader's workers, so that torch is imported once; the pool is used for one worker too,
    # so that their number cannot matter
    context = multiprocessing.get_context("fork")
    import torch  # noqa: F401

    with ProcessPoolExecutor(
        max(1, workers), mp_context=context, initializer=_start_worker, initargs=(os.getpid(),)
    ) as pool:
        # the dearest first, so that no process is left alone with it
        results = {pool.submit(write_shard, job): job for job in sorted(jobs, key=lambda job: -job.cost)}
        marks = {}
        for result in as_completed(results):
            job = results[result]
            marks[job.name] = result.result()
            done += len(job.rows)
            now = time.monotonic()
            if now - reported > REPORT_EVERY_SEC:
                speed, reported = done / (now - started), now
                print(f"{done} of {total} clips, {speed:.0f} clips/s, {(total - done) / speed:.0f} s left", flush=True)
    return [marks[job.name] for job in jobs]


def _start_worker(parent: int) -> None:
    import torch

    torch.set_num_threads(1)

    def follow() -> None:  # a killed parent cannot tell its workers, and they would wait for work for ever
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def write_shard(job: Job) -> dict[str, Any]:
    """Write one shard, and beside it a JSON file, its completion mark, which is returned.

    The mark has index records and failed videos, and clips, videos, bytes, seconds and memory.
    Nothing is done if both are there and fit the job. Needs no other shard, so that any process
    of any machine that sees the folder may do it; if two do, both write the same.
    """
    key = job.key
    if job.mark.exists() and job.path.exists():
        mark = json.loads(job.mark.read_text())
        if mark["key"] == key and mark["bytes"] == job.path.stat().st_size:
            return mark
    job.mark.unlink(missing_ok=True)  # it must not vouch for the shard that takes the old one's place
    began, used = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    records: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    frame = pd.DataFrame(job.rows)
    with (
        _new(job.path) as path,
        path.open("wb") as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for video, rows in frame.groupby("video_uid", sort=False):
            start, count = tar.offset, len(records)
            try:
                for clip_id, members in _cut(job, str(video), rows):
                    records.append({"clip_id": clip_id, "shard": job.path.name, **_append(tar, clip_id, members)})
            except DataError as error:
                name = rows["path"].iloc[0]
                reason = str(error).replace(str(job.raw / name), name)
                failures.append({"video_uid": str(video), "clips": len(rows), "reason": reason})
                _roll_back(tar, file, start)
                del records[count:]
    now = resource.getrusage(resource.RUSAGE_SELF)
    mark = {
        "key": key,
        "records": records,
        "failures": failures,
        "videos": frame["video_uid"].nunique(),
        "bytes": job.path.stat().st_size,
        "wall_sec": time.monotonic() - began,
        "cpu_sec": now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime,
        "peak_rss_bytes": now.ru_maxrss * 1024,
    }
    with _new(job.mark) as path:
        path.write_text(json.dumps(mark))
    return mark


@contextlib.contextmanager
def _new(path: Path) -> Iterator[Path]:
    """A name of this process alone to write to, which becomes `path` in one step when all went well."""
    own = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        yield own
        own.replace(path)
    except FileNotFoundError:
        raise DataError(
            f"{path.parent} was finished and moved by another `mc3 shards`; nothing is left to do"
        ) from None
    finally:
        own.unlink(missing_ok=True)


def _roll_back(tar: tarfile.TarFile, file: BinaryIO, offset: int) -> None:
    """Forget the members that were added behind `offset`."""
    file.seek(offset)
    file.truncate()
    tar.offset = offset


def _cut(job: Job, video: str, rows: pd.DataFrame) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Clip by clip of one video, the bytes of its members."""
    from mc3.data import epic_sounds, media

    settings, path = job.clips, job.raw / rows["path"].iloc[0]
    windows = list(zip(rows["start_sec"], rows["end_sec"], strict=True))
    if rows["dataset"].iloc[0] == "ego4d":
        clips = media.clips_of(path, windows, settings.frames, settings.frame_size, settings.sample_rate)
    else:
        sounds = epic_sounds.clips_of(path, video, windows, settings.sample_rate)
        clips = (media.Clip(None, waveform) for waveform in sounds)
    for clip_id, clip in zip(rows["clip_id"], clips, strict=True):
        if clip.waveform is None:
            raise DataError(f"{path} has no audio stream, though the metadata say so; fetch it again")
        yield clip_id, members_of(clip, settings)


def members_of(clip: Any, settings: Clips) -> dict[str, bytes]:
    """The bytes that a `media.Clip` with sound becomes in a shard, by the names in `MEMBERS`."""
    from mc3.data.audio import fbank

    members = {}
    if clip.frames is not None:
        members["frames"] = _jpeg(clip.frames, settings.jpeg_quality)
    samples = np.clip(np.round(clip.waveform * 32768.0), -32768, 32767).astype("<i2")
    log_mel = fbank(samples / np.float32(32768), settings.sample_rate, settings.mel_bins)
    members["fbank"] = _npy(log_mel.astype(np.float16))
    members["audio"] = _wav(samples, settings.sample_rate)
    return members


def _append(tar: tarfile.TarFile, clip_id: str, members: dict[str, bytes]) -> dict[str, Any]:
    """Add a clip's members to a shard; where they lie, and the SHA-256 of all of them in a row."""
    record: dict[str, Any] = {}
    digest = hashlib.sha256()
    for name, suffix in MEMBERS.items():
        data = members.get(name, b"")
        record |= {f"{name}_offset": 0, f"{name}_size": len(data)}
        if data:
            info = tarfile.TarInfo(f"{clip_id}.{suffix}")  # its defaults: no owner, time 0
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            record[f"{name}_offset"] = tar.offset - math.ceil(len(data) / tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            digest.update(data)
    tar.members.clear()  # type: ignore[attr-defined]  # a list for readers, which would grow with the shard
    return {**record, "sha256": digest.hexdigest()}


def _jpeg(frames: np.ndarray, quality: int) -> bytes:
    buffer = io.BytesIO()
    strip = frames.reshape(-1, *frames.shape[2:])
    Image.fromarray(strip).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _wav(samples: np.ndarray, rate: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


def _judge(failures: list[dict[str, Any]], table: pd.DataFrame) -> None:
    videos = table[["dataset", "video_uid"]].drop_duplicates().shape[0]
    if len(failures) > max(1, FAILED_VIDEOS * videos):
        shown = "; ".join(f["reason"] for f in failures[:5])
        raise DataError(
            f"{len(failures)} of {videos} videos cannot be used, more than {FAILED_VIDEOS:.0%}: {shown}"
            + (" ..." if len(failures) > 5 else "")
            + "; get them again, or take them out of the manifest"
        )


def _totals(marks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sums over shards; seconds are those of worker processes, of all attempts that finished a shard."""
    sums = {name: sum(mark[name] for mark in marks) for name in ("videos", "bytes", "wall_sec", "cpu_sec")}
    clips = sum(len(mark["records"]) for mark in marks)
    return {
        "clips": clips,
        **sums,
        "clips_per_core_sec": clips / sums["cpu_sec"] if marks else 0.0,
        "peak_rss_bytes": max((mark["peak_rss_bytes"] for mark in marks), default=0),
    }


def _summarise(marks: Sequence[dict[str, Any]], jobs: Sequence[Job], work: Path) -> None:
    """Print what cutting took and would take for the paper's clips; the same in `work/runs/prepare/summary.json`."""
    facts = _totals(marks)
    filmed = _totals([m for m, job in zip(marks, jobs, strict=True) if job.rows[0]["dataset"] == "ego4d"])
    print(f"{facts['clips_per_core_sec']:.1f} clips/s a core, {facts['peak_rss_bytes'] / 1e6:.0f} MB a process at most")
    if filmed["clips"]:
        times = PAPER_CLIPS / filmed["clips"]
        facts["projected"] = {
            "clips": PAPER_CLIPS,
            "core_hours": times * filmed["cpu_sec"] / 3600,
            "bytes": times * filmed["bytes"],
        }
        print(
            f"{PAPER_CLIPS} Ego4D clips of such files would take {facts['projected']['core_hours']:.1f} core-hours "
            f"and {facts['projected']['bytes'] / 1e9:.1f} GB"
        )
    write_atomic(work / "runs" / "prepare" / "summary.json", (json.dumps(facts, indent=1) + "\n").encode())
