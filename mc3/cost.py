"""The cost of a clip in tokens and operations; MFU, model FLOPs utilisation, is their share of a device's peak."""

import re
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mc3.config import ModelConfig
from mc3.encoders.audio import patch_grid
from mc3.methods import Stage
from mc3.model import make_encoders

# Dense peaks by `train.precision` and CUDA's device name, from the makers' data sheets.
PEAK_TFLOPS = {
    "bf16": {"H200": 989, "H100": 989, "GH200": 989, "B200": 2250, "A100": 312, "A40": 149.7, "L40S": 362,
             "RTX A6000": 154.8, "RTX 4090": 165.2},
    "no": {"H200": 67, "H100": 67, "GH200": 67, "B200": 75, "A100": 19.5, "A40": 37.4, "L40S": 91.6,
           "RTX A6000": 38.7, "RTX 4090": 82.6},
}  # fmt: skip


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
    """Operations of matrix products and attention to embed one clip, by modality; a product and its sum are two."""
    found = {}
    with torch.device("meta"), torch.no_grad():  # MATH attention, since the counter knows only the fused ones of GPUs
        for m, encoder in make_encoders(config).items():
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
                encoder.eval()(inputs(config, 1)[m])
            found[m] = float(counter.get_total_flops())
    return found


def training_flops(config: ModelConfig, stage: Stage) -> float:
    """Operations of a clip in a training step: forward, and twice that where weights learn; not what is recomputed."""
    forward = forward_flops(config)
    return sum((3 if m in stage.train else 1) * forward[m] for m in stage.modalities)


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Peak operations a second of a GPU at `train.precision`, by its maker; None for those that are not listed."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    found = (tflops for key, tflops in PEAK_TFLOPS.get(precision, {}).items() if re.search(rf"\b{key}\b", name))
    return next((1e12 * tflops for tflops in found), None)


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


def inputs(config: ModelConfig, clips: int) -> dict[str, Tensor]:
    """Constant inputs of `clips` clips, in the shapes of training."""
    audio, video = config.audio, config.video
    return {
        "audio": torch.zeros(clips, audio.length, audio.mel_bins),
        "video": torch.zeros(clips, video.frames, video.image_size, video.image_size, 3),
        "text": torch.ones(clips, config.text.max_length, dtype=torch.int64),
    }
