"""Sounding actions in the user's own video: no narrations or labels, only pictures and sound (as Sec. 6.1 tests).

A cosine alone says little: its level depends on the model and on the video. So each window is compared with re-paired
ones, its sound with the pictures of other windows of the same video and its pictures with their sound.
"""

from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import cast

import av
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from mc3.data.audio import fbank
from mc3.data.media import clips_of, probe
from mc3.errors import ConfigError, DataError
from mc3.model import MC3

SAMPLE_RATE = 16000
BATCH_SIZE = 64
LACKING_SEC = 0.9  # a video may be this much shorter than a window; the last picture stays, then there is silence
ENOUGH = 20  # re-paired windows by which a window can be judged
COLUMNS = ["start_sec", "end_sec", "similarity", "z", "p", "peak"]


def moments(
    model: MC3, path: str | Path, every_sec: float = 0.5, window_sec: float = 1.5, texts: Sequence[str] = (),
    show: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:  # fmt: skip
    """Windows along a video, scored by how well sound and pictures agree: high where the visible action sounds.

    One row a window, ordered by time: start_sec, end_sec, similarity (cosine of audio and video embedding), z and p (of
    `calibrate`), peak (of `peaks`), and for each distinct text a column "text: TEXT", the cosine of audio and text
    embedding. A video a little shorter than the window is one window. `show` is told the windows done and their total.
    `ConfigError` for a step or window of no length, `DataError` for a file without pictures or sound.
    """
    path = Path(path).resolve()  # an absolute path, so that no name is taken for a protocol
    for name, seconds in (("every_sec", every_sec), ("window_sec", window_sec)):
        if not (seconds > 0 and np.isfinite(seconds)):
            raise ConfigError(f"{name} is {seconds}; give more than 0 seconds")
    windows = _windows(path, every_sec, window_sec)
    texts = list(dict.fromkeys(texts))
    audio, video, text_scores = _embed(model, path, windows, texts, show)
    table = pd.DataFrame(windows, columns=COLUMNS[:2])
    table["similarity"] = (audio * video).sum(axis=1)
    table["z"], table["p"] = calibrate(audio, video, table["start_sec"].to_numpy(), window_sec)
    table["peak"] = peaks(table["z"].fillna(table["similarity"]).to_numpy(), table["start_sec"].to_numpy(), window_sec)
    table[[f"text: {text}" for text in texts]] = text_scores
    return table


def calibrate(
    audio: NDArray[np.float32], video: NDArray[np.float32], starts: NDArray[np.float64], window_sec: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far each window's cosine lies above those of re-paired windows of the same video: z [N], p [N].

    Window t's cosine s is compared with those of its sound and any other window's pictures, and of its pictures and any
    other window's sound, of all windows that do not overlap it: z = (s - mean) / deviation, and p = (1 + how many of
    the n are at least s) / (1 + n), the chance that a random pairing agrees as well. NaN where fewer than `ENOUGH`
    pairings exist. `audio` and `video` are unit embeddings [N, D].
    """
    n = len(starts)
    z, p = np.full(n, np.nan), np.full(n, np.nan)
    for begin in range(0, n, BATCH_SIZE):
        rows = np.arange(begin, min(begin + BATCH_SIZE, n))
        apart = np.abs(starts[rows, None] - starts[None]) >= window_sec - 1e-6
        both = np.stack([audio[rows] @ video.T, video[rows] @ audio.T], axis=1).astype(np.float64)  # [rows, 2, N]
        own = (audio[rows] * video[rows]).sum(axis=1, dtype=np.float64)
        for i, row in enumerate(rows):
            others = both[i][:, apart[i]]
            if others.size >= ENOUGH and (deviation := others.std()) > 0:
                z[row] = (own[i] - others.mean()) / deviation
                p[row] = (1 + (others >= own[i]).sum()) / (1 + others.size)
    return z, p


def peaks(scores: NDArray[np.float64], starts: NDArray[np.float64], window_sec: float) -> NDArray[np.int64]:
    """Rank of each window among those that overlap no better one, 1 the best; 0 for the others (suppressed): [N]."""
    rank, kept = np.zeros(len(scores), np.int64), list[float]()
    for row in np.argsort(-scores, kind="stable"):
        if all(abs(starts[row] - other) >= window_sec - 1e-6 for other in kept):
            kept.append(float(starts[row]))
            rank[row] = len(kept)
    return rank


def _windows(path: Path, every_sec: float, window_sec: float) -> list[tuple[float, float]]:
    """Start and end of the windows in the part of a file that has both pictures and sound."""
    media = probe(path)
    for present, what in ((media.width, "pictures"), (media.audio_rate, "sound")):
        if not present:
            raise DataError(f"{path} has no {what}; choose a video with pictures and sound, which are compared")
    with av.open(str(path), metadata_errors="replace") as file:
        streams = file.streams.video[0], file.streams.audio[0]
        lengths = [float(s.duration * s.time_base) for s in streams if s.duration and s.time_base]
    seconds = min([media.duration_sec, *lengths])
    if seconds < max(window_sec / 2, window_sec - LACKING_SEC):
        raise DataError(f"{path} lasts {seconds:.2f} s, too little for a window of {window_sec} s")
    starts = np.arange(0.0, max(seconds - window_sec, 0.0) + 1e-6, every_sec)
    return [(float(start), float(start) + window_sec) for start in starts]


@torch.inference_mode()
def _embed(
    model: MC3, path: Path, windows: list[tuple[float, float]], texts: Sequence[str], show: Callable[[int, int], None]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Audio and video embeddings of the windows, [N, D], and the cosines of audio with each text, [N, texts]."""
    device = next(model.parameters()).device
    text = model({"text": model.tokenize(list(texts))})["text"] if texts else None
    settings, mel_bins = model.config.video, model.config.audio.mel_bins
    clips = clips_of(path, windows, settings.frames, settings.image_size, SAMPLE_RATE)
    found: list[list[NDArray[np.float32]]] = []
    while batch := list(islice(clips, BATCH_SIZE)):
        frames = np.stack([cast(np.ndarray, clip.frames) for clip in batch])
        sound = np.stack([fbank(cast(np.ndarray, clip.waveform), SAMPLE_RATE, mel_bins) for clip in batch])
        own = model({"video": torch.from_numpy(frames).to(device), "audio": torch.from_numpy(sound).to(device)})
        scores = own["audio"] @ text.T if text is not None else own["audio"][:, :0]
        found.append([tensor.float().cpu().numpy() for tensor in (own["audio"], own["video"], scores)])
        show(sum(len(part[0]) for part in found), len(windows))
    audio, video, scored = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return audio, video, scored
