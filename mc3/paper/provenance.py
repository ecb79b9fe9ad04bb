"""Provenance: what a result was made from, as a small JSON file beside it."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from mc3.config import Config, as_dict
from mc3.errors import DataError
from mc3.files import reading, sha256, write_atomic

CODE = ("mc3", "notebooks", "experiments", "params.yaml", "profiles", "data/epic", "data/paper", "dvc.yaml",
        "requirements.lock")  # fmt: skip
DRAW = "draw its result again by `dvc repro --force`"
PACKAGES = ("accelerate", "av", "matplotlib", "numpy", "pandas", "scikit-learn", "scipy", "timm", "torch",
            "torchaudio", "torchvision", "transformers")  # fmt: skip


def origin(config: Config, inputs: Iterable[str | Path]) -> dict[str, Any]:
    """What a result was made from, the same bytes for the same run: no times and no machine's paths.

    The commit is the last one that touched code or settings, so committing results does not change it (null outside
    git). `inputs` are files or folders; one outside the repository goes by its name, a missing one is a `DataError`.
    """
    root, hashes = Path.cwd(), {}
    for path in map(Path, inputs):
        if not path.exists():
            raise DataError(f"{path}, which this result is made from, is missing; `dvc repro` makes it")
        whole = path.resolve()
        hashes[whole.relative_to(root).as_posix() if whole.is_relative_to(root) else path.name] = sha256(path)
    commit = output("git", "log", "-1", "--format=%H", "--", *CODE)
    return {
        "commit": commit,
        "dirty": None if commit is None else bool(output("git", "status", "--porcelain", "--", *CODE)),
        "device": device(),
        "inputs": hashes,
        "lock": sha256(Path("requirements.lock")),
        "settings": as_dict(config),
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
    }


def write(path: Path, facts: Mapping[str, Any]) -> None:
    """Write `facts` as JSON, the same bytes for the same facts."""
    write_atomic(path, f"{json.dumps(facts, indent=1, sort_keys=True)}\n".encode())


def read(path: Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file; `DataError` with the remedy if it is damaged."""
    with reading(path, remedy):
        return {**json.loads(path.read_text(encoding="utf-8"))}


def is_current(file: Path, config: Config) -> bool:
    """Whether the result with this provenance was made in the present world, by the present model and losses.

    So must be the results that it shows (`origins`): drawing an old one again does not renew it.
    """
    if not file.exists():
        return False
    now = as_dict(config)
    with reading(file, DRAW):
        facts = json.loads(file.read_text(encoding="utf-8"))
        runs = [facts["settings"], *(origin.get("settings", {}) for origin in facts.get("origins", {}).values())]
        return all(run.get(key) == now[key] for run in runs for key in ("world", "clips", "model", "init", "loss"))


def describe_commit(facts: Mapping[str, Any]) -> str:
    """The commit of `origin` in words."""
    commit, changed = facts["commit"], " with uncommitted changes" if facts["dirty"] else ""
    return f"commit {commit[:12]}{changed}" if commit else "outside a git repository"


def device() -> str:
    """Names of the NVIDIA devices this process may use, or "cpu"; from the driver, so that torch is not imported."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "cpu"
    listing = output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or ""
    names = sorted(set(listing.split("\n")) - {""})
    return f"cuda: {', '.join(names)}" if names else "cpu"


def output(*command: str) -> str | None:
    """What a command prints, run in the present folder; None if it is not installed, fails or prints nothing."""
    try:
        result = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    return (result.stdout.strip() or None) if result.returncode == 0 else None
