"""The batches of training: which clips, which of their frames, and which crops of these.

Every random choice is drawn from numbers that name its position (seed, stage, epoch or step) and for all processes
together, never from the state of a generator. So a run can resume from any step, with any number of processes.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

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


def shares(size: int, processes: int) -> list[np.ndarray]:
    """The rows of a batch of `size` clips that each process embeds; `ConfigError` if one would have none."""
    if not 1 <= processes <= size:
        fault = f"train.batch_size is {size}, which {processes} processes cannot share"
        raise ConfigError(f"{fault}; make it at least the number of processes, or start fewer, one or more")
    return np.array_split(np.arange(size), processes)


def sample_frames(count: int, stored: int, taken: int, seed: int, stage: int, step: int) -> np.ndarray:
    """One frame, at random, of each of `taken` equal segments of `count` clips of `stored` frames: [count, taken]."""
    rng = np.random.default_rng([seed, stage, step, taken])
    return np.arange(0, stored, stored // taken) + rng.integers(stored // taken, size=(count, taken))


def crops(
    count: int, scale: list[float], flip: bool, generator: torch.Generator, width: Tensor | float = 1, padded: float = 1
) -> Tensor:
    """`count` random resized crops as affine maps for `affine_grid`, [count, 2, 3].

    The share of a crop in the area is between the two of `scale` (EgoVLP: 0.5 and 1), its aspect between 3/4 and 4/3,
    limited to the frame: in wide frames, where torchvision draws again, large crops have the full height and at most
    4/3 of it as width. Half of the crops are mirrored if `flip`. `width` is that of the frames [count], `padded` with
    what extends them on both sides, in units of their height.
    """
    u = torch.rand(5, count, generator=generator)
    area = scale[0] + (scale[1] - scale[0]) * u[0]
    aspect = torch.exp((2 * u[1] - 1) * math.log(4 / 3))
    across, down = (area * aspect / width).sqrt().clamp(max=1), (area / aspect * width).sqrt().clamp(max=1)
    across = torch.minimum(across, (4 / 3 + 1e-6) * down / width)  # more than rounding, so that squares keep theirs
    x, y, none = (2 * u[2] - 1) * (1 - across), (2 * u[3] - 1) * (1 - down), torch.zeros(count)
    across = torch.where(u[4] < 0.5, -across, across) if flip else across
    own = width / padded
    return torch.stack([across * own, none, x * own, none, down, y], dim=1).unflatten(1, (2, 3))


def augment(video: Tensor, theta: Tensor, size: int) -> Tensor:
    """Crop and resize uint8 `video` [B, T, H, W, 3] by `crops` [B, 2, 3], all frames of a clip alike, on its device.

    Returns [B, T, size, size, 3] in 0..255, of the type of `theta`.
    """
    frames = video.movedim(-1, 2).flatten(1, 2).to(theta.dtype)
    grid = affine_grid(theta, [*frames.shape[:2], size, size], align_corners=False)
    cut = grid_sample(frames, grid, mode="bilinear", padding_mode="border", align_corners=False)
    # contiguous in this order, so that cutting patches copies rows of pixels, which is ten times as fast
    return cut.unflatten(1, (-1, 3)).movedim(2, -1).contiguous()
