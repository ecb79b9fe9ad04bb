"""Files are written completely or not at all."""

import multiprocessing
from pathlib import Path

import pytest

from mc3.files import write_atomic


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
