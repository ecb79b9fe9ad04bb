"""Files: atomic writes of files and folders, ids that are safe in a path, and hashes of content and of code."""

import ast
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from mc3.errors import DataError, UserError

PACKAGE = Path(__file__).parent
TRACKED = {"mc3.methods": ("PRETRAIN", "ALIGN", "SSAST", "METHODS", "OTHERS")}  # literals that are DVC's parameters
SAFE_ID = re.compile(r"(?!\.)[A-Za-z0-9_.-]{1,200}")
MARKER = ".mc3-written"  # in a folder that this program wrote as a whole: its files, as `sha256sum` lists them


def is_safe_id(value: Any) -> bool:
    """Whether an id read from a file may become part of a path: no separator, no leading dot."""
    return isinstance(value, str) and SAFE_ID.fullmatch(value) is not None


@contextmanager
def reading(path: Path, remedy: str, kind: type[UserError] = DataError) -> Iterator[None]:
    """Turns whatever a library raises while it reads `path` into one error: "PATH is damaged (why); REMEDY".

    It is an error too, before anything is read, if `path` is missing or no regular file: a pipe would wait for ever.
    """
    try:
        if not path.is_file():
            raise kind(f"{path} is {'no regular file' if path.exists() else 'missing'}; {remedy}")
        yield
    except (ImportError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # of any kind: damage reaches every line of a parser, and one in Rust may panic
        if isinstance(error, UserError) and str(path) in str(error):
            raise
        system = error.strerror if isinstance(error, OSError) else None
        why = " ".join(str(system or error).split())[:300] or type(error).__name__
        raise kind(f"{path} {'cannot be read' if system else 'is damaged'} ({why}); {remedy}") from error


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a path beside `path`, of this process alone; the file written to it becomes `path` if no error occurs."""
    own = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.partial")
    try:
        yield own
        own.replace(path)
    finally:
        own.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file completely or not at all; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as own:
        own.write_bytes(data)


def sha256(path: Path) -> str:
    """SHA-256 of a file, or of the sorted relative names and hashes of a folder's files."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        listing = "".join(f"{file.relative_to(path).as_posix()} {sha256(file)}\n" for file in files)
        return hashlib.sha256(listing.encode()).hexdigest()
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is no regular file; remove it")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replace_folder(folder: Path, command: str, setting: str) -> Iterator[Path]:
    """Yields an empty folder that takes the place of `folder` when the block ends without an error.

    A file `MARKER` in it lists what was written. `DataError`, which names `command` and the `setting` that chose the
    folder, before and after the block if `folder` holds anything that its marker does not list or that has changed.
    """
    folder = folder.resolve()  # a link to a folder stays one
    _refuse_foreign_files(folder, command, setting)
    partial = folder.with_name(f".{folder.name}.mc3-partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    new = partial / "new"
    new.mkdir(parents=True)
    try:
        yield new
        files = sorted(path for path in new.rglob("*") if path.is_file())
        listing = "".join(f"{sha256(path)}  {path.relative_to(new).as_posix()}\n" for path in files)
        (new / MARKER).write_text(f"# `{command}` wrote these files and may replace this folder\n{listing}")
        _refuse_foreign_files(folder, command, setting)
        if folder.exists():
            folder.rename(partial / "old")
        new.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _refuse_foreign_files(folder: Path, command: str, setting: str) -> None:
    remedy = f"move it away or set {setting} to another folder"
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file, where `{command}` writes a folder; {remedy}")
    marker = folder / MARKER
    if not marker.is_file() and any(folder.glob("*")):
        known = f"{MARKER}, by which `{command}` knows its own (earlier versions wrote none)"
        raise DataError(f"{folder} holds files but no {known}; {remedy}")
    lines = marker.read_text(errors="replace").splitlines() if marker.is_file() else []
    written = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for path in sorted(folder.rglob("*")):
        if (path.is_dir() and not path.is_symlink()) or path == marker:
            continue
        if not path.is_file() or sha256(path) != written.get(path.relative_to(folder).as_posix()):
            raise DataError(f"{path} is not as `{command}` wrote it, or is not its file at all; {remedy}")


def code_identity(*entries: str) -> str:
    """What code `entries` run, as text: a line "module hash" for every module of this package that they import.

    An entry is a module's dotted name, the path of a notebook, or a package with ".*" for each of its modules. Imports
    for type checkers do not count. A hash is of the syntax, without docstrings, the annotations of functions and
    variables, and the literals in `TRACKED`.
    """
    found: dict[str, str] = {}
    pending = list(entries)
    while pending:
        name = pending.pop()
        if name.endswith(".*"):
            folder = PACKAGE.parent.joinpath(*name.split(".")[:-1])
            pending += [f"{name[:-1]}{file.stem}" for file in folder.glob("[!_]*.py")]
        elif name not in found:
            found[name], imported = parse_module(name)
            pending += imported
    return "".join(f"{name} {digest}\n" for name, digest in sorted(found.items()))


def _source(name: str) -> Path | None:
    place = PACKAGE.parent.joinpath(*name.split("."))
    files = [Path(name)] if name.endswith(".ipynb") else [place / "__init__.py", place.with_suffix(".py")]
    return next((file for file in files if file.is_file()), None)


def parse_module(name: str) -> tuple[str, list[str]]:
    """A module's hash, and the modules of this package that it imports, packages on the way to them included."""
    if not (file := _source(name)):
        raise FileNotFoundError(f"no module {name} in {PACKAGE.parent}")
    return _parsed(name, file, file.stat().st_mtime_ns)


@cache
def _parsed(name: str, file: Path, _modified: int) -> tuple[str, list[str]]:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".ipynb":
        cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        text = "\n".join(re.sub(r"(?m)^\s*[%!].*", "", cell) for cell in cells)
    tree = ast.parse(text)
    named: set[str] = set()
    for node in _executed(tree):
        if isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            named |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {n for n in named if n.split(".")[0] == PACKAGE.name and _source(n)}
    packages = {".".join(n.split(".")[:k]) for n in ours for k in range(1, n.count(".") + 1)}
    syntax = "".join(_syntax(tree, TRACKED.get(name, ())))
    return hashlib.sha256(syntax.encode()).hexdigest(), sorted(ours | packages)


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    yield tree
    if isinstance(tree, ast.If) and isinstance(tree.test, ast.Name) and tree.test.id == "TYPE_CHECKING":
        tree = ast.Module(tree.orelse, [])
    for child in ast.iter_child_nodes(tree):
        yield from _executed(child)


def _syntax(node: Any, tracked: Collection[str] = (), in_class: bool = False) -> Iterator[str]:
    """A syntax tree as text, the same under every version of Python."""
    if isinstance(node, list):
        for item in node:
            text = isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant) and item.value.value
            if not isinstance(text, str):  # a docstring, or a string that comments
                yield from _syntax(item, tracked, in_class)
                yield ","
    elif not isinstance(node, ast.AST):
        yield repr(node)
    elif isinstance(node, ast.AnnAssign) and not in_class:  # in a class they make a dataclass's fields
        if node.value is not None and not (isinstance(node.target, ast.Name) and node.target.id in tracked):
            yield from _syntax(ast.Assign(targets=[node.target], value=node.value))
    else:
        yield type(node).__name__ + "("
        for field, value in ast.iter_fields(node):
            skipped = value is None or value == [] or field in ("annotation", "returns", "kind", "type_comment")
            if not skipped or (isinstance(node, ast.Constant) and field == "value"):
                yield f"{field}="
                outside = tracked if isinstance(node, ast.Module) else ()
                yield from _syntax(value, outside, in_class=isinstance(node, ast.ClassDef))
        if isinstance(node, ast.AnnAssign):
            yield from _syntax(node.annotation)
        yield ")"
