"""The clips of a split as MP4 and WAV files, cut from the raw videos, so that other models can be run on them.

Pictures keep the source's size and rate and are cut at its pictures' borders, so they stay in step with the sound at
any rate. Portrait pictures are cut to their central square, as `media.upright` does everywhere.
"""

import io
import math
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import repeat
from pathlib import Path

import av
import h5py
import numpy as np
import pandas as pd
from scipy.io import wavfile

from mc3.config import Config
from mc3.data import epic_sounds, media
from mc3.data.audio import resample
from mc3.data.encode import SOUND_RATES, encode
from mc3.data.shards import read_index, rows_of
from mc3.errors import ConfigError, DataError
from mc3.files import is_safe_id, replace_folder, write_atomic
from mc3.progress import bar

COLUMNS = ["clip_id", "split", "video_uid", "start_sec", "end_sec", "text", "mp4", "wav"]
CRF = 18  # visually lossless: models are to see the video's artefacts rather than ours
FALLBACK_FPS = 30.0  # of a video whose header says none
FALLBACK_RATE = 48000  # of the sound in an MP4 where AAC has no such rate


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
    pool = ProcessPoolExecutor(max(workers, 1), multiprocessing.get_context("spawn"))  # of no process as yet
    with replace_folder(folder, "mc3 clips", "--export") as new, ExitStack() as stack:
        stack.callback(pool.shutdown, cancel_futures=True)
        written: dict[str, tuple[str, str]] = {}
        with bar(len(rows), 0, main=True) as show:
            for names in (pool.map if workers > 1 else map)(partial(cut, folder=new), jobs):
                written |= names
                show(len(written), "writing clips")
        files = pd.DataFrame([written[name] for name in rows["clip_id"]], columns=["mp4", "wav"])
        table = rows[COLUMNS[:-2]].join(files)
        write_atomic(new / "clips.csv", table.to_csv(index=False, lineterminator="\n").encode())
    silent, blind = ((table[column] == "").sum() for column in ("wav", "mp4"))
    print(f"{len(table)} clips of {dataset} {split} in {folder}: {blind} without pictures, {silent} without sound")
    return table


def mp4_of(path: Path, start: float, end: float) -> bytes:
    """One window of a video in seconds as an MP4 file, with its sound if it has any; `DataError` without pictures."""
    if not start < end:
        raise ConfigError(f"a window from {start} to {end} s has no length; give its start and its end")
    ((mp4, _),) = _cuts(Path(path), [(start, end)], None)
    if not mp4:
        raise DataError(f"{path} has no pictures; give a video")
    return mp4


def _write(rows: pd.DataFrame, folder: Path, raw: Path, rate: int | None) -> dict[str, tuple[str, str]]:
    """Write the files of one video's clips; their names by clip, "" for one that is not there."""
    path, windows = raw / rows["path"].iloc[0], list(zip(rows["start_sec"], rows["end_sec"], strict=True))
    if rows["dataset"].iloc[0] == "ego4d":
        cuts = _cuts(path, windows, rate)
    else:
        rate = rate or (epic_sounds.RATE if h5py.is_hdf5(path) else media.probe(path).audio_rate)
        sounds = epic_sounds.clips_of(path, rows["video_uid"].iloc[0], windows, rate)
        cuts = ((b"", _wav(sound, rate)) for sound in sounds)
    written = {}
    for clip_id, members in zip(rows["clip_id"], cuts, strict=True):
        names = f"{clip_id}.mp4", f"{clip_id}.wav"
        for name, data in zip(names, members, strict=True):
            if data:
                (folder / name).write_bytes(data)
        written[clip_id] = (names[0] if members[0] else "", names[1] if members[1] else "")
    return written


def _cuts(path: Path, windows: Sequence[tuple[float, float]], rate: int | None) -> Iterator[tuple[bytes, bytes]]:
    """MP4 and WAV of windows of about one length, ascending by start; empty without pictures or sound."""
    facts = media.probe(path)
    rate, fps = rate or facts.audio_rate, facts.fps or FALLBACK_FPS
    sounds: Iterator[np.ndarray | None] = repeat(None, len(windows))
    if facts.audio_rate:
        sounds = media.waveforms_of(path, windows, rate)
    if not facts.width:
        yield from ((b"", _wav(sound, rate)) for sound in sounds if sound is not None)
        return
    with av.open(str(path), metadata_errors="replace") as file:
        context = file.streams.video[0].codec_context
        short, long = sorted((context.width, context.height))
    firsts = [math.floor(start * fps + 1e-6) for start, _ in windows]  # pictures on screen as the windows begin
    count = 1 + math.ceil(max(end - start for start, end in windows) * fps - 1e-6)
    last = round(facts.duration_sec * fps) - 1  # no later picture is asked for: a reader takes that for a cut-off file
    read = [min(first, last + 1 - count) for first in firsts]
    pictures = media.clips_of(path, [(at / fps, (at + count) / fps) for at in read], count, short, 0, long)
    for (start, end), first, at, clip, sound in zip(windows, firsts, read, pictures, sounds, strict=True):
        assert clip.frames is not None
        part = start - first / fps, end - first / fps
        numbers = np.arange(math.ceil(part[1] * fps - 1e-6)) + first - at
        shown = clip.frames[numbers.clip(max=count - 1)]  # the last picture stays beyond the end
        yield _mp4(shown, fps, part, sound, rate), b"" if sound is None else _wav(sound, rate)


def _mp4(frames: np.ndarray, fps: float, part: tuple[float, float], sound: np.ndarray | None, rate: int) -> bytes:
    if sound is not None and rate not in SOUND_RATES:
        sound, rate = resample(sound, rate, FALLBACK_RATE), FALLBACK_RATE
    _, height, width, _ = frames.shape
    even = np.ascontiguousarray(frames[:, : height // 2 * 2, : width // 2 * 2])  # as H.264's colours need it
    buffer = io.BytesIO()
    encode(buffer, even, fps, sound, rate, part=part, crf=CRF)
    return buffer.getvalue()


def _wav(sound: np.ndarray, rate: int) -> bytes:
    buffer = io.BytesIO()
    wavfile.write(buffer, rate, np.clip(np.round(sound * 32768.0), -32768, 32767).astype("<i2"))
    return buffer.getvalue()
