"""Checkpoints and clips -> embeddings, one file a method and seed (`mc3.store.embeddings` reads them).

Every validation and test clip of Ego4D is embedded once in each modality that the method trained. A seed's methods
are embedded in one process, since starting a process costs more than embedding the mini profile's clips; unchanged
ones are kept. Under `accelerate launch` each process embeds its share.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from rich.progress import track
from torch.utils.data import DataLoader, Subset

from mc3 import methods, store
from mc3.config import Config
from mc3.data.shards import ClipDataset, open_clips
from mc3.files import code_identity, sha256, write_atomic
from mc3.model import MC3


def made_from(config: Config, method: str, seed: int) -> str:
    """A hash of everything that decides an embeddings file: checkpoint, clips and code."""
    folder = config.paths.final(method, seed)
    files = [folder / name for name in ("model.safetensors", "config.json", "tokenizer.json")]
    files.append(config.paths.shards / "index.parquet")
    hashes = [sha256(file) if file.exists() else "" for file in files]
    return hashlib.sha256("".join([*hashes, code_identity("mc3.embed")]).encode()).hexdigest()


def is_current(config: Config, method: str, seed: int) -> bool:
    """Whether the embeddings on disk are of the present checkpoint, clips and code."""
    return config.paths.embeddings(method, seed).exists() and _record(config, seed).get(method) == made_from(
        config, method, seed
    )


def run_all(config: Config, seed: int) -> list[Path]:
    """Embed with the align checkpoint and every method of `seed`; files of methods that no longer exist are removed.

    Current files are kept, so that a new method costs its own embedding only.
    """
    names = ["align", *methods.METHODS]
    files = [config.paths.embeddings(name, seed) for name in names]
    for leftover in set(files[0].parent.glob("*.safetensors")) - set(files):
        leftover.unlink()
    clip_cache: dict[str, ClipDataset] = {}
    for name in names:
        if is_current(config, name, seed):
            print(f"{name}-{seed}: unchanged")
        else:
            run(config, name, seed, clip_cache)
    return files


def run(config: Config, method: str, seed: int, clip_cache: dict[str, ClipDataset] | None = None) -> Path:
    """Embed every validation and test clip with `method`'s final checkpoint of `seed`.

    Args:
        config: the profile.
        method: a row of `mc3.methods`, or "align".
        seed: of the checkpoint.
        clip_cache: keeps the decoded clips for the next call.

    Returns:
        The safetensors file: `audio`, `video`, `text` (those the method trained), each float32 [N, D] of unit
        length, row by row as `mc3.store.clips`.
    """
    torch.set_num_threads(config.train.threads)
    state = PartialState(cpu=not torch.cuda.is_available())
    model = MC3.load(config.paths.final(method, seed), device=str(state.device)).eval()
    modalities = methods.get(method).modalities
    clip_cache = {} if clip_cache is None else clip_cache
    if "clips" not in clip_cache:
        clip_cache["clips"] = open_clips(config, "validation+test", model.tokenizer, methods.MODALITIES)
    dataset = clip_cache["clips"]
    found: dict[str, list[torch.Tensor]] = {modality: [] for modality in modalities}
    with state.split_between_processes(list(range(len(dataset)))) as mine, torch.inference_mode():
        loader = DataLoader(Subset(dataset, mine), config.evaluate.batch_size, num_workers=config.train.workers)
        for batch in track(loader, f"embedding {method}-{seed}", disable=not state.is_main_process):
            embedded = model({modality: batch[modality].to(state.device) for modality in modalities})
            for modality in modalities:
                found[modality].append(embedded[modality].float().cpu())
    # Shares are consecutive and gathered in the order of the processes, so rows stay in the index's order.
    tensors = {modality: torch.cat(gather_object(parts)).numpy() for modality, parts in found.items()}
    file = config.paths.embeddings(method, seed)
    if state.is_main_process:
        record = {**_record(config, seed), method: made_from(config, method, seed)}
        store.write_tensors(file, tensors, {"method": method, "seed": str(seed)})
        write_atomic(_record_file(config, seed), (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())
    state.wait_for_everyone()
    return file


def _record_file(config: Config, seed: int) -> Path:
    """Which inputs each embeddings file was made from; beside the outputs, so that nothing depends on it."""
    return config.paths.work / "made" / f"embeddings-{seed}.json"


def _record(config: Config, seed: int) -> dict[str, Any]:
    file = _record_file(config, seed)
    return json.loads(file.read_text()) if file.exists() else {}
