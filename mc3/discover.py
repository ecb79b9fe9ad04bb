"""Sounding actions in the user's own video: no narrations or labels, only pictures and sound (as Sec. 6.1 tests)."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch

from mc3.data.audio import fbank
from mc3.data.media import clips_of, probe
from mc3.errors import ConfigError, DataError
from mc3.model import MC3

SAMPLE_RATE = 16000
BATCH_SIZE = 64


@torch.inference_mode()
def moments(
    model: MC3, path: str | Path, every_sec: float = 0.5, window_sec: float = 1.5, texts: Sequence[str] = ()
) -> pd.DataFrame:
    """Similarity of audio and video in windows along a video: high where the visible action makes the sound.

    Returns one row a window, ordered by time: start_sec, end_sec, similarity (cosine of audio and video embedding;
    compare it only within one model), and for each distinct text a column "text: TEXT" (cosine of audio and text
    embedding). `ConfigError` for a step or window of no length, `DataError` for no file, sound, pictures or window.
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
    video, mel_bins = model.config.video, model.config.audio.mel_bins
    clips = clips_of(path, windows, video.frames, video.image_size, SAMPLE_RATE)
    rows: list[np.ndarray] = []
    while batch := list(islice(clips, BATCH_SIZE)):
        frames = np.stack([cast(np.ndarray, clip.frames) for clip in batch])
        sound = np.stack([fbank(cast(np.ndarray, clip.waveform), SAMPLE_RATE, mel_bins) for clip in batch])
        embeddings = model({"video": torch.from_numpy(frames).to(device), "audio": torch.from_numpy(sound).to(device)})
        scores = [(embeddings["audio"] * embeddings["video"]).sum(dim=1, keepdim=True)]
        if text is not None:
            scores.append(embeddings["audio"] @ text.T)
        rows.append(torch.cat(scores, dim=1).cpu().numpy())
    table = pd.DataFrame(windows, columns=["start_sec", "end_sec"])
    table[["similarity", *(f"text: {t}" for t in texts)]] = np.concatenate(rows)
    return table
