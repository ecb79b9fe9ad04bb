"""Progress on the screen: how far a long job is, and how much time is left."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TimeRemainingColumn

PLAIN_INTERVAL_SEC = 10.0  # between lines of progress where there is no terminal


def format_duration(seconds: float) -> str:
    """Seconds as hours:minutes:seconds, or minutes:seconds below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"


@contextmanager
def bar(total: int, done: int, main: bool) -> Iterator[Callable[[int, str], None]]:
    """Yields `show(step, text)`: a bar with the time left on a terminal, a line now and then elsewhere."""
    console = Console(stderr=True)
    columns = ("{task.description}", BarColumn(), "{task.completed}/{task.total}", TimeRemainingColumn())
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


class Forecast:
    """How long named jobs will still take, from what each was expected to take and what the finished ones took."""

    def __init__(self, expected: Mapping[str, float], workers: int = 1, clock: Callable[[], float] = time.monotonic):
        self.expected = dict(expected)  # seconds by job, in order; 0 if unknown or if nothing is to do
        self.workers, self.clock, self.began = workers, clock, clock()  # jobs at a time; seconds
        self.running: dict[str, float] = {}
        self.took: dict[str, float] = {}

    def start(self, name: str) -> None:
        """Note that a job begins."""
        self.running[name] = self.clock()

    def finish(self, name: str) -> None:
        """Note that a job has ended."""
        self.took[name] = self.clock() - self.running.pop(name)

    def pace(self) -> float:
        """Measured seconds for each expected second, of the finished jobs; 1 before the first."""
        timed = [name for name in self.took if self.expected.get(name)]
        planned = sum(self.expected[name] for name in timed)
        return sum(self.took[name] for name in timed) / planned if planned else 1.0

    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self.clock() - self.began

    def left(self) -> float:
        """Seconds until all jobs are finished, about."""
        pace, now = self.pace(), self.clock()
        seen = {**self.took, **self.running}
        waiting = sum(s for name, s in list(self.expected.items()) if name not in seen)
        begun = sum(max(0.0, pace * self.expected.get(n, 0.0) - (now - t)) for n, t in list(self.running.items()))
        return (pace * waiting + begun) / self.workers

    def line(self, name: str) -> str:
        """One line of progress: "[3/25] train@mc3-0 · 2:10 elapsed · about 4:50 left"."""
        number, left = list(self.expected).index(name) + 1, self.left()
        ends = f" · about {format_duration(left)} left" if left else ""
        return f"[{number}/{len(self.expected)}] {name} · {format_duration(self.elapsed())} elapsed{ends}"
