"""Files are written completely or not at all; a code identity changes with the code that runs, and nothing else."""

import multiprocessing
import os
import re
import shutil
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
