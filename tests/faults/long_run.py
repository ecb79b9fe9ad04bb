"""A training of thousands of steps: memory, open files and states stay as they are; the log has every step."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import psutil
import small_training
import small_work
import yaml

from faults.inject import Outcome
from faults.stages import Running, Stage
from mc3 import config

GROWTH = 0.05  # of memory, from the first tenth of a run to its last


def run(folder: Path, steps: int) -> Outcome:
    """Train `steps` steps of 20 an epoch, and look at the process about once a second."""
    top = folder / "top"
    top.mkdir(parents=True)
    small_training.make_shards(folder / "shards", train_clips=280)
    settings = small_training.settings(small_work.mini(top / "work"), folder / "shards")
    settings["train"] |= {"epochs": {"pretrain": 1, "align": steps // 20, "refine": 1}, "checkpoint_every": 100}
    settings["train"]["log_every"] = 10
    (top / "params.yaml").write_text(yaml.safe_dump(settings))
    running = Running(Stage("train", ["train", "--method", "align"], top, ()), top)
    run_folder = config.load(top / "params.yaml").paths.run("align", 0)
    memory, handles, states = list[int](), list[int](), list[int]()
    while running.process.is_alive():
        running.process.join(1.0)
        with suppress(psutil.Error):  # it may have ended just now
            process = psutil.Process(running.process.pid)
            looked = process.memory_info().rss, process.num_fds()
            memory.append(looked[0])
            handles.append(looked[1])
        found = len(list(run_folder.glob("state-*.pt")))
        if not (top / "work" / "checkpoints" / "align-0").exists():  # after which none is needed
            states.append(found)
    code, tenth = running.end(), max(1, len(memory) // 10)
    early, late = max(memory[tenth : 3 * tenth]), max(memory[-tenth - 1 : -1])
    lines = (top / "work" / "checkpoints" / "align-0" / "metrics.jsonl").read_text().splitlines() if not code else []
    seen = [row["step"] for row in map(json.loads, lines) if "loss" in row]
    begun = next((look for look, found in enumerate(states) if found), 0)
    print(f"{steps} steps in {len(memory)} looks: memory {early / 1e6:.0f} to {late / 1e6:.0f} MB, "
          f"handles {min(handles[tenth:-1])} to {max(handles[tenth:-1])}, "
          f"states {min(states[begun:])} to {max(states)}")  # fmt: skip
    faults = {
        f"exit code {code}": code,
        "memory grew": late > (1 + GROWTH) * early,
        "handles grew": max(handles[-tenth - 1 : -1]) > max(handles[tenth : 3 * tenth]),
        "more than two states and the one being written": max(states) > 3,
        "no state was left": min(states[begun:]) < 1,
        "steps are missing from the log": seen != [*range(1, steps + 1)],
    }
    return Outcome("long run", "train", steps, "; ".join(what for what, wrong in faults.items() if wrong))
