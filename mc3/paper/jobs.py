"""The pipeline's trainings, embeddings and probes: what is up to date is kept, the rest is done side by side."""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import joblib
import psutil
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError

from mc3 import embed, methods, store, train
from mc3.config import Config, override
from mc3.errors import ConfigError, DataError
from mc3.files import sha256, write_atomic
from mc3.paper import foreign, probe, repro
from mc3.pools import follow
from mc3.progress import Forecast

Job = Callable[[int], None]  # takes its number of threads
HALF_THREADS = 1.4  # seconds of a training beside another with half the threads, for each second alone (mini)
MADE_FROM = {"train": train.fingerprint, "embed": embed.made_from, "probe": probe.made_from}
_clip_cache: dict[Path, dict[str, Any]] = {}  # decoded clips of one folder of shards, kept by each process


def is_done(config: Config, step: str, method: str, seed: int) -> bool:
    """Whether a result was, by `Paths.made`, made with the present settings, clips, weights and code, and not changed.

    If its files have another hash than in the record (see `note_hash`), a line says so.
    """
    try:
        origin, _, known = config.paths.made(step, method, seed).read_text().partition("\n")
        if origin != MADE_FROM[step](config, method, seed):
            return False
        found = _hash(config, step, method, seed)
    except FileNotFoundError:  # no record or result, or no clips or no align checkpoint any more
        return False
    if known and known != found:
        print(f"{step} {method}-{seed}: its result was changed after it was made, and is made again")
        return False
    return True


def note_hash(config: Config, step: str, method: str, seed: int) -> None:
    """Add the hash of a result's files to its record, if it has none, as after `mc3 train --method`."""
    record = config.paths.made(step, method, seed)
    if "\n" not in (origin := record.read_text()):
        write_atomic(record, f"{origin}\n{_hash(config, step, method, seed)}".encode())


def _hash(config: Config, step: str, method: str, seed: int) -> str:
    paths = config.paths
    files = {
        "train": [paths.final(method, seed), paths.checkpoint(method, seed) / "metrics.jsonl"],
        "embed": [paths.embeddings(method, seed)], "probe": [paths.probe_scores(seed), paths.probe_metrics(seed)],
    }  # fmt: skip
    return " ".join(map(sha256, files[step]))


def do(config: Config, step: str, method: str, seed: int, threads: int) -> None:
    """Train, embed or probe with so many threads."""
    config = override(config, {"train.threads": threads})
    if step == "train":
        train.run(config, method, seed)
    elif step == "embed":
        if config.paths.shards not in _clip_cache:
            _clip_cache.clear()
        embed.run(config, method, seed, _clip_cache.setdefault(config.paths.shards, {}))
    else:
        probe.run(config, seed)
    note_hash(config, step, method, seed)


def trained(config: Config) -> list[str]:
    """What the pipeline trains of each seed: the align stage, all rows and, if the profile says so, SSAST."""
    return ["align", *methods.METHODS, *[store.SSAST] * (config.probe.ssast == "train")]


def processes(config: Config) -> int:
    """Jobs to do at a time unless told otherwise: one a thread, or one where a GPU is."""
    return 1 if torch.cuda.is_available() else config.train.threads


def make(config: Config, step: str) -> None:
    """Bring `step` of the align stage, all rows and all seeds of the profile up to date; prints what it does."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(f"several processes do one {step} at a time; name it with --method and --seed")
    rows = ["align", *methods.METHODS]
    waves = [[probe.ALL]] if step == "probe" else [rows]
    if step == "train":
        rows = trained(config)
        waiting = [name for name in rows if methods.get(name).start == "align"]  # for the align stage
        waves = [[name for name in rows if name not in waiting], waiting]
    elif step == "embed":
        known = {config.paths.embeddings(name, seed) for name in rows for seed in config.seeds}
        for leftover in set((config.paths.work / "embeddings").glob("*/*.safetensors")) - known:
            leftover.unlink()
        foreign.install(config)
    at_once, typical, kept = processes(config), repro.typical_seconds(config), 0
    if step == "probe" and at_once > 1:  # each has one thread; of three on two cores, the last is not alone
        at_once *= 2
    for wave in waves:
        tasks = list(product(config.seeds, wave))
        done = [(name, seed) for seed, name in tasks if is_done(config, step, name, seed)]
        for name, seed in done:
            note_hash(config, step, name, seed)
        todo = [(name, seed) for seed, name in tasks if (name, seed) not in done]
        kept += len(done)
        jobs = {f"{step} {name}-{seed}": partial(do, config, step, name, seed) for name, seed in todo}
        seconds = {f"{step} {name}-{seed}": typical.get(f"{step} {name}", 1.0) for name, seed in todo}
        took = run(jobs, seconds, config.train.threads, at_once)
        repro.record_seconds(config, {job.rpartition("-")[0]: value for job, value in took.items()})
    print(f"{kept} results were up to date" if kept else f"{step}: done")


def run(
    jobs: Mapping[str, Job], seconds: Mapping[str, float], threads: int, processes: int, hours: float | None = None
) -> dict[str, float]:
    """Do `jobs`, `processes` at a time with a share of `threads` each; returns the seconds of those that are finished.

    `seconds`: about what each takes. With `hours`, none begins that would end later. An error in one job, a killed
    process or SIGTERM ends all; after SIGTERM the trainings save their state first, and the exit code is 75.
    """
    processes = max(1, min(processes, len(jobs)))
    share = max(1, threads // processes)
    forecast = Forecast({n: seconds[n] * (HALF_THREADS if processes > 1 else 1.0) for n in jobs}, processes)
    stopping: list[int] = []  # signals, of this process or of a worker

    def forward(number: int, _: Any) -> None:
        stopping.append(number)
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.terminate()

    def admitted() -> Iterator[Any]:
        """Start jobs as workers become free, but none that would end after `hours`, and none after SIGTERM."""
        for name, job in jobs.items():
            due = forecast.elapsed() + forecast.expected[name] * forecast.pace()
            if hours is not None and due > 3600 * hours:
                del forecast.expected[name]
            elif not stopping:
                forecast.start(name)
                print(forecast.line(name), flush=True)
                yield joblib.delayed(_in_worker)(name, job, share, processes > 1)

    parallel = joblib.Parallel(processes, return_as="generator_unordered", pre_dispatch=processes, batch_size=1)
    before = signal.signal(signal.SIGTERM, forward)
    try:
        for name in parallel(admitted()):
            if name is None:
                stopping.append(signal.SIGTERM)
            else:
                forecast.finish(name)
    except TerminatedWorkerError:
        if not stopping:
            lost = f"one of {processes} processes was killed, perhaps for lack of memory"
            raise DataError(f"{lost}; the same command continues from what was saved") from None
    finally:
        signal.signal(signal.SIGTERM, before)
    if stopping:
        sys.exit(train.STOPPED)
    return forecast.took


def _in_worker(name: str, job: Job, threads: int, in_pool: bool) -> str | None:
    """Do a job in this process; returns its name, or None if SIGTERM stopped it (with the state of a training saved).

    An idle process of a pool ignores SIGTERM: if it ended, the pool would kill the others while they save.
    """
    if in_pool:  # whose own way to start processes does not serve a DataLoader's workers
        multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
        follow(os.getppid())
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(train.STOPPED))
    try:
        job(threads)
        return name
    except SystemExit:
        return None
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN if in_pool else before)
