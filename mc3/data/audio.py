"""Audio signals: resampling, cutting a window out of a longer recording, and AST's log-mel spectrogram.

torch is imported on first use, so that reading annotations and media headers does without it.
"""

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np


def cut(samples: Callable[[int, int], np.ndarray], start: float, end: float, own_rate: int, rate: int) -> np.ndarray:
    """One window of a recording at another sample rate: float32 [round((end - start) * rate)], times in seconds.

    `samples(first, count)` returns float32 [count] at `own_rate`. It is called for a margin on either side of the
    window too, so that the resampling filter sees no edge.
    """
    length, extra = round((end - start) * rate), margin(own_rate, rate)
    own = samples(round(start * own_rate) - extra, math.ceil(length * own_rate / rate) + 2 * extra)
    skip = extra * rate // own_rate
    return resample(own, own_rate, rate)[skip : skip + length]


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

    return _resampler(own_rate, rate)(torch.from_numpy(waveform)).numpy()


@lru_cache(maxsize=8)
def _resampler(own_rate: int, rate: int) -> Any:
    import torchaudio

    return torchaudio.transforms.Resample(own_rate, rate)


def fbank(waveform: np.ndarray, rate: int = 16000, mel_bins: int = 128) -> np.ndarray:
    """AST's input before normalisation (Gong et al. 2021): natural log-mel energies, 25 ms windows every 10 ms.

    The mean is subtracted, then Kaldi's filter bank is applied: htk_compat, Hann window, pre-emphasis .97, no dither,
    `mel_bins` bands between 20 Hz and half the rate. From float32 [S] in [-1, 1], at least 25 ms long, it makes float32
    [L, mel_bins] with L = 1 + (S - 25 ms) // 10 ms: 148 for 1.5 s.
    """
    import torch
    import torchaudio

    samples = torch.from_numpy(np.asarray(waveform, np.float32))[None]
    return torchaudio.compliance.kaldi.fbank(
        samples - samples.mean(), htk_compat=True, sample_frequency=rate, use_energy=False,
        window_type="hanning", num_mel_bins=mel_bins, dither=0.0, frame_shift=10,
    ).numpy()  # fmt: skip
