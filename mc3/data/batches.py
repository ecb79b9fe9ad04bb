"""The batches of training: which clips, and which crops of their frames.

Every random choice is drawn from numbers that name its position (seed, stage, epoch or step) and for all processes
together, never from the state of a generator. So a run can resume from any step, with any number of processes.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from mc3.errors import ConfigError


def seed_of(*parts: int) -> int:
    """A 63-bit seed from several numbers, such as (seed, stage, step)."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def draw(clips: int, size: int, epochs: int, seed: int, stage: int) -> np.ndarray:
    """Row numbers of every batch of a stage, [steps, size].

    Each epoch is reshuffled and drops its incomplete last batch. Raises `ConfigError` if clips do not fill a batch.
    """
    if clips < size:
        raise ConfigError(f"train.batch_size is {size}, but there are {clips} training clips; make it smaller")
    kept = clips // size * size
    orders = [np.random.default_rng([seed, stage, epoch]).permutation(clips)[:kept] for epoch in range(epochs)]
    return np.concatenate(orders).reshape(-1, size)


def crops(count: int, scale: list[float], flip: bool, generator: torch.Generator) -> Tensor:
    """`count` random resized crops as affine maps for `affine_grid`, [count, 2, 3].

    The share of a crop in the area is between the two of `scale` (EgoVLP: 0.5 and 1), its aspect between 3/4 and 4/3,
    limited to the frame. Half of the crops are mirrored if `flip`.
    """
    u = torch.rand(5, count, generator=generator)
    area = scale[0] + (scale[1] - scale[0]) * u[0]
    aspect = torch.exp((2 * u[1] - 1) * math.log(4 / 3))
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    across = torch.where(u[4] < 0.5, -width, width) if flip else width
    x, y, none = (2 * u[2] - 1) * (1 - width), (2 * u[3] - 1) * (1 - height), torch.zeros(count)
    return torch.stack([across, none, x, none, height, y], dim=1).unflatten(1, (2, 3))


def augment(video: Tensor, theta: Tensor, size: int) -> Tensor:
    """Crop and resize clips on their device, all frames of a clip alike: float32 [B, T, size, size, 3] in 0..255.

    `video` is uint8 [B, T, H, W, 3] and `theta` [B, 2, 3] of `crops`.
    """
    frames = video.movedim(-1, 2).flatten(1, 2).float()
    grid = affine_grid(theta, [*frames.shape[:2], size, size], align_corners=False)
    cut = grid_sample(frames, grid, mode="bilinear", padding_mode="border", align_corners=False)
    # contiguous in this order, so that cutting patches copies rows of pixels, which is ten times as fast
    return cut.unflatten(1, (-1, 3)).movedim(2, -1).contiguous()


def log_mel(sound: Tensor, rate: int, bins: int) -> Tensor:
    """`mc3.data.audio.fbank` of many clips at once, on their device: float32 [B, L, bins].

    `sound` is int16, or float in [-1, 1], [B, S]; L = 1 + (S - 25 ms) // 10 ms.
    """
    from torchaudio.compliance.kaldi import get_mel_banks

    window, hop = rate * 25 // 1000, rate * 10 // 1000
    size = 1 << (window - 1).bit_length()
    signal = sound.float() / (1 if sound.is_floating_point() else 32768)
    frames = (signal - signal.mean(dim=1, keepdim=True)).unfold(1, window, hop)
    frames = frames - frames.mean(dim=2, keepdim=True)
    frames = frames - 0.97 * torch.cat([frames[..., :1], frames[..., :-1]], dim=2)  # pre-emphasis
    shape = torch.hann_window(window, periodic=False, device=sound.device)
    power = torch.fft.rfft(frames * shape, size).abs().square()
    banks, _ = get_mel_banks(bins, size, rate, 20.0, 0.0, 100.0, -500.0, 1.0)
    mel = power @ pad(banks, (0, 1)).T.to(sound.device)
    return mel.clamp(min=torch.finfo(torch.float32).eps).log()
