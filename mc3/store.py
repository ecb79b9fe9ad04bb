"""Readers of the pipeline's outputs: clips, embeddings, pair scores, probe scores, training logs.

`mc3.config.Paths` has the path of each file. Tables, figures, claims and notebooks read through this module, so that
none of them imports code that trains, embeds or probes. Each reader raises `DataError` for a missing file, with the
command that makes it.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mc3 import evaluate
from mc3.config import Config
from mc3.errors import DataError
from mc3.files import write_atomic

SPLIT_SEED = 0  # of the split into queries and gallery: the same for all methods and training seeds

UNTRAINED = "untrained"  # the probe of the initial weights
LINEAR, OFFICIAL, FINETUNE = "linear-probe", "linear-probe-official", "fine-tune"


def clips(config: Config) -> pd.DataFrame:
    """The clips that are embedded, one row each, in the order of the embeddings' rows, numbered from 0."""
    index = _index(config)
    return index[(index["dataset"] == "ego4d") & (index["split"] != "train")].reset_index(drop=True)


def events(config: Config, split: str = "validation") -> pd.DataFrame:
    """The EPIC-Sounds events of `split`, one row each in the order of the probe scores, numbered from 0."""
    index = _index(config)
    return index[(index["dataset"] == "epic_sounds") & (index["split"] == split)].reset_index(drop=True)


def read_tensors(file: str | Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read a safetensors file: its tensors by name, and its metadata."""
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys()}, tensors.metadata()  # noqa: SIM118


def write_tensors(file: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically, the same bytes for the same content.

    The library's order of metadata varies between processes; here it is sorted.
    """
    from safetensors.numpy import save as serialise

    data = serialise({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, metadata)
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    write_atomic(file, data[:8] + header.encode().ljust(size) + data[8 + size :])


def embeddings(config: Config, method: str, seed: int) -> tuple[pd.DataFrame, dict[str, NDArray[np.float32]]]:
    """`clips`, and modality -> unit embeddings [N, D] of them, row by row. `DataError` if they are of other clips."""
    file = _existing(config.paths.embeddings(method, seed), f"dvc repro embed@{seed}")
    index, (tensors, _) = clips(config), read_tensors(file)
    for modality, tensor in tensors.items():
        if len(tensor) != len(index):
            remedy = f"rerun `mc3 embed --method {method} --seed {seed}`"
            raise DataError(f"{file} has {len(tensor)} rows of {modality} for {len(index)} clips; {remedy}")
    return index, tensors


def labelled(config: Config) -> pd.DataFrame:
    """The labelled test clips of `clips`, `positive` 0 or 1, and `row`: theirs in the embeddings."""
    index = clips(config)
    index = index[(index["split"] == "test") & index["positive"].notna()]
    return index.assign(row=index.index, positive=index["positive"].astype(int)).reset_index(drop=True)


def discovery_scores(config: Config, method: str, seed: int) -> pd.DataFrame:
    """`labelled`, with the scores `av` and `al` where the method has them."""
    found, scored = embeddings(config, method, seed)[1], labelled(config)
    rows = scored["row"].to_numpy()
    for name in evaluate.DISCOVERY:
        first, second = evaluate.PAIRS[name]
        if first in found and second in found:
            scored[name] = evaluate.similarity(found[first][rows], found[second][rows])
    return scored


def retrieval_split(config: Config) -> tuple[NDArray[np.str_], tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """The action group of every embedded clip, and the rows of Sec. 6.2's queries and gallery: sounding test clips."""
    index = clips(config)
    groups = index["action_group"].to_numpy(dtype=str)
    sounding = ((index["split"] == "test") & (index["positive"] == 1)).to_numpy(dtype=bool, na_value=False)
    return groups, evaluate.split_groups(np.where(sounding, groups, ""), SPLIT_SEED)


def probe_metrics(config: Config, seed: int) -> dict[str, Any]:
    """The EPIC-Sounds results of a seed: train and test events, classes, views, metrics by protocol and method."""
    return json.loads(_existing(config.paths.probe_metrics(seed), f"dvc repro probe@{seed}").read_text())


def probe_scores(config: Config, seed: int, split: str = "validation") -> dict[str, NDArray[Any]]:
    """A seed's probes: "{protocol}/{method}" -> [events, classes] mean class probabilities, of the events of `split`.

    `split` is "test" where the settings have one; of the validation events there is also "labels" -> [events].
    """
    scores, _ = read_tensors(_existing(config.paths.probe_scores(seed), f"dvc repro probe@{seed}"))
    if split == "validation":
        return {key: values for key, values in scores.items() if not key.startswith("test/")}
    return {key.removeprefix(f"{split}/"): values for key, values in scores.items() if key.startswith(f"{split}/")}


def training_log(config: Config, method: str, seed: int) -> list[dict[str, Any]]:
    """The rows of a finished training's metrics.jsonl: one a step, and one an epoch with validation ROCs."""
    file = config.paths.checkpoint(method, seed) / "metrics.jsonl"
    text = _existing(file, f"mc3 train --method {method} --seed {seed}").read_text()
    return [json.loads(line) for line in text.splitlines()]


def validation_rocs(config: Config, method: str, seed: int) -> dict[str, float]:
    """The validation ROCs at the end of a finished training, "av_roc" and "al_roc" where the method has them."""
    last = {name: value for row in training_log(config, method, seed) for name, value in row.items()}
    return {name: last[name] for name in ("av_roc", "al_roc") if name in last}


def _index(config: Config) -> pd.DataFrame:
    return pd.read_parquet(_existing(config.paths.shards / "index.parquet", "dvc repro shards"))


def _existing(file: Path, command: str) -> Path:
    if not file.exists():
        raise DataError(f"{file} is missing; `{command}` makes it")
    return file
