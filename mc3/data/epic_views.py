"""Views of EPIC-Sounds' events: the windows that the probes learn from and are tested on.

`AstViews` are windows of the log-mels in the shards, the encoder's own input (16 kHz, 10 ms a frame). `OfficialViews`
are the input of EPIC-Sounds' own baselines, with the constants of the publisher's code (audio_loader_epicsounds.py and
the SSAST configuration in epic-kitchens/epic-sounds-annotations).
"""

import fcntl
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from mc3.config import Config
from mc3.data import epic_sounds
from mc3.data.annotations import Report
from mc3.data.epic_sounds import RATE
from mc3.data.shards import ClipDataset, read_index, rows_of
from mc3.encoders.audio import FBANK_MEAN
from mc3.errors import DataError
from mc3.files import atomic, reserve, sha256, write_atomic
from mc3.progress import bar

CROP = round(1.999 * RATE)  # samples of a view
FRAMES = 400
WINDOW, HOP, FFT = 240, 120, 2048  # 10 ms and 5 ms; a window is padded to the length of the transform
BLOCK = 32  # crops transformed at once: their spectra take 100 MB before they are summed to bands
FLOOR = 1e-6  # added before the logarithm
MASK_SEC = 0.125  # SpecAugment's longest time mask, for either kind


class Views(ABC):
    """Windows of the events of one split."""

    index: pd.DataFrame  # a row for each event
    events: Any  # what `_event` reads, by number
    frames: int  # log-mel frames in a window
    mask: int  # the longest time mask of SpecAugment, in frames
    length: int  # of a window, in the elements that an event is stored in (log-mel frames or samples)

    @abstractmethod
    def _event(self, i: int) -> Tensor: ...

    @abstractmethod
    def batch(self, windows: Sequence[Tensor], device: torch.device) -> Tensor:
        """Windows, up to `length` long, as the encoder's input: log-mel [B, frames, mel]."""

    def uniform(self, i: int, views: int) -> list[Tensor]:
        """`views` windows of event `i`, spread evenly from its begin to its end; one if it is not longer than one."""
        event = self._event(i)
        return [event[start : start + self.length].clone() for start in starts(len(event), self.length, views)]

    def random(self, i: int, generator: torch.Generator) -> Tensor:
        """One random window of event `i`."""
        event = self._event(i)
        start = int(torch.randint(0, max(1, len(event) - self.length + 1), (), generator=generator))
        return event[start : start + self.length].clone()

    def __len__(self) -> int:
        return len(self.events)


def of(config: Config, split: str) -> Views:
    """Views of the events of one split in the shards, of the kind `probe.features`: "ast" or "epic_sounds"."""
    if config.probe.features == "ast":
        clips = ClipDataset(config.paths.shards, "epic_sounds", split, ("audio",))
        return AstViews(clips, config.model.audio.length)
    return OfficialViews(config, split)


def starts(total: int, length: int, views: int) -> NDArray[np.intp]:
    """Starts of `views` windows of `length`, spread evenly over an event of `total`; only 0 if it is not longer."""
    if total <= length or views == 1:
        return np.array([max(0, total - length) // 2])
    return np.linspace(0, total - length, views).round().astype(np.intp)


class AstViews(Views):
    """Windows [frames, mel] of the shards' log-mels; short ones are padded with the value that normalises to 0."""

    mask = int(MASK_SEC / 0.01)

    def __init__(self, clips: ClipDataset, frames: int) -> None:
        self.events, self.index = clips, clips.index  # a list of clips serves too
        self.frames = self.length = frames

    def batch(self, windows: Sequence[Tensor], device: torch.device) -> Tensor:
        """See `Views`."""
        padded = [pad(w.float(), (0, 0, 0, self.frames - len(w)), value=FBANK_MEAN) for w in windows]
        return torch.stack(padded).to(device)

    def _event(self, i: int) -> Tensor:
        return self.events[i]["audio"]


class OfficialViews(Views):
    """Crops [up to `CROP`] of the events at 24 kHz, cut once from the raw sound into `work/epic_sounds_24khz`.

    `events` are int16, memory-mapped. Raises `DataError` if the raw sound or the shards' index is missing.
    """

    frames, mask, length = FRAMES, int(MASK_SEC * RATE / HOP), CROP

    def __init__(self, config: Config, split: str) -> None:
        self.index = rows_of(read_index(config.paths.shards), "epic_sounds", split)
        self.mel_bins = config.model.audio.mel_bins
        self.events = _cut(config, split, self.index)

    def batch(self, windows: Sequence[Tensor], device: torch.device) -> Tensor:
        """See `Views`; frames after the end of a short event repeat its last one."""
        lengths = torch.tensor([len(window) for window in windows], device=device)
        waveforms = pad_sequence(list(windows), batch_first=True).to(device).float() / 32768
        spectrogram = torch.cat([log_mel(part, self.mel_bins) for part in waveforms.split(BLOCK)])
        own = torch.arange(self.frames, device=device).minimum((lengths // HOP)[:, None])
        return spectrogram.gather(1, own[:, :, None].expand(-1, -1, self.mel_bins))

    def _event(self, i: int) -> Tensor:
        return torch.from_numpy(self.events[i])


def log_mel(waveform: Tensor, mel_bins: int = 128) -> Tensor:
    """The spectrogram of EPIC-Sounds' baselines: natural log of mel magnitudes (not energies) at 24 kHz.

    Hann windows of 240 samples, centred on every 120th, with silence beyond the ends; HTK's mel scale from 0 to 12 kHz,
    triangles of height 1. From [..., S] in [-1, 1] it makes [..., 1 + S // 120, mel_bins], 400 frames for 1.999 s.
    """
    return (_mel(mel_bins, waveform.device)(waveform) + FLOOR).log().transpose(-1, -2)


@lru_cache(maxsize=4)
def _mel(mel_bins: int, device: torch.device) -> Any:
    import torchaudio

    return torchaudio.transforms.MelSpectrogram(
        RATE, n_fft=FFT, win_length=WINDOW, hop_length=HOP, n_mels=mel_bins, power=1.0, pad_mode="constant",
        norm=None, mel_scale="htk",
    ).to(device)  # fmt: skip


def _cut(config: Config, split: str, index: pd.DataFrame) -> list[NDArray[np.int16]]:
    events = epic_sounds.read_events(config.paths.raw / config.epic_sounds.annotations[split], Report(config.paths.raw))
    times = index[["clip_id", "video_uid", "path"]].join(events.set_index("annotation_id"), on="clip_id")
    if lost := times.loc[times["start"].isna(), "clip_id"].tolist():
        raise DataError(f"{lost[0]} is in the shards but not in the annotations; run `mc3 manifest` and `mc3 shards`")
    lengths = np.round((times["stop"] - times["start"]).to_numpy() * RATE).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    file = config.paths.work / "epic_sounds_24khz" / f"{split}.npy"
    sources = sorted({config.paths.raw / path for path in times["path"]})
    if missing := [source for source in sources if not source.exists()]:
        raise DataError(f"no sound at {missing[0]}, which probe.features: epic_sounds cuts again; use ast without it")
    stats = [(source.name, source.stat().st_size, source.stat().st_mtime_ns) for source in sources]
    rows = times[["clip_id", "start", "stop"]].to_dict("records")
    key = hashlib.sha256(json.dumps([rows, stats]).encode()).hexdigest()
    done_marker = file.with_suffix(".json")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_suffix(".lock").open("a") as lock:  # seeds probed at the same time share this file
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (file.exists() and done_marker.exists() and done_marker.read_bytes() == _vouch(key, file)):
            _write_sound(config, times, offsets, file)
            write_atomic(done_marker, _vouch(key, file))
    return np.split(np.load(file, mmap_mode="c"), offsets[1:-1])  # copy-on-write: torch takes no read-only arrays


def _vouch(key: str, sound: Path) -> bytes:
    return json.dumps({"key": key, "sha256": sha256(sound)}).encode()


def _write_sound(config: Config, times: pd.DataFrame, offsets: NDArray[np.int64], file: Path) -> None:
    with atomic(file) as own, bar(len(times), 0, main=True) as show:
        samples = np.lib.format.open_memmap(own, "w+", np.int16, (int(offsets[-1]),))
        with own.open("r+b") as opened:
            reserve(opened.fileno())
        done = 0
        for (path, video), events in times.sort_values("start", kind="stable").groupby(["path", "video_uid"]):
            windows = list(zip(events["start"], events["stop"], strict=True))
            cuts = epic_sounds.clips_of(config.paths.raw / path, video, windows, RATE)
            for row, waveform in zip(events.index, cuts, strict=True):
                samples[offsets[row] : offsets[row + 1]] = np.clip(np.round(waveform * 32768.0), -32768, 32767)
            done += len(events)
            show(done, f"cutting 24 kHz sound of {file.stem}")
        samples.flush()
