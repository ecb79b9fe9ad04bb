"""Cutting as SLURM tasks, or as processes of this machine where there is no SLURM, with submitit."""

import time
from pathlib import Path
from typing import Any

from mc3.config import Config
from mc3.data import manifest, prepare
from mc3.errors import ConfigError, DataError
from mc3.progress import bar

LIMIT_MIN = 24 * 60  # of a task; submitit's default is five minutes


def submit(config: Config, tasks: int, slurm: dict[str, Any]) -> Path:
    """Cut in `tasks` SLURM tasks of `clips.workers` processes each (local ones without SLURM), then `prepare.write`.

    `slurm` has parameters of sbatch by submitit's names, e.g. partition, account, time (minutes), mem. Raises
    `ConfigError` if submitit does not know one or SLURM refused the tasks, `DataError` if tasks failed.
    """
    import submitit

    work = config.paths.work
    jobs = prepare.plan(manifest.read(work / "manifest.parquet"), config, prepare.partial_folder(config))
    executor = submitit.AutoExecutor(folder=work / "runs" / "prepare" / "logs")
    try:
        executor.update_parameters(name="mc3-shards", timeout_min=LIMIT_MIN, cpus_per_task=config.clips.workers)
        executor.update_parameters(**{f"slurm_{name}": value for name, value in slurm.items()})
    except (NameError, ValueError, AssertionError, TypeError) as error:
        raise ConfigError(f"--slurm: {error}") from None
    try:
        with executor.batch():
            running = [executor.submit(prepare.write_share, config, rank, tasks) for rank in range(tasks)]
    except submitit.core.utils.FailedJobError as error:
        raise ConfigError(f"SLURM refused the tasks, see --slurm: {error}") from None
    print(f"{tasks} tasks on {executor.cluster}, logs in {executor.folder}", flush=True)
    try:
        _watch(running, jobs)
    except BaseException:
        for task in running:
            task.cancel(check=False)
        raise
    if failed := [(rank, task) for rank, task in enumerate(running) if task.exception() is not None]:
        reasons = [f"rank {rank}: {_reason(task.exception())}, see {task.paths.stderr}" for rank, task in failed]
        fault = f"{len(failed)} of {tasks} tasks failed ({'; '.join(reasons)})"
        raise DataError(f"{fault}; what they finished is kept, run it again")
    return prepare.write(config)


def _watch(running: list[Any], jobs: list[prepare.ShardJob]) -> None:
    """Show how many clips are cut until all tasks have ended."""
    with bar(sum(len(job.rows) for job in jobs), 0, main=True) as show:
        shown, ended = 0, 0
        while ended < len(running):
            time.sleep(0.5)
            ended = sum(task.done() for task in running)
            clips = sum(len(job.rows) for job in jobs if job.done_marker.exists())
            if clips != shown:
                show(clips, f"cutting clips, {ended} of {len(running)} tasks have ended")
            shown = clips


def _reason(error: BaseException | None) -> str:
    """The last line of a failed task's traceback, without submitit's rules and hints."""
    lines = [line for line in str(error).partition("You can check")[0].splitlines() if line.strip(" -")]
    return lines[-1].strip() if lines else type(error).__name__
