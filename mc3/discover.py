"""Sounding actions in the user's own video: no narrations or labels, only pictures and sound (as Sec. 6.1 tests).

A cosine alone says little: its level depends on the model and on the video. So each window is compared with re-paired
ones, its sound with the pictures of other windows of the same video and its pictures with their sound.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mc3 import windows
from mc3.model import MC3

BLOCK = 64  # windows that are compared with all others at a time
ENOUGH = 20  # re-paired windows by which a window can be judged
COLUMNS = ["start_sec", "end_sec", "similarity", "z", "p", "peak"]


def moments(
    model: MC3, path: str | Path, every_sec: float = 0.5, window_sec: float = 1.5, texts: Sequence[str] = (),
    narrations: pd.DataFrame | None = None, show: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:  # fmt: skip
    """Windows along a video, scored by how well sound and pictures agree: high where the visible action sounds.

    One row a window, ordered by time: start_sec, end_sec, similarity (cosine of audio and video embedding), z and p (of
    `calibrate`), peak (of `peaks`), and for each distinct text a column "text: TEXT", the cosine of audio and text
    embedding. With `narrations` (columns time_sec, text) also "narration", the one nearest to the window's middle if it
    lies in the window, and "audio_text", its cosine. A video a little shorter than the window is one window. `show` is
    told the windows done and their total. `ConfigError` for a step or window of no length, `DataError` for a file
    without pictures or sound.
    """
    path = Path(path).resolve()  # an absolute path, so that no name is taken for a protocol
    spans = windows.along(path, every_sec, window_sec, ("video", "audio"))
    found = windows.embed(model, path, spans, ("video", "audio"), show)
    audio, video = found["audio"], found["video"]
    table = pd.DataFrame(spans, columns=COLUMNS[:2])
    table["similarity"] = (audio * video).sum(axis=1)
    table["z"], table["p"] = calibrate(audio, video, table["start_sec"].to_numpy(), window_sec)
    table["peak"] = peaks(table["z"].fillna(table["similarity"]).to_numpy(), table["start_sec"].to_numpy(), window_sec)
    if narrations is not None:
        table["narration"], table["audio_text"] = _narrated(model, table, audio, narrations)
    for text in dict.fromkeys(texts):
        table[f"text: {text}"] = audio @ windows.embed_texts(model, [text])[0]
    return table


def _narrated(
    model: MC3, table: pd.DataFrame, audio: NDArray[np.float32], narrations: pd.DataFrame
) -> tuple[pd.Series, NDArray[np.float64]]:
    """The narration in the middle of each window ("" if none lies in it), and its cosine with the sound (NaN)."""
    middle = (table["start_sec"] + table["end_sec"]).to_numpy() / 2
    half = (table["end_sec"] - table["start_sec"]).to_numpy() / 2
    text, cosine = pd.Series("", index=table.index), np.full(len(table), np.nan)
    if len(narrations):
        times = narrations["time_sec"].to_numpy(np.float64)
        nearest = np.abs(times[None] - middle[:, None]).argmin(axis=1)
        inside = np.abs(times[nearest] - middle) <= half
        text = pd.Series(narrations["text"].to_numpy()[nearest], index=table.index).where(inside, "")
        for said in set(text[inside]):
            rows = np.flatnonzero(inside & (text == said))
            cosine[rows] = audio[rows] @ windows.embed_texts(model, [said])[0]
    return text, cosine


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
    for begin in range(0, n, BLOCK):
        rows = np.arange(begin, min(begin + BLOCK, n))
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
