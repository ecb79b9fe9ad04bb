"""Commands around the paper's tables: sweeps, and checks on other data."""

from __future__ import annotations

import argparse
from pathlib import Path

from mc3 import methods
from mc3.cli.parser import SEED, Group, check_exists, check_name, load_config, option
from mc3.errors import ConfigError

GROUP = Group("experiments")
INCOMPLETE = 75  # sysexits.h EX_TEMPFAIL: run it again


@GROUP.command(
    "mc3 sweep ablations --hours 1",
    option("name", nargs="?", help="of experiments/NAME.yaml; without one, the sweeps are listed"),
    option("--list", action="store_true", help="list the sweeps"),
    option("--seeds", type=int, nargs="+", help="instead of the sweep's"),
    option("--hours", type=float, help="begin no training that would end later"),
    option("--processes", type=int, metavar="N",
           help="trainings at once, each with its share of train.threads (default: one a thread; one where a GPU is)"),
)  # fmt: skip
def sweep(args: argparse.Namespace) -> int:
    """Train methods under other settings and seeds, as experiments/NAME.yaml says; continues where it stopped."""
    known = sorted(path.stem for path in Path("experiments").glob("*.yaml") if path.stem != "dvc")
    if args.name is None or args.list:
        for name in known:
            text = Path("experiments", f"{name}.yaml").read_text()
            about = next((line for line in text.splitlines() if line.startswith("about: ")), "about: ")
            print(f"{name:12}{about.removeprefix('about: ')}")
        return 0
    check_name("sweep", args.name, "experiments", known)
    if args.processes is not None and args.processes < 1:
        raise ConfigError(f"--processes {args.processes}: one process or more")
    config = load_config(args)
    import torch

    from mc3.paper import sweep

    processes = args.processes or (1 if torch.cuda.is_available() else config.train.threads)
    complete = sweep.run(args.name, config, args.seeds, processes, args.hours)
    return 0 if complete else INCOMPLETE


@GROUP.command(
    "mc3 transfer ESC-50",
    option("folder", type=Path, help="the top of ESC-50 or ESC-10, as published"),
    option("--seed", type=int, default=0, help="of the checkpoints (default: 0)"),
    option("--full-size", action="store_true", help="also an untrained encoder of the paper's size: minutes"),
)
def transfer(args: argparse.Namespace) -> None:
    """Probe the audio encoders on real recordings (ESC-10) beside log-mel statistics."""
    check_exists(args.folder)
    config = load_config(args)
    from mc3.extra import transfer

    table = transfer.run(config, args.folder, args.seed, args.full_size)
    print(table.drop(columns="clips").round(3).to_string(index=False))


@GROUP.command(
    "mc3 narrated --events EPIC_Sounds_validation.csv --narrations EPIC_100_validation.csv",
    option("--events", type=Path, required=True, metavar="CSV", help="EPIC-Sounds' events with classes"),
    option("--narrations", type=Path, required=True, metavar="CSV", help="EPIC-100's narrated actions"),
    option("--verbs", type=Path, metavar="CSV", help="EPIC_100_verb_classes.csv, to check verb classes with"),
    option("--nouns", type=Path, metavar="CSV", help="EPIC_100_noun_classes_v2.csv, likewise"),
    option("--info", type=Path, metavar="CSV", help="EPIC_100_video_info.csv, for the ends of videos"),
    option("--table", type=Path, metavar="CSV", default=Path("data/epic/verb_sounds.csv"),
           help="which sounds an action of each verb class makes (default: data/epic/verb_sounds.csv)"),
    option("--iou", type=float, default=0.1, help="temporal IoU from which a compatible event counts (default: 0.1)"),
    option("--checkpoint", type=Path, metavar="FOLDER", help="score this checkpoint too; needs --audio"),
    option("--audio", type=Path, help="EPIC-Sounds' HDF5 file, or a folder with a file a video"),
    option("--videos", type=Path, metavar="FOLDER", help="the videos, for the audio-video score"),
    option("--out", type=Path, default=Path("figures/epic_narrations.csv"), metavar="CSV",
           help="scores; more is written beside it (default: figures/epic_narrations.csv)"),
)  # fmt: skip
def narrated(args: argparse.Namespace) -> None:
    """Ask whether narrated actions sound, on EPIC-KITCHENS-100's narrations and EPIC-Sounds' events.

    Labels, chance, audio-free baselines and figures need the annotations alone; docs/epic.md explains them.
    """
    for file in (args.events, args.narrations):
        check_exists(file)
    config = load_config(args)
    from mc3.extra import narrated

    narrated.run(
        config, args.events, args.narrations, args.out, verbs=args.verbs, nouns=args.nouns, info=args.info,
        table=args.table, threshold=args.iou, checkpoint=args.checkpoint, audio=args.audio, videos=args.videos,
    )  # fmt: skip
    print(f"{args.out} and, beside it, shares by verb, labels, figure and provenance")


LEVELS = (
    ("--sls-pt", 2, "pre-training: 0 none, 1 on public images, 2 on public images and videos, 3 self-supervised on "
     "public data, 4 the same with EPIC-KITCHENS' videos, 5 on private data"),
    ("--sls-tl", 3, "training labels: 0 none, 1 of whole videos, 2 single timestamps, 3 start and end times, 4 "
     "also where in the picture, 5 also other knowledge of the classes"),
    ("--sls-td", 3, "training data: 0 none, 1 up to five examples a class, 2 up to a quarter, 3 training "
     "split, 4 training and validation, 5 more than these"),
    ("--t-mod", 0, "what the model was trained on: 0 audio, 1 video, 2 both"),
)  # fmt: skip


@GROUP.command(
    "mc3 submission --method mc3 --seed 0 --protocol fine-tune --out mc3.zip",
    option("--method", required=True, help="a row of mc3/methods.py that was probed, or untrained"),
    SEED,
    option("--protocol", default="linear-probe", help="linear-probe, linear-probe-official or fine-tune"),
    option("--out", required=True, type=Path, metavar="ZIP", help="where to write it"),
    *(option(name, type=int, default=level, metavar="N", help=f"{text} ({level})") for name, level, text in LEVELS),
)
def submission(args: argparse.Namespace) -> None:
    """Write the scores of EPIC-Sounds' test events as a submission to its recognition challenge."""
    config = load_config(args)
    if args.method != "untrained":
        methods.get(args.method)
    from mc3.extra import submission

    levels = {name: getattr(args, name) for name in submission.LEVELS}
    print(submission.write(config, args.method, args.seed, args.protocol, levels, args.out))
