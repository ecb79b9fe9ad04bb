"""A training run outside of its arithmetic: its files, its progress on the screen, its signals.

work/checkpoints/{name}/   the output, whole or not at all; the same bytes for the same settings and machine
work/runs/{name}/          what depends on the clock, tensorboard/ and timings.jsonl; and until the run is
                           done the output so far and state.pt, from which it can go on
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mc3.config import Config
from mc3.data import write_whole
from mc3.model import MC3

PLAIN_INTERVAL_SEC = 10.0  # between lines of progress where there is no terminal


class Run:
    """A run's files: the output so far, the state to go on from, and the logs. Only the main process writes."""

    def __init__(self, config: Config, name: str, fingerprint: str, main: bool) -> None:
        self.target = config.paths.work / "checkpoints" / name
        self.folder = config.paths.work / "runs" / name
        self.output, self.state_file = self.folder / "output", self.folder / "state.pt"
        self.metrics = self.output / "metrics.jsonl"
        self.fingerprint, self.main = fingerprint, main
        self.writer: Any = None

    def resume(self) -> dict[str, Any] | None:
        """The state to go on from, or None: there is none, or it is of other settings or data."""
        if not (self.state_file.exists() and self.metrics.exists()):
            return None
        state = torch.load(self.state_file, map_location="cpu", weights_only=True)
        return state if state["fingerprint"] == self.fingerprint else None

    def open(self, steps: int) -> None:
        """Begin writing after `steps` steps: 0 clears what an abandoned run left, otherwise later lines go."""
        if not self.main:
            return
        from torch.utils.tensorboard import SummaryWriter

        if not steps and self.folder.exists():
            shutil.rmtree(self.folder)
        self.output.mkdir(parents=True, exist_ok=True)
        for file in (self.metrics, self.folder / "timings.jsonl"):
            lines = file.read_text().splitlines() if file.exists() else []
            whole = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= steps]
            write_whole(file, "".join(line + "\n" for line in whole).encode())
        self.writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=steps + 1)

    def log(self, rows: list[dict[str, Any]], timing: dict[str, float] | None = None) -> None:
        """Append rows, each with its `step`, to metrics.jsonl; they and the timing go to TensorBoard too."""
        if not self.main or not rows:
            return
        with self.metrics.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        for row in rows:
            for key, value in row.items():
                if isinstance(value, float):
                    self.writer.add_scalar(key, value, row["step"])
        if timing is not None:
            line = {"step": rows[-1]["step"], **timing}
            with (self.folder / "timings.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            for key, value in timing.items():
                self.writer.add_scalar(f"time/{key}", value, rows[-1]["step"])

    def save(self, **state: Any) -> None:
        """Replace the state to go on from."""
        if self.main:
            part = self.state_file.with_suffix(".part")
            torch.save({"fingerprint": self.fingerprint, **state}, part)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(self.state_file)

    def finish(self, model: MC3) -> None:
        """Write final/ and put the whole output where it belongs, in place of an older one."""
        if not self.main:
            return
        self.writer.close()
        model.save(self.output / "final")
        self.target.parent.mkdir(parents=True, exist_ok=True)
        old = self.folder / "old"
        if old.exists():
            shutil.rmtree(old)
        if self.target.exists():
            self.target.rename(old)
        self.output.rename(self.target)
        self.state_file.unlink()
        if old.exists():
            shutil.rmtree(old)


@contextmanager
def progress(total: int, done: int, main: bool) -> Iterator[Callable[[int, str], None]]:
    """Yields `show(step, text)`: a bar with the time left on a terminal, a line now and then elsewhere."""
    console = Console(stderr=True)
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
    ]
    began = last = time.monotonic()
    with Progress(*columns, console=console, disable=not (main and console.is_terminal)) as bar:
        task = bar.add_task("", total=total, completed=done)

        def show(step: int, text: str) -> None:
            nonlocal last
            bar.update(task, completed=step, description=text)
            now = time.monotonic()
            if main and not console.is_terminal and (now - last > PLAIN_INTERVAL_SEC or step == total):
                last = now
                left = (now - began) / max(1, step - done) * (total - step)
                print(f"{text}: step {step}/{total}, {left:.0f} s left", file=sys.stderr, flush=True)

        yield show


@contextmanager
def sigterm() -> Iterator[list[int]]:
    """Yields a list that is empty until SIGTERM comes."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)
