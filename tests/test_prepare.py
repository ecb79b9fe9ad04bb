import dataclasses
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import weakref
from pathlib import Path
from unittest.mock import Mock

import av
import numpy as np
import psutil
import pytest
import small_work
import yaml
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from test_shards import build, contents

from mc3 import cli, config
from mc3.config import Config, override
from mc3.data import manifest, prepare
from mc3.errors import ConfigError, DataError
from mc3.extra import submit

CLIPS = config.load(ROOT / "profiles" / "mini.yaml").clips


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Config:
    built = build(tmp_path_factory.mktemp("work"), train=6)
    prepare.write(built)
    return built


@pytest.fixture
def again(written: Config, tmp_path: Path) -> Config:
    """The same raw files and manifest, not cut yet."""
    (tmp_path / "world").symlink_to(written.paths.raw, target_is_directory=True)
    return build(tmp_path)


def jobs_of(settings: Config) -> list[prepare.ShardJob]:
    partial = settings.paths.work / "shards.partial"
    partial.mkdir(exist_ok=True)
    return prepare.plan(manifest.read(settings.paths.work / "manifest.parquet"), settings, partial)


def job_with(name: str, gaps: list[float]) -> prepare.ShardJob:
    starts = np.cumsum(gaps) + 1.5 * np.arange(len(gaps))
    rows = [{"dataset": "ego4d", "video_uid": name, "start_sec": start, "end_sec": start + 1.5} for start in starts]
    return prepare.ShardJob(Path(name), rows, Path(), CLIPS)


@given(st.lists(st.lists(st.floats(0, 60), min_size=1, max_size=20), min_size=1, max_size=30), st.integers(1, 8))
def test_shares_are_a_partition_in_which_no_process_has_much_more_to_do(videos, world: int):
    jobs = [job_with(f"shard{i:02d}", gaps) for i, gaps in enumerate(videos)]
    shares = [prepare.share(jobs, rank, world) for rank in range(world)]
    assert sorted(job.path for share in shares for job in share) == [job.path for job in jobs]
    assert shares == [prepare.share(jobs[::-1], rank, world) for rank in range(world)]
    loads = [sum(job.cost for job in share) for share in shares]
    assert max(loads) - min(loads) <= max(job.cost for job in jobs) + 1e-9


def test_a_clip_that_stands_alone_costs_more_than_one_beside_another():
    close, separate, distant = (job_with("a", [0.0, gap]).cost for gap in (0.0, 1.0, 1000.0))
    assert close < separate < distant < separate + prepare.RUN_UP_SEC


def test_ranks_together_write_the_bytes_of_one_process_and_what_it_took(written: Config, again: Config):
    for rank in (1, 0, 2):
        prepare.write_share(again, rank, 3)
    folder = again.paths.work / "runs" / "prepare"
    ranks = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(3)]
    table = manifest.read(again.paths.work / "manifest.parquet")
    assert sum(rank["clips"] for rank in ranks) == len(table)
    assert sum(rank["videos"] for rank in ranks) == table[["dataset", "video_uid"]].drop_duplicates().shape[0]
    for rank in ranks:
        assert rank["clips"] > 0
        assert rank["failures"] == []
        assert rank["clips_per_core_sec"] == pytest.approx(rank["clips"] / rank["cpu_sec"])
        assert 20e6 < rank["peak_rss_bytes"] < 20e9
        assert 0 < rank["elapsed_sec"] < 600
    tars = (again.paths.work / "shards.partial").glob("*.tar")
    assert sum(rank["bytes"] for rank in ranks) == sum(path.stat().st_size for path in tars)
    assert contents(prepare.write(again)) == contents(written.paths.shards)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["clips"] == len(table)
    assert summary["cpu_sec"] == pytest.approx(sum(rank["cpu_sec"] for rank in ranks))
    filmed = sum(path.stat().st_size for path in again.paths.shards.glob("ego4d*.tar"))
    assert summary["projected"]["clips"] == 250_000
    assert summary["projected"]["bytes"] == pytest.approx(250_000 * filmed / (table["dataset"] == "ego4d").sum())


def test_a_share_killed_at_any_moment_goes_on_and_ends_with_the_same_bytes(written: Config, again: Config):
    fork = multiprocessing.get_context("fork")  # with torch imported, so that little passes before the work begins
    folder, moments = again.paths.work / "shards.partial", np.random.default_rng(0).uniform(0, 0.02, 6)
    folder.mkdir()
    cut, ends, orphans = set(), [], []
    for moment in moments:
        seen = set(folder.iterdir())
        process = fork.Process(target=prepare.write_share, args=(again, 0, 1))
        process.start()
        while process.is_alive() and set(folder.iterdir()) == seen:
            time.sleep(0.001)
        time.sleep(moment)
        orphans += psutil.Process(process.pid).children()
        process.kill()
        process.join()
        ends.append(process.exitcode)
        marks = {path.stem for path in folder.glob("*.json")}
        assert cut <= marks
        cut = marks
    assert ends.count(-signal.SIGKILL) >= 3
    assert not psutil.wait_procs(orphans, timeout=60)[1]  # they live for a second, and may finish a shard
    finished = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    prepare.write_share(again, 0, 1)
    assert {name: (folder / name).stat().st_mtime_ns for name in finished} == finished
    assert contents(prepare.write(again)) == contents(written.paths.shards)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_end_when_their_parent_is_killed(start: str):
    script = "import os, time; from mc3.pools import pool\n"
    script += f"with pool(2, {start!r}) as executor:\n"
    script += "    print(executor.submit(os.getpid).result(), flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        os.kill(worker, 0)  # it is there
        parent.kill()
    deadline, state = time.monotonic() + 30, Path(f"/proc/{worker}/stat")
    while state.exists() and " Z " not in state.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_processes_that_write_the_same_shard_do_not_damage_it(written: Config, again: Config):
    job, fork = jobs_of(again)[0], multiprocessing.get_context("fork")
    processes = [fork.Process(target=prepare.write_shard, args=(job,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert job.path.read_bytes() == (written.paths.shards / job.path.name).read_bytes()
    assert sorted(path.name for path in job.path.parent.iterdir()) == sorted([job.path.name, job.done_marker.name])


def test_a_shard_moved_by_another_run_is_reported(again: Config, monkeypatch):
    job = jobs_of(again)[0]

    def finished_elsewhere(clip, clips):
        if job.path.parent.exists():
            job.path.parent.rename(again.paths.shards)
        return {"audio": b"sound"}

    monkeypatch.setattr(prepare, "members_of", finished_elsewhere)
    with pytest.raises(DataError, match="was finished and moved by another `mc3 shards`"):
        prepare.write_shard(job)


def test_shards_that_are_removed_while_they_are_cut_are_not_said_to_be_finished(again: Config, monkeypatch):
    job = jobs_of(again)[0]
    monkeypatch.setattr(prepare, "members_of", lambda *_: shutil.rmtree(job.path.parent, ignore_errors=True) or {})
    with pytest.raises(
        DataError, match=r"shards.partial was removed while its shards were cut; run `mc3 shards` again"
    ):
        prepare.write_shard(job)


def test_a_linked_folder_of_shards_stays_a_link_to_where_they_are(written: Config, again: Config, tmp_path: Path):
    (tmp_path / "disk" / "clips").mkdir(parents=True)
    again.paths.shards.symlink_to(tmp_path / "disk" / "clips", target_is_directory=True)
    for _ in range(2):
        prepare.write(again)
        assert again.paths.shards.is_symlink()
        assert contents(tmp_path / "disk" / "clips") == contents(written.paths.shards)
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["clips"]


def test_a_kill_while_shards_are_joined_cuts_none_again(written: Config, again: Config, monkeypatch):
    child = multiprocessing.get_context("fork").Process(target=killed_while_joining, args=(again,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    monkeypatch.setattr(prepare, "_cut", lambda *_: pytest.fail("a finished shard is cut again"))
    assert contents(prepare.write(again)) == contents(written.paths.shards)
    assert not (again.paths.work / "shards.partial").exists()


def killed_while_joining(config: Config) -> None:
    prepare.rows_of = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    prepare.write(config)


@pytest.mark.parametrize(
    ("number", "reason"),
    [(signal.SIGKILL, "one of 2 processes was killed"), (signal.SIGSTOP, r"at work on .*\.tar have finished nothing")],
)
def test_a_process_that_is_killed_or_hangs_ends_the_cutting_in_a_sentence(again: Config, monkeypatch, number, reason):
    monkeypatch.setattr(prepare, "PATIENCE_SEC", 2.0)
    monkeypatch.setattr(prepare, "PATIENCE_SEC_PER_CLIP", 0.0)
    monkeypatch.setattr(prepare, "members_of", lambda *_: os.kill(os.getpid(), number) or {})
    before = psutil.Process().children()  # of other tests
    with pytest.raises(DataError, match=reason):
        prepare.write(override(again, {"clips.workers": 2}))
    assert set(psutil.Process().children()) <= set(before)


def test_a_shard_of_another_size_than_its_done_marker_says_is_written_again(again: Config):
    job = jobs_of(again)[0]
    prepare.write_shard(job)
    whole = job.path.read_bytes()
    job.path.write_bytes(whole[:5000])
    prepare.write_shard(job)
    assert job.path.read_bytes() == whole


def test_a_video_that_fails_midway_leaves_no_trace_in_its_shard(again: Config, monkeypatch):
    job = next(job for job in jobs_of(again) if len({row["video_uid"] for row in job.rows}) > 1)
    victim = job.rows[0]["video_uid"]
    others = dataclasses.replace(job, rows=[row for row in job.rows if row["video_uid"] != victim])
    kept = prepare.write_shard(others)
    without = job.path.read_bytes()
    made, members_of = [], prepare.members_of

    def third_is_bad(clip, clips):
        made.append(clip)
        if len(made) == 3:
            raise DataError("the file is damaged here")
        return members_of(clip, clips)

    monkeypatch.setattr(prepare, "members_of", third_is_bad)
    mark = prepare.write_shard(job)
    assert len(made) > 3
    assert job.path.read_bytes() == without
    assert mark["records"] == kept["records"]
    assert [(f["video_uid"], f["reason"]) for f in mark["failures"]] == [(victim, "the file is damaged here")]
    with tarfile.open(job.path) as tar:
        assert len(tar.getnames()) == 3 * len(kept["records"])


def test_the_clips_of_a_long_video_are_not_held_in_memory(again: Config, monkeypatch):
    job, members_of = jobs_of(again)[0], prepare.members_of
    rows = [job.rows[0] | {"clip_id": f"c{i}", "start_sec": i / 50, "end_sec": i / 50 + 0.5} for i in range(300)]
    live, most = weakref.WeakSet(), []

    class Members(dict):
        __hash__ = object.__hash__

    def counted(clip, clips):
        members = Members(members_of(clip, clips))
        live.add(members)
        most.append(len(live))
        return members

    monkeypatch.setattr(prepare, "members_of", counted)
    mark = prepare.write_shard(dataclasses.replace(job, rows=rows))
    assert len(mark["records"]) == len(most) == 300
    assert max(most) <= 2


def test_every_video_is_opened_once(again: Config, monkeypatch):
    opened = Mock(wraps=av.open)
    monkeypatch.setattr(av, "open", opened)
    for job in jobs_of(again):
        prepare.write_shard(job)
    table = manifest.read(again.paths.work / "manifest.parquet")
    videos = table.loc[table["dataset"] == "ego4d", "path"].unique()
    paths = [call.args[0] for call in opened.call_args_list]
    assert sorted(paths) == sorted(f"file:{again.paths.raw / path}" for path in videos)


def test_two_submitted_tasks_together_write_the_shards_of_one_process(written: Config, again: Config, capfd):
    folder = submit.submit(again, 2, {"partition": "cpu"})
    assert contents(folder) == contents(written.paths.shards)
    printed = capfd.readouterr().out
    assert "2 tasks on local" in printed
    assert "core-hours" in printed
    assert all((again.paths.work / "runs" / "prepare" / f"rank-{rank}.json").exists() for rank in range(2))


def test_a_failed_task_is_named_with_its_log_and_the_rest_is_kept(again: Config):
    (again.paths.work / "runs" / "prepare" / "rank-1.json").mkdir(parents=True)  # cannot be written
    with pytest.raises(DataError) as error:
        submit.submit(again, 2, {})
    message = r"1 of 2 tasks failed \(rank 1: IsADirectoryError.*see (\S+\.err)\); .*is kept"
    assert "IsADirectoryError" in Path(re.search(message, str(error.value))[1]).read_text()
    assert list((again.paths.work / "shards.partial").glob("*.json"))
    assert not again.paths.shards.exists()


def test_slurm_is_given_the_parameters(again: Config, tmp_path: Path, monkeypatch):
    submitted = f'cp "$1" {tmp_path}/submitted.sh; echo Submitted batch job 77'
    cancelled = f'echo "$@" >> {tmp_path}/cancelled'
    programs = small_work.scripts(tmp_path / "bin", sbatch=submitted, srun="", scancel=cancelled)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(submit, "_watch", Mock(side_effect=KeyboardInterrupt))
    given = {"partition": "cpu", "time": 600, "mem": "8GB", "account": "sounds"}
    with pytest.raises(KeyboardInterrupt):
        submit.submit(again, 3, given)
    given |= {"job-name": "mc3-shards", "array": "0-2%3", "cpus-per-task": again.clips.workers}
    lines = (tmp_path / "submitted.sh").read_text().splitlines()
    assert {f"#SBATCH --{name}={value}" for name, value in given.items()} <= set(lines)
    assert (tmp_path / "cancelled").read_text().split() == ["77_0", "77_1", "77_2"]
    with pytest.raises(ConfigError, match=r"--slurm: .*colour"):
        submit.submit(again, 3, {"colour": "red"})
    small_work.scripts(programs, sbatch="echo invalid partition specified: cpu >&2; exit 1")
    with pytest.raises(ConfigError, match=r"SLURM refused the tasks.*invalid partition specified: cpu"):
        submit.submit(again, 3, {"partition": "cpu"})


def cut(settings: Config, arguments: str) -> int:
    path = settings.paths.work / "params.yaml"
    path.write_text(yaml.safe_dump(config.as_dict(settings)))
    return cli.main(["shards", "--config", str(path), *arguments.split()])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [("--rank 0", "go together"), ("--rank 2 --world 2", "rank 2 is not one of a world of 2"),
     ("--submit 0", "one or more"), ("--submit 2 --rank 0 --world 2", "makes their ranks itself"),
     ("--slurm partition=cpu", "goes with --submit"), ("--submit 2 --slurm partition", "KEY=VALUE")],
)  # fmt: skip
def test_contradicting_arguments_are_refused(again: Config, capsys, arguments: str, message: str):
    assert cut(again, arguments) == 1
    assert message in capsys.readouterr().err


def test_the_command_cuts_a_rank(again: Config):
    assert cut(again, "--rank 1 --world 2") == 0
    names = {job.path.name for job in prepare.share(jobs_of(again), 1, 2)}
    assert {path.name for path in (again.paths.work / "shards.partial").glob("*.tar")} == names
