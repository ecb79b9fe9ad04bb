"""A fresh clone of the working tree, as a user would have it, and commands run in it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from small_work import ROOT

COMMIT = "git add -A && git -c user.name=t -c user.email=t@example.org commit -qm"


def copy(clone: Path) -> Path:
    """Copy all files that git tracks or would add to `clone`, without results of earlier runs; returns `clone`."""
    listing = ["git", "ls-files", "-coz", "--exclude-standard"]
    for name in subprocess.run(listing, cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    shutil.rmtree(clone / "figures", ignore_errors=True)
    (clone / "figures").mkdir()
    for lock in ("dvc.lock", "experiments/dvc.lock"):
        (clone / lock).unlink(missing_ok=True)
    return clone


def run(command: str, cwd: Path) -> str:
    """Run a shell command in `cwd` with that clone's own `mc3` package; returns stdout and stderr together.

    A long command can be followed in the log file beside `cwd`.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    env |= {"PYTHONPATH": str(cwd), "PATH": f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}"}
    log = cwd.with_name(f"{cwd.name}.log")
    with log.open("ab") as file:
        start = file.tell()
        done = subprocess.run(command, shell=True, cwd=cwd, env=env, stdout=file, stderr=subprocess.STDOUT)
    output = log.read_bytes()[start:].decode(errors="replace")
    assert done.returncode == 0, f"{command} exited with {done.returncode}:\n{output[-6000:]}"
    return output


def ran(output: str) -> list[str]:
    """The names of the stages that `dvc repro` ran, in order."""
    return re.findall(r"Running stage '([^']+)'", output)
