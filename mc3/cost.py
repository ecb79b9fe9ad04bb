"""What a clip costs, counted from the settings: tokens, operations, bytes.

With it the trainer says how near it is to what the device can do (MFU: the operations that the model needs, by
those that the device could have done), and `mc3 train --dry-run` plans a run before there is anything to run.

Shapes: D width, T frames, N patches a frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mc3 import methods
from mc3.config import Config, ModelConfig
from mc3.encoders.audio import patch_grid
from mc3.encoders.weights import ENCODERS
from mc3.methods import Stage
from mc3.model import freeze, recompute

PEAK_TFLOPS: dict[
    str, dict[str, float]
] = {  # dense, by the name that CUDA gives and `train.precision`, from the makers' data sheets
    "H200": {"bf16": 989, "no": 67},
    "H100": {"bf16": 989, "no": 67},
    "GH200": {"bf16": 989, "no": 67},
    "B200": {"bf16": 2250, "no": 75},
    "A100": {"bf16": 312, "no": 19.5},
    "A40": {"bf16": 149.7, "no": 37.4},
    "L40S": {"bf16": 362, "no": 91.6},
    "RTX A6000": {"bf16": 154.8, "no": 38.7},
    "RTX 4090": {"bf16": 165.2, "no": 82.6},
}
SHARE = 0.4  # of the peak, which a dry run supposes where nothing was measured
BYTES_A_WEIGHT = {True: 16, False: 4}  # learning or not: float32 weight, gradient and Adam's two moments


def tokens(config: ModelConfig) -> dict[str, int]:
    """Tokens of one clip in each encoder, class tokens included."""
    rows, columns = patch_grid((config.audio.mel_bins, config.audio.length), config.audio.patch, config.audio.stride)
    return {
        "audio": rows * columns + 2,
        "video": config.video.frames * (config.video.image_size // config.video.patch) ** 2 + 1,
        "text": config.text.max_length,
    }


def forward_flops(config: ModelConfig) -> dict[str, float]:
    """Floating-point operations to embed one clip, by modality; a multiplication and its addition are two.

    Of matrix products and attention, as `torch.utils.flop_counter` counts them. What the encoders leave out, the
    last block's patches that nobody reads, is left out here.
    """
    count = tokens(config)
    video, audio, text = config.video, config.audio, config.text

    def linear(tokens: int, dim: int, widths: int) -> int:
        return 2 * tokens * dim * dim * widths

    dim, frames, patches, all_tokens = video.dim, video.frames, count["video"] - 1, count["video"]
    attended = all_tokens + patches * (frames + 1)  # pairs of query and key, over time; then over space
    over_time = linear(all_tokens, dim, 4) + 4 * dim * attended
    over_space = linear(all_tokens, dim, 4) + 4 * dim * (all_tokens + patches * (patches // frames + 1))
    last = linear(all_tokens, dim, 3) + linear(1, dim, 1) + 4 * dim * all_tokens + linear(1, dim, 8)
    seen = 2 * patches * 3 * video.patch**2 * dim + (video.depth - 1) * (
        over_time + over_space + linear(all_tokens, dim, 8)
    )
    seen += over_time + last + 2 * dim * config.embedding_dim

    dim, all_tokens = audio.dim, count["audio"]
    attention = linear(all_tokens, dim, 4) + 4 * dim * all_tokens**2
    heard = 2 * (all_tokens - 2) * audio.patch**2 * dim + audio.depth * attention + 2 * dim * config.embedding_dim
    heard += (audio.depth - 1) * linear(all_tokens, dim, 8) + linear(2, dim, 8)

    dim, all_tokens = text.dim, count["text"]
    read = text.depth * (linear(all_tokens, dim, 12) + 4 * dim * all_tokens**2) + 2 * dim * config.embedding_dim
    return {"audio": float(heard), "video": float(seen), "text": float(read)}


def training_flops(config: ModelConfig, stage: Stage) -> float:
    """Operations of one clip's share of a training step: forward, and twice that backward where weights learn.

    What `train.chunk` and `train.recompute` compute a second time is no part of it, so that a share of the peak
    says how fast training is, not how busy the device.
    """
    forward = forward_flops(config)
    return sum((3 if m in stage.train else 1) * forward[m] for m in stage.modalities)


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Operations a second that a GPU's maker states for `train.precision`, or None for a device not listed."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    known = max((key for key in PEAK_TFLOPS if key in name), key=len, default=None)
    return None if known is None else 1e12 * PEAK_TFLOPS[known][precision]


def timing(config: ModelConfig, stage: Stage, speed: float, waited: float, peak: float | None) -> dict[str, float]:
    """What timings.jsonl says of some steps: clips and tokens a second, share of time spent waiting, MFU if known."""
    count = tokens(config)
    found = {"samples_per_sec": speed, "data_wait": waited}
    found["tokens_per_sec"] = speed * sum(count[m] for m in stage.modalities)
    if peak is not None:
        found["mfu"] = speed * training_flops(config, stage) / peak
    return found


def told(timing: Mapping[str, float]) -> str:
    """The same in a line of progress."""
    mfu = f", MFU {100 * timing['mfu']:.0f} %" if "mfu" in timing else ""
    return f"{timing['samples_per_sec']:.0f} clips/s, {100 * timing['data_wait']:.0f} % waiting{mfu}"


def saved_bytes(config: Config, stage: Stage) -> tuple[float, float]:
    """Bytes that autograd keeps from forward to backward: (of each clip, and whatever their number).

    The encoders run on tensors without content, so that this takes no memory itself; buffers inside kernels and
    what the allocator wastes come on top.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    def kept(clips: int, twice: bool) -> int:
        model = torch.nn.Module()
        with torch.device("meta"):
            model.encoders = torch.nn.ModuleDict(make_encoders(config.model))
        with FakeTensorMode(allow_non_fake_inputs=True):
            model.to_empty(device="cpu")
            freeze(model, stage.train, config.train.freeze)
            if twice:
                recompute(model)
            own = {p.untyped_storage()._cdata for p in model.parameters()}
            found: dict[int, int] = {}
            held: list[Tensor] = []  # so that no storage is freed and its place taken by another

            def pack(tensor: Tensor) -> Tensor:
                storage = tensor.untyped_storage()
                if storage._cdata not in own:
                    found[storage._cdata] = storage.nbytes()
                    held.append(tensor)
                return tensor

            bf16 = config.train.precision == "bf16"
            with (
                torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
                torch.autocast("cpu", torch.bfloat16, enabled=bf16),
            ):
                outputs = [model.encoders[m](x) for m, x in inputs(config, clips).items() if m in stage.modalities]
            del outputs
            return sum(found.values())

    def a_clip(twice: bool) -> tuple[float, float]:
        one, three = kept(1, twice), kept(3, twice)
        return (three - one) / 2, one - (three - one) / 2

    clip, fixed = a_clip(config.train.recompute)
    if config.train.recompute:  # what one block computes again is there while its gradient is taken
        clip += (a_clip(twice=False)[0] - clip) / max(config.model.video.depth, config.model.audio.depth)
    return clip, fixed


def make_encoders(config: ModelConfig) -> dict[str, Any]:
    """The three encoders, untrained, by modality."""
    return {m: make(getattr(config, m), config.embedding_dim) for m, make in ENCODERS.items()}


def inputs(config: Config, clips: int) -> dict[str, Tensor]:
    """Inputs of the right shapes for `clips` clips, as training makes them."""
    model = config.model
    return {
        "audio": torch.zeros(clips, model.audio.length, model.audio.mel_bins),
        "video": torch.zeros(clips, model.video.frames, model.video.image_size, model.video.image_size, 3),
        "text": torch.ones(clips, model.text.max_length, dtype=torch.int64),
    }


def plan(config: Config, method: str, processes: int, peak: float | None) -> str:
    """What training `method` once would take, as text: parameters, steps, memory of a process, hours.

    Args:
        config: the profile.
        method: a row of `mc3.methods`, or "align".
        processes: that share the batch, a device each.
        peak: operations a second of one device; None if it is not known, and then hours are not said.
    """
    from mc3.data.shards import read_index

    recipe, train = methods.get(method), config.train
    try:
        index = read_index(config.paths.shards)
        clips, source = int(((index["dataset"] == "ego4d") & (index["split"] == "train")).sum()), "in the shards"
    except ValueError:
        clips, source = config.ego4d.train_clips, "asked for; no shards yet"
    forward, count = forward_flops(config.model), tokens(config.model)
    with torch.device("meta"):
        encoders = make_encoders(config.model)
    sizes = {m: sum(p.numel() for p in encoder.parameters()) for m, encoder in encoders.items()}
    steps = clips // train.batch_size
    share = -(-train.batch_size // processes)
    held = min(train.chunk or share, share)
    lines = [f"{method} ({recipe.label}): {clips:,} clips ({source}), {processes} process{'es' * (processes > 1)}"]
    lines += [f"  {'encoder':8}{'parameters':>14}{'tokens':>9}{'GFLOP':>9}  a clip, forward"]
    lines += [f"  {m:8}{sizes[m]:>14,}{count[m]:>9,}{forward[m] / 1e9:>9.2f}" for m in encoders]
    hours = 0.0
    for number, stage in enumerate(recipe.stages):
        epochs = sum(train.epochs.values()) if stage.epochs == "both" else train.epochs[stage.epochs]
        a_clip, fixed = saved_bytes(config, stage)
        weights = sum(BYTES_A_WEIGHT[m in stage.train] * sizes[m] for m in encoders)
        memory = weights + fixed + held * a_clip
        flops = training_flops(config.model, stage)
        again = sum(forward[m] for m in stage.train) * ((held < share) + train.recompute)
        twice = f", and {again / 1e9:.0f} computed twice" if again else ""
        lines += [
            f"  stage {number}: {epochs} x {steps:,} steps = {epochs * steps:,} steps of {train.batch_size} clips",
            f"    memory: {weights / 1e9:.1f} GB weights, gradients and moments + {held} clips x {a_clip / 1e6:.0f} MB "
            f"+ {fixed / 1e9:.1f} GB = {memory / 1e9:.1f} GB a process, and the kernels' buffers",
            f"    {flops / 1e9:.0f} GFLOP a clip{twice}",
        ]
        if peak is not None:
            hours += epochs * steps * train.batch_size * (flops + again) / (processes * peak * SHARE) / 3600
    lines.append(
        f"  {hours:.2f} h at {SHARE:.0%} of {peak / 1e12:.0f} TFLOP/s a process" if peak is not None
        else "  hours: say --peak-tflops for a device that is not here or not known"
    )  # fmt: skip
    return "\n".join(lines)
