"""The run directory of a training: checkpoints, states to resume from, logs, signals.

work/checkpoints/{name}/   the output, written as a whole; the same bytes for the same settings and machine
work/runs/{name}/          what depends on the clock, tensorboard/ and timings.jsonl; the best weights, best/; and
                           during a run its output so far and the two newest states, state-{step}-{sha256}.pt

All randomness in training is drawn from numbers that name its position (`mc3.data.batches`), so a state contains no
generators and does not depend on the number of processes.
"""

import json
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mc3.config import Config
from mc3.errors import DataError
from mc3.files import link_or_copy, lock, reading, sha256, swapped, sync, write_atomic
from mc3.model import MC3

STATE = re.compile(r"state-\d{8,}-[0-9a-f]{64}\.pt")  # the hash is of its bytes, so that a truncated one is recognised
KEPT_STATES = 2


class Run:
    """The files of a run: output so far, states and logs. Only the main process writes, and locks the folder."""

    def __init__(self, config: Config, method: str, seed: int, fingerprint: str, main: bool) -> None:
        self.target, self.folder = config.paths.checkpoint(method, seed), config.paths.run(method, seed)
        self.made = config.paths.made("train", method, seed)
        self.output = self.folder / "output"
        self.metrics = self.output / "metrics.jsonl"
        self.fingerprint, self.main = fingerprint, main
        if main:
            with self.writing():
                self.folder.mkdir(parents=True, exist_ok=True)
                several = "accelerate launch, or on the CPU by torchrun with ACCELERATE_USE_CPU=true"
                busy = f"another process is training {self.folder.name}; wait for it or stop it. "
                busy += f"Several processes of one training are started by {several}"
                self.lock_file = lock(self.folder / "lock", busy)

    def states(self) -> list[Path]:
        """The states on disk, newest first."""
        files = self.folder.glob("state-*.pt")
        return sorted((f for f in files if STATE.fullmatch(f.name) and f.is_file()), reverse=True)

    def resume(self) -> dict[str, Any] | None:
        """The newest intact state, or None if there is none or it belongs to other settings or data."""
        if not self.metrics.exists():
            return None
        for file in self.states():
            if sha256(file) in file.name:
                with reading(file, "delete it, and the same command resumes from an earlier state"):
                    state = torch.load(file, map_location="cpu", weights_only=True)
                    return state if state["fingerprint"] == self.fingerprint else None
            if self.main:
                print(f"{file} is damaged; resuming from an earlier state", file=sys.stderr)
        return None

    def open(self, steps: int) -> None:
        """Begin writing after `steps` steps: remove later log lines, or with 0 everything of an abandoned run."""
        if not self.main:
            return
        from torch.utils.tensorboard import SummaryWriter

        with self.writing():
            if not steps:
                for left in set(self.folder.iterdir()) - {self.folder / "lock"}:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            for state in self.states():
                if int(state.name.split("-")[1]) > steps:  # damaged
                    state.unlink()
            for file in (self.metrics, self.folder / "timings.jsonl"):
                whole = []
                if file.exists():
                    with reading(file, f"delete {self.folder} to begin again"):
                        lines = file.read_text().splitlines()
                        whole = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= steps]
                write_atomic(file, "".join(line + "\n" for line in whole).encode())
            # Its thread's OSError, as of a full disk, is raised again where the next row is written.
            other = threading.__excepthook__
            threading.excepthook = lambda args: None if isinstance(args.exc_value, OSError) else other(args)
            self.writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=steps + 1)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn a full disk or a read-only folder into a `DataError`."""
        try:
            yield
        except OSError as error:
            states = self.states()
            kept = f"{states[0]} is intact, and the same command resumes from it" if states else "nothing was saved yet"
            place = f"{error.filename or self.folder} ({error.strerror or error})"
            raise DataError(f"cannot write to {place}; free some space or fix its permissions: {kept}") from error

    def log(self, rows: list[dict[str, Any]], timing: dict[str, float] | None = None) -> None:
        """Append rows, each with its `step`, to metrics.jsonl, and a timing to timings.jsonl; both to TensorBoard."""
        if not self.main:
            return
        timings = [] if timing is None else [{"step": rows[-1]["step"], **timing}]
        for file, lines, prefix in ((self.metrics, rows, ""), (self.folder / "timings.jsonl", timings, "time/")):
            with self.writing():
                with file.open("a") as stream:
                    stream.writelines(json.dumps(line) + "\n" for line in lines)
                for line in lines:
                    for key, value in line.items():
                        if isinstance(value, float):
                            self.writer.add_scalar(prefix + key, value, line["step"])

    def save(self, steps: int, **state: Any) -> None:
        """Write the state after `steps` steps, and keep the `KEPT_STATES` newest; all of them if the disk is full."""
        if not self.main:
            return
        part = self.folder / "state.part"
        with self.writing():
            try:
                with part.open("wb") as file:
                    torch.save({"fingerprint": self.fingerprint, **state}, file)
                sync(part)
            except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
                part.unlink(missing_ok=True)
                cause = error if isinstance(error, OSError) else error.__context__
                raise cause if isinstance(cause, OSError) else OSError(0, str(error).splitlines()[0]) from error
            sync(self.metrics)  # its lines must be on disk before the state is
            part.replace(self.folder / f"state-{steps:08d}-{sha256(part)}.pt")
            sync(self.folder)
            for old in self.states()[KEPT_STATES:]:
                old.unlink()

    def finish(self, model: MC3, stored: str) -> None:
        """Write final/, put the whole output in place of an older one in work/checkpoints, and record it as made."""
        if not self.main:
            return
        with self.writing():
            self.writer.close()
            model.save(self.output / "final", stored)
            with swapped(self.target) as new:
                shutil.copytree(self.output, new, copy_function=link_or_copy, dirs_exist_ok=True)
            write_atomic(self.made, self.fingerprint.encode())
            for state in self.states():  # after a kill before this line, the newest is resumed, and this done again
                state.unlink()
            shutil.rmtree(self.output)
        self.lock_file.close()


@contextmanager
def sigterm() -> Iterator[list[int]]:
    """Yield a list that is empty until this process receives SIGTERM."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)
