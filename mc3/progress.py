"""Progress on the screen: how far a long job is, and how much time is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_INTERVAL_SEC = 10.0  # between lines of progress where there is no terminal


def format_duration(seconds: float) -> str:
    """Seconds as hours:minutes:seconds, or minutes:seconds below an hour."""
    hours, rest = divmod(round(seconds), 3600)
    minutes = f"{rest // 60}:{rest % 60:02d}"
    return f"{hours}:{minutes.zfill(5)}" if hours else minutes


@contextmanager
def bar(total: int, done: int, main: bool) -> Iterator[Callable[[int, str], None]]:
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


class Schedule:
    """Named jobs with expected durations; iterating runs through them and prints what runs and the time left.

    Args:
        expected: seconds each job is expected to take, 0 for one that is finished. The pace of the jobs that ran
            corrects the rest.
        budget: seconds in all; a job that would end after them is not begun but put into `skipped`.
        clock: the time in seconds.
        show: prints a line.
    """

    def __init__(
        self,
        expected: Mapping[str, float],
        budget: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        show: Callable[[str], None] = print,
    ) -> None:
        self.expected, self.budget, self.clock, self.show = dict(expected), budget, clock, show
        self.skipped: list[str] = []
        self.took: dict[str, float] = {}

    def pace(self) -> float:
        """Measured seconds for each expected second, of the jobs that have ended."""
        planned = sum(self.expected[name] for name in self.took)
        return sum(self.took.values()) / planned if planned else 1.0

    def __iter__(self) -> Iterator[str]:
        began, names = self.clock(), list(self.expected)
        for number, name in enumerate(names, 1):
            elapsed = self.clock() - began
            due = self.expected[name] * self.pace()
            if self.budget is not None and due and elapsed + due > self.budget:
                self.skipped.append(name)
                continue
            left = sum(self.expected[other] for other in names[number - 1 :]) * self.pace()
            if self.expected[name]:
                line = f"[{number}/{len(names)}] {name} · {format_duration(elapsed)} elapsed"
                self.show(f"{line} · about {format_duration(left)} left")
            at = self.clock()
            yield name
            if self.expected[name]:
                self.took[name] = self.clock() - at
