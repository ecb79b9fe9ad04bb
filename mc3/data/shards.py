"""Clips cut once, packed into tar shards that training reads at random: film strip, log-mel, sound.

A shard is a tar file of whole videos; for each clip it holds, as far as the clip has them,
    {clip_id}.jpg  its T pictures below one another, one JPEG of size x (T * size), 4:4:4
    {clip_id}.npy  log-mel energies before normalisation, float16 [L, mel_bins]
    {clip_id}.wav  the sound they were made from, 16-bit mono
and `index.parquet` says for every clip of the manifest in which shard and at which bytes each lies.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import multiprocessing
import os
import shutil
import tarfile
import time
import wave
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image
from tokenizers import Tokenizer

from mc3.config import Clips, Config
from mc3.data import DataError, write_whole

# Notebooks read pictures and sound from shards without torch, whose import would be most of their time.
if TYPE_CHECKING:
    import torch
    from torch.utils.data import Dataset
else:
    Dataset = object

MEMBERS = {"frames": "jpg", "fbank": "npy", "audio": "wav"}
FAILED_VIDEOS = 0.01  # more videos than this share at fault (and more than one) is a broken download, not bad luck
REPORT_EVERY_SEC = 5.0


@dataclass(frozen=True)
class Job:
    """What one process does at a time: cut the clips `rows` of the manifest and write shard `name`."""

    name: str
    rows: list[dict[str, Any]]
    raw: Path
    folder: Path
    clips: Clips

    @property
    def key(self) -> str:
        """Hash of all that the shard depends on, to know whether one left by an interrupted run is good."""
        media_files = sorted({row["path"] for row in self.rows})
        stats = [(self.raw / name).stat() for name in media_files if (self.raw / name).exists()]
        cut = {**vars(self.clips), "workers": 0}
        facts = [cut, self.rows, [(s.st_size, s.st_mtime_ns) for s in stats]]
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def write(config: Config) -> Path:
    """Cut every clip of `work/manifest.parquet` into `work/shards`, with index and tokenizer.

    Work is spread over `clips.workers` processes, a shard at a time, and the bytes do not depend
    on their number. An interrupted run leaves finished shards in `work/shards.partial` and the
    next one goes on from there. Videos that cannot be decoded are listed in
    `work/shards_report.json` and their clips are left out of the index.

    Raises:
        DataError: if the manifest is absent or more than 1 % of the videos (and more than one) fail.
    """
    from mc3.data import manifest, tokenizer

    work = config.paths.work
    folder, partial = work / "shards", work / "shards.partial"
    table = manifest.read(work / "manifest.parquet")
    partial.mkdir(parents=True, exist_ok=True)
    jobs = plan(table, config, partial)
    for stale in set(partial.iterdir()) - {partial / f"{job.name}{end}" for job in jobs for end in (".tar", ".json")}:
        stale.unlink()
    records, failures = _run(jobs, config.clips.workers)
    _judge(failures, table)
    index = table.merge(pd.DataFrame(records), on="clip_id", how="inner", validate="one_to_one")
    texts = table.loc[(table["dataset"] == "ego4d") & (table["split"] == "train"), "text"]
    words = tokenizer.make(config.model.text, texts)
    for job in jobs:
        (partial / f"{job.name}.json").unlink()
    words.save(str(partial / "tokenizer.json"))
    index.to_parquet(partial / "index.parquet", index=False)
    if folder.exists():
        shutil.rmtree(folder)
    partial.replace(folder)
    size = sum(file.stat().st_size for file in folder.glob("*.tar"))
    facts = {
        "shards": len(jobs),
        "clips": len(index),
        "bytes": size,
        "dropped_clips": len(table) - len(index),
        "failed_videos": failures,
    }
    write_whole(work / "shards_report.json", (json.dumps(facts, indent=1) + "\n").encode())
    for failure in failures:
        print(f"dropped {failure['clips']} clips of {failure['video_uid']}: {failure['reason']}")
    print(f"{len(index)} clips in {len(jobs)} shards, {size / 1e6:.0f} MB")
    return folder


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


def _run(jobs: list[Job], workers: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Write all shards; index records and failed videos, in the order of `jobs`."""
    total, done, started, reported = sum(len(job.rows) for job in jobs), 0, time.monotonic(), time.monotonic()
    # forked, like DataLoader's workers, so that torch is imported once; the pool is used for one worker too,
    # so that their number cannot matter
    import torch

    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(
        max(1, workers), mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        results = {pool.submit(write_shard, job): job for job in jobs}
        for result in as_completed(results):
            result.result()
            done += len(results[result].rows)
            now = time.monotonic()
            if now - reported > REPORT_EVERY_SEC:
                speed, reported = done / (now - started), now
                print(f"{done} of {total} clips, {speed:.0f} clips/s, {(total - done) / speed:.0f} s left", flush=True)
    finished = [json.loads((job.folder / f"{job.name}.json").read_text()) for job in jobs]
    return [r for f in finished for r in f["records"]], [r for f in finished for r in f["failures"]]


def write_shard(job: Job) -> None:
    """Write one shard, and beside it a JSON file (its completion mark) with index records and failed videos.

    Does nothing if both are there and fit the job. Needs no other shard, so that any process
    of any machine that sees the folder may do it.
    """
    mark, path = job.folder / f"{job.name}.json", job.folder / f"{job.name}.tar"
    key = job.key
    if mark.exists() and path.exists() and json.loads(mark.read_text())["key"] == key:
        return
    records: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    neighbour = path.with_suffix(".writing")
    with tarfile.open(neighbour, "w", format=tarfile.GNU_FORMAT) as tar:
        frame = pd.DataFrame(job.rows)
        for video, rows in frame.groupby("video_uid", sort=False):
            try:
                clips = list(_cut(job, str(video), rows))
            except DataError as error:
                name = rows["path"].iloc[0]
                reason = str(error).replace(str(job.raw / name), name)
                failures.append({"video_uid": str(video), "clips": len(rows), "reason": reason})
                continue
            for clip_id, members in clips:
                records.append({"clip_id": clip_id, "shard": path.name, **_append(tar, clip_id, members)})
    neighbour.replace(path)
    write_whole(mark, json.dumps({"key": key, "records": records, "failures": failures}).encode())


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
        members = {}
        if clip.waveform is None:
            raise DataError(f"{path} has no audio stream, though the metadata say so; fetch it again")
        if clip.frames is not None:
            members["frames"] = _jpeg(clip.frames, settings.jpeg_quality)
        samples = np.clip(np.round(clip.waveform * 32768.0), -32768, 32767).astype("<i2")
        log_mel = media.fbank(samples / np.float32(32768), settings.sample_rate, settings.mel_bins)
        members["fbank"] = _npy(log_mel.astype(np.float16))
        members["audio"] = _wav(samples, settings.sample_rate)
        yield clip_id, members


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


class ClipDataset(Dataset):
    """Clips of one data set and split, map-style, as `write` left them.

    Args:
        folder: `work/shards`.
        dataset: "ego4d" or "epic_sounds".
        split: "train", "validation" or "test", or several joined by "+", in the index's order.
        modalities: what `__getitem__` gives of "audio", "video", "text".
        tokenizer: for the text; by default the folder's own.
        max_length: tokens a text is cut or padded to.
        in_memory: read and decode all now, for data that fit.

    Attributes:
        index: DataFrame, the rows of index.parquet in their order.

    Raises:
        DataError: if the shards are absent or do not fit their index.
    """

    def __init__(
        self,
        folder: Path,
        dataset: str = "ego4d",
        split: str = "train",
        modalities: Sequence[str] = ("audio", "video", "text"),
        tokenizer: Tokenizer | None = None,
        max_length: int = 16,
        in_memory: bool = False,
    ):
        self.folder, self.modalities = Path(folder), tuple(modalities)
        index = read_index(self.folder)
        rows = (index["dataset"] == dataset) & index["split"].isin(split.split("+"))
        self.index = index[rows].reset_index(drop=True)
        if self.index.empty:
            known = sorted(set(index["dataset"] + " " + index["split"]))
            raise DataError(f"{self.folder} has no clips of {dataset} {split}; it has {', '.join(known)}")
        self._where = self.index[["shard", *(f"{m}_{x}" for m in MEMBERS for x in ("offset", "size"))]].to_dict("list")
        self._files: dict[tuple[int, str], int] = {}
        self._held: dict[str, list[torch.Tensor]] = {}
        if "text" in self.modalities:
            words = tokenizer or Tokenizer.from_file(str(self.folder / "tokenizer.json"))
            self._held["text"] = list(encode(words, self.index["text"], max_length))
        if in_memory:
            import torch

            for modality, read in (("video", self.frames), ("audio", self.fbank)):
                if modality in self.modalities:
                    self._held[modality] = [torch.from_numpy(read(i)) for i in range(len(self))]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Clip `i`: "video" uint8 [T, H, W, 3], "audio" float16 [L, mel_bins], "text" int64 [max_length], "index"."""
        import torch

        item: dict[str, Any] = {"index": i}
        for modality in self.modalities:
            if modality in self._held:
                item[modality] = self._held[modality][i]
            else:
                item[modality] = torch.from_numpy(self.frames(i) if modality == "video" else self.fbank(i))
        return item

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}

    def frames(self, i: int) -> np.ndarray:
        """Pictures of clip `i`, uint8 [T, H, W, 3]."""
        strip = np.array(Image.open(io.BytesIO(self._read(i, "frames"))))
        return strip.reshape(-1, strip.shape[1], *strip.shape[1:])

    def fbank(self, i: int) -> np.ndarray:
        """Log-mel energies of clip `i` before normalisation, float16 [L, mel_bins]."""
        return np.load(io.BytesIO(self._read(i, "fbank")), allow_pickle=False)

    def waveform(self, i: int) -> tuple[np.ndarray, int]:
        """Sound of clip `i`, int16 [S], and its samples a second."""
        with wave.open(io.BytesIO(self._read(i, "audio"))) as file:
            return np.frombuffer(file.readframes(file.getnframes()), "<i2"), file.getframerate()

    def _read(self, i: int, member: str) -> bytes:
        name, size = self._where["shard"][i], self._where[f"{member}_size"][i]
        if not size:
            raise DataError(f"clip {self.index['clip_id'][i]} has no {member}; ask for other modalities")
        key = (os.getpid(), name)  # a worker process must not share its parent's files
        if key not in self._files:
            self._files[key] = os.open(self.folder / name, os.O_RDONLY)
        return os.pread(self._files[key], size, self._where[f"{member}_offset"][i])


def read_index(folder: Path) -> pd.DataFrame:
    """The index of a folder of shards. `DataError` if it is absent or a shard is missing or cut short."""
    path = folder / "index.parquet"
    if not path.exists():
        raise DataError(f"no shards in {folder}; `mc3 shards` writes them")
    index = pd.read_parquet(path)
    ends = pd.concat([index[f"{m}_offset"] + index[f"{m}_size"] for m in MEMBERS], axis=1).max(axis=1)
    for shard, end in ends.groupby(index["shard"]).max().items():
        file = folder / str(shard)
        if not file.exists() or file.stat().st_size < end:
            raise DataError(f"{file} is missing or cut short; `mc3 shards` writes it anew")
    return index


def encode(words: Tokenizer, texts: Sequence[str], max_length: int) -> torch.Tensor:
    """Token ids of texts, int64 [N, max_length], cut or padded with 0."""
    import torch

    words = Tokenizer.from_str(words.to_str())  # the caller's keeps its own padding
    words.enable_truncation(max_length)
    words.enable_padding(length=max_length)
    return torch.tensor([encoding.ids for encoding in words.encode_batch(list(texts))], dtype=torch.int64)
