"""Checkpoints and clips -> embeddings, one file a method and seed.

Every validation and test clip of Ego4D is embedded once in each modality the method trained; tables, figures and
the explorer read only these files. A seed's methods are embedded in one process, since starting one costs more
than embedding the mini profile's clips, and what has not changed is left as it is. Started with `accelerate
launch`, each process embeds its share.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mc3 import methods
from mc3.config import Config
from mc3.data import DataError, write_whole


def path(config: Config, method: str, seed: int) -> Path:
    """Where `run` writes: `work/embeddings/{seed}/{method}.safetensors`."""
    return config.paths.work / "embeddings" / str(seed) / f"{method}.safetensors"


def clips(config: Config) -> pd.DataFrame:
    """The clips that are embedded, one row each, in the order of the embeddings' rows, numbered from 0."""
    file = config.paths.work / "shards" / "index.parquet"
    if not file.exists():
        raise DataError(f"no clips at {file}; `dvc repro shards` cuts them")
    index = pd.read_parquet(file)
    return index[(index["dataset"] == "ego4d") & (index["split"] != "train")].reset_index(drop=True)


def load(file: str | Path) -> tuple[dict[str, NDArray[np.float32]], dict[str, str]]:
    """Read an embeddings file.

    Returns:
        modality -> unit embeddings [N, D], and the file's metadata: method, seed and inputs, the hash of the
        checkpoint, clips and code that made it.

    Raises:
        DataError: there is no such file; the message has the command that makes it.
    """
    from safetensors import safe_open

    file = Path(file)
    if not file.exists():
        raise DataError(
            f"no embeddings at {file}; `dvc repro embed@{file.parent.name}` trains the method if need be and makes them"
        )
    with safe_open(file, framework="numpy") as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys()}, tensors.metadata()  # noqa: SIM118


def read(config: Config, method: str, seed: int) -> tuple[pd.DataFrame, dict[str, NDArray[np.float32]]]:
    """`clips` and `load` together: the clips, and modality -> unit embeddings [N, D] of them, row by row.

    Raises:
        DataError: the embeddings are missing, or not of these clips; the message has the command that makes them.
    """
    index, (tensors, _) = clips(config), load(path(config, method, seed))
    for modality, tensor in tensors.items():
        if len(tensor) != len(index):
            raise DataError(
                f"{path(config, method, seed)} has {len(tensor)} rows of {modality} for {len(index)} clips; "
                f"`mc3 embed --method {method} --seed {seed}` makes it anew"
            )
    return index, tensors


def save(file: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write a safetensors file whole or not at all, the same bytes for the same content.

    The library writes metadata in an order that changes from process to process; here it is sorted.
    """
    from safetensors.numpy import save as serialise

    data = serialise({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, metadata)
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    write_whole(file, data[:8] + header.encode().ljust(size) + data[8 + size :])


def inputs(config: Config, method: str, seed: int) -> str:
    """A hash of all that decides an embeddings file: the checkpoint, the clips and the code."""
    checkpoint = config.paths.work / "checkpoints" / f"{method}-{seed}" / "final"
    package = Path(__file__).parent
    files = [checkpoint / name for name in ("model.safetensors", "config.json", "tokenizer.json")]
    files += [config.paths.work / "shards" / "index.parquet", Path(__file__), package / "model.py"]
    files += sorted((package / "encoders").glob("*.py"))
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else "" for file in files]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def unchanged(config: Config, method: str, seed: int) -> bool:
    """Whether there are embeddings of just these `inputs`."""
    file = path(config, method, seed)
    return file.exists() and load(file)[1].get("inputs") == inputs(config, method, seed)


def run_all(config: Config, seed: int) -> list[Path]:
    """Embed with the align checkpoint and every method of `seed`; files of methods that are no more are removed.

    A file whose `inputs` are what they were is kept, so that a new method costs its own embedding only.
    """
    names = ["align", *methods.METHODS]
    files = [path(config, name, seed) for name in names]
    for leftover in set(files[0].parent.glob("*.safetensors")) - set(files):
        leftover.unlink()
    held: dict[str, Any] = {}
    for name in names:
        if unchanged(config, name, seed):
            print(f"{name}-{seed}: unchanged")
        else:
            run(config, name, seed, held)
    return files


def run(config: Config, method: str, seed: int, held: dict[str, Any] | None = None) -> Path:
    """Embed every validation and test clip with `method`'s final checkpoint of `seed`.

    Args:
        config: the profile.
        method: a row of `mc3.methods`, or "align".
        seed: of the checkpoint.
        held: where to find, and to leave for the next call, the clips in memory.

    Returns:
        The safetensors file: `audio`, `video`, `text` (those the method trained), each float32 [N, D] of unit
        length, row by row as `clips(config)`.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import gather_object
    from rich.progress import track
    from torch.utils.data import DataLoader, Subset

    from mc3 import train
    from mc3.model import MC3

    torch.set_num_threads(config.train.threads)
    state = PartialState(cpu=not torch.cuda.is_available())
    folder = config.paths.work / "checkpoints" / f"{method}-{seed}" / "final"
    model = MC3.load(folder, device=str(state.device)).eval()
    modalities = methods.get(method).modalities
    held = {} if held is None else held
    if "clips" not in held:
        held["clips"] = train.clips(config, "validation+test", model, methods.MODALITIES)
    dataset = held["clips"]
    found: dict[str, list[torch.Tensor]] = {modality: [] for modality in modalities}
    with state.split_between_processes(list(range(len(dataset)))) as mine, torch.inference_mode():
        loader = DataLoader(Subset(dataset, mine), config.evaluate.batch_size, num_workers=config.train.workers)
        for batch in track(loader, f"embedding {method}-{seed}", disable=not state.is_main_process):
            embedded = model({modality: batch[modality].to(state.device) for modality in modalities})
            for modality in modalities:
                found[modality].append(embedded[modality].float().cpu())
    # Shares are consecutive and gathered in the order of the processes, so rows stay in the index's order.
    tensors = {modality: torch.cat(gather_object(parts)).numpy() for modality, parts in found.items()}
    file = path(config, method, seed)
    if state.is_main_process:
        save(file, tensors, {"method": method, "seed": str(seed), "inputs": inputs(config, method, seed)})
    state.wait_for_everyone()
    return file
