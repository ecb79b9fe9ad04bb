"""Notebooks as stages and as pages; stages run canonical copies, so that saving a notebook makes nothing stale."""

import json
import os
import re
import symtable
import sys
from collections.abc import Iterable, Mapping
from hashlib import sha256
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from ipykernel.kernelspec import make_ipkernel_cmd
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from traitlets import Unicode

from mc3.config import Config, load
from mc3.errors import ConfigError, DataError, NotebookError
from mc3.files import code_identity, is_safe_id, lock, naming, write_atomic
from mc3.paper import page, provenance

FIGURES = Path("figures")
PIPELINES = (Path("dvc.yaml"), Path("experiments/dvc.yaml"))
LOSSES = "mc3.objectives.*"  # imported by name
STAGES = {"manifest": ("mc3.data.manifest",), "shards": ("mc3.data.prepare",), "pretrain": ("mc3.paper.pretrain",),
          "train": ("mc3.train", LOSSES), "embed": ("mc3.embed",), "probe": ("mc3.paper.probe",),
          "report": ("mc3.paper.report",), "sweep": ("mc3.paper.sweep", LOSSES),
          "explorer": ("mc3.extra.explore_html",)}  # fmt: skip


class OwnKernel(AsyncKernelManager):
    """A kernel of this interpreter, whatever kernels the user or another environment registered as "python3"."""

    # Errors only: a kernel of this machine's own warns at each start that its port is not encrypted.
    kernel_spec = KernelSpec(argv=make_ipkernel_cmd(extra_arguments=["--IPKernelApp.log_level=40"]))


def canonical(path: Path) -> bytes:
    """The notebook at `path` without outputs, counts and editor metadata, ids by position; or `NotebookError`."""
    import nbformat  # takes a second, which kernels that begin with `start` need not

    try:
        book = nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise NotebookError(f"{path} is not a notebook that can be read: {error}") from None
    language = book.metadata.get("kernelspec", {}).get("language", "python")
    cells = []
    for number, cell in enumerate(book.cells):
        tags = {name: value for name, value in cell.metadata.items() if name == "tags" and value}
        kept = {name: cell[name] for name in ("cell_type", "source", "attachments") if name in cell}
        empty: dict[str, Any] = {"execution_count": None, "outputs": []} if cell.cell_type == "code" else {}
        cells.append({**kept, "id": f"cell-{number:02d}", "metadata": tags, **empty})
    kernel = {"display_name": "Python 3 (ipykernel)", "language": language, "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": language}}
    plain = nbformat.from_dict({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})
    return f"{nbformat.writes(plain).rstrip()}\n".encode()


def sources(notebooks: Path, out: Path) -> list[Path]:
    """Make the canonical copies of `notebooks/*.ipynb` the notebooks of `out`; returns their paths, sorted."""
    return _update(out, {book.name: canonical(book) for book in notebooks.glob("*.ipynb")}, ".ipynb")


def codes(config: Config, out: Path) -> list[Path]:
    """Make STAGE.code, the code that each stage runs, the only such files of `out`; returns their paths.

    Those of notebooks (canonical copies in `out`) and report also have the page template and the titles that they show.
    """
    stages = {"raw": (str(config.source.code).replace("/", "."),), **STAGES}
    files = {f"{name}.code": code_identity(*entries) for name, entries in stages.items() if find_spec(entries[0])}
    shown = (page.TEMPLATE, page.SCRIPT)
    template = "".join(f"{file.name} {sha256(file.read_bytes()).hexdigest()}\n" for file in shown)
    books = {book.stem: book for book in out.glob("*.ipynb")}
    for name, book in books.items():
        links = "".join(f"{relation} {other}: {title}\n" for relation, other, title in neighbours(name, out))
        files[f"{name}.code"] = code_identity(str(book), "mc3.paper.notebook") + template + links
    titles = "".join(f"{name}: {' - '.join(heading(books[name]))}\n" for name in pages() if name in books)
    files["report.code"] += template + titles
    return _update(out, {name: text.encode() for name, text in files.items()}, ".code")


def _update(out: Path, files: Mapping[str, bytes], suffix: str) -> list[Path]:
    """Make `files` the only ones of this suffix in `out`, touching only what differs; returns their paths, sorted."""
    for stale in set(out.glob(f"*{suffix}")) - {out / name for name in files}:
        stale.unlink()
    for name, data in files.items():
        if not (out / name).exists() or (out / name).read_bytes() != data:
            write_atomic(out / name, data)
    return [out / name for name in sorted(files)]


def pages(pipelines: Iterable[Path] = PIPELINES) -> list[str]:
    """The notebooks that stages of the pipelines run, in order: these are the pages of the report."""
    texts = [path.read_text() for path in pipelines if path.exists()]
    return list(dict.fromkeys(re.findall(r"\bmc3 notebook ([\w-]+)", "\n".join(texts))))


def heading(book: Path) -> tuple[str, str]:
    """The title of a notebook and the sentence below it, from its first cell: "# Title", empty line, sentence."""
    text = "".join(json.loads(book.read_text())["cells"][0]["source"])
    title, _, rest = text.removeprefix("# ").partition("\n\n")
    return title, rest.split("\n\n")[0]


def neighbours(name: str, books: Path) -> list[tuple[str, str, str]]:
    """("previous" or "next", name, title) of the pages beside page `name`; `books` has the notebooks."""
    order = [other for other in pages() if (books / f"{other}.ipynb").exists()]
    beside = [("previous", a) for a, b in pairwise(order) if b == name]
    beside += [("next", b) for a, b in pairwise(order) if a == name]
    return [(relation, other, heading(books / f"{other}.ipynb")[0]) for relation, other in beside]


def parameters(book: bytes) -> list[str]:
    """Names assigned in a canonical notebook's cell tagged `parameters`; `NotebookError` if it is not valid Python."""
    tagged = [cell for cell in json.loads(book)["cells"] if "parameters" in cell["metadata"].get("tags", ())]
    try:
        names = symtable.symtable("".join(tagged[0]["source"]) if tagged else "", "parameters", "exec").get_symbols()
    except SyntaxError as error:
        raise NotebookError(f"the cell tagged `parameters` is not valid Python: {error}") from None
    return [name.get_name() for name in names if name.is_assigned()]


def run(name: str, config: Config, values: Mapping[str, Any]) -> Path:
    """Execute the canonical copy of notebook `name` in this interpreter's own kernel, and render its page.

    Returns the page, `figures/report/NAME.html`, or of a notebook that records no provenance the executed copy,
    `work/executed/NAME.ipynb`, which also stays when a cell fails. Raises `ConfigError` for a bad name or an unknown
    parameter, `DataError` when the canonical copy is missing, and `NotebookError` when a cell fails.
    """
    if not is_safe_id(name):
        raise ConfigError(f"{name!r} is not a notebook's name; give it without folder and .ipynb, as in `retrieval`")
    copy = config.paths.work / "sources" / f"{name}.ipynb"
    if not copy.exists():
        raise DataError(f"no canonical copy {copy}; `mc3 sources` writes those of notebooks/*.ipynb")
    known = parameters(copy.read_bytes())
    if unknown := [value for value in values if value not in known]:
        has = f"known: {', '.join(known)}" if known else "it has no cell tagged `parameters`"
        raise ConfigError(f"notebook {name} has no parameter {unknown[0]!r}; {has}")
    executed = config.paths.work / "executed" / f"{name}.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)

    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError

    class Kernel(OwnKernel):
        connection_file = Unicode(str(executed.with_name(f".{name}.kernel.json")))  # which the next run replaces

    running = executed.with_name(f".{name}.lock")
    try:
        with naming(executed), lock(running, f"another process is executing {executed}; wait for it or stop it"):
            papermill.execute_notebook(
                copy, executed, dict(values), kernel_name="python3", kernel_manager_class=Kernel, cwd=Path.cwd(),
                progress_bar=sys.stderr.isatty(), shutdown_kernel="immediate",  # the other way interrupts it first
            )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        failed = f"failed at In [{error.exec_count}] with {error.ename}: {error.evalue}"
        raise NotebookError(f"notebook {name} {failed}; see {executed}") from None
    except DeadKernelError:
        raise NotebookError(f"notebook {name}: its kernel died, perhaps out of memory; see {executed}") from None
    facts, target = FIGURES / f"{name}.provenance.json", FIGURES / "report" / f"{name}.html"
    if not facts.exists():
        return executed
    about = {"name": name, "facts": provenance.read(facts, provenance.DRAW), "links": neighbours(name, copy.parent)}
    write_atomic(target, page.render(nbformat.read(executed, as_version=4), heading(copy)[0], **about).encode())
    return target


def start(config: str) -> Config:
    """Read the settings file `config` from the folder at or above the present one that has it, and go there."""
    here = Path.cwd()
    os.chdir(next((folder for folder in (here, *here.parents) if (folder / config).is_file()), here))
    return load(config)


def record(config: Config, name: str, inputs: Iterable[str | Path]) -> None:
    """Write `figures/NAME.provenance.json`: `provenance.origin`, the hash of the calling notebook, its parameters."""
    from IPython import get_ipython

    book = canonical(Path("notebooks") / f"{name}.ipynb")
    namespace = getattr(get_ipython(), "user_ns", {})
    values = {value: namespace[value] for value in parameters(book) if value in namespace}
    facts = provenance.origin(config, inputs) | {"notebook": sha256(book).hexdigest(), "parameters": values}
    origins = [path for path in facts["inputs"] if path.endswith("origin.json")]
    facts |= {"origins": {path: provenance.read(Path(path), provenance.DRAW) for path in origins}} if origins else {}
    provenance.write(FIGURES / f"{name}.provenance.json", facts)
