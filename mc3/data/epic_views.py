"""Views of EPIC-Sounds' events: the pieces of sound that the probes learn from and are tested on.

Two kinds, chosen by `probe.features`. `AstViews` are windows of the log-mels in the shards, the encoder's own
input (16 kHz, 10 ms a frame). `OfficialViews` are the input of EPIC-Sounds' own baselines: crops of 1.999 s of
the bare event at 24 kHz, log-mel of 10 ms windows every 5 ms, 400 frames. Its constants are those of
the publisher's code (epic-kitchens/epic-sounds-annotations: audio_loader_epicsounds.py and the SSAST configuration).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
import torchaudio
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from mc3.config import Config
from mc3.data import epic_sounds
from mc3.data.annotations import Report
from mc3.data.epic_sounds import RATE
from mc3.data.shards import ClipDataset, read_index
from mc3.encoders.audio import FBANK_MEAN
from mc3.errors import ConfigError, DataError
from mc3.files import write_atomic

CROP = round(1.999 * RATE)  # samples of a view
FRAMES = 400
WINDOW, HOP, FFT = 240, 120, 2048  # 10 ms and 5 ms; a window is padded to the length of the transform
AT_ONCE = 32  # spectra of so many crops are 100 MB before they are summed to bands
FLOOR = 1e-6  # added before the logarithm
MASK_SEC = 0.125  # SpecAugment's longest mask in time, of either kind


class Views(Protocol):
    """Events of one split, as the probes read them; `frames` a view, `mask` the longest that SpecAugment hides."""

    frames: int
    mask: int

    @property
    def index(self) -> pd.DataFrame:
        """A row an event."""

    def __len__(self) -> int:
        """The number of events."""

    def uniform(self, i: int, views: int) -> list[Tensor]:
        """`views` pieces of event `i`, evenly from its begin to its end; one if it is no longer than a piece."""

    def random(self, i: int, generator: torch.Generator) -> Tensor:
        """One piece of event `i`."""

    def batch(self, pieces: Sequence[Tensor], device: torch.device) -> Tensor:
        """Pieces as the encoder's input: log-mel [B, frames, mel]."""


def of(config: Config, split: str) -> Views:
    """The events of one split that are in the shards, as `probe.features` says: "ast" or "epic_sounds"."""
    if config.probe.features == "ast":
        clips = ClipDataset(config.paths.shards, "epic_sounds", split, ("audio",))
        return AstViews(clips, config.model.audio.length)
    if config.probe.features == "epic_sounds":
        return OfficialViews(config, split)
    raise ConfigError(f"probe.features must be ast or epic_sounds, not {config.probe.features!r}")


def starts(total: int, length: int, views: int) -> NDArray[np.intp]:
    """First frames of `views` windows of `length`, evenly from an event's begin to its end; one if it is shorter."""
    if total <= length:
        return np.zeros(1, dtype=np.intp)
    if views == 1:
        return np.array([(total - length) // 2])
    return np.linspace(0, total - length, views).round().astype(np.intp)


class AstViews:
    """Windows of `frames` frames of the shards' log-mels; short ones are padded with what normalising maps to 0."""

    def __init__(self, clips: ClipDataset, frames: int) -> None:
        self.clips, self.frames = clips, frames
        self.mask = int(MASK_SEC / 0.01)

    @property
    def index(self) -> pd.DataFrame:
        """See `Views`."""
        return self.clips.index

    def __len__(self) -> int:
        return len(self.clips)

    def uniform(self, i: int, views: int) -> list[Tensor]:
        """See `Views`; each [frames, mel]."""
        fbank = self.clips[i]["audio"]
        return [self._window(fbank, int(start)) for start in starts(len(fbank), self.frames, views)]

    def random(self, i: int, generator: torch.Generator) -> Tensor:
        """See `Views`."""
        fbank = self.clips[i]["audio"]
        start = torch.randint(0, max(1, len(fbank) - self.frames + 1), (), generator=generator)
        return self._window(fbank, int(start))

    def batch(self, pieces: Sequence[Tensor], device: torch.device) -> Tensor:
        """See `Views`."""
        return torch.stack(list(pieces)).to(device)

    def _window(self, fbank: Tensor, start: int) -> Tensor:
        window = fbank[start : start + self.frames].float()
        return pad(window, (0, 0, 0, self.frames - len(window)), value=FBANK_MEAN)


class OfficialViews:
    """Crops of the events at 24 kHz, which are cut out of the raw sound once, in order, into `work/epic_sounds_24khz`.

    There they lie one after the other as 16-bit samples in one file a split, of which only
    what is read is in memory. Raises `DataError` if the raw sound or the shards' index is not there.
    """

    frames, mask = FRAMES, int(MASK_SEC * RATE / HOP)

    def __init__(self, config: Config, split: str) -> None:
        index = read_index(config.paths.shards)
        self._index = index[(index["dataset"] == "epic_sounds") & (index["split"] == split)].reset_index(drop=True)
        self.mel_bins = config.model.audio.mel_bins
        self._samples, self._offsets = _cut(config, split, self._index)

    @property
    def index(self) -> pd.DataFrame:
        """See `Views`."""
        return self._index

    def __len__(self) -> int:
        return len(self._index)

    def uniform(self, i: int, views: int) -> list[Tensor]:
        """See `Views`; each [up to `CROP`] samples."""
        return [self._crop(i, int(start)) for start in starts(self._length(i), CROP, views)]

    def random(self, i: int, generator: torch.Generator) -> Tensor:
        """See `Views`."""
        start = torch.randint(0, max(1, self._length(i) - CROP + 1), (), generator=generator)
        return self._crop(i, int(start))

    def batch(self, pieces: Sequence[Tensor], device: torch.device) -> Tensor:
        """See `Views`; frames after the end of a short event repeat its last one."""
        lengths = torch.tensor([len(piece) for piece in pieces], device=device)
        waveforms = pad_sequence(list(pieces), batch_first=True).to(device).float() / 32768
        spectrogram = torch.cat([log_mel(part, self.mel_bins) for part in waveforms.split(AT_ONCE)])
        own = torch.arange(self.frames, device=device).minimum((lengths // HOP)[:, None])
        return spectrogram.gather(1, own[:, :, None].expand(-1, -1, self.mel_bins))

    def _length(self, i: int) -> int:
        return int(self._offsets[i + 1] - self._offsets[i])

    def _crop(self, i: int, start: int) -> Tensor:
        first, length = int(self._offsets[i]) + start, min(CROP, self._length(i) - start)
        return torch.from_numpy(self._samples[first : first + length].copy())


def log_mel(waveform: Tensor, mel_bins: int = 128) -> Tensor:
    """The spectrogram of EPIC-Sounds' baselines: natural log of mel magnitudes (not energies) at 24 kHz.

    Frames are centred on every 120th sample, silence beyond the ends; Hann windows of 240 samples; HTK's mel scale
    from 0 to 12 kHz, triangles of height 1.

    Args:
        waveform: [..., S] in [-1, 1].
        mel_bins: bands.

    Returns:
        [..., 1 + S // 120, mel_bins]: 400 frames of 1.999 s.
    """
    return (_mel(mel_bins, waveform.device)(waveform) + FLOOR).log().transpose(-1, -2)


@lru_cache(maxsize=4)
def _mel(mel_bins: int, device: torch.device) -> torchaudio.transforms.MelSpectrogram:
    return torchaudio.transforms.MelSpectrogram(
        RATE, n_fft=FFT, win_length=WINDOW, hop_length=HOP, n_mels=mel_bins, power=1.0, pad_mode="constant",
        norm=None, mel_scale="htk",
    ).to(device)  # fmt: skip


def _cut(config: Config, split: str, index: pd.DataFrame) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """All events' own sound in the index's order, memory-mapped, and where each begins [events + 1]."""
    events = epic_sounds.read_events(config.paths.raw / config.epic_sounds.annotations[split], Report(config.paths.raw))
    times = index[["clip_id", "video_uid", "path"]].merge(
        events, left_on="clip_id", right_on="annotation_id", how="left", validate="one_to_one"
    )
    if times["start"].isna().any():
        lost = times["clip_id"][times["start"].isna()].iloc[0]
        raise DataError(
            f"{lost} is in the shards but not in the annotations; `mc3 manifest`, `mc3 shards` make them anew"
        )
    lengths = np.round((times["stop"] - times["start"]).to_numpy() * RATE).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    file = config.paths.work / "epic_sounds_24khz" / f"{split}.npy"
    sources = sorted({config.paths.raw / path for path in times["path"]})
    if missing := [source for source in sources if not source.exists()]:
        raise DataError(f"no sound at {missing[0]}, which probe.features: epic_sounds cuts again; use ast without it")
    stats = [(source.name, source.stat().st_size, source.stat().st_mtime_ns) for source in sources]
    rows = times[["clip_id", "start", "stop"]].to_dict("records")
    key = hashlib.sha256(json.dumps([rows, stats]).encode()).hexdigest()
    mark = file.with_suffix(".json")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_suffix(".lock").open("a") as lock:  # seeds probed side by side share this file
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (file.exists() and mark.exists() and json.loads(mark.read_text())["key"] == key):
            _write_sound(config, times, offsets, file, f"24 kHz sound of {split}")
            write_atomic(mark, json.dumps({"key": key}).encode())
    return np.load(file, mmap_mode="r"), offsets


def _write_sound(config: Config, times: pd.DataFrame, offsets: NDArray[np.int64], file: Path, told: str) -> None:
    """The sound of `times` (path, video_uid, start, stop), each event from its offset on, into an .npy file."""
    part = file.with_suffix(".partial")
    samples = np.lib.format.open_memmap(part, "w+", np.int16, (int(offsets[-1]),))
    videos = times.sort_values("start", kind="stable").groupby(["path", "video_uid"], sort=True)
    for (path, video), part_of in track(videos, told):
        windows = list(zip(part_of["start"], part_of["stop"], strict=True))
        cuts = epic_sounds.clips_of(config.paths.raw / path, video, windows, RATE)
        for row, waveform in zip(part_of.index, cuts, strict=True):
            samples[offsets[row] : offsets[row + 1]] = np.clip(np.round(waveform * 32768.0), -32768, 32767)
    samples.flush()
    del samples
    part.replace(file)
