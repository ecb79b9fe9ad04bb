"""Space-time transformer over the frames of a clip (Sec. 4.4: TimeSformer, initialised from EgoVLP).

The architecture is the frozen-in-time variant of EgoVLP and LaViLa, with their parameter names. In each block a patch
attends first over time (the same patch in every frame), then over space (the patches of its frame). The class token is
a further key in every group and attends over all tokens. The residual of the space attention starts from the block's
input, not from the output of the time attention.

Shapes: B clips, T frames, N patches a frame, S = 1 + T * N tokens (class token, then frame by frame),
D width, H heads, E embedding.
"""

from collections import OrderedDict
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, linear, pad, scaled_dot_product_attention

from mc3.config import VideoConfig
from mc3.encoders import Encoder
from mc3.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LAYER_NORM_EPS = 1e-6


class DividedAttention(nn.Module):
    """Multi-head attention within groups of patches: over "time" (one position) or over "space" (one frame)."""

    def __init__(self, dim: int, heads: int, over: Literal["time", "space"]) -> None:
        super().__init__()
        self.heads, self.over = heads, over
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, frames: int, only_class: bool = False) -> Tensor:
        """[B, S, D] -> [B, S, D], or [B, 1, D] with `only_class`; `frames` is T."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        class_token = self._attend(self._heads(q[:, :1]), self._heads(k), self._heads(v))
        if only_class:
            return self.proj(class_token)
        keys, values = (self._groups(t, frames, with_class=True) for t in (k, v))
        patches = self._attend(self._groups(q, frames, with_class=False), keys, values)
        return self.proj(torch.cat([class_token, patches.reshape(len(x), -1, x.shape[-1])], dim=1))

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def _groups(self, tokens: Tensor, frames: int, with_class: bool) -> Tensor:
        """[B, S, D] -> [batch, heads, tokens of a group, D / H]; with N * H heads over time, which moves no patch."""
        patches = tokens[:, 1:].unflatten(1, (frames, -1))
        if with_class:
            shape = (-1, -1, patches.shape[2], -1) if self.over == "time" else (-1, frames, -1, -1)
            class_token = tokens[:, None, :1].expand(shape)
            patches = torch.cat([class_token, patches], dim=1 if self.over == "time" else 2)
        if self.over == "time":
            return patches.unflatten(-1, (self.heads, -1)).flatten(2, 3).transpose(1, 2)
        return self._heads(patches.flatten(0, 1))


class Block(nn.Module):
    """Time attention, space attention, MLP."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim, eps=LAYER_NORM_EPS) for _ in range(3))
        self.attn = DividedAttention(dim, heads, over="space")
        self.timeattn = DividedAttention(dim, heads, over="time")
        layers = OrderedDict(fc1=nn.Linear(dim, 4 * dim), gelu=nn.GELU(), fc2=nn.Linear(4 * dim, dim))
        self.mlp = nn.Sequential(layers)

    def forward(self, x: Tensor, frames: int, only_class: bool = False) -> Tensor:
        """[B, S, D] -> [B, S, D], or its class token [B, 1, D] with `only_class`; `frames` is T."""
        time = self.timeattn(self.norm3(x), frames)
        space = self.attn(self.norm1(x + time), frames, only_class)
        x = x[:, : space.shape[1]] + space
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Pixels to patch tokens, ImageNet normalisation included.

    A convolution whose stride equals its kernel is a matrix product over patches, and normalising its input is a scale
    and shift of its weights. So patches are cut from bytes, and normalised pixels are never stored.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(3, dim, patch, patch)
        nn.init.zeros_(cast(Tensor, self.proj.bias))
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.register_buffer("scale", 1 / (255 * std), persistent=False)
        self.register_buffer("shift", mean / std, persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """[B, T, height, width, 3] in 0..255 -> [B, T * N, D], patches row by row from the top left."""
        p = self.patch
        cut = frames.unflatten(3, (-1, p)).unflatten(2, (-1, p)).transpose(3, 4)  # [B, T, rows, columns, p, p, 3]
        weight = self.proj.weight.permute(0, 2, 3, 1)
        bias = cast(Tensor, self.proj.bias) - (weight * self.shift).sum((1, 2, 3))
        return linear(cut.flatten(4).flatten(1, 3).to(weight.dtype), (weight * self.scale).flatten(1), bias)


class SpaceTimeTransformer(nn.Module):
    """The trunk, with EgoVLP's state-dict names."""

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()
        positions = (config.image_size // config.patch) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + positions, config.dim))
        self.temporal_embed = nn.Parameter(torch.zeros(1, config.frames, config.dim))
        self.patch_embed = PatchEmbed(config.patch, config.dim)
        self.blocks = nn.ModuleList(Block(config.dim, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        for parameter in (self.cls_token, self.pos_embed, self.temporal_embed):
            nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, frames: Tensor) -> Tensor:
        """[B, T, image_size, image_size, 3] in 0..255 -> class token [B, D]; T is at most `config.frames`."""
        count = frames.shape[1]
        x = self.patch_embed(frames).unflatten(1, (count, -1))
        x = (x + self.pos_embed[:, None, 1:] + self.temporal_embed[:, :count, None]).flatten(1, 2)
        class_token = (self.cls_token + self.pos_embed[:, :1]).to(x.dtype).expand(len(x), -1, -1)
        x = torch.cat([class_token, x], dim=1)
        for i, block in enumerate(self.blocks, start=1):
            x = block(x, count, only_class=i == len(self.blocks))  # the output uses no other token
        return self.norm(x[:, 0])


class VideoEncoder(Encoder):
    """Frames to embedding: resize and crop if necessary, trunk, linear projection (EgoVLP's `vid_proj`)."""

    def __init__(self, config: VideoConfig, embedding_dim: int) -> None:
        for a, b in (("image_size", "patch"), ("dim", "heads")):
            if getattr(config, a) % getattr(config, b):
                raise ConfigError(f"model.video.{a} must be a multiple of model.video.{b}, not {config}")
        super().__init__(config, SpaceTimeTransformer(config), nn.Sequential(nn.Linear(config.dim, embedding_dim)))

    def features(self, frames: Tensor) -> Tensor:
        """[B, T, height, width, 3], uint8 or float in 0..255 -> trunk output [B, D]; `ConfigError` for a larger T."""
        if frames.shape[1] > self.config.frames:
            raise ConfigError(f"clips have {frames.shape[1]} frames, but model.video.frames is {self.config.frames}")
        return self.trunk(resize_and_crop(frames, self.config.image_size))


def fit_frames(embedding: Tensor, frames: int) -> Tensor:
    """Temporal positions [1, F, D] -> [1, frames, D]: the first, or padded with EgoVLP's initial zeros."""
    return pad(embedding[:, :frames], (0, 0, 0, max(0, frames - embedding.shape[1])))


def resize_and_crop(frames: Tensor, size: int) -> Tensor:
    """Scale the short side of [B, T, height, width, 3] to `size` and crop the centre; scaled frames are float."""
    height, width = frames.shape[2:4]
    if min(height, width) != size:  # sizes are rounded as by torchvision
        height, width = (side * size // min(height, width) for side in (height, width))
        images = frames.flatten(0, 1).movedim(-1, 1).float()
        images = interpolate(images, (height, width), mode="bilinear", antialias=True)
        frames = images.movedim(1, -1).unflatten(0, frames.shape[:2])
    if height == width:
        return frames
    top, left = round((height - size) / 2), round((width - size) / 2)
    return frames[:, :, top : top + size, left : left + size]
