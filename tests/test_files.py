"""Files are written completely or not at all; a code identity changes with the code that runs, and nothing else."""

import errno
import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

from mc3 import files, methods, objectives
from mc3.errors import DataError
from mc3.files import code_identity, write_atomic
from mc3.paper.notebook import STAGES


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path):
    path = tmp_path / "folder" / "a.txt"
    write_atomic(path, b"old")
    with pytest.raises(TypeError):
        write_atomic(path, "no bytes")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def write_many(path: Path, letter: bytes) -> None:
    for _ in range(50):
        write_atomic(path, 10_000 * letter)


def test_processes_that_write_one_file_never_mix_their_content(tmp_path: Path):
    path, fork = tmp_path / "a.txt", multiprocessing.get_context("fork")
    processes = [fork.Process(target=write_many, args=(path, letter)) for letter in (b"a", b"b")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert path.read_bytes() in (10_000 * b"a", 10_000 * b"b")
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_and_then_its_name_are_on_disk_before_a_write_returns(tmp_path: Path, monkeypatch):
    events = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda file: (events.append(os.fstat(file).st_ino), fsync(file)))
    monkeypatch.setattr(Path, "replace", lambda own, path: (events.append("rename"), replace(own, path))[1])
    write_atomic(tmp_path / "a.txt", b"whole")
    assert events == [(tmp_path / "a.txt").stat().st_ino, "rename", tmp_path.stat().st_ino]


def test_files_of_killed_writers_are_removed_by_the_next_write_and_those_of_living_ones_are_not(tmp_path: Path):
    path, fork = tmp_path / "a.txt", multiprocessing.get_context("fork")

    def killed() -> None:
        with files.atomic(path) as own:
            own.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)

    child = fork.Process(target=killed)
    child.start()
    child.join()
    (left,) = tmp_path.iterdir()
    living = left.with_name(left.name.replace(f".{child.pid}.", f".{os.getppid()}."))
    living.write_bytes(b"at work")
    write_atomic(path, b"whole")
    assert sorted(tmp_path.iterdir()) == sorted([living, path])


@pytest.mark.parametrize("moment", ["rmtree", "rename", "sync"])
def test_a_folder_whose_writer_is_killed_is_the_old_or_the_new_one_after_the_next_write(tmp_path: Path, moment: str):
    folder, fork = tmp_path / "link", multiprocessing.get_context("fork")
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere", target_is_directory=True)

    def write(text: str, killed_at: int | None) -> None:
        calls, owner = [], {"rmtree": shutil, "rename": Path, "sync": files}[moment]
        original = getattr(owner, moment)

        def counted(*arguments, **options):
            calls.append(arguments)
            if len(calls) - 1 == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        setattr(owner, moment, counted)
        with files.swapped(folder) as new:
            (new / "made.txt").write_text(text)

    def contents() -> set[str]:
        return {path.read_text() for path in tmp_path.rglob("*.txt")}

    for killed_at in (None, 0, 1, 2, None):
        child = fork.Process(target=write, args=(f"{killed_at}", killed_at))
        child.start()
        child.join()
        assert contents() >= {"None"}, "the old one is gone before the new one is there"
    assert child.exitcode == 0
    assert folder.is_symlink()
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*.txt"))] == ["elsewhere/made.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "link"]


def test_a_second_writer_of_a_folder_is_refused_in_a_sentence(tmp_path: Path):
    fork = multiprocessing.get_context("fork")

    def second() -> None:
        advice = rf"^another process is writing {tmp_path}/out; wait for it or stop it$"
        with pytest.raises(DataError, match=advice), files.swapped(tmp_path / "out"):
            pass

    with files.swapped(tmp_path / "out") as new:
        (new / "made.txt").write_text("first")
        child = fork.Process(target=second)
        child.start()
        child.join()
    assert child.exitcode == 0
    assert (tmp_path / "out" / "made.txt").read_text() == "first"


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("write failed: errno = 28, error message = ..."),
     ValueError("I/O error: No space left on device (os error 28)"), shutil.Error([("a", "b", "[Errno 28] No space")])],
    ids=["system", "HDF5", "safetensors", "shutil"],
)  # fmt: skip
def test_a_full_disk_names_the_file_whatever_library_meets_it(tmp_path: Path, error: Exception):
    with pytest.raises(OSError, match="No space left") as raised, files.atomic(tmp_path / "a.bin"):
        raise error
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / "a.bin"))


BOOKS = {path.stem: (str(path),) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
ENTRIES = {"raw": ("mc3.world",), **STAGES, **BOOKS}
TRAINED = {"train", "embed", "probe", "sweep"}  # their code trains, or loads what was trained


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the package, whose code identities the tests see; `stale` restores what it changes."""
    copy = tmp_path_factory.mktemp("package") / "mc3"
    shutil.copytree(ROOT / "mc3", copy, ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "PACKAGE", copy)
        yield copy


def identities() -> dict[str, str]:
    return {stage: code_identity(*entries) for stage, entries in ENTRIES.items()}


def stale(package: Path, file: str, before: str, after: str) -> set[str]:
    """The stages that are out of date when `before` is replaced by `after` in a file of the package."""
    first, path = identities(), package / file
    text, modified = path.read_text(), path.stat().st_mtime_ns
    assert re.search(before, text, re.M), f"{file} has no {before}"
    path.write_text(re.sub(before, after, text, count=1, flags=re.M))
    found = {stage for stage, identity in identities().items() if identity != first[stage]}
    path.write_text(text)
    os.utime(path, ns=(modified, modified))  # so that it is not parsed again
    return found


@pytest.mark.parametrize(
    ("before", "after"),
    [(r"^import ", "# a remark\nimport "), (r'\A"""', '"""Other words. '),
     (r"^    def __len__\(self\) -> int:", "    def __len__(self) -> 'Any':"),
     (r"^    def __len__\(self\)", "    def __len__(\n        self,\n    )")],
    ids=["comment", "docstring", "annotation", "layout"],
)  # fmt: skip
def test_comments_docstrings_annotations_and_layout_make_nothing_stale(package: Path, before: str, after: str):
    assert stale(package, "data/shards.py", before, after) == set()


def test_a_file_that_one_stage_alone_uses_makes_no_other_stale(package: Path):
    assert stale(package, "world/sound.py", r"\Z", "\nADDED = 1\n") == {"raw"}
    assert stale(package, "cli/commands.py", r"\Z", "\nADDED = 1\n") == set()


def test_a_change_in_the_dataset_class_trains_and_embeds_again_and_leaves_the_data_alone(package: Path):
    found = stale(package, "data/shards.py", r"^class ClipDataset.*:$", r"\g<0>\n    ADDED = 1\n")
    assert found >= {*TRAINED, "data", "clusters", "retrieval", "study"}
    assert not found & {"raw", "manifest", "report", "training", "tuning", "seeds"}


def test_how_methods_are_read_makes_its_users_stale_and_one_method_nothing(package: Path):
    assert stale(package, "methods.py", r'"consensus": 1\.0', '"consensus": 0.5') == set()
    found = stale(package, "methods.py", r"\Z", "\nADDED = 1\n")
    assert found >= {*TRAINED, "claims", "discovery"}
    assert not found & {"raw", "manifest", "shards"}


def test_a_kind_of_loss_is_code_of_trainings_and_sweeps_and_of_the_methods_that_have_it(package: Path):
    assert stale(package, "objectives/peers.py", r"\Z", "\nADDED = 1\n") == {"train", "sweep"}
    first = identities()
    (package / "objectives" / "added.py").write_text("from mc3.objectives.base import Objective\n")
    assert {stage for stage, identity in identities().items() if identity != first[stage]} == {"train", "sweep"}
    (package / "objectives" / "added.py").unlink()
    assert objectives.modules(methods.get("mc3")) == ["mc3.objectives.base"]
    assert objectives.modules(methods.get("peers")) == ["mc3.objectives.peers"]
    assert "mc3.objectives.base " in code_identity("mc3.train")
    assert "mc3.objectives.peers " not in code_identity("mc3.train")


def test_a_change_in_evaluation_makes_exactly_its_importers_stale(package: Path):
    importers = {stage for stage, identity in identities().items() if "\nmc3.evaluate " in identity}
    assert stale(package, "evaluate.py", r"\Z", "\nADDED = 1\n") == importers
    assert importers >= {"claims", "discovery", "probe", "train"}
    assert not importers & {"raw", "manifest", "shards"}


def test_a_notebooks_own_code_makes_it_stale_and_its_prose_does_not(tmp_path: Path):
    book = Path(shutil.copy(ROOT / "notebooks" / "data.ipynb", tmp_path))
    first = code_identity(str(book))
    book.write_text(book.read_text().replace("What a clip is", "About clips"))
    assert code_identity(str(book)) == first
    book.write_text(book.read_text().replace("dpi=150", "dpi=151"))
    assert code_identity(str(book)) != first


class Panic(BaseException):
    """As a library in Rust raises it."""


@pytest.mark.parametrize("error", [ValueError("a\nb"), RecursionError(), MemoryError(), Panic("a b"), KeyError("a b")])
def test_whatever_a_library_raises_while_reading_is_one_sentence_with_file_reason_and_remedy(tmp_path, error):
    (tmp_path / "file").touch()
    with pytest.raises(DataError) as caught, files.reading(tmp_path / "file", "make it again"):
        raise error
    reason = "a b" if error.args else type(error).__name__
    assert re.fullmatch(rf"{tmp_path}/file is damaged \('?{reason}'?\); make it again", str(caught.value))


def test_what_is_wrong_with_the_program_or_a_stop_by_the_user_is_no_damage(tmp_path):
    (tmp_path / "file").touch()
    for error in (ImportError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error), files.reading(tmp_path / "file", "make it again"):
            raise error
    with (
        pytest.raises(DataError, match="gone is missing; make it again"),
        files.reading(tmp_path / "gone", "make it again"),
    ):
        raise AssertionError
