"""`dvc repro` with the number of the running stage, the elapsed time and the time left, from DVC's own output."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path

import psutil

from mc3.config import Config, read_yaml
from mc3.errors import ConfigError, DataError
from mc3.files import lock, reading, write_atomic
from mc3.paper import provenance
from mc3.progress import Forecast, format_duration

_STAGE = re.compile(r"^(Running s|S)tage '([^']+)'")  # "Running stage 'x':", "Stage 'x' didn't change, skipping"


class Progress(Forecast):
    """A forecast for stages that follows the lines of `dvc repro`."""

    def __init__(self, expected: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(expected, clock=clock)
        self.reached: list[str] = []

    def read(self, text: str) -> str | None:
        """The progress line to print after this line of DVC's, if a stage begins with it."""
        found = _STAGE.match(text)
        if not found or found[2] not in self.expected or found[2] in self.reached:
            return None
        self.end()
        self.reached.append(found[2])
        if found[1] == "S":
            self.expected[found[2]] = 0.0
            return None
        self.expected = {name: self.expected[name] for name in dict.fromkeys([*self.reached, *self.expected])}
        line = self.line(found[2])
        self.start(found[2])
        return line

    def end(self) -> None:
        """Note that the running stage has ended: when the next one begins, or DVC ends."""
        for name in list(self.running):
            self.finish(name)


def run(config: Config, arguments: list[str]) -> int:
    """Run `dvc repro ARGUMENTS`; returns its exit code.

    `ConfigError` where DVC has no stages or can track nothing, `DataError` while another runs.
    """
    if not Path("dvc.yaml").exists():
        raise ConfigError("no dvc.yaml here; run `mc3 repro` at the repository's top")
    if not config.paths.work.resolve().is_relative_to(Path.cwd()):
        fault = f"paths.work, {config.paths.work}, is outside of this repository or behind a link"
        remedy = "clone the repository onto the disk that has the room (paths.raw may be anywhere)"
        raise ConfigError(f"{fault}, where DVC tracks nothing; {remedy}")
    # DVC uses git only to find what is tracked; an unpacked archive gets a repository of DVC's own.
    if provenance.output("git", "rev-parse", "--git-dir") is None and not Path(".dvc/config.local").exists():
        write_atomic(Path(".dvc/config.local"), b"[core]\n    no_scm = true\n")
    locks = Path(".dvc/tmp")
    locks.mkdir(parents=True, exist_ok=True)
    with lock(locks / "mc3-repro.lock", "another `mc3 repro` runs here; wait for it or stop it"):
        _check_free(locks / "rwlock")
        return _reproduce(config, arguments)


def _check_free(rwlock: Path) -> None:
    """Raise `DataError` if another DVC is at work here; remove what a killed one left, which would stop the next."""
    try:
        held = json.loads(rwlock.read_text())
        holders = [*held["write"].values(), *chain.from_iterable(held["read"].values())]
    except (FileNotFoundError, ValueError, KeyError):
        holders = []
    for holder in holders:
        with contextlib.suppress(psutil.NoSuchProcess):
            if "dvc" in " ".join(psutil.Process(holder["pid"]).cmdline()):
                running = f"another DVC (process {holder['pid']}) is at work here"
                raise DataError(f"{running}; wait for it or stop it, then run the same command again")
    rwlock.unlink(missing_ok=True)


def _reproduce(config: Config, arguments: list[str]) -> int:
    fetched = _pull_released(config)
    typical = typical_seconds(config) | ({"pretrain": 0.0, "train": 0.0} if fetched else {})
    progress = Progress({name: typical.get(name, 0.0) for name in stages()})
    print(f"{len(progress.expected)} stages; those that are up to date are skipped", flush=True)
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))  # stages call `mc3`
    command, environment = ["dvc", "repro", *arguments], os.environ | {"PYTHONUNBUFFERED": "1", "PATH": path}
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, env=environment)
    try:
        _follow(process, progress)
    except KeyboardInterrupt:
        process.wait()
        raise
    code = process.wait()
    if code == 0:
        progress.end()
    ran = f"{len(progress.took)} of {len(progress.expected)} stages ran in {format_duration(progress.elapsed())}"
    print(f"{ran}; DVC ended with exit code {code}" if code else ran)
    record_seconds(config, progress.took)
    return code


def stages() -> list[str]:
    """The names of all stages of dvc.yaml; without starting DVC, which takes seconds."""
    path = Path("dvc.yaml")
    with reading(path, "correct it", ConfigError):
        return list(map(str, {**read_yaml(path)["stages"]}))


def typical_seconds(config: Config) -> dict[str, float]:
    """Seconds by stage or job: of the last runs here, else another machine's in profiles/PROFILE.timings.json."""
    return _read(Path("profiles") / f"{config.profile}.timings.json") | _read(config.paths.work / "timings.json")


def record_seconds(config: Config, took: Mapping[str, float]) -> None:
    """Keep what stages or jobs took here, for the next forecast."""
    recorded = config.paths.work / "timings.json"  # written also if nothing ran: that removes what a killed run left
    provenance.write(recorded, _read(recorded) | {name: round(seconds, 1) for name, seconds in took.items()})


def _follow(process: subprocess.Popen[bytes], progress: Progress) -> None:
    """Pass bytes on as they come, so that a stage's own progress bar lives, and read whole lines beside it."""
    assert process.stdout is not None
    line = b""
    while chunk := os.read(process.stdout.fileno(), 65536):
        for piece in chunk.splitlines(keepends=True):
            sys.stdout.buffer.write(piece)
            line += piece
            if line.endswith(b"\n"):
                if news := progress.read(line.decode(errors="replace")):
                    sys.stdout.buffer.write(f"{news}\n".encode())
                line = b""
        sys.stdout.buffer.flush()


def _pull_released(config: Config) -> bool:
    """Fetch the weights of data/release, if they are of these settings and there are none here; whether it did."""
    if config.paths.pretrained.exists() or not Path("data/release").exists():
        return False
    command = [sys.executable, "-m", "dvc", "pull", "--quiet", "pretrain", "train"]
    found = subprocess.run(command, capture_output=True).returncode == 0 and config.paths.pretrained.exists()
    print("released weights fetched" if found else "no released weights of these settings; they are trained now")
    return found


def _read(path: Path) -> dict[str, float]:
    if not path.exists():
        return {}
    with reading(path, "remove it: it only serves forecasts"):
        return {name: float(seconds) for name, seconds in json.loads(path.read_text()).items()}
