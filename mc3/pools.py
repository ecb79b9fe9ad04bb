"""Processes beside this one: they end with it, and that one of them was killed or hangs is an error with a name."""

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from mc3.errors import DataError

HANGING_SEC = 1800  # a worker that sends no batch for so long will send none


@contextmanager
def pool(workers: int, start: str = "spawn") -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of one process or more; what waits in it when the block ends is given up.

    `DataError` if the system kills one.
    """
    context = multiprocessing.get_context(start)
    executor = ProcessPoolExecutor(max(1, workers), context, follow, (os.getpid(),))  # of no process as yet
    try:
        yield executor
    except BrokenProcessPool:
        lost = f"one of {max(1, workers)} processes was killed, perhaps for lack of memory"
        raise DataError(f"{lost}; give it fewer, or run the same command again") from None
    finally:
        executor.shutdown(cancel_futures=True)


def completed(work: Mapping[Future, str], patience_sec: float) -> Iterator[Future]:
    """Yield a pool's named pieces of work as they end; `DataError` with names if none does for `patience_sec`."""
    waiting = set(work)
    while waiting:
        done, waiting = wait(waiting, patience_sec, FIRST_COMPLETED)
        if not done:
            names = ", ".join(sorted(work[future] for future in waiting if future.running()))
            _kill_children()
            fault = f"the processes at work on {names} have finished nothing for {patience_sec:.0f} s"
            raise DataError(f"{fault} and were stopped; look at what these read, then run the same command again")
        yield from done


def follow(parent: int) -> None:
    """End this process within a second of the process that started it, which cannot tell it that it was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def load(clips: Any, workers: int, **settings: Any) -> Iterator[Any]:
    """The batches of a `DataLoader`; `DataError` if one of its processes is killed or hangs."""
    from torch.utils.data import DataLoader

    try:
        yield from DataLoader(clips, num_workers=workers, timeout=HANGING_SEC if workers else 0, **settings)
    except (RuntimeError, EOFError, ConnectionError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader"):
            raise
        _kill_children()
        fault = f"the processes that read clips ({workers}, train.workers) sent nothing more: {error}"
        raise DataError(f"{fault}; the same command continues from what was saved") from error


def _kill_children() -> None:
    """End the processes of pools and loaders; one that hangs would not by itself, and would be waited for."""
    for child in multiprocessing.active_children():
        child.kill()
