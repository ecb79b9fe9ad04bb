"""Resampling, windows of recordings, log-mels. torch is imported on first use, so that readers of headers need none."""

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

LOUDEST = 16.0  # samples are in [-1, 1], and resampled or lossy ones a little beyond; integers as floats are far off

if TYPE_CHECKING:
    from torch import Tensor


def cut(samples: Callable[[int, int], np.ndarray], start: float, end: float, own_rate: int, rate: int) -> np.ndarray:
    """One window of a recording at another sample rate: float32 [round((end - start) * rate)], times in seconds.

    `samples(first, count)` returns float32 [count] at `own_rate`, also around the window, for the resampling filter.
    """
    length, extra = round((end - start) * rate), margin(own_rate, rate)
    own = samples(round(start * own_rate) - extra, math.ceil(length * own_rate / rate) + 2 * extra)
    skip = extra * rate // own_rate
    return resample(own, own_rate, rate)[skip : skip + length]


def fault_of(samples: np.ndarray) -> str | None:
    """What is wrong with samples of a sound; None if nothing is."""
    peak = float(np.abs(samples).max(initial=0))
    if not math.isfinite(peak):
        return "samples that are no finite numbers"
    return f"samples up to {peak:g}, where sound is within [-1, 1]" if peak > LOUDEST else None


def overlay(parts: Iterable[tuple[int, Any]], first: int, count: int) -> np.ndarray:
    """Samples `first` .. `first + count` of a recording that is known in parts (position, samples); zero elsewhere."""
    own = np.zeros(count, np.float32)
    for at, samples in parts:
        low, high = max(at, first), min(at + len(samples), first + count)
        if low < high:
            own[low - first : high - first] = samples[low - at : high - at]
    return own


def margin(own_rate: int, rate: int) -> int:
    """Samples at `own_rate` that `resample`'s filter needs on either side, lasting a whole number of output samples."""
    block = own_rate // math.gcd(own_rate, rate)
    return math.ceil(16 * max(1.0, own_rate / rate) / block) * block


def resample(waveform: np.ndarray, own_rate: int, rate: int) -> np.ndarray:
    """Resample float32 [S] to ceil(S * rate / own_rate) samples with torchaudio's band-limited sinc filter."""
    if own_rate == rate:
        return waveform
    import torch

    return _resampler(own_rate, rate)(torch.from_numpy(waveform).double()).float().numpy()


@lru_cache(maxsize=8)
def _resampler(own_rate: int, rate: int) -> Any:
    import torch
    import torchaudio

    return torchaudio.transforms.Resample(own_rate, rate, dtype=torch.float64)


def fbank(waveform: np.ndarray, rate: int = 16000, mel_bins: int = 128) -> np.ndarray:
    """`log_mel` of one clip, [S] to float32 [L, mel_bins]; in float64, so that no processor rounds it differently."""
    import torch

    return log_mel(torch.from_numpy(np.asarray(waveform, np.float64))[None], rate, mel_bins)[0].float().numpy()


def log_mel(sound: "Tensor", rate: int, bins: int) -> "Tensor":
    """AST's input before normalisation (Gong et al. 2021), of many clips at once on their device: [B, L, bins].

    Natural log-mel energies of 25 ms windows every 10 ms, L = 1 + (S - 25 ms) // 10 ms, 148 for 1.5 s, in `bins` bands
    between 20 Hz and half the rate: the mean is subtracted, then Kaldi's filter bank is applied (htk_compat, Hann
    window, pre-emphasis .97, no dither). `sound` [B, S] is int16, computed in float32, or float in [-1, 1].
    """
    import torch

    window, hop = rate * 25 // 1000, rate * 10 // 1000
    size = 1 << (window - 1).bit_length()
    signal = sound if sound.is_floating_point() else sound.float() / 32768
    frames = (signal - signal.mean(dim=1, keepdim=True)).unfold(1, window, hop)
    frames = frames - frames.mean(dim=2, keepdim=True)
    frames = frames - 0.97 * torch.cat([frames[..., :1], frames[..., :-1]], dim=2)  # pre-emphasis
    shape = torch.hann_window(window, periodic=False, dtype=signal.dtype, device=sound.device)
    power = torch.fft.rfft(frames * shape, size).abs().square()
    return (power @ torch.from_numpy(_filters(bins, size, rate)).to(power)).clamp(min=2.0**-23).log()  # float32 epsilon


@lru_cache(maxsize=8)
def _filters(bins: int, size: int, rate: int) -> np.ndarray:
    """Kaldi's triangular filters, evenly spaced in mel: float64 [size // 2 + 1, bins], 0 at the last frequency."""
    mel = 1127 * np.log1p(np.arange(size // 2 + 1) * (rate / size) / 700)
    low, high = 1127 * np.log1p(np.array([20, rate / 2]) / 700)
    position = (mel[:, None] - low) * (bins + 1) / (high - low) - np.arange(bins)  # a filter is 0 at 0 and 2, 1 at 1
    weights = np.maximum(0, np.minimum(position, 2 - position))
    weights[-1] = 0
    return weights
