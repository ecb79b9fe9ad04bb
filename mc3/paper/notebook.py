"""Notebooks as pipeline stages: canonical copies, a strict runner, and where a figure came from.

`sources` writes copies without outputs, counts or editor metadata, so that opening and saving a
notebook changes nothing that a stage depends on. `run` executes such a copy with papermill and
refuses what papermill only logs. A notebook begins with `start` and ends with `record`.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from mc3 import config as settings
from mc3.config import Config
from mc3.errors import ConfigError, NotebookError

CODE = ("mc3", "notebooks", "params.yaml", "profiles", "data/epic", "data/paper", "dvc.yaml", "requirements.lock")
PACKAGES = ("accelerate", "av", "matplotlib", "numpy", "pandas", "scikit-learn", "scipy", "timm", "torch",
            "torchaudio", "torchvision", "transformers")  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def canonical(path: Path) -> bytes:
    """The notebook at `path` without outputs, counts and editor metadata, ids by position.

    Two files give the same bytes exactly when their sources, cell types, tags and language agree.
    Raises `NotebookError` when the file is not a notebook.
    """
    import nbformat

    try:
        book = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise NotebookError(f"{path} is not a notebook that can be read: {error}") from None
    language = book.metadata.get("kernelspec", {}).get("language", "python")
    cells = []
    for number, cell in enumerate(book.cells):
        kept = {"cell_type": cell.cell_type, "id": f"cell-{number:02d}", "metadata": {}, "source": cell.source}
        if tags := cell.metadata.get("tags"):
            kept["metadata"] = {"tags": list(tags)}
        if "attachments" in cell:
            kept["attachments"] = cell.attachments
        if cell.cell_type == "code":
            kept |= {"execution_count": None, "outputs": []}
        cells.append(kept)
    kernel = {"display_name": "Python 3 (ipykernel)", "language": language, "name": "python3"}
    book_metadata = {"kernelspec": kernel, "language_info": {"name": language}}
    plain = {"cells": cells, "metadata": book_metadata, "nbformat": 4, "nbformat_minor": 5}
    text: str = nbformat.writes(nbformat.from_dict(plain))  # type: ignore[no-untyped-call]
    return f"{text.rstrip()}\n".encode()


def sources(notebooks: Path, out: Path) -> list[Path]:
    """Write the canonical copy of every `notebooks/*.ipynb` to `out`, touching only what differs.

    Copies of notebooks that are gone are removed. Returns the copies' paths, sorted.
    """
    books = sorted(notebooks.glob("*.ipynb"))
    out.mkdir(parents=True, exist_ok=True)
    for stale in {path.name for path in out.glob("*.ipynb")} - {path.name for path in books}:
        (out / stale).unlink()
    for book in books:
        data, copy = canonical(book), out / book.name
        if not copy.exists() or copy.read_bytes() != data:
            _write(copy, data)
    return [out / book.name for book in books]


def parameters(book: bytes) -> list[str]:
    """Names assigned in a canonical notebook's cell tagged `parameters`, annotated ones too; [] without such a cell.

    Raises `NotebookError` when that cell is not valid Python.
    """
    for cell in json.loads(book)["cells"]:
        if "parameters" in cell["metadata"].get("tags", ()):
            break
    else:
        return []
    try:
        body = ast.parse("".join(cell["source"])).body
    except SyntaxError as error:
        raise NotebookError(f"the cell tagged `parameters` is not valid Python: {error}") from None
    targets: list[ast.expr] = []
    for statement in body:
        if isinstance(statement, ast.Assign):
            targets += statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets.append(statement.target)
    return [target.id for target in targets if isinstance(target, ast.Name)]


def run(name: str, config: Config, values: Mapping[str, Any]) -> Path:
    """Execute the canonical copy of notebook `name` in this interpreter's own kernel.

    The working directory is the present one, the repository's top. Returns the executed copy,
    `work/executed/NAME.ipynb`, which stays for looking when a cell fails. Raises `ConfigError` for
    a bad name or a parameter that the notebook does not have, `FileNotFoundError` when the copy is
    missing, and `NotebookError` when a cell fails.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is not a notebook's name; give it without folder and .ipynb, as in `retrieval`")
    copy = config.paths.work / "sources" / f"{name}.ipynb"
    if not copy.exists():
        raise FileNotFoundError(f"no canonical copy {copy}; `mc3 sources` writes those of notebooks/*.ipynb")
    known = parameters(copy.read_bytes())
    for value in values:
        if value not in known:
            has = f"known: {', '.join(known)}" if known else "it has no cell tagged `parameters`"
            raise ConfigError(f"notebook {name} has no parameter {value!r}; {has}")
    executed = config.paths.work / "executed" / f"{name}.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)

    import papermill
    from nbclient.exceptions import DeadKernelError

    with _own_kernel():
        try:
            papermill.execute_notebook(
                copy, executed, dict(values), kernel_name="python3", cwd=Path.cwd(), progress_bar=sys.stderr.isatty()
            )
        except papermill.PapermillExecutionError as error:
            raise NotebookError(
                f"notebook {name} failed at In [{error.exec_count}] with {error.ename}: {error.evalue}; see {executed}"
            ) from None
        except DeadKernelError:
            raise NotebookError(
                f"notebook {name}: its kernel died, of too little memory perhaps; see {executed}"
            ) from None
    return executed


@contextmanager
def _own_kernel() -> Iterator[None]:
    """Let "python3" mean this interpreter, whatever kernels the user or another environment registered."""
    from ipykernel.kernelspec import write_kernel_spec

    before = os.environ.get("JUPYTER_PATH")
    with tempfile.TemporaryDirectory() as folder:
        # Errors only: a kernel of this machine's own warns at each start that its port is not encrypted.
        write_kernel_spec(Path(folder) / "kernels" / "python3", extra_arguments=["--IPKernelApp.log_level=40"])
        os.environ["JUPYTER_PATH"] = folder if before is None else os.pathsep.join((folder, before))
        try:
            yield
        finally:
            if before is None:
                del os.environ["JUPYTER_PATH"]
            else:
                os.environ["JUPYTER_PATH"] = before


def start(config: str) -> Config:
    """Read the settings file `config` from the folder at or above the present one that has it, and go there.

    JupyterLab starts a kernel in the notebook's folder, the pipeline at the repository's top;
    after this call the paths of the settings hold in both.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / config).is_file():
            os.chdir(folder)
            break
    return settings.load(config)


def provenance(config: Config, name: str, inputs: Iterable[Path]) -> dict[str, Any]:
    """What the results of notebook `name` were made from; the same bytes for the same run.

    Holds what `origin` does, the SHA-256 of the notebook and the values of its parameters when called in it.
    """
    from IPython import get_ipython

    book = canonical(Path("notebooks") / f"{name}.ipynb")
    shell = get_ipython()  # type: ignore[no-untyped-call]
    namespace = shell.user_ns if shell else {}
    return {
        **origin(config, inputs),
        "notebook": hashlib.sha256(book).hexdigest(),
        "parameters": {value: namespace[value] for value in parameters(book) if value in namespace},
    }


def origin(config: Config, inputs: Iterable[Path]) -> dict[str, Any]:
    """What any result was made from; the same bytes for the same run.

    Holds the last commit that touched code or settings (so that committing the results does not
    change it; null outside git) and whether those differ from it, the settings, SHA-256 of each of
    `inputs` (files or folders) and of the lock file, the device and the versions. No times, no
    machine's paths: an input outside the repository goes by its name.
    Raises `FileNotFoundError` naming an input that is missing.
    """
    root = Path.cwd()
    hashes = {}
    for path in map(Path, inputs):
        inside = path.resolve().is_relative_to(root)
        hashes[path.resolve().relative_to(root).as_posix() if inside else path.name] = digest(path)
    commit = _git("log", "-1", "--format=%H", "--", *CODE)
    return {
        "commit": commit,
        "dirty": None if commit is None else bool(_git("status", "--porcelain", "--", *CODE)),
        "device": device(),
        "inputs": hashes,
        "lock": digest(Path("requirements.lock")),
        "settings": settings.as_dict(config),
        "versions": {"python": platform.python_version()}
        | {package: metadata.version(package) for package in PACKAGES},
    }


def record(config: Config, name: str, inputs: Iterable[Path], figures: Path = Path("figures")) -> Path:
    """Write `provenance` to `figures/NAME.provenance.json` and return that path."""
    data = json.dumps(provenance(config, name, inputs), indent=1, sort_keys=True) + "\n"
    path = figures / f"{name}.provenance.json"
    figures.mkdir(parents=True, exist_ok=True)
    _write(path, data.encode())
    return path


def digest(path: Path) -> str:
    """SHA-256 of a file, or of the sorted relative names and hashes of a folder's files."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        listing = "".join(f"{file.relative_to(path).as_posix()} {digest(file)}\n" for file in files)
        return hashlib.sha256(listing.encode()).hexdigest()
    if not path.exists():
        raise FileNotFoundError(f"{path}, which a result is made from, is missing; `dvc repro` makes it")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def device() -> str:
    """Names of the NVIDIA devices this process may use, or "cpu"; asked of the driver, not of torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "cpu"
    try:
        query = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True
        )
    except FileNotFoundError:
        return "cpu"
    names = sorted(set(query.stdout.split("\n")) - {""})
    return f"cuda: {', '.join(names)}" if query.returncode == 0 and names else "cpu"


def _git(*arguments: str) -> str | None:
    """Output of a git command in the present folder; None without git, repository or output."""
    try:
        result = subprocess.run(["git", *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return (result.stdout.strip() or None) if result.returncode == 0 else None


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)
