"""Readers of the pipeline's outputs; `DataError` for a missing file names the command that makes it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save

from mc3 import evaluate, methods
from mc3.config import Config
from mc3.data.clip_table import COLUMNS, read_table
from mc3.errors import DataError
from mc3.files import is_safe_id, reading, write_atomic

SPLIT_SEED = 0  # of the split into queries and gallery: the same for all methods and training seeds
SSAST, UNTRAINED = PROBED = "ssast", "untrained"  # rows of Table 4 alone: by `probe.ssast`, and the initial weights
LINEAR, OFFICIAL, FINETUNE = "linear-probe", "linear-probe-official", "fine-tune"
FOREIGN = "foreign-"  # begins the name of a row whose embeddings are not of a checkpoint of ours (`mc3 evaluate`)


def clips(config: Config) -> pd.DataFrame:
    """The clips that are embedded, one row each, in the order of the embeddings' rows, numbered from 0."""
    return _index(config).query("dataset == 'ego4d' and split != 'train'").reset_index(drop=True)


def events(config: Config, split: str = "validation") -> pd.DataFrame:
    """The EPIC-Sounds events of `split`, one row each in the order of the probe scores, numbered from 0."""
    return _index(config).query("dataset == 'epic_sounds' and split == @split").reset_index(drop=True)


def write_tensors(file: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically; sorts metadata, whose order varies between processes in the library."""
    data = save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, metadata)
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    write_atomic(file, data[:8] + header.encode().ljust(size) + data[8 + size :])


def rows(config: Config) -> list[str]:
    """The rows of Tables 2 and 3: those of `METHODS`, then foreign ones, sorted."""
    files = _embeddings_file(config, FOREIGN).parent.glob("*.safetensors")
    return [*methods.METHODS, *sorted(FOREIGN + file.stem for file in files if is_safe_id(file.stem))]


def seeds(config: Config, row: str) -> list[int]:
    """The seeds that a row has: the profile's, or the first of them for a foreign row, which has only one."""
    return config.seeds[:1] if row.startswith(FOREIGN) else config.seeds


def modalities(config: Config, row: str) -> tuple[str, ...]:
    """The modalities that a row embeds."""
    if not row.startswith(FOREIGN):
        return methods.get(row).modalities
    path = _existing(_embeddings_file(config, row), "mc3 evaluate")
    with reading(path, "rerun `mc3 evaluate`"), safe_open(path, "numpy") as file:
        return tuple(m for m in methods.MODALITIES if m in file.keys())  # noqa: SIM118, it is no dictionary


def embeddings(config: Config, method: str, seed: int) -> dict[str, NDArray[np.float32]]:
    """Modality -> unit embeddings [N, D] of `clips`, row by row. `DataError` if they are of other clips.

    Of a foreign row, the same for all seeds; a validation clip that it lacks is NaN.
    """
    foreign = method.startswith(FOREIGN)
    remedy = "mc3 evaluate" if foreign else f"mc3 embed --method {method} --seed {seed}"
    file = _embeddings_file(config, method, seed)
    tensors, n = read_tensors(_existing(file, "dvc repro embed"), f"rerun `{remedy}`"), len(clips(config))
    tensors.pop(LINEAR, None)
    for modality, tensor in tensors.items():
        if len(tensor) != n:
            raise DataError(f"{file} has {len(tensor)} rows of {modality} for {n} clips; rerun `{remedy}`")
        if tensor.ndim != 2 or not (foreign or np.isfinite(tensor).all()):
            raise DataError(f"{file} is damaged ({modality} is no vector of finite numbers a clip); rerun `{remedy}`")
    return tensors


def read_tensors(file: Path, remedy: str) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file of numbers, by modality or name; `DataError` if it is damaged."""
    with reading(file, remedy):
        tensors = load_file(file)
        if lost := [name for name, tensor in tensors.items() if not tensor.ndim]:
            raise ValueError(f"{lost[0]} is a single number")
        return tensors


def embedding_files(config: Config, names: Iterable[str]) -> list[Path]:
    """The files of `embeddings` of rows, over their seeds."""
    return [_embeddings_file(config, name, seed) for name in names for seed in seeds(config, name)]


def foreign_probes(config: Config) -> dict[str, NDArray[np.float32]]:
    """Class probabilities of the linear probe, [events, classes], of the foreign rows with EPIC-Sounds features."""
    foreign = [row for row in rows(config) if row.startswith(FOREIGN)]
    tensors = {row: read_tensors(_embeddings_file(config, row), "rerun `mc3 evaluate`") for row in foreign}
    return {row: found[LINEAR] for row, found in tensors.items() if LINEAR in found}


def labelled(config: Config) -> pd.DataFrame:
    """The labelled test clips of `clips`, `positive` 0 or 1, and `row`: theirs in the embeddings."""
    index = clips(config).query("split == 'test'").dropna(subset="positive")
    return index.assign(row=index.index, positive=index["positive"].astype(int)).reset_index(drop=True)


def discovery_scores(config: Config, method: str, seed: int) -> pd.DataFrame:
    """`labelled`, with the scores `av` and `al` where the method has them."""
    found, scored = embeddings(config, method, seed), labelled(config)
    for name in evaluate.DISCOVERY:
        pair = [found[modality][scored["row"]] for modality in evaluate.PAIRS[name] if modality in found]
        if len(pair) == 2:
            scored[name] = evaluate.similarity(*pair)
    return scored


def retrieval_split(config: Config) -> tuple[NDArray[np.str_], tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """The action group of every embedded clip, and the rows of Sec. 6.2's queries and gallery: sounding test clips."""
    index = clips(config)
    groups = index["action_group"].to_numpy(dtype=str)
    sounding = ((index["split"] == "test") & (index["positive"] == 1)).to_numpy(dtype=bool, na_value=False)
    return groups, evaluate.split_groups(np.where(sounding, groups, ""), SPLIT_SEED)


def probe_metrics(config: Config, seed: int) -> dict[str, Any]:
    """The EPIC-Sounds results of a seed: train and test events, classes, views, metrics by protocol and method."""
    file = _existing(config.paths.probe_metrics(seed), "dvc repro probe")
    with reading(file, "rerun `mc3 probe`"):
        return {**json.loads(file.read_text())}


def probe_scores(config: Config, seed: int, split: str = "validation") -> dict[str, NDArray[Any]]:
    """Class probabilities: "{protocol}/{method}" -> [events, classes], and for validation "labels" -> [events]."""
    scores = read_tensors(_existing(config.paths.probe_scores(seed), "dvc repro probe"), "rerun `mc3 probe`")
    test = split == "test"
    return {key.removeprefix("test/"): values for key, values in scores.items() if key.startswith("test/") == test}


def training_log(config: Config, method: str, seed: int) -> list[dict[str, Any]]:
    """The rows of a finished training's metrics.jsonl: one a step, and one an epoch with validation ROCs."""
    file = config.paths.checkpoint(method, seed) / "metrics.jsonl"
    command = f"mc3 train --method {method} --seed {seed}"
    with reading(_existing(file, command), f"rerun `{command}`"):
        return [{**json.loads(line)} for line in file.read_text().splitlines()]


def validation_scores(config: Config, method: str, seed: int) -> dict[str, float]:
    """The scores on the validation clips at the end of a finished training, those of `mc3.train.validate`."""
    last = {name: value for row in training_log(config, method, seed) for name, value in row.items()}
    return {name: value for name, value in last.items() if name.endswith(("_roc", "_similarity"))}


def _embeddings_file(config: Config, row: str, seed: int = 0) -> Path:
    foreign = row.startswith(FOREIGN)
    return config.paths.embeddings(row.removeprefix(FOREIGN), "foreign" if foreign else seed)


def _index(config: Config) -> pd.DataFrame:
    file = _existing(config.paths.shards / "index.parquet", "dvc repro shards")
    return read_table(file, COLUMNS, "rerun `mc3 shards`")


def _existing(file: Path, command: str) -> Path:
    if not file.exists():
        raise DataError(f"{file} is missing; `{command}` makes it")
    return file
