"""Trainings beside the pipeline's: a method under changed settings, in a folder of its own, remembered when done.

`mc3 seeds`, `tune`, `ablate` and `study` are lists of such trials. What a trial shares with the pipeline (clips,
align checkpoint) it links to instead of making it again, and nothing that DVC tracks is written to. A finished
training carries a mark with the fingerprint of all that decides it, so that the same command goes on where it was
stopped and does again what was changed since.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from mc3 import cost, embed, evaluate, methods, notebook, repro, tables, train
from mc3.config import Config, as_dict, build
from mc3.data import DataError, write_whole

FIGURES = Path("figures")
PART_OF_THREADS = 1.4  # what a training takes beside another with half the threads: 12.1 against 9.0 s (mini)


def changed(config: Config, changes: Mapping[str, Any]) -> Config:
    """`config` with other values at dotted places, such as "loss.consensus.anchor"; `ConfigError` names a wrong one."""
    data = as_dict(config)
    for place, value in changes.items():
        *groups, name = place.split(".")
        at = data
        for group in groups:
            at = at.setdefault(group, {})
        at[name] = value
    found: Config = build(Config, data)
    return found


def place(config: Config, folder: Path, shared: Sequence[str]) -> Config:
    """`config` with its work in `folder`, where each of `shared` (names in the work folder) is a link.

    Raises:
        DataError: the pipeline has not made one of them yet.
    """
    work = config.paths.work.absolute()
    for name in shared:
        if not (work / name).exists():
            raise DataError(f"{work / name} is missing; `make repro` makes it")
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        target = os.path.relpath((work / name).resolve(), link.parent.resolve())
        if not link.is_symlink() or link.readlink() != Path(target):
            if link.is_dir() and not link.is_symlink():  # made here before the pipeline had it
                shutil.rmtree(link)
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    return changed(config, {"paths.work": str(folder)})


def require(config: Config, methods: Sequence[str]) -> None:
    """Raise `DataError` unless the pipeline's results of `methods` are of these settings, recipes, clips and code.

    DVC is asked where there is a pipeline; without one, only checkpoints and embeddings are compared.
    """
    stale = repro.changed_stages() if Path("dvc.yaml").exists() else set()
    for seed in config.seeds:
        for name in methods:
            of_seed = f"align@{seed}" if name == "align" else f"train@{name}-{seed}"
            later = stale & {of_seed, f"embed@{seed}", f"probe@{seed}"}
            if later or not embed.unchanged(config, name, seed):
                raise DataError(f"the pipeline's results of {name}-{seed} are not up to date; `make repro` makes them")


def placed(
    config: Config, changes: Mapping[str, Any], seed: int, own_clips: bool = False, own_align: bool = False
) -> Config:
    """`config` with `changes` in a folder of its own under `work/trials`, named by the settings and what it links to.

    Args:
        config: the pipeline's settings.
        changes: other values at dotted places.
        seed: whose align checkpoint is linked.
        own_clips: clips are cut anew rather than linked; they come with an align stage of their own.
        own_align: the align stage is trained anew.
    """
    trial = changed(config, changes)
    decided = {name: as_dict(getattr(trial, name)) for name in ("ego4d", "clips", "model", "loss", "train")}
    for group, setting in (("clips", "workers"), ("train", "workers"), ("train", "threads")):
        del decided[group][setting]
    own_align = own_align or own_clips
    name = fingerprint_of([decided, own_clips, own_align], ())[:16]
    shared = [] if own_clips else ["shards"]
    shared += [] if own_align else [f"checkpoints/align-{seed}"]
    return changed(place(config, config.paths.work / "trials" / name, shared), changes)


def is_done(config: Config, name: str, fingerprint: str) -> bool:
    """Whether step `name` was finished in this work folder with this fingerprint."""
    mark = config.paths.work / "done" / name
    return mark.exists() and mark.read_text() == fingerprint


def mark_done(config: Config, name: str, fingerprint: str) -> None:
    """Remember that step `name` was finished."""
    mark = config.paths.work / "done" / name
    mark.parent.mkdir(parents=True, exist_ok=True)
    write_whole(mark, fingerprint.encode())


def is_trained(config: Config, method: str, seed: int) -> bool:
    """Whether `trained` has nothing to do, as far as is known before the align checkpoint is looked at anew."""
    folder = config.paths.work / "checkpoints" / f"{method}-{seed}"
    try:
        return folder.exists() and is_done(config, f"{method}-{seed}", train.fingerprint(config, method, seed))
    except FileNotFoundError:  # no clips or no align checkpoint yet
        return False


def trained(config: Config, method: str, seed: int) -> Path:
    """The checkpoint folder of `method` and `seed`, trained unless it was before; one that was killed goes on."""
    if not is_trained(config, method, seed):
        fingerprint = train.fingerprint(config, method, seed)
        train.run(config, method, seed)
        mark_done(config, f"{method}-{seed}", fingerprint)
    return config.paths.work / "checkpoints" / f"{method}-{seed}"


def validation(config: Config, method: str, seed: int) -> dict[str, float]:
    """The validation ROCs at the end of a finished training: {"av_roc", "al_roc"}, those that the method has."""
    metrics = config.paths.work / "checkpoints" / f"{method}-{seed}" / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    last = {name: value for row in rows for name, value in row.items()}  # later rows overwrite earlier ones
    return {name: last[name] for name in ("av_roc", "al_roc") if name in last}


@dataclass(frozen=True)
class Job:
    """Trainings in one folder, each needing the one before, and embeddings of the last if `embed`."""

    trial: Config
    seed: int
    methods: tuple[str, ...]
    embed: bool = False


def costs(config: Config, jobs: Mapping[str, Job]) -> dict[str, float]:
    """Seconds that each job will take: 0 where it was done, or comes out the same as one before it."""
    found, seen = {}, set()
    for name, job in jobs.items():
        key = (job.trial.paths.work, job.seed, job.methods)
        done, left = key in seen, 0.0
        if not done:
            done = True
            for method in job.methods:
                done = done and is_trained(job.trial, method, job.seed)
                left += 0.0 if done else seconds(config, job.trial, method)
            if job.embed and done and not embed.unchanged(job.trial, job.methods[-1], job.seed):
                left = embedding(config)
        found[name] = left
        seen.add(key)
    return found


def train_jobs(jobs: Mapping[str, Job], config: Config, names: Sequence[str]) -> None:
    """Do those of the jobs called `names`, as far as they were not, with the threads of `config`."""
    held: dict[Path, dict[str, Any]] = {}  # clips, those of one folder at a time
    for name in Schedule(costs(config, {name: jobs[name] for name in names})):
        job = jobs[name]
        trial = changed(job.trial, {"train.threads": config.train.threads})
        for method in job.methods:
            trained(trial, method, job.seed)
        if job.embed:
            shards = (trial.paths.work / "shards").resolve()
            held = {shards: held.get(shards, {})}
            embedded(trial, job.methods[-1], job.seed, held[shards])


def train_all(jobs: Mapping[str, Job], config: Config, processes: int) -> None:
    """Do all jobs, as far as they were not done, `processes` at once."""
    side_by_side(partial(train_jobs, jobs), config, costs(config, jobs), processes)


def embedded(config: Config, method: str, seed: int, held: dict[str, Any]) -> None:
    """Train and embed `method`, as far as it was not done; `held` keeps the clips for others of the same shards."""
    trained(config, method, seed)
    if not embed.unchanged(config, method, seed):
        embed.run(config, method, seed, held)


def discovery(config: Config, method: str, seed: int) -> dict[str, float]:
    """The test ROCs of an embedded method: {"av_roc", "al_roc"}, those that it has."""
    scored = tables.discovery_scores(config, method, seed)
    return {f"{p}_roc": evaluate.discovery(scored[p], scored["positive"])["roc"] for p in evaluate.PAIRS if p in scored}


def recalls(config: Config, method: str, seed: int) -> dict[str, float]:
    """Set recall of an embedded method in percent, {"v2a_r1", ...}: every direction it has and every cut-off."""
    groups, split = tables.retrieval_split(config)
    ks = config.evaluate.recall_at
    found = evaluate.retrieval_directions(
        embed.read(config, method, seed)[1], groups, split, ks, config.evaluate.chunk
    )  # fmt: skip
    return {f"{d}_r{k}": 100 * metrics[f"recall@{k}"] for d, metrics in found.items() for k in ks}


def fingerprint_of(facts: Any, modules: Sequence[str]) -> str:
    """A hash of plain `facts` and of the code in `modules`, files or folders of this package."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    package = Path(__file__).parent
    for module in modules:
        path = package / module
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def typical(config: Config, *stages: str) -> float:
    """Seconds that these stages of the pipeline took, here or where the profile was timed; 0 for unknown ones."""
    known = repro.typical(config)
    return sum(known.get(stage, 0.0) for stage in stages)


def seconds(config: Config, trial: Config, method: str) -> float:
    """About what training and embedding `method` under `trial` takes, from what it took under `config`.

    In proportion to the arithmetic of the encoders and to the epochs; a method that was never timed counts as MC3.
    """

    def work(of: Config, name: str) -> float:
        epochs = {**of.train.epochs, "both": sum(of.train.epochs.values())}
        return sum(epochs[stage.epochs] * cost.training_flops(of.model, stage) for stage in methods.get(name).stages)

    stages = {name: "align@0" if name == "align" else f"train@{name}-0" for name in (method, "mc3")}
    timed = method if typical(config, stages[method]) else "mc3"
    training = typical(config, stages[timed]) * work(trial, method) / work(config, timed)
    return training + embedding(config)


def embedding(config: Config) -> float:
    """About the seconds that embedding one method takes: its part of the pipeline's, one where that is unknown."""
    return max(1.0, typical(config, "embed@0") / (1 + len(methods.METHODS)))


class Schedule:
    """Jobs with the seconds each is expected to take; iterating says where one is and how long is left.

    `expected` has a number a job, 0 for one that is done. The pace of those that ran corrects the rest. With `budget`,
    in seconds, no job is begun that would end after it; those left out are in `skipped`.
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
        """Seconds that passed for each that was expected."""
        planned = sum(self.expected[name] for name in self.took)
        return sum(self.took.values()) / planned if planned else 1.0

    def __iter__(self) -> Iterator[str]:
        began, names = self.clock(), list(self.expected)
        for number, name in enumerate(names, 1):
            gone = self.clock() - began
            due = self.expected[name] * self.pace()
            if self.budget is not None and due and gone + due > self.budget:
                self.skipped.append(name)
                continue
            left = sum(self.expected[other] for other in names[number - 1 :]) * self.pace()
            if self.expected[name]:
                self.show(f"[{number}/{len(names)}] {name} · {clock(gone)} elapsed · about {clock(left)} left")
            at = self.clock()
            yield name
            if self.expected[name]:
                self.took[name] = self.clock() - at


def told(costs: Mapping[str, float], n: int) -> str:
    """One line for before the start: how many jobs, and what they take together, `n` at a time."""
    left = [seconds for seconds in costs.values() if seconds]
    several = n > 1 and len(left) > 1
    seconds = sum(left) * PART_OF_THREADS / n if several else sum(left)
    at_once = f", {n} at a time" if several else ""
    return f"{len(costs)} jobs, {len(costs) - len(left)} done before; about {clock(seconds)} to go{at_once}"


def divided(costs: Mapping[str, float], parts: int) -> list[list[str]]:
    """The jobs that cost something in `parts` lists that cost about the same, each in the order of `costs`."""
    shares: list[list[str]] = [[] for _ in range(parts)]
    sums = [0.0] * parts
    for name in sorted((n for n, seconds in costs.items() if seconds), key=lambda n: -costs[n]):
        emptiest = sums.index(min(sums))
        shares[emptiest].append(name)
        sums[emptiest] += costs[name]
    order = {name: number for number, name in enumerate(costs)}
    return [sorted(share, key=order.__getitem__) for share in shares if share]


def side_by_side(
    work: Callable[[Config, list[str]], object], config: Config, costs: Mapping[str, float], n: int
) -> None:
    """Call `work` on the jobs that `costs` (seconds) says are not done, divided among `n` processes.

    A step of tiny encoders gains little from a second thread, so two trainings of one thread each are done sooner than
    one after the other with two: each process has its part of `train.threads`. What one of them raises ends all; so
    does SIGTERM, after which they save where they are.

    Args:
        work: of settings and names of jobs; a function of a module, or a partial of one.
        config: the pipeline's settings.
        costs: by job. No two jobs that cost something may write the same files.
        n: 1 calls `work` in this process, with the settings as they are.
    """
    names = [name for name, seconds in costs.items() if seconds]
    print(told(costs, n))
    if n == 1 or len(names) < 2:
        if names:
            work(config, names)
        return
    part = changed(config, {"train.threads": max(1, config.train.threads // n)})
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(train.STOPPED))
    try:
        with ProcessPoolExecutor(n, multiprocessing.get_context("spawn")) as pool:
            try:
                for done in as_completed([pool.submit(_share, work, part, share) for share in divided(costs, n)]):
                    done.result()
            except BrokenProcessPool:
                again = "the same command goes on from what was saved"
                raise DataError(f"one of {n} processes was stopped, or killed for want of memory; {again}") from None
            except BaseException:
                for child in multiprocessing.active_children():
                    child.terminate()
                raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _share(work: Callable[[Config, list[str]], object], config: Config, names: list[str]) -> None:
    """`work` in a process of a pool, which SIGTERM ends.

    A pool takes SystemExit for a result, and its process waits for more work: for ever, if another one was killed
    while it held the lock that they wait with.
    """
    try:
        work(config, names)
    except SystemExit as stop:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(stop.code if isinstance(stop.code, int) else 1)


def clock(seconds: float) -> str:
    """Seconds as hours, minutes and seconds."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


def write_table(path: Path, table: pd.DataFrame) -> None:
    """A table of results as CSV with five decimals, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, table.to_csv(index=False, float_format="%.5f").encode())


def record(config: Config, name: str, facts: Mapping[str, Any], inputs: Sequence[Path] = ()) -> None:
    """Write `figures/NAME.provenance.json`: what any result has (`mc3.notebook.origin`) and `facts`."""
    data = {**notebook.origin(config, inputs), **facts}
    write_whole(FIGURES / f"{name}.provenance.json", (json.dumps(data, indent=1, sort_keys=True) + "\n").encode())
