"""Sounding actions in the user's own video: no narrations or labels, only pictures and sound (as Sec. 6.1 tests)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mc3.data.audio import fbank
from mc3.data.media import Clip, clips_of, probe
from mc3.errors import ConfigError, DataError
from mc3.model import MC3

SAMPLE_RATE = 16000
BATCH_SIZE = 64


@torch.inference_mode()
def moments(
    model: MC3, path: str | Path, every_sec: float = 0.5, window_sec: float = 1.5, texts: Sequence[str] = ()
) -> pd.DataFrame:
    """Similarity of audio and video in windows along a video: high where the visible action makes the sound.

    The video is decoded once, forward; memory does not grow with its length.

    Args:
        model: a trained checkpoint.
        path: a video file with sound.
        every_sec: step between windows, in seconds.
        window_sec: length of a window; the paper's clips are 1.5 s.
        texts: descriptions to compare the audio with.

    Returns:
        One row a window, ordered by time: start_sec, end_sec, similarity (cosine of audio and video embedding in
        [-1, 1]; compare it only within one model), and for each distinct text a column "text: TEXT" (cosine of audio
        and text embedding).

    Raises:
        ConfigError: a step or a window that is not longer than 0 s.
        DataError: no such file, no sound, no pictures, or shorter than one window.
    """
    path = Path(path)
    for name, seconds in (("every_sec", every_sec), ("window_sec", window_sec)):
        if not seconds > 0:
            raise ConfigError(f"{name} is {seconds}; give more than 0 seconds")
    media = probe(path)
    for present, what in ((media.width, "pictures"), (media.audio_rate, "sound")):
        if not present:
            raise DataError(f"{path} has no {what}; choose a video with pictures and sound, which are compared")
    starts = np.arange(0.0, media.duration_sec - window_sec + 1e-6, every_sec)
    if not len(starts):
        raise DataError(f"{path} lasts {media.duration_sec:.2f} s, less than one window of {window_sec} s")

    device = next(model.parameters()).device
    texts = list(dict.fromkeys(texts))
    text = model({"text": model.tokenize(texts)})["text"] if texts else None
    windows = [(float(t), float(t) + window_sec) for t in starts]
    clips = clips_of(path, windows, model.config.video.frames, model.config.video.image_size, SAMPLE_RATE)
    rows: list[np.ndarray] = []
    for batch in _batches(clips, model.config.audio.mel_bins):
        frames, sound = (torch.from_numpy(np.stack(part)).to(device) for part in zip(*batch, strict=True))
        embeddings = model({"video": frames, "audio": sound})
        scores = [(embeddings["audio"] * embeddings["video"]).sum(dim=1, keepdim=True)]
        if text is not None:
            scores.append(embeddings["audio"] @ text.T)
        rows.append(torch.cat(scores, dim=1).cpu().numpy())
    table = pd.DataFrame(windows, columns=["start_sec", "end_sec"])
    table[["similarity", *(f"text: {t}" for t in texts)]] = np.concatenate(rows)
    return table


def _batches(clips: Iterator[Clip], mel_bins: int) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """Frames and log-mel of `BATCH_SIZE` windows at a time."""
    while batch := list(islice(clips, BATCH_SIZE)):
        pairs = [(clip.frames, clip.waveform) for clip in batch]
        yield [(f, fbank(w, SAMPLE_RATE, mel_bins)) for f, w in pairs if f is not None and w is not None]
