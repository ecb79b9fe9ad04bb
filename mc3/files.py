"""Files: atomic writes of files and folders, locks, ids that are safe in a path, hashes of content and of code."""

import ast
import fcntl
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
from typing import IO, Any

from mc3.errors import DataError, UserError

PACKAGE = Path(__file__).parent
TRACKED = {"mc3.methods": ("PRETRAIN", "ALIGN", "SSAST", "METHODS", "OTHERS")}  # literals that are DVC's parameters
SYSTEM_ERROR = re.compile(r"(?i:errno =? ?|os error )(\d+)")  # as HDF5, safetensors and shutil report a full disk
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
def naming(path: Path) -> Iterator[None]:
    """Make a system's error that names no file, as a full disk's, an `OSError` that names `path`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = error.filename or str(path)
        elif found := SYSTEM_ERROR.search(str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
        raise


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def reserve(file: int) -> None:
    """Give an open sparse file its space: a full disk is an error now, not a crash when a mapped page is written."""
    if hasattr(os, "posix_fallocate") and (size := os.fstat(file).st_size):  # not on macOS
        os.posix_fallocate(file, 0, size)


def lock(path: Path, busy: str) -> IO[str]:
    """Lock a file until the returned one is closed or this process ends; `DataError(busy)` if another process has."""
    file = path.open("a")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which processes forked later do not hold
    except (BlockingIOError, PermissionError):
        file.close()
        raise DataError(busy) from None
    return file


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a path beside `path`, of this process alone; the file written to it becomes `path` if no error occurs.

    It is on disk when the block ends. Files of killed processes of this machine are removed.
    """
    begin, end = f".{path.name}.{socket.gethostname()}.", ".partial"
    own = path.with_name(f"{begin}{os.getpid()}{end}")
    try:
        with naming(path):
            yield own
            sync(own)
            own.replace(path)
            sync(path.parent)
    finally:
        own.unlink(missing_ok=True)
    for left in path.parent.iterdir():
        pid = left.name.removeprefix(begin).removesuffix(end)
        if pid.isdigit() and left.name == f"{begin}{pid}{end}" and not _is_running(int(pid)):
            left.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


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


def link_or_copy(source: str, target: str) -> None:
    """Make `target` a hard link to `source`, or a copy of it where that is on another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@contextmanager
def swapped(folder: Path) -> Iterator[Path]:
    """Yields an empty folder that takes the place of `folder` when the block ends without an error; a link stays one.

    It is on disk then. What a killed process left of its own is removed. `DataError` if another is writing `folder`.
    """
    folder = folder.resolve()
    partial = folder.with_name(f".{folder.name}.mc3-partial")
    new, old = partial / "new", partial / "old"
    with naming(folder):
        partial.mkdir(parents=True, exist_ok=True)
        with lock(partial / "lock", f"another process is writing {folder}; wait for it or stop it"):
            try:
                if old.exists() and not folder.exists():  # killed between the two renames below
                    old.rename(folder)
                for left in (new, old):
                    shutil.rmtree(left, ignore_errors=True)
                new.mkdir()
                yield new
                for path in (*new.rglob("*"), new):
                    sync(path)
                if folder.exists():
                    folder.rename(old)
                new.rename(folder)
                sync(folder.parent)
            finally:
                if old.exists() and not folder.exists():
                    old.rename(folder)
                shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def replace_folder(folder: Path, command: str, setting: str) -> Iterator[Path]:
    """Yields an empty folder that takes the place of `folder` when the block ends without an error.

    A file `MARKER` in it lists what was written. `DataError`, which names `command` and the `setting` that chose the
    folder, before and after the block if `folder` holds anything that its marker does not list or that has changed.
    """
    folder = folder.resolve()
    _refuse_foreign_files(folder, command, setting)
    with swapped(folder) as new:
        yield new
        files = sorted(path for path in new.rglob("*") if path.is_file())
        listing = "".join(f"{sha256(path)}  {path.relative_to(new).as_posix()}\n" for path in files)
        (new / MARKER).write_text(f"# `{command}` wrote these files and may replace this folder\n{listing}")
        _refuse_foreign_files(folder, command, setting)


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
