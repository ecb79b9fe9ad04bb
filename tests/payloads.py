"""Pickles that run code when they are loaded, in the disguises in which they could reach a reader."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml


class Bomb:
    """An object that is pickled as a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def bombs(target: str | Path) -> dict[str, Bomb]:
    """Bombs that make the file `target`, by the way in which they do it."""
    write = f"open({str(target)!r}, 'w').close()"
    return {
        "os.system": Bomb(os.system, f"touch {target}"), "exec": Bomb(exec, write), "eval": Bomb(eval, write),
        "popen": Bomb(subprocess.check_call, ["touch", str(target)]), "path": Bomb(Path.touch, Path(target)),
    }  # fmt: skip


def _state(bomb: Bomb) -> dict[str, Any]:
    return {"state_dict": {"x": torch.zeros(2)}, "config": bomb}


def _array(bomb: Bomb) -> np.ndarray:
    return np.array([bomb, None], object)


def _hdf5(file: Any, bomb: Bomb) -> None:
    with h5py.File(file, "w") as out:
        out["v"] = np.void(pickle.dumps(bomb))


def _parquet(file: Any, bomb: Bomb) -> None:
    """A column of a type of Python's own, whose description old versions of pyarrow unpickled."""
    about = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(bomb)}
    pq.write_table(pa.table([pa.array([1.0])], pa.schema([pa.field("clip_id", pa.float64(), metadata=about)])), file)


def _described(file: Any) -> bytes:
    with pq.ParquetFile(file) as table:
        return table.schema_arrow.field("clip_id").metadata[b"ARROW:extension:metadata"]


def _unsafe_hdf5(file: Any) -> Any:
    with h5py.File(file) as data:
        return pickle.loads(data["v"][()].tobytes())


def _yaml(file: Path, bomb: Bomb) -> None:
    function, arguments = bomb.call
    file.write_text(f"!!python/object/apply:{function.__module__}.{function.__name__} {json.dumps(arguments)}\n")


# How a bomb gets into a file, and what makes it go off.
DISGUISES: dict[str, tuple[Callable[[Path, Bomb], Any], Callable[[Path], Any]]] = {
    "pickle": (lambda f, b: f.write_bytes(pickle.dumps(b, 2)), lambda f: pickle.loads(f.read_bytes())),
    "torch": (lambda f, b: torch.save(_state(b), f), lambda f: torch.load(f, weights_only=False)),
    "torch before 1.6": (
        lambda f, b: torch.save(_state(b), f, _use_new_zipfile_serialization=False),
        lambda f: torch.load(f, weights_only=False),
    ),
    "npy": (
        lambda f, b: np.save(f.open("wb"), _array(b), allow_pickle=True),
        lambda f: np.load(f, allow_pickle=True),
    ),
    "npz": (
        lambda f, b: np.savez(f.open("wb"), audio=_array(b)),
        lambda f: np.load(f, allow_pickle=True)["audio"],
    ),
    "joblib": (lambda f, b: joblib.dump(b, f.open("wb")), lambda f: joblib.load(f)),
    "compressed joblib": (lambda f, b: joblib.dump(b, f.open("wb"), compress=3), lambda f: joblib.load(f)),
    "HDF5": (_hdf5, _unsafe_hdf5),
    "Parquet": (_parquet, lambda f: pickle.loads(_described(f))),
    "YAML": (_yaml, lambda f: yaml.unsafe_load(f.read_text())),
}
