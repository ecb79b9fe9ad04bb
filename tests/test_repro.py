"""`mc3 repro`: which stage runs, how long the rest takes, and DVC's own output and exit code."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml
from conftest import ROOT
from test_cli import python

from mc3 import cli, files
from mc3.paper import repro


def test_progress_counts_every_stage_and_shows_the_time_that_is_left_at_most_where_it_is_known():
    clock = Mock(return_value=0)
    progress = repro.Progress({"raw": 60, "train": 20, "embed": 30, "report": 5}, clock)
    assert progress.read("Stage 'raw' didn't change, skipping\n") is None
    clock.return_value = 2
    assert progress.read("Running stage 'embed':\n") == "[2/4] embed · 0:02 elapsed · about 0:55 left"
    assert progress.read("> mc3 embed\n") is None
    assert progress.read("Running stage 'of something else':\n") is None
    clock.return_value = 62  # twice the typical 30 s, so the rest is expected to take twice as long too
    assert progress.read("Running stage 'train':\n") == "[3/4] train · 1:02 elapsed · about 0:50 left"
    progress.end()
    assert progress.took == {"embed": 60, "train": 0}
    unknown = repro.Progress({"raw": 0, "report": 0}, Mock(return_value=0))
    assert unknown.read("Running stage 'raw':\n") == "[1/2] raw · 0:00 elapsed"


def test_the_stages_are_those_that_dvc_lists(monkeypatch):
    monkeypatch.chdir(ROOT)
    listed = subprocess.check_output([sys.executable, "-m", "dvc", "stage", "list", "--name-only"], text=True)
    assert repro.stages() == listed.split()


@pytest.fixture
def pipeline(repository, mini_settings) -> Callable[[dict], None]:
    """Writes dvc.yaml with the given stages; the work folder of the settings is work/."""
    mini_settings["paths"]["work"] = "work"
    Path("params.yaml").write_text(yaml.safe_dump(mini_settings))
    Path(".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", ".dvc")
    return lambda stages: Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))


def test_repro_shows_the_stages_and_their_own_output_and_passes_dvcs_exit_code_on(repository, pipeline):
    stages = {"first": {"cmd": "printf 'half a line' && echo ' and its end' && echo a > a", "outs": ["a"]}}
    stages["second"] = {"cmd": "cp a b", "deps": ["a"], "outs": ["b"]}
    pipeline(stages)
    (repository / ".gitignore").write_text("work/\n")
    first = python("-m", "mc3.cli", "repro", cwd=repository)
    assert first.returncode == 0, first.stderr
    lines = first.stdout.splitlines()
    assert lines[0] == "2 stages; those that are up to date are skipped"
    (begun,) = [number for number, line in enumerate(lines) if line.startswith("[1/2] first · 0:0")]
    assert lines.index("half a line and its end") > begun
    assert any(line.startswith("[2/2] second · 0:0") for line in lines)
    assert lines[-1].startswith("2 of 2 stages ran in 0:0")
    assert set(yaml.safe_load(Path("work/timings.json").read_text())) == {"first", "second"}

    stages["second"]["cmd"] = "false"
    pipeline(stages)
    failed = python("-m", "mc3.cli", "repro", cwd=repository)
    assert failed.returncode != 0
    assert "[2/2] second" in failed.stdout
    assert "[1/2]" not in failed.stdout


def test_released_weights_are_fetched_before_the_stages_that_would_make_them(repository, pipeline):
    stages = {
        name: {"cmd": f"mkdir -p work/{out} && echo {name} > work/{out}/a && echo ran >> {name}.log",
               "outs": [{f"work/{out}": {"remote": "release"}}]}
        for name, out in (("pretrain", "pretrained"), ("train", "checkpoints"))
    }  # fmt: skip
    pipeline(stages)
    Path("data/release").mkdir(parents=True)
    made = python("-m", "mc3.cli", "repro", cwd=repository)
    assert "no released weights of these settings; they are trained now" in made.stdout
    subprocess.run([sys.executable, "-m", "dvc", "push", "-q", "pretrain", "train"], check=True)
    assert list(Path("data/release").rglob("*.dir"))
    for folder in ("work", ".dvc/cache"):
        shutil.rmtree(folder)
    fetched = python("-m", "mc3.cli", "repro", cwd=repository)
    assert fetched.returncode == 0, fetched.stderr
    assert "released weights fetched" in fetched.stdout
    assert "0 of 2 stages ran" in fetched.stdout
    assert [Path(f"{name}.log").read_text() for name in stages] == ["ran\n", "ran\n"]
    assert Path("work/checkpoints/a").read_text() == "train\n"


def test_a_second_repro_says_that_the_first_runs_and_what_a_killed_one_left_stops_none(repository, pipeline, capsys):
    pipeline({"first": {"cmd": "touch begun && sleep 600", "outs": ["begun"]}})
    Path(".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    command = [sys.executable, "-m", "dvc", "repro"]
    locked = Path(".dvc/tmp/rwlock")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as first:
        try:
            deadline = time.monotonic() + 60
            while not Path("begun").exists():
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert cli.main(["repro"]) == 1
        finally:
            os.killpg(first.pid, signal.SIGKILL)
    running = f"mc3: another DVC (process {first.pid}) is at work here; wait for it or stop it"
    assert capsys.readouterr().err.startswith(running)
    for damage in ("", locked.read_text(), locked.read_text().replace(str(first.pid), str(os.getpid()))):
        locked.write_text(damage)  # cut short; of a process that is gone; or whose number is now another's
        repro._check_free(locked)
        assert not locked.exists()
    with files.lock(Path(".dvc/tmp/mc3-repro.lock"), ""):
        third = python("-m", "mc3.cli", "repro", cwd=repository)
    assert third.stderr == "mc3: another `mc3 repro` runs here; wait for it or stop it\n"


@pytest.mark.parametrize("link", [True, False])
def test_a_work_folder_on_another_disk_is_refused_first(repository, mini_settings, tmp_path, link, capsys):
    disk = tmp_path / "disk"
    disk.mkdir()
    if link:
        Path("data").symlink_to(disk)
    mini_settings["paths"]["work"] = "data/mini" if link else str(disk)
    Path("params.yaml").write_text(yaml.safe_dump(mini_settings))
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"first": {"cmd": "echo a > a", "outs": ["a"]}}}))
    assert cli.main(["repro"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("mc3: paths.work, ")
    assert "clone the repository onto the disk" in error
    assert not Path("a").exists()
