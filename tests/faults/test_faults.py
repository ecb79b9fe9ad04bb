"""A short part of `make faults`: each kind of fault once, on the quick stages of the tiny pipeline."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
from small_work import ROOT


def test_a_few_kills_a_full_disk_and_two_of_everything_lose_nothing(tmp_path: Path) -> None:
    short = ["--kills", "4", "--stages", "manifest", "shards", "--faults", "full", "limit", "twice", "hang"]
    command = [sys.executable, "-m", "faults", *short, "--steps", "0", "--out", str(tmp_path / "faults.csv")]
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    table = pd.read_csv(tmp_path / "faults.csv")
    assert table["lost"].sum() == 0
    assert table["number"].equals(table["equal"])
    assert table.groupby("fault")["number"].sum()[lambda struck: struck > 0].size >= 4
