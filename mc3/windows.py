"""Windows of a user's media files: where they lie, and their embeddings, in one pass over a file."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mc3.config import ModelConfig
from mc3.data.audio import fbank
from mc3.data.media import clips_of, open_file, probe
from mc3.errors import ConfigError, DataError
from mc3.model import MC3

SAMPLE_RATE = 16000
BATCH_SIZE = 64
LACKING_SEC = 0.9  # a file may be this much shorter than a window; the last picture stays, then there is silence
NAMES = {"video": "pictures", "audio": "sound"}

Window = tuple[float, float]  # start and end in seconds


def clip_sec(config: ModelConfig) -> float:
    """How long the clips are that a model's audio encoder takes: AST's windows of 25 ms every 10 ms."""
    return (config.audio.length + 2) / 100


def streams(path: Path) -> tuple[str, ...]:
    """Which of "video" and "audio" a media file has; `DataError` if it cannot be read."""
    facts = probe(path)
    return tuple(name for name, there in zip(NAMES, (facts.width, facts.audio_rate), strict=True) if there)


def along(path: Path, every_sec: float, window_sec: float, modalities: Collection[str]) -> list[Window]:
    """Windows, one each `every_sec`, in the part of a file that has all the `modalities` ("video", "audio").

    A file a little shorter than a window is one window. `ConfigError` for a step or window of no length, `DataError`
    for a file that lacks a modality or is too short.
    """
    for name, length in (("every_sec", every_sec), ("window_sec", window_sec)):
        if not (length > 0 and np.isfinite(length)):
            raise ConfigError(f"{name} is {length}; give more than 0 seconds")
    facts = probe(path)
    there = {"video": facts.width, "audio": facts.audio_rate}
    if missing := [NAMES[m] for m in NAMES if m in modalities and not there[m]]:
        raise DataError(f"{path} has no {missing[0]}; give a file with {' and '.join(NAMES[m] for m in modalities)}")
    with open_file(path) as file:
        found = [getattr(file.streams, modality)[0] for modality in modalities]
        lengths = [float(s.duration * s.time_base) for s in found if s.duration and s.time_base]
    seconds = min([facts.duration_sec, *lengths])  # where it has all of them
    if seconds < max(window_sec / 2, window_sec - LACKING_SEC):
        raise DataError(f"{path} lasts {seconds:.2f} s, too little for a window of {window_sec} s")
    starts = np.arange(0.0, max(seconds - window_sec, 0.0) + 1e-6, every_sec)
    return [(float(start), float(start) + window_sec) for start in starts]


def inputs(config: ModelConfig, path: Path, windows: Sequence[Window], modalities: Collection[str]) -> Iterator[Any]:
    """The model's inputs of each window, by modality: "video" uint8 [T, H, W, 3], "audio" float32 [L, mel_bins]."""
    frames = config.video.frames if "video" in modalities else 0
    for clip in clips_of(path, windows, frames, config.video.image_size, SAMPLE_RATE if "audio" in modalities else 0):
        found = {}
        if frames:
            found["video"] = torch.from_numpy(clip.frames)
        if clip.waveform is not None:
            found["audio"] = torch.from_numpy(fbank(clip.waveform, SAMPLE_RATE, config.audio.mel_bins))
        yield found


def embed(
    model: MC3, path: Path, windows: Sequence[Window], modalities: Collection[str],
    show: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, NDArray[np.float32]]:  # fmt: skip
    """Unit embeddings of a file's windows by modality, [N, D]; windows ascend by start, as `media.clips_of` asks.

    `show` is told the windows done and their total. Memory does not grow with the file but for the result.
    """
    clips = inputs(model.config, path, windows, modalities)
    return embed_inputs(model, clips, modalities, lambda done: show(done, len(windows)))


@torch.inference_mode()
def embed_inputs(
    model: MC3, clips: Iterator[Mapping[str, Tensor]], modalities: Collection[str],
    show: Callable[[int], None] = lambda done: None,
) -> dict[str, NDArray[np.float32]]:  # fmt: skip
    """Unit embeddings by modality, [N, D], of one clip or more, each the model's inputs as `inputs` makes them."""
    device, done = next(model.parameters()).device, 0
    found: dict[str, list[NDArray[np.float32]]] = {modality: [] for modality in modalities}
    while batch := list(islice(clips, BATCH_SIZE)):
        own = model({m: torch.stack([clip[m] for clip in batch]).to(device) for m in modalities})
        for modality, embedding in own.items():
            found[modality].append(embedding.float().cpu().numpy())
        show(done := done + len(batch))
    return {modality: np.concatenate(parts) for modality, parts in found.items()}


def embed_texts(model: MC3, texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit embeddings of one text or more, [N, D]."""
    return embed_inputs(model, ({"text": ids} for ids in model.tokenize(list(texts))), ("text",))["text"]
