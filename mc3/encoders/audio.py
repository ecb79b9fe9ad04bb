"""Audio spectrogram transformer (Sec. 4.4: AST, initialised from ImageNet): timm's distilled DeiT on a log-mel image.

The image has one channel, frequency bins as rows and 10 ms frames as columns; patches overlap when `stride` is smaller
than `patch`. Trunk parameters have timm's names, as in AST and SSAST.

Shapes: B clips, L log-mel frames, M mel bins, D width, E embedding.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from mc3.config import AudioConfig
from mc3.encoders import Encoder
from mc3.errors import ConfigError

# Mean and standard deviation of AudioSet's log-mel values, as published with AST, which divides by twice the latter.
FBANK_MEAN = -4.2677393
FBANK_STD = 4.5689974


class OverlappingPatches(nn.Module):
    """timm's `PatchEmbed` with a stride; `grid_size` is (rows, columns) of patches."""

    def __init__(self, img_size: tuple[int, int], patch_size: int, stride: int, embed_dim: int, **_: Any) -> None:
        super().__init__()
        self.grid_size = patch_grid(img_size, patch_size, stride)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.proj = nn.Conv2d(1, embed_dim, patch_size, stride)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 1, M, L] -> [B, patches, D], row by row from the lowest bins."""
        return self.proj(image).flatten(2).transpose(1, 2)


class AudioEncoder(Encoder):
    """Log-mel to embedding: normalise, crop or pad, trunk, LayerNorm and linear layer (AST's `mlp_head`)."""

    def __init__(self, config: AudioConfig, embedding_dim: int) -> None:
        if config.dim % config.heads:
            raise ConfigError(f"model.audio.dim must be a multiple of model.audio.heads, not {config}")
        if min(config.length, config.mel_bins) < config.patch:
            raise ConfigError(f"model.audio.length and mel_bins must hold one patch, not {config}")
        from timm.models.deit import VisionTransformerDistilled  # half a second, so with the first model only

        trunk = VisionTransformerDistilled(
            img_size=(config.mel_bins, config.length), patch_size=config.patch, in_chans=1, num_classes=0,
            embed_dim=config.dim, depth=config.depth, num_heads=config.heads,
            embed_layer=partial(OverlappingPatches, stride=config.stride),
        )  # fmt: skip
        projection = nn.Sequential(nn.LayerNorm(config.dim), nn.Linear(config.dim, embedding_dim))
        super().__init__(config, trunk, projection)

    def features(self, fbank: Tensor) -> Tensor:
        """Raw log-mel [B, any L, M] -> mean of the normalised class and distillation tokens [B, D]."""
        trunk = self.trunk
        x = trunk._pos_embed(trunk.patch_embed(self.image(fbank)))
        *blocks, last = trunk.blocks
        for block in blocks:
            x = block(x)
        x = x[:, :2] + last.attn(last.norm1(x))[:, :2]  # the output uses no other token, so the last MLP gets no other
        return trunk.norm(x + last.mlp(last.norm2(x))).mean(dim=1)

    def image(self, fbank: Tensor) -> Tensor:
        """Raw log-mel [B, any L, M] -> the trunk's input [B, 1, M, length]; `ConfigError` for another number M."""
        config = self.config
        if fbank.shape[2] != config.mel_bins:
            raise ConfigError(f"clips have {fbank.shape[2]} mel bins, but model.audio.mel_bins is {config.mel_bins}")
        return normalise(fbank.to(self.trunk.dist_token.dtype), config.length).transpose(1, 2)[:, None]


def normalise(fbank: Tensor, length: int) -> Tensor:
    """Raw log-mel [B, L, M] normalised as by AST, then cropped at the end or padded with 0 to `length` frames."""
    fbank = (fbank[:, :length] - FBANK_MEAN) / (2 * FBANK_STD)
    return pad(fbank, (0, 0, 0, length - fbank.shape[1]))  # with the mean of the data; AST pads before it normalises


def patch_grid(image: tuple[int, int], patch: int, stride: int) -> tuple[int, int]:
    """Rows and columns of `patch` squares that fit into an image, one every `stride`."""
    return (image[0] - patch) // stride + 1, (image[1] - patch) // stride + 1


def fit_grid(embedding: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Position embeddings [1, 2 + rows * columns, D] of grid `source` for grid `target`, as in AST."""
    grid = embedding[:, 2:].unflatten(1, source).movedim(-1, 1)  # [1, D, rows, columns]
    for axis, size in ((2, target[0]), (3, target[1])):
        length = grid.shape[axis]
        if size <= length:  # a shorter axis keeps its centre, a longer one is interpolated linearly
            grid = grid.narrow(axis, length // 2 - size // 2, size)
        else:
            grid = interpolate(grid, (size, grid.shape[3]) if axis == 2 else (grid.shape[2], size), mode="bilinear")
    return torch.cat([embedding[:, :2], grid.flatten(2).transpose(1, 2)], dim=1)
