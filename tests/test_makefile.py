"""`make setup` with stand-ins for Python and uv: which Python it takes, when it rebuilds .venv, what it says."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from small_work import ROOT, scripts

# Answers what `make setup` asks a Python: its version, whether it has venv and pip, and to build .venv.
PYTHON = """case "$*" in
  *ensurepip*) echo {version};;
  "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python && echo "{version}" > .venv/version;;
esac"""


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A folder, with a space in its path, that has the Makefile and a PATH without any Python."""
    top = tmp_path / "a clone"
    (top / "bin").mkdir(parents=True)
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, top / name)
    for name in ("sh", "make", "cat", "cksum", "cp", "grep", "mkdir", "rm", "dirname"):
        (top / "bin" / name).symlink_to(shutil.which(name))
    scripts(top / "bin", uv="")
    return top


def add_python(top: Path, name: str, version: str, folder: str = "bin") -> Path:
    return scripts(top / folder, **{name: PYTHON.format(version=version)}) / name


def make(top: Path, *arguments: str, path: str = "") -> subprocess.CompletedProcess:
    env = {"PATH": f"{path}{top / 'bin'}"}
    return subprocess.run(["make", "setup", *arguments], cwd=top, env=env, capture_output=True, text=True)


def built_with(top: Path) -> str:
    return (top / ".venv" / "version").read_text().strip()


@pytest.mark.parametrize(
    ("found", "newest"),
    [({"python3.11": "3.11"}, "3.11"), ({"python3": "3.9", "python": "3.12"}, "3.12"),
     # 3.13 is installed, but without venv
     ({"python3.11": "3.11", "python3.12": "3.12", "python3.13": "none", "python3": "3.14"}, "3.12")],
)  # fmt: skip
def test_the_newest_supported_python_on_the_path_builds_the_environment(top, found, newest):
    for name, version in found.items():
        add_python(top, name, version)
    assert make(top).returncode == 0
    assert built_with(top) == newest


def test_an_existing_environment_is_kept_when_a_newer_python_appears_or_the_pins_change(top):
    add_python(top, "python3.11", "3.11")
    make(top)
    add_python(top, "python3.13", "3.13")
    ready = make(top)
    assert (ready.returncode, ready.stdout) == (0, "")
    with (top / "requirements.lock").open("a") as lock:
        lock.write("another==1.0\n")
    assert "installing requirements.lock" in make(top).stdout
    assert built_with(top) == "3.11"


@pytest.mark.parametrize("fault", ["unfinished", "moved"])
def test_an_unfinished_or_moved_environment_is_rebuilt_even_while_it_is_activated(top, fault):
    add_python(top, "python3.12", "3.12")
    venv = top / ".venv"
    make(top)
    add_python(top, "python3.13", "3.13", ".venv/bin")
    if fault == "moved":
        (venv / ".ready").write_text("/elsewhere\n1 2\n")
    else:
        (venv / ".ready").rename(venv / ".building")
    assert "rebuilding it with python3.12" in make(top, path=f"{venv / 'bin'}:").stdout
    assert sorted(path.name for path in venv.iterdir()) == [".ready", "bin", "version"]
    assert make(top).stdout == ""


def test_a_python_that_is_named_is_used_and_replaces_another_version(top):
    add_python(top, "python3.13", "3.13")
    make(top)
    named = add_python(top, "python3.12", "3.12", "my pythons")
    assert make(top, f"PYTHON={named}").returncode == 0
    assert built_with(top) == "3.12"
    assert make(top, f"PYTHON={named}").stdout == ""
    assert make(top).stdout == ""


@pytest.mark.parametrize("arguments", [(), ("PYTHON=python3",)])
def test_no_supported_python_is_an_error_that_says_what_to_do_and_leaves_the_environment(top, arguments):
    add_python(top, "python3", "3.10")
    (top / ".venv").mkdir()
    failed = make(top, *arguments)
    assert failed.returncode != 0
    assert "3.13 3.12 3.11" in failed.stderr
    assert "make PYTHON=" in failed.stderr
    assert (top / ".venv").is_dir()


def test_every_target_that_help_names_exists():
    def run(*arguments: str) -> str:
        return subprocess.check_output(["make", *arguments], cwd=ROOT, env={"PATH": os.environ["PATH"]}, text=True)

    targets = [line.split()[1] for line in run("help").splitlines() if line.startswith("make ")]
    assert targets == [
        "repro",
        "retrain",
        "study",
        "test",
        "test-slow",
        "faults",
        "lint",
        "lab",
        "drivers",
        "docs",
        "setup",
        "clean",
    ]
    for target in targets:
        assert run("--dry-run", target)
