"""`dvc repro` with the number of the running stage, the time gone and the time left.

DVC runs the stages and decides which are out of date; this only reads along. What DVC and the
stages print is passed on as it comes.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mc3.config import Config
from mc3.errors import ConfigError

_STAGE = re.compile(r"^(Running s|S)tage '([^']+)'")  # "Running stage 'x':", "Stage 'x' didn't change, skipping"


class Progress:
    """Follows the lines of `dvc repro`: which stage runs, and how long the rest takes at most.

    `stages` are all stages' names in any order. `typical` has seconds by stage name; a stage that
    it lacks is taken to last as long as others of its matrix (same name before "@") on average.
    `clock` gives seconds.
    """

    def __init__(self, stages: list[str], typical: dict[str, float], clock: Callable[[], float] = time.monotonic):
        self.left = dict.fromkeys(stages)
        self.total, self.typical, self.clock = len(self.left), typical, clock
        self.begun = clock()
        self.seconds: dict[str, float] = {}
        self.running: tuple[str, float] | None = None

    def line(self, text: str) -> str | None:
        """The progress line to print after this line of DVC's, if a stage begins with it."""
        found = _STAGE.match(text)
        if not found or found[2] not in self.left:
            return None
        self.finish()
        ahead = self._remaining()
        del self.left[found[2]]
        if found[1] == "S":
            return None
        self.running = (found[2], self.clock())
        place = f"[{self.total - len(self.left)}/{self.total}] {found[2]}"
        gone = f"{_minutes(self.clock() - self.begun)} elapsed"
        return f"{place} · {gone}" + (f" · at most about {_minutes(ahead)} left" if ahead else "")

    def finish(self) -> None:
        """Note how long the running stage took; its end is the next one's beginning, or DVC's."""
        if self.running:
            name, since = self.running
            self.seconds[name] = self.clock() - since
            self.running = None

    def _remaining(self) -> float:
        """Typical seconds of the stages not yet reached, scaled by this machine's pace so far."""
        expected = sum(self._expect(name) for name in self.seconds)
        known = sum(seconds for name, seconds in self.seconds.items() if self._expect(name))
        return sum(map(self._expect, self.left)) * (known / expected if expected and known else 1.0)

    def _expect(self, name: str) -> float:
        if name in self.typical:
            return self.typical[name]
        group = [seconds for other, seconds in self.typical.items() if other.split("@")[0] == name.split("@")[0]]
        return sum(group) / len(group) if group else 0.0


def run(config: Config, arguments: list[str]) -> int:
    """Run `dvc repro ARGUMENTS` and return its exit code; a stage's seconds go to work/timings.json.

    Raises `ConfigError` when there is no pipeline here, DVC cannot read it, or its outputs would be out of DVC's reach.
    """
    if not Path("dvc.yaml").exists():
        raise ConfigError("no dvc.yaml here; run `mc3 repro` at the repository's top")
    if not config.paths.work.resolve().is_relative_to(Path.cwd()):
        raise ConfigError(
            f"paths.work, {config.paths.work}, is outside of this repository or behind a link, where DVC tracks "
            "nothing; clone the repository onto the disk that has the room (paths.raw may be anywhere)"
        )
    _ensure_repository()
    dvc = [sys.executable, "-m", "dvc"]
    environment = os.environ | {
        "PYTHONUNBUFFERED": "1",
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))),
    }
    listing = subprocess.run([*dvc, "stage", "list", "--name-only"], capture_output=True, text=True, env=environment)
    if listing.returncode:
        raise ConfigError(f"DVC cannot read dvc.yaml: {listing.stderr.strip()}")
    progress = Progress(listing.stdout.split(), typical(config))
    print(f"{progress.total} stages; those that are up to date are skipped", flush=True)

    process = subprocess.Popen([*dvc, "repro", *arguments], stdout=subprocess.PIPE, env=environment)
    try:
        _follow(process, progress)
    except KeyboardInterrupt:
        process.wait()
        raise
    code = process.wait()
    if code == 0:
        progress.finish()
    ran = f"{len(progress.seconds)} of {progress.total} stages ran"
    print(
        f"{ran} in {_minutes(progress.clock() - progress.begun)}"
        + (f"; DVC ended with exit code {code}" if code else "")
    )
    if progress.seconds:
        recorded = config.paths.work / "timings.json"
        seconds = {name: round(value, 1) for name, value in ({**_read(recorded), **progress.seconds}).items()}
        recorded.parent.mkdir(parents=True, exist_ok=True)
        part = recorded.with_name(recorded.name + ".part")
        part.write_text(json.dumps(seconds, indent=1, sort_keys=True) + "\n")
        part.replace(recorded)
    return code


def changed_stages() -> set[str]:
    """The stages of the pipeline here that `dvc repro` would run.

    Raises `ConfigError` when DVC cannot tell.
    """
    asked = subprocess.run([sys.executable, "-m", "dvc", "status", "--json"], capture_output=True, text=True)
    if asked.returncode:
        raise ConfigError(f"`dvc status` fails: {(asked.stderr.strip() or 'no reason given').splitlines()[-1]}")
    return set(json.loads(asked.stdout))


def typical(config: Config) -> dict[str, float]:
    """Seconds by stage name: those of the last runs here, and of `profiles/PROFILE.timings.json`, another machine's."""
    shipped = Path("profiles") / f"{config.profile}.timings.json"
    return {**_read(shipped), **_read(config.paths.work / "timings.json")}


def _follow(process: subprocess.Popen[bytes], progress: Progress) -> None:
    """Pass bytes on as they come, so that a stage's own progress bar lives, and read whole lines beside it."""
    assert process.stdout is not None
    line = b""
    while chunk := os.read(process.stdout.fileno(), 65536):
        for piece in chunk.splitlines(keepends=True):
            sys.stdout.buffer.write(piece)
            line += piece
            if line.endswith(b"\n"):
                if news := progress.line(line.decode(errors="replace")):
                    sys.stdout.buffer.write(f"{news}\n".encode())
                line = b""
        sys.stdout.buffer.flush()


def _ensure_repository() -> None:
    """DVC needs git only to find what is tracked; an unpacked archive is given a repository of DVC's own."""
    inside = subprocess.run(["git", "rev-parse", "--git-dir"], capture_output=True).returncode == 0
    if not inside and not Path(".dvc/config.local").exists():
        Path(".dvc").mkdir(exist_ok=True)
        Path(".dvc/config.local").write_text("[core]\n    no_scm = true\n")


def _read(path: Path) -> dict[str, float]:
    return json.loads(path.read_text()) if path.exists() else {}


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
