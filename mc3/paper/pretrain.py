"""What every training starts from (Sec. 4.4): a video and a text encoder that agree on narrated videos.

`ego4d` names EgoVLP's converted weights in `init`; `mini` makes its own on videos that nothing else uses.
"""

import contextlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from safetensors.torch import save_file
from torch import Tensor

from mc3 import train
from mc3.config import Config, as_dict, override
from mc3.data import manifest, prepare
from mc3.errors import DataError
from mc3.files import swapped, write_atomic
from mc3.methods import MODALITIES
from mc3.model import MC3, TOKENIZER


def write(config: Config) -> Path:
    """Make `Paths.pretrained` by `config.pretrain`, or check without it that the files of `init` exist; returns it."""
    folder = config.paths.pretrained
    if config.pretrain is None:
        if missing := [path for path in config.init.values() if path is not None and not path.exists()]:
            raise DataError(f"{missing[0]} of `init` is missing; `mc3 weights convert` makes it")
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    work = config.paths.work / "pretraining"
    own = override(config, {
        "paths": {"raw": str(work / "raw"), "shards": str(work / "shards"), "work": str(work)},
        "source.out": str(work / "raw"), "model.text.tokenizer": "train", "init": dict.fromkeys(MODALITIES),
        "train.stored": "float32", **config.pretrain,
    })  # fmt: skip
    cut(own, own_source=True)
    model = MC3.load(train.run(own, "pretrain", seed=0) / "final")
    with swapped(folder) as new:
        for modality in ("video", "text"):
            weights = {name: grid(tensor).half() for name, tensor in model.encoders[modality].state_dict().items()}
            save_file(weights, new / f"{modality}.safetensors", {"format": "pt"})
        (new / TOKENIZER).write_bytes((own.paths.shards / TOKENIZER).read_bytes())
    shutil.rmtree(work)
    return folder


def grid(weights: Tensor) -> Tensor:
    """`weights` in multiples of 1/1024 (one zero): steps so wide that no processor's rounding decides between two."""
    return (weights * 1024).round() / 1024 + 0


def cut(config: Config, own_source: bool) -> None:
    """Cut the clips of Ego4D into shards, after `mc3 source` if `own_source`; EPIC-Sounds' events are left out."""
    if own_source:
        params = config.paths.work / "params.yaml"
        write_atomic(params, yaml.safe_dump(as_dict(config), sort_keys=False).encode())
        command = [sys.executable, "-m", "mc3.cli", "source", "--config", str(params)]
        ran = subprocess.run(command, capture_output=True, text=True)
        if ran.returncode:
            last = (ran.stderr.strip() or "no message").splitlines()[-1]
            raise DataError(f"`mc3 source` failed for {params}: {last}")
    with contextlib.redirect_stdout(io.StringIO()):  # the pipeline's run said what was dropped
        table = manifest.write(config)
        clips = manifest.read(table)
        write_atomic(table, clips[clips["dataset"] == "ego4d"].to_parquet(index=False))
        prepare.write(config)
    if own_source and (failed := json.loads((config.paths.work / "shards_report.json").read_text())["failed_videos"]):
        lost = f"video {failed[0]['video_uid']}, generated in {config.paths.raw}, is damaged"
        raise DataError(
            f"{lost}, perhaps by another run at the same time; remove that folder and run the command again"
        )
