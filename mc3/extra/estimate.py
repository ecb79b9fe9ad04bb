"""An estimate of a training before it starts (`mc3 train --dry-run`): parameters, steps, memory and time."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from mc3 import methods
from mc3.config import Config
from mc3.cost import forward_flops, inputs, peak_flops, tokens, training_flops
from mc3.data import batches
from mc3.data.shards import read_index
from mc3.methods import Stage
from mc3.model import freeze, make_encoders, recompute

ASSUMED_MFU = 0.4
BYTES_PER_WEIGHT = {True: 16, False: 4}  # learning or frozen: float32 weight, gradient and Adam's two moments


def saved_bytes(config: Config, stage: Stage) -> tuple[float, float]:
    """Bytes that autograd keeps from forward to backward: (per clip, fixed), without the buffers inside kernels."""
    clip, fixed = _per_clip_and_fixed(config, stage, config.train.recompute)
    if config.train.recompute:  # one block's activations exist again while its gradient is computed
        whole, _ = _per_clip_and_fixed(config, stage, recomputed=False)
        clip += (whole - clip) / max(config.model.video.depth, config.model.audio.depth)
    return clip, fixed


def _per_clip_and_fixed(config: Config, stage: Stage, recomputed: bool) -> tuple[float, float]:
    model = torch.nn.Module()
    with torch.device("meta"):
        model.encoders = encoders = make_encoders(config.model)
    with FakeTensorMode(allow_non_fake_inputs=True):  # which needs no memory
        model.to_empty(device="cpu")
        freeze(model, stage.train, config.train.freeze)
        if recomputed:
            recompute(model)
        own = {p.untyped_storage()._cdata for p in model.parameters()}

        def kept(clips: int) -> int:
            saved: dict[int, torch.UntypedStorage] = {}  # which keeps them, so that no address is reused

            def pack(tensor: Tensor) -> Tensor:
                storage = tensor.untyped_storage()
                if storage._cdata not in own:
                    saved[storage._cdata] = storage
                return tensor

            hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
            with hooks, torch.autocast("cpu", torch.bfloat16, enabled=config.train.precision == "bf16"):
                for m in stage.modalities:
                    encoders[m](inputs(config.model, clips)[m])
            return sum(storage.nbytes() for storage in saved.values())

        one, three = kept(1), kept(3)
    clip = (three - one) / 2
    return clip, one - clip


def plan(config: Config, method: str, processes: int, peak_tflops: float | None) -> str:
    """An estimate of one training of `method`, as text: parameters, steps, memory of a process, hours.

    `processes` share the batch, a device each. `peak_tflops`: by default those of the GPU here; no hours if unknown.
    """
    recipe, train = methods.get(method), config.train
    share = len(batches.shares(train.batch_size, processes)[0])  # the largest
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
    steps, microbatch = clips // train.batch_size, min(train.microbatch_size or share, share)
    lines = [f"{method} ({recipe.label}): {clips:,} clips ({source}), {processes} process{'es' * (processes > 1)}"]
    lines += [f"  {'encoder':8}{'parameters':>14}{'tokens':>9}{'GFLOP':>9}  a clip, forward"]
    lines += [f"  {m:8}{sizes[m]:>14,}{count[m]:>9,}{forward[m] / 1e9:>9.2f}" for m in encoders]
    operations = 0.0
    for number, stage in enumerate(recipe.stages):
        epochs = train.length(stage.epochs)
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
