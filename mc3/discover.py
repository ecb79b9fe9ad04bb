"""Sounding actions in a video of one's own: no narration, no label, only picture and sound (Sec. 6.1 at test time)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mc3.data.audio import fbank
from mc3.data.media import Clip, clips_of, probe
from mc3.errors import DataError
from mc3.model import MC3

RATE = 16000
BATCH = 64


@torch.inference_mode()
def moments(
    model: MC3, path: str | Path, every_sec: float = 0.5, window_sec: float = 1.5, texts: list[str] | None = None
) -> pd.DataFrame:
    """How well sound and picture agree along a video: high where what is heard comes from what is done.

    The video is read once, forward; memory does not grow with its length.

    Args:
        model: a trained checkpoint.
        path: a video file with sound.
        every_sec: step between windows, in seconds.
        window_sec: length of a window; the paper's clips are 1.5 s.
        texts: descriptions to compare the sound with, one more column each.

    Returns:
        A row a window, in order of time: start_sec, end_sec, similarity (cosine of audio and video
        embedding, in [-1, 1]; only its order within one model means something), and a column a text.

    Raises:
        DataError: no such file, no sound, no picture, or shorter than one window.
    """
    path = Path(path)
    found = probe(path)
    for missing, what in ((found.width, "pictures"), (found.audio_rate, "sound")):
        if not missing:
            raise DataError(f"{path} has no {what}; sound and picture are both needed to compare them")
    starts = np.arange(0.0, found.duration_sec - window_sec + 1e-6, every_sec)
    if not len(starts):
        raise DataError(f"{path} lasts {found.duration_sec:.2f} s, less than one window of {window_sec} s")
    device = next(model.parameters()).device
    spoken = model({"text": model.tokenize(texts)})["text"] if texts else None
    windows = [(float(t), float(t) + window_sec) for t in starts]
    video = model.config.video
    clips = clips_of(path, windows, video.frames, video.image_size, RATE)
    rows: list[np.ndarray] = []
    for batch in _batches(clips, model.config.audio.mel_bins):
        embeddings = model(
            {
                "video": torch.from_numpy(np.stack([frames for frames, _ in batch])).to(device),
                "audio": torch.from_numpy(np.stack([sound for _, sound in batch])).to(device),
            }
        )
        scores = [(embeddings["audio"] * embeddings["video"]).sum(dim=1, keepdim=True)]
        if spoken is not None:
            scores.append(embeddings["audio"] @ spoken.T)
        rows.append(torch.cat(scores, dim=1).cpu().numpy())
    table = pd.DataFrame(windows, columns=["start_sec", "end_sec"])
    table[["similarity", *(texts or [])]] = np.concatenate(rows)
    return table


def _batches(clips: Iterator[Clip], mel_bins: int) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """Frames and log-mel of `BATCH` windows at a time."""
    while batch := list(islice(clips, BATCH)):
        pairs = [(clip.frames, clip.waveform) for clip in batch]
        yield [(f, fbank(w, RATE, mel_bins)) for f, w in pairs if f is not None and w is not None]
