"""The faults: each breaks one run of a stage, starts it again, and tells what is lost."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from faults.stages import ENDS_SEC, Running, Stage, clone, files


@dataclass
class Outcome:
    """What a fault did: how many times it struck, and what went wrong afterwards, in words; "" for nothing."""

    fault: str
    stage: str
    number: int
    wrong: str


def kill(stage: Stage, folder: Path, how: str, rng: random.Random) -> Outcome:
    """kill -9 at a random moment, and a second one with a chance of a third; then to the end."""
    top, struck, wrong = clone(stage, folder), 0, ""
    for _ in range(1 + (rng.random() < 1 / 3)):
        running = Running(stage, top)
        running.process.join(rng.uniform(0.02, 1.0) * stage.seconds)
        if running.process.is_alive():
            seen = running.kill(how, rng)
            struck += bool(seen)
            _, alive = psutil.wait_procs(seen, ENDS_SEC)
            if alive and how != "process":
                wrong = f"{len(alive)} processes lived on: {alive[0]}"
        running.end()
    return Outcome(f"kill -9 ({how})", stage.name, struck, wrong or restarted(stage, top))


def restarted(stage: Stage, top: Path) -> str:
    """Run a stage again to its end; what is then wrong, if anything."""
    running = Running(stage, top)
    if code := running.end():
        return f"the next run ended with {code}: {running.log.read_text()[-500:]}"
    return differences(stage, running, top)


def differences(stage: Stage, running: Running, top: Path) -> str:
    """The files that are not as in the unbroken run, and temporary ones that are left."""
    found = files(top)
    names = sorted(name for name in found.keys() | stage.after.keys() if found.get(name) != stage.after.get(name))
    names += [str(path) for path in running.temporary.rglob("*") if path.is_file()]
    shutil.rmtree(top.parent, ignore_errors=True) if not names else None
    return f"not as unbroken: {', '.join(names[:5])} in {top}" if names else ""


def unsaid(running: Running, code: int, about: str = "") -> str:
    """What is wrong with how a command failed: it must be one sentence, which has `about` in it."""
    lines = running.error()
    if running.stage.processes > 1:  # the others of a training say that one has ended, or are ended by the launcher
        code, lines = 1, list(dict.fromkeys(line for line in lines if "another process of this training" not in line))
    if code != 1 or len(lines) != 1 or not lines[0].startswith("mc3: ") or about not in lines[0]:
        return f"exit code {code}: {running.log.read_text()[-1500:]}"
    return ""


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A tmpfs of `size` bytes; only for a process in a namespace of its own (`python -m faults` makes one)."""
    disk = folder / "disk"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def fill(file: Path, free: int) -> None:
    """Make a file that leaves about `free` bytes of its disk."""
    with file.open("wb") as opened:
        for _ in range(100):  # another process may take some of it in the meantime
            statistics = os.statvfs(file.parent)
            room = statistics.f_bavail * statistics.f_frsize - free
            if room <= 0:
                break
            with suppress(OSError):
                os.posix_fallocate(opened.fileno(), 0, os.fstat(opened.fileno()).st_size + room)


def full_disk(stage: Stage, folder: Path, rng: random.Random) -> Outcome:
    """A disk with room for the inputs and a part of the outputs; then room is made, and the stage run again."""
    with small_disk(folder, 2 << 30) as disk:
        top, filler = clone(stage, disk), disk / "filler"
        fill(filler, int(rng.choice([0.0, rng.uniform(0.0, 0.8)]) * stage.grown))
        running = Running(stage, top)
        code = running.end()
        wrong = unsaid(running, code, "free some") if code else ""
        filler.unlink()
        return Outcome("full disk", stage.name, int(code != 0), wrong or restarted(stage, top))


def briefly_full(stage: Stage, folder: Path, rng: random.Random) -> Outcome:
    """A disk that is full for half a second at a random moment: the stage fails in a sentence, or ends well."""
    with small_disk(folder, 2 << 30) as disk:
        top, filler = clone(stage, disk), disk / "filler"
        running = Running(stage, top)
        running.process.join(rng.uniform(0.02, 1.0) * stage.seconds)
        fill(filler, 0)
        time.sleep(0.5)
        filler.unlink()
        code = running.end()
        wrong = unsaid(running, code, "free some") if code else differences(stage, running, top)
        return Outcome("disk full for a moment", stage.name, 1, wrong or (restarted(stage, top) if code else ""))


def read_only(stage: Stage, folder: Path, _: random.Random) -> Outcome:
    """A disk that is read-only, then not."""
    with small_disk(folder, 2 << 30) as disk:
        top = clone(stage, disk)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        running = Running(stage, top)
        code = running.end()
        wrong = "it ended well on a read-only disk" if code == 0 else unsaid(running, code, "(Read-only file system)")
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        return Outcome("read-only", stage.name, 1, wrong or restarted(stage, top))


def file_limit(stage: Stage, folder: Path, rng: random.Random) -> Outcome:
    """No file may be longer than some bytes: what can be had without mounting a small disk."""
    top = clone(stage, folder)
    running = Running(stage, top, Limit(rng.randrange(0, max(stage.grown // 4, 4096))))
    code = running.end()
    wrong = unsaid(running, code) if code else differences(stage, running, top)
    return Outcome("file size limit", stage.name, int(code != 0), wrong or (restarted(stage, top) if code else ""))


@dataclass
class Limit:
    """Sets the largest size of a file, in bytes."""

    size: int

    def __call__(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))


def lost_input(stage: Stage, folder: Path, rng: random.Random) -> Outcome:
    """A random input vanishes at a random moment, and is there again for the next run."""
    top = clone(stage, folder)
    chosen = rng.choice(sorted(path for pattern in stage.inputs for path in top.glob(pattern)))
    running, kept = Running(stage, top), folder / "kept"
    running.process.join(rng.uniform(0.0, 1.0) * stage.seconds)
    chosen.rename(kept)
    code = running.end()
    wrong = unsaid(running, code) if code else ""
    kept.rename(chosen)
    return Outcome("input removed", stage.name, 1, wrong or restarted(stage, top))


def twice(stage: Stage, folder: Path, rng: random.Random) -> Outcome:
    """The same command twice at the same time: each ends well or says in a sentence that the other runs."""
    top = clone(stage, folder)
    first = Running(stage, top)
    first.process.join(rng.uniform(0.0, 0.8) * stage.seconds)
    second = Running(stage, top, name="second")
    codes = second.end(), first.end()
    wrong = "".join(unsaid(of, code) for of, code in zip((second, first), codes, strict=True) if code)
    if codes == (1, 1):
        wrong = wrong or f"both failed: {first.error()} {second.error()}"
    return Outcome("two at once", stage.name, 1, wrong or restarted(stage, top))


def jumping_clock(stage: Stage, folder: Path, rng: random.Random) -> Outcome:
    """Each look at the clock shows another day."""
    top = clone(stage, folder)
    running = Running(stage, top, Jump(rng.randrange(1 << 30)))
    if code := running.end():
        return Outcome("jumping clock", stage.name, 1, f"exit code {code}: {running.log.read_text()[-500:]}")
    return Outcome("jumping clock", stage.name, 1, differences(stage, running, top))


@dataclass
class Jump:
    """Replaces `time.time` in a process."""

    seed: int

    def __call__(self) -> None:
        clock, rng = time.time, random.Random(self.seed)
        time.time = lambda: clock() + rng.uniform(-1e6, 1e6)


def hanging(stage: Stage, folder: Path, _: random.Random) -> Outcome:
    """One of the processes that cut shards stops working: the command ends by itself, and says at which."""
    top = clone(stage, folder)
    running = Running(stage, top, _one_hangs)
    code = running.end(120)
    return Outcome(
        "worker hangs", stage.name, 1, unsaid(running, code, ".tar have finished nothing") or restarted(stage, top)
    )


def _one_hangs() -> None:
    from mc3.data import prepare

    prepare.PATIENCE_SEC, prepare.PATIENCE_SEC_PER_CLIP = 5.0, 0.0
    hangs, members_of = multiprocessing.Semaphore(1), prepare.members_of

    def hanging_once(*arguments: Any) -> Any:
        if hangs.acquire(block=False):
            time.sleep(600)
        return members_of(*arguments)

    prepare.members_of = hanging_once


def in_own_namespace(command: list[str]) -> list[str]:
    """`command` where it may mount disks that vanish with it; as it is, where the system does not allow that."""
    for options in (["-m"], ["-rm"]):
        prefix = ["unshare", *options, "--propagation", "private"]
        try:
            if subprocess.run([*prefix, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode == 0:
                return [*prefix, *command]
        except FileNotFoundError:
            break
    return command
