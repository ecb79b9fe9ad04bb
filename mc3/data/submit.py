"""Cutting as tasks of a SLURM cluster, or as processes of this machine where there is none, with submitit."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from mc3 import config as settings
from mc3.config import Config
from mc3.data import manifest, prepare
from mc3.errors import ConfigError, DataError

LIMIT_MIN = 24 * 60  # of a task; submitit's own limit is five minutes


def submit(config: Config, tasks: int, slurm: dict[str, Any]) -> Path:
    """Cut as `tasks` SLURM tasks (processes of this machine where there is no SLURM), then `write`.

    Args:
        config: the settings; every task runs `clips.workers` processes.
        tasks: how many shares there are.
        slurm: parameters of sbatch as submitit names them, e.g. partition, account, time (minutes), mem.

    Raises:
        ConfigError: naming a parameter that submitit does not know, or what SLURM refused.
        DataError: naming the failed tasks and their logs; the shards that are finished stay.
    """
    import submitit

    work = config.paths.work
    jobs = prepare.plan(manifest.read(work / "manifest.parquet"), config, work / "shards.partial")
    executor = submitit.AutoExecutor(folder=work / "runs" / "prepare" / "logs")
    try:
        executor.update_parameters(name="mc3-shards", timeout_min=LIMIT_MIN, cpus_per_task=config.clips.workers)
        executor.update_parameters(**{f"slurm_{name}": value for name, value in slurm.items()})
    except (NameError, ValueError, AssertionError, TypeError) as error:
        raise ConfigError(f"--slurm: {error}") from None
    try:
        with executor.batch():
            running = [executor.submit(_task, settings.as_dict(config), rank, tasks) for rank in range(tasks)]
    except submitit.core.utils.FailedJobError as error:
        raise ConfigError(f"SLURM refused the tasks, see --slurm: {error}") from None
    where = f"on {executor.cluster}, logs in {executor.folder}"
    print(f"{tasks} tasks {where}", flush=True)
    try:
        _watch(running, jobs)
    except BaseException:
        for task in running:
            task.cancel(check=False)
        raise
    errors = [(rank, task) for rank, task in enumerate(running) if task.exception() is not None]
    if errors:
        shown = "; ".join(f"rank {rank}: {_reason(task.exception())}, see {task.paths.stderr}" for rank, task in errors)
        raise DataError(f"{len(errors)} of {tasks} tasks failed ({shown}); what they finished is kept, run it again")
    return prepare.write(config)


def _task(plain: dict[str, Any], rank: int, world: int) -> None:
    """What submitit runs: `write_share` with settings as `as_dict` gives them."""
    prepare.write_share(settings.build(Config, plain), rank, world)


def _watch(running: list[Any], jobs: list[prepare.Job]) -> None:
    """Return when all tasks have ended; until then say how many clips are cut."""
    total, reported = sum(len(job.rows) for job in jobs), time.monotonic()
    while not all(task.done() for task in running):
        time.sleep(0.5)
        if time.monotonic() - reported > prepare.REPORT_EVERY_SEC:
            reported = time.monotonic()
            done = sum(len(job.rows) for job in jobs if job.mark.exists())
            ended = sum(task.done() for task in running)
            print(f"{done} of {total} clips, {ended} of {len(running)} tasks have ended", flush=True)


def _reason(error: BaseException | None) -> str:
    """The last line of a failed task's traceback, which submitit puts between rules and hints."""
    lines = [line for line in str(error).partition("You can check")[0].splitlines() if line.strip(" -")]
    return lines[-1].strip() if lines else type(error).__name__
