"""The published architectures as others have them, to compare with, and EgoVLP's way of writing its checkpoint."""

import sys
import types
from pathlib import PosixPath

import torch
from transformers import ASTConfig, ASTModel


def noisy(model, noise=0.1):
    """`model` in evaluation, its every parameter, biases and norms too, made far from its initial value."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model.eval()


def save_egovlp(path, state):
    """A training checkpoint as EgoVLP writes it, with an object of a class that is nowhere to be imported."""
    module = types.ModuleType("parse_config_of_egovlp")

    class ConfigParser:
        def __init__(self):
            self._save_dir = PosixPath("results/EgoClip")
            self.log_levels = {0: 30}

    ConfigParser.__module__, ConfigParser.__qualname__ = module.__name__, "ConfigParser"
    module.ConfigParser = ConfigParser
    content = {
        "arch": "FrozenInTime", "epoch": 10, "state_dict": state, "monitor_best": 0.5, "config": ConfigParser(),
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.randn(5)}}, "param_groups": [{"lr": 3e-5}]},
    }  # fmt: skip
    sys.modules[module.__name__] = module
    try:
        torch.save(content, path)
    finally:
        del sys.modules[module.__name__]


def video_forward(state, config, frames):
    """EgoVLP's forward pass written out from its description: class token repeated, groups moved into the batch."""

    def norm(x, name):
        return torch.nn.functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def dense(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def attention(x, name, groups):
        batch, tokens, width = x.shape
        heads = config.heads
        qkv = dense(x, f"{name}.qkv").reshape(batch, tokens, 3, heads, width // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).flatten(1, 2)
        q = q * (width // heads) ** -0.5
        class_out = (q[:, :1] @ k.transpose(1, 2)).softmax(-1) @ v
        t, n = count, (tokens - 1) // count

        def group(y):
            y = y.reshape(batch * heads, t, n, -1)
            y = y if groups == "frames" else y.transpose(1, 2)
            return y.reshape(-1, y.shape[2], y.shape[3])

        grouped = [group(y[:, 1:]) for y in (q, k, v)]
        repeat = len(grouped[0]) // (batch * heads)
        k_all = torch.cat([k[:, :1].repeat_interleave(repeat, 0), grouped[1]], 1)
        v_all = torch.cat([v[:, :1].repeat_interleave(repeat, 0), grouped[2]], 1)
        out = (grouped[0] @ k_all.transpose(1, 2)).softmax(-1) @ v_all
        out = out.reshape(batch * heads, repeat, -1, width // heads)
        out = out if groups == "frames" else out.transpose(1, 2)
        out = torch.cat([class_out, out.reshape(batch * heads, t * n, -1)], 1)
        out = out.reshape(batch, heads, tokens, -1).transpose(1, 2).reshape(batch, tokens, width)
        return dense(out, f"{name}.proj")

    batch, count = frames.shape[:2]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = ((frames.float() / 255 - mean) / std).permute(0, 1, 4, 2, 3).flatten(0, 1)
    weight, bias = (state[f"patch_embed.proj.{kind}"] for kind in ("weight", "bias"))
    x = torch.nn.functional.conv2d(images, weight, bias, stride=config.patch)
    n = x.shape[2] * x.shape[3]
    x = x.flatten(2).transpose(1, 2).reshape(batch, count * n, -1)
    x = torch.cat([state["cls_token"].expand(batch, -1, -1), x], 1)
    positions = state["pos_embed"][:, 1:].repeat(1, count, 1)
    times = state["temporal_embed"][:, :count].repeat_interleave(n, 1)
    x = x + torch.cat([state["pos_embed"][:, :1], positions + times], 1)
    for i in range(config.depth):
        name = f"blocks.{i}"
        time = attention(norm(x, f"{name}.norm3"), f"{name}.timeattn", "positions")
        space = attention(norm(x + time, f"{name}.norm1"), f"{name}.attn", "frames")
        x = x + space
        hidden = torch.nn.functional.gelu(dense(norm(x, f"{name}.norm2"), f"{name}.mlp.fc1"))
        x = x + dense(hidden, f"{name}.mlp.fc2")
    return norm(x, "norm")[:, 0]


def audio_model(state, config):
    """transformers' own AST with the weights `state`, which has timm's names, under its own."""
    sizes = {"hidden_size": config.dim, "num_hidden_layers": config.depth, "num_attention_heads": config.heads,
             "intermediate_size": 4 * config.dim, "patch_size": config.patch, "frequency_stride": config.stride,
             "time_stride": config.stride, "max_length": config.length, "num_mel_bins": config.mel_bins}  # fmt: skip
    theirs = ASTModel(ASTConfig(**sizes, layer_norm_eps=1e-6, attn_implementation="eager")).eval()
    replace = {"cls_token": "embeddings.cls_token", "dist_token": "embeddings.distillation_token",
               "pos_embed": "embeddings.position_embeddings", "blocks.": "layers.", "attn.proj": "attention.o_proj",
               "patch_embed.proj": "embeddings.patch_embeddings.projection", "norm1": "layernorm_before",
               "norm2": "layernorm_after"}  # fmt: skip
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("norm."):
            name = f"layer{name}"
        for ours, other in replace.items():
            name = name.replace(ours, other)
        if ".qkv." in name:
            split = zip("qkv", tensor.chunk(3), strict=True)
            renamed |= {name.replace("attn.qkv", f"attention.{part}_proj"): t for part, t in split}
        else:
            renamed[name] = tensor
    theirs.load_state_dict(renamed)
    return theirs


def audio_features(state, config, clips):
    """That model's output for log-mels `clips`, normalised by AudioSet's mean and standard deviation."""
    return audio_model(state, config)((clips + 4.2677393) / (2 * 4.5689974)).pooler_output
