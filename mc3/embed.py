"""Checkpoints and clips -> embeddings, a file a method and seed; `accelerate launch` shares out the clips."""

import hashlib
from pathlib import Path

import torch
from accelerate import PartialState

from mc3 import methods, store
from mc3.config import Config
from mc3.data.shards import ClipDataset, open_clips
from mc3.files import code_identity, sha256, write_atomic
from mc3.model import MC3, embed_clips, use_precision


def made_from(config: Config, method: str, seed: int) -> str:
    """A hash of everything that determines an embeddings file: checkpoint, clips and code."""
    folder, names = config.paths.final(method, seed), ("model.safetensors", "config.json", "tokenizer.json")
    files = [*(folder / name for name in names), config.paths.shards / "index.parquet"]
    hashes = [sha256(file) if file.exists() else "" for file in files]
    return hashlib.sha256("".join([*hashes, code_identity("mc3.embed")]).encode()).hexdigest()


def run(config: Config, method: str, seed: int, clip_cache: dict[str, ClipDataset] | None = None) -> Path:
    """Embed every validation and test clip with `method`'s final checkpoint of `seed`, and return the safetensors file.

    By trained modality, float32 [N, D], unit rows as `mc3.store.clips`. `clip_cache` serves later calls.
    """
    torch.set_num_threads(config.train.threads)
    use_precision(config)
    state = PartialState(cpu=not torch.cuda.is_available())
    model = MC3.load(config.paths.final(method, seed), device=str(state.device))
    clip_cache = {} if clip_cache is None else clip_cache
    if "clips" not in clip_cache:
        clip_cache["clips"] = open_clips(config, "validation+test", model.tokenizer, methods.MODALITIES)
    modalities, size, workers = methods.get(method).modalities, config.evaluate.batch_size, config.train.workers
    tensors = embed_clips(model, clip_cache["clips"], modalities, size, workers, f"embedding {method}-{seed}")
    file = config.paths.embeddings(method, seed)
    if state.is_main_process:
        store.write_tensors(file, tensors, {"method": method, "seed": str(seed)})
        write_atomic(config.paths.made("embed", method, seed), made_from(config, method, seed).encode())
    state.wait_for_everyone()
    return file
