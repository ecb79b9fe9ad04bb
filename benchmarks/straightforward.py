"""The paper's model computed as its published code does it, for comparison: eager, with explicit attention.

It uses the weights of an `mc3.model.MC3` and gives the same embeddings, so that both do the same arithmetic. Pixels
become normalised floats before the convolution; the class token is a query by itself and keys are copied for every
group; softmax is computed on the whole score matrix; the last block computes all its tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, normalize
from transformers import DistilBertModel

from mc3.encoders import audio
from mc3.encoders.video import IMAGENET_MEAN, IMAGENET_STD
from mc3.model import MC3


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention on [G, n, d], [G, m, d], [G, m, d] -> [G, n, d]."""
    return (q @ k.transpose(-1, -2)).softmax(dim=-1) @ v


def divided(layer: nn.Module, x: Tensor, frames: int) -> Tensor:
    """Attention over time or space with the class token in every group: frozen-in-time's VarAttention."""
    heads, (b, s, d) = layer.heads, x.shape
    q, k, v = (
        t.reshape(b, s, heads, -1).transpose(1, 2).reshape(b * heads, s, -1) for t in layer.qkv(x).chunk(3, dim=-1)
    )
    q = q * q.shape[-1] ** -0.5
    class_out = attend(q[:, :1], k, v)

    def grouped(t: Tensor) -> Tensor:
        t = t[:, 1:].reshape(b * heads, frames, -1, t.shape[-1])
        return t.transpose(1, 2).flatten(0, 1) if layer.over == "time" else t.flatten(0, 1)

    groups = (s - 1) // frames if layer.over == "time" else frames
    q_, k_, v_ = grouped(q), grouped(k), grouped(v)
    class_k, class_v = (t[:, :1].repeat_interleave(groups, dim=0) for t in (k, v))
    out = attend(q_, torch.cat([class_k, k_], dim=1), torch.cat([class_v, v_], dim=1))
    out = out.reshape(b * heads, groups, -1, out.shape[-1])
    out = (out.transpose(1, 2) if layer.over == "time" else out).reshape(b * heads, s - 1, -1)
    out = torch.cat([class_out, out], dim=1).reshape(b, heads, s, -1).transpose(1, 2).reshape(b, s, d)
    return layer.proj(out)


class Straightforward(nn.Module):
    """The three encoders of an `MC3`, on its own modules and weights."""

    def __init__(self, model: MC3) -> None:
        super().__init__()
        self.encoders = model.encoders
        for block in self.encoders["audio"].trunk.blocks:
            block.attn.fused_attn = False
        text: DistilBertModel = self.encoders["text"].trunk
        text.set_attn_implementation("eager")

    def video(self, frames: Tensor) -> Tensor:
        """Embed frames: [B, T, H, W, 3] in 0..255 -> [B, E]."""
        encoder = self.encoders["video"]
        trunk = encoder.trunk
        b, count = frames.shape[:2]
        mean, std = frames.new_tensor(IMAGENET_MEAN).float(), frames.new_tensor(IMAGENET_STD).float()
        pixels = ((frames.float() / 255 - mean) / std).flatten(0, 1).permute(0, 3, 1, 2).contiguous()
        proj = trunk.patch_embed.proj
        x = conv2d(pixels, proj.weight, proj.bias, proj.stride).flatten(2).transpose(1, 2)
        x = torch.cat([trunk.cls_token.expand(b, -1, -1), x.reshape(b, -1, x.shape[-1])], dim=1)
        per_frame = trunk.pos_embed[:, 1:].repeat(1, count, 1)
        over_time = trunk.temporal_embed[:, :count].repeat_interleave(trunk.pos_embed.shape[1] - 1, dim=1)
        x = x + torch.cat([trunk.pos_embed[:, :1], per_frame + over_time], dim=1)
        for block in trunk.blocks:
            time = divided(block.timeattn, block.norm3(x), count)
            space = divided(block.attn, block.norm1(x + time), count)
            x = x + space
            x = x + block.mlp(block.norm2(x))
        return encoder.projection(trunk.norm(x)[:, 0])

    def audio(self, fbank: Tensor) -> Tensor:
        """Embed log-mels: [B, L, M] -> [B, E]."""
        encoder = self.encoders["audio"]
        trunk = encoder.trunk
        image = audio.normalise(fbank, encoder.config.length).transpose(1, 2)[:, None]
        x = trunk.blocks(trunk._pos_embed(trunk.patch_embed(image)))
        return encoder.projection(trunk.norm(x)[:, :2].mean(dim=1))

    def text(self, ids: Tensor) -> Tensor:
        """Embed token ids: [B, N] -> [B, E]."""
        encoder = self.encoders["text"]
        return encoder.projection(encoder.trunk(input_ids=ids, attention_mask=ids != 0).last_hidden_state[:, 0])

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Unit embeddings [B, E] by modality, as `MC3.forward` returns them."""
        return {m: normalize(getattr(self, m)(x).float(), dim=-1) for m, x in batch.items()}
