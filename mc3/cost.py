"""The cost of a clip, computed from the settings: tokens, operations, bytes.

The trainer reports MFU with it (model FLOPs utilisation: the operations that the model needs, divided by those that the
device could do in the same time), and `mc3 train --dry-run` estimates memory and time before training.
"""

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mc3 import methods
from mc3.config import Config, ModelConfig
from mc3.encoders.audio import patch_grid
from mc3.methods import Stage
from mc3.model import freeze, make_encoders, recompute

# Dense peaks by CUDA's device name and `train.precision`, from the makers' data sheets.
PEAK_TFLOPS: dict[str, dict[str, float]] = {
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
ASSUMED_MFU = 0.4  # of a dry run
BYTES_PER_WEIGHT = {True: 16, False: 4}  # learning or frozen: float32 weight, gradient and Adam's two moments


def tokens(config: ModelConfig) -> dict[str, int]:
    """Tokens of one clip in each encoder, class tokens included."""
    rows, columns = patch_grid((config.audio.mel_bins, config.audio.length), config.audio.patch, config.audio.stride)
    return {
        "audio": rows * columns + 2,
        "video": config.video.frames * (config.video.image_size // config.video.patch) ** 2 + 1,
        "text": config.text.max_length,
    }


@cache
def forward_flops(config: ModelConfig) -> dict[str, float]:
    """Floating-point operations to embed one clip, by modality; a multiplication and its addition are two.

    Counts matrix products and attention. The counter knows only the fused kernels of GPUs, so attention is not fused.
    """
    found = {}
    with torch.device("meta"), torch.no_grad():
        for m, encoder in make_encoders(config).items():
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
                encoder.eval()(inputs(config, 1)[m])
            found[m] = float(counter.get_total_flops())
    return found


def training_flops(config: ModelConfig, stage: Stage) -> float:
    """Operations of one clip in a training step: forward, and twice that backward where weights learn.

    What is computed a second time (microbatches, `train.recompute`) does not count: MFU measures the speed of training.
    """
    forward = forward_flops(config)
    return sum((3 if m in stage.train else 1) * forward[m] for m in stage.modalities)


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Peak operations a second of a GPU at `train.precision`, by its maker; None for a device that is not listed."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    known = max((key for key in PEAK_TFLOPS if key in name), key=len, default=None)
    return None if known is None else 1e12 * PEAK_TFLOPS[known][precision]


def timing(config: ModelConfig, stage: Stage, speed: float, waited: float, peak: float | None) -> dict[str, float]:
    """A row of timings.jsonl, from clips a second, the share of time waited, and all devices' operations a second."""
    count = sum(tokens(config)[m] for m in stage.modalities)
    found = {"samples_per_sec": speed, "data_wait": waited, "tokens_per_sec": speed * count}
    if peak is not None:
        found["mfu"] = speed * training_flops(config, stage) / peak
    return found


def format_timing(timing: Mapping[str, float]) -> str:
    """A timing as text, for the progress line."""
    mfu = f", MFU {100 * timing['mfu']:.0f} %" if "mfu" in timing else ""
    return f"{timing['samples_per_sec']:.0f} clips/s, {100 * timing['data_wait']:.0f} % waiting{mfu}"


def saved_bytes(config: Config, stage: Stage) -> tuple[float, float]:
    """Bytes that autograd keeps from forward to backward: (per clip, fixed).

    Runs the encoders on fake tensors, so it needs no memory itself. Buffers inside kernels and the allocator's overhead
    are not included.
    """
    one, three = (_saved_bytes(config, stage, clips, config.train.recompute) for clips in (1, 3))
    clip = (three - one) / 2
    fixed = one - clip
    if config.train.recompute:  # one block's activations exist again while its gradient is computed
        one, three = (_saved_bytes(config, stage, clips, recomputed=False) for clips in (1, 3))
        clip += ((three - one) / 2 - clip) / max(config.model.video.depth, config.model.audio.depth)
    return clip, fixed


def _saved_bytes(config: Config, stage: Stage, clips: int, recomputed: bool) -> int:
    from torch._subclasses.fake_tensor import FakeTensorMode

    model = torch.nn.Module()
    with torch.device("meta"):
        model.encoders = make_encoders(config.model)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        freeze(model, stage.train, config.train.freeze)
        if recomputed:
            recompute(model)
        own = {p.untyped_storage()._cdata for p in model.parameters()}
        saved: dict[int, torch.UntypedStorage] = {}  # which keeps them, so that no address is reused

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                saved[storage._cdata] = storage
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=config.train.precision == "bf16"):
            for m in stage.modalities:
                model.encoders[m](inputs(config.model, clips)[m])
        return sum(storage.nbytes() for storage in saved.values())


def inputs(config: ModelConfig, clips: int) -> dict[str, Tensor]:
    """Constant inputs of `clips` clips, in the shapes of training."""
    audio, video = config.audio, config.video
    return {
        "audio": torch.zeros(clips, audio.length, audio.mel_bins),
        "video": torch.zeros(clips, video.frames, video.image_size, video.image_size, 3),
        "text": torch.ones(clips, config.text.max_length, dtype=torch.int64),
    }


def plan(config: Config, method: str, processes: int, peak_tflops: float | None) -> str:
    """An estimate of one training of `method`, as text: parameters, steps, memory of a process, hours.

    `processes` share the batch, a device each. `peak_tflops`: by default those of the GPU here; no hours if unknown.
    """
    from mc3.data.shards import read_index

    recipe, train = methods.get(method), config.train
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = 1e12 * peak_tflops if peak_tflops else peak_flops(device, train.precision)
    try:
        index = read_index(config.paths.shards)
        clips, source = int(((index["dataset"] == "ego4d") & (index["split"] == "train")).sum()), "in the shards"
    except ValueError:
        clips, source = config.ego4d.train_clips, "requested; no shards yet"
    forward, count = forward_flops(config.model), tokens(config.model)
    with torch.device("meta"):
        encoders = make_encoders(config.model)
    sizes = {m: sum(weight.numel() for weight in encoder.parameters()) for m, encoder in encoders.items()}
    steps, share = clips // train.batch_size, -(-train.batch_size // processes)
    microbatch = min(train.microbatch_size or share, share)
    lines = [f"{method} ({recipe.label}): {clips:,} clips ({source}), {processes} process{'es' * (processes > 1)}"]
    lines += [f"  {'encoder':8}{'parameters':>14}{'tokens':>9}{'GFLOP':>9}  a clip, forward"]
    lines += [f"  {m:8}{sizes[m]:>14,}{count[m]:>9,}{forward[m] / 1e9:>9.2f}" for m in encoders]
    operations = 0.0
    for number, stage in enumerate(recipe.stages):
        epochs = sum(train.epochs.values()) if stage.epochs == "both" else train.epochs[stage.epochs]
        per_clip, fixed = saved_bytes(config, stage)
        weights = sum(BYTES_PER_WEIGHT[m in stage.train] * sizes[m] for m in encoders)
        memory, flops = weights + fixed + microbatch * per_clip, training_flops(config.model, stage)
        again = sum(forward[m] for m in stage.train) * ((microbatch < share) + train.recompute)
        twice = f", and {again / 1e9:.0f} computed twice" if again else ""
        lines += [
            f"  stage {number}: {epochs} x {steps:,} steps = {epochs * steps:,} steps of {train.batch_size} clips",
            f"    memory: {weights / 1e9:.1f} GB weights, gradients and moments + {microbatch} clips x "
            f"{per_clip / 1e6:.0f} MB + {fixed / 1e9:.1f} GB = {memory / 1e9:.1f} GB a process, + kernels' buffers",
            f"    {flops / 1e9:.0f} GFLOP a clip{twice}",
        ]
        operations += epochs * steps * train.batch_size * (flops + again)
    last = "  hours: unknown; --peak-tflops states the peak of a device that is not here or not listed"
    if peak is not None:
        hours = operations / (processes * peak * ASSUMED_MFU) / 3600
        last = f"  {hours:.2f} h at {ASSUMED_MFU:.0%} of {peak / 1e12:.0f} TFLOP/s a process"
    return "\n".join([*lines, last])
