"""Sounding actions in the user's own video: no narrations or labels, only pictures and sound (as Sec. 6.1 tests).

A cosine alone says little: its level depends on the model and on the video. So the video's averages are taken off, and
each window is compared with re-paired ones of the same video, its sound with other pictures and the reverse.
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
    """How far sound and pictures of each window agree above chance in this video: z [N], p [N].

    From the unit embeddings [N, D] the video's averages are subtracted, so that what all of it looks and sounds like
    counts for nothing: s_t = (a_t - mean a) . (v_t - mean v), which is the cosine less its means over rows and columns.
    Re-paired windows are t's sound with the pictures of any window that does not overlap t, and t's pictures with its
    sound. z is s_t less the mean of all re-paired values, by their standard deviation; p = (1 + how many of t's n
    re-paired values are at least s_t) / (1 + n). NaN for a window with fewer than `ENOUGH`.
    """
    a, v = (own.astype(np.float64) - own.mean(axis=0, dtype=np.float64) for own in (audio, video))
    own, n = (a * v).sum(axis=1), len(starts)
    p, count, total, squares = np.full(n, np.nan), 0, 0.0, 0.0
    for begin in range(0, n, BLOCK):
        rows = slice(begin, begin + BLOCK)
        apart = np.abs(starts[rows, None] - starts[None]) >= window_sec - 1e-6
        both = np.stack([a[rows] @ v.T, v[rows] @ a.T])  # [2, rows, N]
        pairs = 2 * apart.sum(axis=1)
        as_well = ((both >= own[None, rows, None]) & apart).sum(axis=(0, 2))
        p[rows] = np.where(pairs >= ENOUGH, (1 + as_well) / (1 + pairs), np.nan)
        count, total, squares = count + pairs.sum(), total + (both * apart).sum(), squares + (both**2 * apart).sum()
    mean = total / max(count, 1)
    deviation = np.sqrt(max(squares / max(count, 1) - mean**2, 0.0))
    known = np.isfinite(p) & (deviation > 0)
    return np.where(known, (own - mean) / (deviation or 1.0), np.nan), np.where(known, p, np.nan)


def peaks(scores: NDArray[np.float64], starts: NDArray[np.float64], window_sec: float) -> NDArray[np.int64]:
    """Rank of each window among those that overlap no better one, 1 the best; 0 for the others (suppressed): [N]."""
    rank, kept = np.zeros(len(scores), np.int64), list[float]()
    for row in np.argsort(-scores, kind="stable"):
        if all(abs(starts[row] - other) >= window_sec - 1e-6 for other in kept):
            kept.append(float(starts[row]))
            rank[row] = len(kept)
    return rank
