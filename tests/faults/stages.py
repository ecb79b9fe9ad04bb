"""The stages of a tiny pipeline, each with a folder as it is before the stage, and what an unbroken run makes of it."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import chdir, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import small_work
import torch
import yaml

# Commands start without the seconds that imports take: each is a fork of a server that has done them.
fresh = multiprocessing.get_context("forkserver")
MODULES = ("cli.commands", "train", "embed", "objectives.base", "world", "data.manifest", "data.prepare",
           "paper.pretrain", "paper.probe", "paper.jobs", "paper.sweep", "paper.notebook", "paper.report")  # fmt: skip
fresh.set_forkserver_preload([f"mc3.{name}" for name in MODULES])
VOLATILE = ("runs", "executed", "timings.json", "__pycache__")  # what depends on the clock
ENDS_SEC = 20.0  # in which the processes of a killed one must have ended


@dataclass
class Stage:
    """A command, the folder before it, and the files after it by their hashes."""

    name: str
    argv: list[str]
    before: Path
    inputs: tuple[str, ...]  # patterns of the files that it reads
    processes: int = 1  # started by a launcher
    after: dict[str, str] = field(default_factory=dict)
    grown: int = 0  # bytes of its outputs
    seconds: float = 0.0


class Running:
    """A command at work in a session of its own; its output and temporary files lie apart from `top`."""

    def __init__(self, stage: Stage, top: Path, patch: Callable[[], None] | None = None, name: str = "log") -> None:
        folder = stage.before.parent / "logs" / top.parent.name
        self.stage, self.log, self.temporary = stage, folder / name, folder / "tmp"
        self.temporary.mkdir(parents=True, exist_ok=True)
        self.log.write_text("")
        self.process = fresh.Process(target=_work, args=(stage, top, self.log, self.temporary, patch))
        self.process.start()

    def tree(self) -> list[psutil.Process]:
        """The command's process and those that it has started, itself first."""
        try:
            own = psutil.Process(self.process.pid)
            return [own, *own.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self, how: str, rng: random.Random) -> list[psutil.Process]:
        """kill -9 of the "parent" alone, of the "group", or of one "process" of them; returns those that were there."""
        tree = self.tree()
        if not tree:
            return []
        chosen = {"parent": tree[:1], "group": tree, "process": [rng.choice(tree)]}[how]
        for process in chosen:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return tree

    def end(self, timeout: float = 300.0) -> int:
        """The exit code; a command that does not end in time is killed, which is -9."""
        self.process.join(timeout)
        if self.process.is_alive():
            self.kill("group", random.Random())
            self.process.join()
        return int(self.process.exitcode or 0)

    def error(self) -> list[str]:
        """The lines of its output that are an error: the sentence, or a traceback."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if line.startswith(("mc3: ", "Traceback", "Fatal Python error"))]


def _work(stage: Stage, top: Path, log: Path, temporary: Path, patch: Callable[[], None] | None) -> None:
    os.setsid()
    os.chdir(top)
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ["TMPDIR"], tempfile.tempdir = str(temporary), None
    torch.set_num_threads(1)
    if patch:
        patch()
    if stage.processes == 1:
        sys.exit(_command(stage.argv))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=_rank, args=(stage, rank, port)) for rank in range(stage.processes)]
    for rank in ranks:
        rank.start()
    while any(rank.is_alive() for rank in ranks):  # as launchers do: one that fails ends all
        if any(rank.exitcode for rank in ranks):
            for rank in ranks:
                rank.kill()
        time.sleep(0.05)
    sys.exit(max(abs(rank.exitcode or 0) for rank in ranks))


def _rank(stage: Stage, rank: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(stage.processes)}
    os.environ |= {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    code = _command(stage.argv)
    torch.distributed.destroy_process_group()
    sys.exit(code)


def _command(argv: Sequence[str]) -> int:
    from mc3 import cli

    return cli.main(argv)


def files(top: Path) -> dict[str, str]:
    """Hashes of all files of a folder by name, without those that depend on the clock, and without locks."""
    found = {}
    for path in sorted(top.rglob("*")):
        name = path.relative_to(top)
        if path.is_file() and not set(VOLATILE) & set(name.parts) and path.suffix != ".lock":
            found[name.as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def size(top: Path) -> int:
    """Bytes of all files of a folder."""
    return sum(path.stat().st_size for path in top.rglob("*") if path.is_file())


def clone(stage: Stage, folder: Path) -> Path:
    """A new copy, below `folder`, of the folder as it is before a stage."""
    top = Path(tempfile.mkdtemp(prefix=f"{stage.name.replace(' ', '-')}-", dir=folder)) / "top"
    return Path(shutil.copytree(stage.before, top, symlinks=True))


def settings() -> dict[str, Any]:
    """The mini profile with encoders of width 16 and a world of seconds, in work/."""
    found = small_work.tiny(small_work.mini(Path("work")))
    found["paths"]["raw"] = found["source"]["out"] = "work/world"
    found["world"] |= {
        "videos": {"train": 3, "validation": 1, "test": 1}, "silent_videos": 1, "seconds": 15.0, "workers": 2,
        "epic_events": {"train": 40, "validation": 30},
    }  # fmt: skip
    found["clips"] |= {"workers": 2, "clips_per_shard": 5}
    found["train"] |= {
        "epochs": {"pretrain": 1, "align": 3, "refine": 2}, "batch_size": 6, "checkpoint_every": 1, "log_every": 1,
        "warmup_steps": 1, "precision": "no",
    }  # fmt: skip
    found["pretrain"] = {"world.seed": 1, "world.videos": {"train": 3, "validation": 1, "test": 1}}
    found["probe"] |= {"ssast": None}
    found["probe"]["linear"]["epochs"] = 2
    found["probe"]["finetune"]["epochs"] = found["probe"]["official"]["epochs"] = 1
    return found


SWEEP = {
    "about": "two rates", "methods": ["clap"], "seeds": None, "base": {}, "align": "shared", "measure": ["validation"],
    "settings": {"rate": {str(r): {"train.learning_rate": r} for r in (1e-3, 2e-3)}}, "reference": None,
    "choose": False, "keep": True,
}  # fmt: skip
PLAN: list[tuple[str, list[str], tuple[str, ...], int]] = [
    ("world", ["world"], (), 1),
    ("manifest", ["manifest"], ("work/world/*.json", "work/world/*.csv"), 1),
    ("shards", ["shards"], ("work/world/v2/**/*.mp4", "work/manifest.parquet"), 1),
    ("train", ["train", "--method", "align"], ("work/shards/*.tar",), 1),
    ("train, 2 processes", ["train", "--method", "clap"], ("work/shards/*.tar",), 2),
    ("sweep", ["sweep", "x", "--processes", "2"], ("work/shards/*.tar", "work/checkpoints/align-0/final/*"), 1),
    ("embed", ["embed", "--method", "align"], ("work/shards/*.tar", "work/checkpoints/align-0/final/*"), 1),
    ("probe", ["probe"], ("work/shards/*.tar", "work/checkpoints/*/final/*"), 1),
    ("pretrain", ["pretrain"], (), 1),
]
DRAWN: list[tuple[str, list[str], tuple[str, ...], int]] = [
    ("notebook", ["notebook", "data"], ("mini/shards/*", "mini/manifest.parquet"), 1),
    ("report", ["report"], ("figures/*.csv",), 1),
]


def build(folder: Path, names: Sequence[str] = ()) -> dict[str, Stage]:
    """Run the pipeline unbroken in `folder`/unbroken, as far as the stages `names` (all) need it; returns these."""
    from mc3 import config, methods

    folder.mkdir(parents=True, exist_ok=True)
    first = fresh.Process(target=int)  # starts the server, which must not count as a stage's time
    first.start()
    first.join()
    made: dict[str, Stage] = {}
    wanted = list(names) or [name for name, *_ in (*PLAN, *DRAWN)]

    def add(top: Path, plan: list[tuple[str, list[str], tuple[str, ...], int]]) -> None:
        last = max((i for i, (name, *_) in enumerate(plan) if name in wanted), default=-1)
        for name, argv, inputs, processes in plan[: last + 1]:
            if name == "probe":
                with chdir(top):
                    loaded = config.load("params.yaml")
                    small_work.initial(loaded, [n for n in methods.METHODS if not loaded.paths.final(n, 0).exists()])
            before = Path(shutil.copytree(top, folder / f"before {name}", symlinks=True))
            stage, began = Stage(name, argv, before, inputs, processes), time.monotonic()
            running = Running(stage, top)
            if running.end(1800):
                raise RuntimeError(f"the unbroken run of {name} failed:\n{running.log.read_text()}")
            stage.seconds, stage.after = time.monotonic() - began, files(top)
            stage.grown = max(0, size(top) - size(before))
            if name in wanted:
                made[name] = stage

    if set(wanted) & {name for name, *_ in PLAN}:
        top = folder / "unbroken"
        (top / "experiments").mkdir(parents=True)
        (top / "params.yaml").write_text(yaml.safe_dump(settings()))
        (top / "experiments" / "x.yaml").write_text(yaml.safe_dump(SWEEP))
        shutil.copy(small_work.ROOT / "requirements.lock", top)
        add(top, PLAN)
    if set(wanted) & {name for name, *_ in DRAWN}:
        add(_drawn(folder / "drawn"), DRAWN)
    return made


def _drawn(top: Path) -> Path:
    """A repository's top with results of all methods, from which pages are drawn."""
    from mc3 import config
    from mc3.paper import bootstrap, claims, notebook, report, tables

    params = small_work.make(top)
    content = yaml.safe_load(params.read_text())
    for name in ("raw", "shards", "work"):
        content["paths"][name] = str(Path(content["paths"][name]).relative_to(top))
    content["source"]["out"] = content["paths"]["raw"]
    params.write_text(yaml.safe_dump(content, sort_keys=False))
    shutil.copytree(small_work.ROOT / "notebooks", top / "notebooks", ignore=shutil.ignore_patterns(".*"))
    for name in ("requirements.lock", "dvc.yaml"):
        shutil.copy(small_work.ROOT / name, top)
    shutil.copytree(small_work.ROOT / "experiments", top / "experiments")
    (top / "docs").mkdir()
    shutil.copy(small_work.ROOT / "docs" / "leaderboard.csv", top / "docs")
    figures = Path("figures")
    with chdir(top):
        (figures / "report").mkdir(parents=True)
        small = config.load("params.yaml")
        for stem, make in zip(report.TABLES, (tables.table2, tables.table3, tables.table4), strict=True):
            make(small).to_csv(figures / f"{stem}.csv", index=False)
        measured = bootstrap.measure(small, draws=20)
        claims.table(claims.checks(measured)).to_csv(figures / "claims.csv", index=False)
        bootstrap.differences(measured).to_csv(figures / "differences.csv", index=False)
        notebook.sources(Path("notebooks"), small.paths.work / "sources")
        for name in notebook.pages([notebook.PIPELINES[0]]):
            (figures / "report" / f"{name}.html").touch()
    return top
