"""A training for tests: clips whose modalities agree, encoders of width 16, two steps an epoch."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import socket
import tarfile
import wave
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from PIL import Image
from safetensors.torch import load_file

from mc3 import checkpoint, methods, train
from mc3.config import Config, build
from mc3.data import tokenizer
from mc3.data.clip_table import COLUMNS
from mc3.model import MC3

THINGS = ("carrot", "plate", "door", "cup", "rope", "stone", "paper", "water")
SEED = 0
RATE = 16000

# Children start without the threads of this process's autograd, which a fork does not survive; imports are done once.
fresh = multiprocessing.get_context("forkserver")
fresh.set_forkserver_preload(["mc3.train"])


def make_shards(folder: Path, train_clips: int = 28, validation_clips: int = 16) -> Path:
    """Clips whose colour, pitch and noun agree, half of the validation ones with another clip's sound."""
    folder.mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    with tarfile.open(folder / "all.tar", "w") as tar:
        for i in range(train_clips + validation_clips):
            thing, split = i % len(THINGS), "train" if i < train_clips else "validation"
            positive = None if split == "train" else i // 2 % 2
            audible = thing if positive in (None, 1) else (thing + 3) % len(THINGS)
            picture, fbank, sound, name = io.BytesIO(), io.BytesIO(), io.BytesIO(), f"clip-{i:03d}"
            colour = rng.normal(20, 8, (4 * 32, 32, 3)) + 25 * thing
            Image.fromarray(colour.clip(0, 255).astype(np.uint8)).save(picture, "JPEG", subsampling=0)
            mel = rng.normal(-8, 1, (148, 128)) + 6 * (np.arange(128) // 16 == audible)
            np.save(fbank, mel.astype(np.float16))
            tone = np.sin(2 * np.pi * 200 * (1 + audible) * np.arange(int(1.5 * RATE)) / RATE)
            with wave.open(sound, "wb") as file:
                file.setparams((1, 2, RATE, 0, "NONE", ""))
                file.writeframes((3000 * tone + rng.normal(0, 300, len(tone))).astype("<i2").tobytes())
            digest = hashlib.sha256(b"".join(data.getvalue() for data in (picture, fbank, sound))).hexdigest()
            for suffix, data in ((".jpg", picture), (".npy", fbank), (".wav", sound)):
                info = tarfile.TarInfo(name + suffix)
                info.size = data.tell()
                data.seek(0)
                tar.addfile(info, data)
            text = f"C moves the {THINGS[thing]}"
            about = {"clip_id": name, "dataset": "ego4d", "split": split, "text": text, "positive": positive}
            rows.append({**about, "class_id": None, "sha256": digest})
    with tarfile.open(folder / "all.tar") as tar:  # the offset of each member, by tarfile
        members = {member.name: member for member in tar.getmembers()}
    others = {name: "" if kind == "str" else 0 for name, kind in COLUMNS.items() if name not in rows[0]}
    index = pd.DataFrame(rows).assign(shard="all.tar", **others).astype(COLUMNS)
    for column, suffix in (("frames", ".jpg"), ("fbank", ".npy"), ("audio", ".wav")):
        index[f"{column}_offset"] = [members[c + suffix].offset_data for c in index["clip_id"]]
        index[f"{column}_size"] = [members[c + suffix].size for c in index["clip_id"]]
    index.to_parquet(folder / "index.parquet", index=False)
    tokenizer.train(index["text"], 128).save(str(folder / "tokenizer.json"))
    return folder


def settings(mini_settings: dict, shards: Path) -> dict:
    """Two steps an epoch, one epoch a stage, encoders of width 16."""
    work = Path(mini_settings["paths"]["work"])
    work.mkdir(parents=True)
    (work / "shards").symlink_to(shards)
    mini_settings["clips"] |= {"frame_size": 32, "mel_bins": 128}
    mini_settings["init"] = dict.fromkeys(("video", "audio", "text"))
    model = mini_settings["model"]
    model["embedding_dim"] = 16
    for encoder in ("audio", "video", "text"):
        model[encoder] |= {"dim": 16, "depth": 1, "heads": 2}
    model["video"]["image_size"], model["audio"]["mel_bins"] = 32, 128
    model["text"] |= {"dropout": 0.1, "vocab_size": 128, "tokenizer": "train", "max_length": 16}
    mini_settings["train"] |= {
        "epochs": {"pretrain": 1, "align": 1, "refine": 1}, "precision": "no", "stored": "float32", "batch_size": 14,
        "warmup_steps": 1, "threads": 1, "checkpoint_every": 1, "log_every": 1,
    }  # fmt: skip
    return mini_settings


def configured(settings: dict, **train_settings) -> Config:
    return build(Config, {**settings, "train": {**settings["train"], **train_settings}})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """What a training into `folder` has learnt."""
    return load_file(folder / "final" / "model.safetensors")


def trainer(config: Config, method: str, dtype: torch.dtype = torch.float32) -> train.Trainer:
    """A trainer at the initial weights, which writes nothing."""
    accelerator = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)])
    model, files = MC3.initial(config, SEED).to(dtype), checkpoint.Run(config, method, SEED, "", main=False)
    return train.Trainer(config, methods.get(method), SEED, accelerator, model, files)


def saved_bytes(work: Callable[[], Any], ignored: Collection[int] = ()) -> int:
    """Bytes of the storages that autograd keeps of `work()`, without those at the addresses `ignored`."""
    storages, alive = {}, []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ignored:
            storages[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = work()
    del outputs
    return sum(storages.values())


def processes(count: int, work: Callable[..., Any], *arguments: Any) -> None:
    """Run `work(*arguments)` in `count` processes, set up as by a launcher."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [fresh.Process(target=_one, args=(rank, count, port, work, *arguments)) for rank in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join(1800)  # a busy machine may take minutes
        assert child.exitcode == 0


def _one(rank: int, count: int, port: int, work: Callable[..., Any], *arguments: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    work(*arguments)
    assert torch.distributed.get_world_size() == count
    torch.distributed.destroy_process_group()
