"""The `mc3` command: one subcommand a step of the pipeline.

Imports happen inside the commands, so that `mc3 --help` answers at once and a step loads only
what it needs. What the user can put right (a setting, a file, a method's name) is answered with
one line on stderr and exit code 1; anything else is a fault of this program and shows a traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mc3 import __version__

Command = Callable[[argparse.Namespace], int | None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit code: 0, or 1 after a one-line error."""
    args = parser().parse_args(argv)
    try:
        code = args.command(args) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of our output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        message = _message(error)
        if message is None or args.debug:
            raise
        print(f"mc3: {message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mc3: stopped; the same command goes on from the last finished step", file=sys.stderr)
        return 130


def _message(error: Exception) -> str | None:
    """The one line for an error that the user can put right; None for any other."""
    from mc3.errors import ConfigError, DataError, NotebookError

    if isinstance(error, ConfigError | DataError | NotebookError):
        return " ".join(str(error).split())
    if isinstance(error, FileNotFoundError):
        if error.errno is None:
            return " ".join(str(error).split())
        return f"{error.filename} is missing; --debug shows where it was wanted"
    return None


def _load(args: argparse.Namespace) -> Any:
    from mc3 import config

    return config.load(args.config)


def _method(args: argparse.Namespace) -> str:
    from mc3 import methods

    return methods.get(args.method).name


def profile(args: argparse.Namespace) -> None:
    """Make profiles/NAME.yaml the settings in use."""
    from mc3 import config

    folder = Path("profiles")
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if args.name not in names:
        where = f"known: {', '.join(names)}" if names else f"no {folder}/*.yaml here; run it at the repository's top"
        raise config.ConfigError(f"no profile {args.name!r}; {where}")
    source, target = folder / f"{args.name}.yaml", Path(args.config)
    config.load(source)
    part = target.with_name(target.name + ".part")
    part.write_bytes(source.read_bytes())
    part.replace(target)
    print(f"{target} is now profile {args.name}; `mc3 repro` runs what that changes")


def source(args: argparse.Namespace) -> int:
    """Run the command that the profile names as its source of raw data."""
    return main([*_load(args).source.command.split(), "--config", args.config])


def world(args: argparse.Namespace) -> None:
    """Generate the small world in the real data sets' own files."""
    from mc3 import world

    world.write(_load(args))


def plan_ego4d(args: argparse.Namespace) -> None:
    """List the videos to download, from the annotations alone: how many, hours, sound or not, about how many bytes."""
    config = _load(args)
    from mc3.data import inventory

    inventory.plan(config)


def check_ego4d(args: argparse.Namespace) -> None:
    """Check the downloaded videos: missing, truncated, without sound, shorter than their annotations."""
    config = _load(args)
    from mc3.data import inventory

    inventory.write(config)


def check_epic_sounds(args: argparse.Namespace) -> None:
    """Check EPIC-Sounds' annotations and sound against each other; list the videos whose sound is needed."""
    config = _load(args)
    from mc3.data import epic_sounds

    epic_sounds.check(config)


def manifest(args: argparse.Namespace) -> None:
    """Read the publishers' annotations into one table of clips."""
    from mc3.data import manifest

    manifest.write(_load(args))


def shards(args: argparse.Namespace) -> None:
    """Cut the clips once and pack them; --rank or --submit spread it over machines."""
    import yaml

    from mc3.errors import ConfigError

    if (args.rank is None) != (args.world is None):
        raise ConfigError("--rank and --world go together: rank R of a world of W processes")
    if args.submit is not None and (args.submit < 1 or args.rank is not None):
        raise ConfigError("--submit takes how many tasks, one or more, and makes their ranks itself")
    pairs = [pair.partition("=") for pair in args.slurm]
    if args.slurm and (args.submit is None or not all(name and value for name, _, value in pairs)):
        raise ConfigError("--slurm takes KEY=VALUE and goes with --submit, e.g. --submit 16 --slurm partition=cpu")
    config = _load(args)
    from mc3.data import prepare, submit

    if args.submit is not None:
        submit.submit(config, args.submit, {name: yaml.safe_load(value) for name, _, value in pairs})
    elif args.rank is not None:
        prepare.write_share(config, args.rank, args.world)
    else:
        prepare.write(config)


def train(args: argparse.Namespace) -> None:
    """Train one method from one seed; with --dry-run say what that would take."""
    config, method = _load(args), _method(args)
    from mc3 import methods, objectives

    objectives.check(methods.get(method))  # before the heavy imports below
    if args.dry_run:
        import torch

        from mc3 import cost

        peak = 1e12 * args.peak_tflops if args.peak_tflops else None
        if peak is None and torch.cuda.is_available():
            peak = cost.peak_flops(torch.device("cuda"), config.train.precision)
        print(cost.plan(config, method, args.processes, peak))
        return
    from mc3 import train

    train.run(config, method, args.seed)


def embed(args: argparse.Namespace) -> None:
    """Embed the validation and test clips with one trained method, or with all that changed."""
    config = _load(args)
    method = _method(args) if args.method else None
    from mc3 import embed

    if method:
        embed.run(config, method, args.seed)
    else:
        embed.run_all(config, args.seed)


def discover(args: argparse.Namespace) -> None:
    """Find the moments of a video whose sound comes from what is done in the picture."""
    from mc3.model import MC3

    folder = args.checkpoint
    if folder is None:
        config = _load(args)
        folder = config.paths.work / "checkpoints" / f"mc3-{config.seeds[0]}" / "final"
    model = MC3.load(folder)
    from mc3 import discover

    table = discover.moments(model, args.video, args.every, texts=args.text)
    print(table.sort_values("similarity", ascending=False).head(args.top).round(3).to_string(index=False))
    if args.out:
        table.to_csv(args.out, index=False, float_format="%.6f")
        print(f"{len(table)} windows in {args.out}")


def probe(args: argparse.Namespace) -> None:
    """Classify EPIC-Sounds: linear probe and fine-tune."""
    config = _load(args)
    from mc3.paper import probe

    probe.run(config, args.seed)


def submission(args: argparse.Namespace) -> None:
    """Write the scores of EPIC-Sounds' test events as a submission to its recognition challenge."""
    config = _load(args)
    from mc3.extra import submission

    levels = {name: getattr(args, name) for name in submission.LEVELS}
    print(submission.write(config, args.method, args.seed, args.protocol, levels, args.out))


def transfer(args: argparse.Namespace) -> None:
    """Probe the audio encoders on real recordings, ESC-10, beside log-mel statistics."""
    config = _load(args)
    from mc3.extra import transfer

    table = transfer.run(config, args.folder, args.seed, args.full_size)
    print(table.drop(columns="clips").round(3).to_string(index=False))


def narrated(args: argparse.Namespace) -> None:
    """Score "does the narrated action sound?" on EPIC-KITCHENS-100's narrations and EPIC-Sounds' events.

    Labels, chance, baselines that hear nothing and figures need the annotations alone; docs/epic.md explains them.
    """
    config = _load(args)
    from mc3.extra import narrated

    narrated.run(
        config, args.events, args.narrations, args.out, verbs=args.verbs, nouns=args.nouns, info=args.info,
        table=args.table, threshold=args.iou, checkpoint=args.checkpoint, audio=args.audio, videos=args.videos,
    )  # fmt: skip
    print(f"{args.out} and, beside it, shares by verb, labels, figure and provenance")


def weights(args: argparse.Namespace) -> None:
    """Convert a checkpoint that others published to files that a profile's `init` can name."""
    config = _load(args)
    from mc3.encoders import weights

    for path in weights.write(args.file, args.kind, config.model, args.out):
        print(path)


def sources(args: argparse.Namespace) -> None:
    """Write the notebooks' canonical copies and each stage's code identity, which the stages depend on."""
    config = _load(args)
    from mc3.paper import notebook

    out = config.paths.work / "sources"
    copies = notebook.sources(Path("notebooks"), out)
    print(f"{len(copies)} canonical notebooks and {len(notebook.codes(config, out))} code identities in {out}")


def run_notebook(args: argparse.Namespace) -> None:
    """Execute one notebook from its canonical copy, and write its page of the report."""
    import yaml

    from mc3.errors import ConfigError

    try:
        parameters = {name: yaml.safe_load(value) for name, value in args.parameter}
    except yaml.YAMLError as error:
        raise ConfigError(f"-p takes a name and a YAML value: {error}") from None
    config = _load(args)
    from mc3.paper import notebook

    print(f"open {notebook.run(args.name, config, {'config': args.config, **parameters})}")


def report(args: argparse.Namespace) -> None:
    """Write the contents page of the report, the overview figure and metrics.json; or print the README's table."""
    config = _load(args)
    from mc3.paper import report

    print(report.readme_table() if args.table else f"open {report.write(config)}")


def compare(args: argparse.Namespace) -> int:
    """Compare the numbers in figures/ with the committed ones; with --tables show Tables 2 and 3 too."""
    from mc3.paper import compare

    differences = compare.run(Path("figures"), args.absolute, args.relative)
    if args.tables:
        compare.show(Path("figures"))
    return 1 if differences and args.strict else 0


def repro(args: argparse.Namespace) -> int:
    """Run every stage that is out of date, saying which one runs and how long is left."""
    config = _load(args)
    from mc3.paper import repro

    return repro.run(config, args.dvc)


def parser() -> argparse.ArgumentParser:
    """The command line of every step."""
    formatter = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        prog="mc3", formatter_class=formatter, description="MC3 (SoundingActions, CVPR 2024), step by step.",
        epilog="`mc3 repro` runs all steps that are out of date; `mc3 STEP --help` shows an example of each.",
    )  # fmt: skip
    top.add_argument("--version", action="version", version=f"mc3 {__version__}")
    steps = top.add_subparsers(title="steps", metavar="STEP", required=True)

    def group(under: Any, name: str, text: str) -> Any:
        return under.add_parser(name, help=text, description=text).add_subparsers(metavar="WHAT", required=True)

    def add(name: str, command: Command, example: str, config: bool = True, under: Any = None) -> Any:
        text = (command.__doc__ or "").strip()
        step = (under or steps).add_parser(
            name, help=text, description=text, epilog=f"example: {example}", formatter_class=formatter
        )
        step.set_defaults(command=command)
        if config:
            step.add_argument("--config", default="params.yaml", metavar="FILE", help="the settings (params.yaml)")
        step.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return step

    def add_seed(step: argparse.ArgumentParser) -> None:
        step.add_argument("--seed", type=int, required=True, help="one of the profile's seeds")

    add("profile", profile, "mc3 profile mini").add_argument("name", help="the name of a file in profiles/")
    add("source", source, "mc3 source")
    add("world", world, "mc3 world")
    data = group(steps, "data", "What a data set's publisher ships: what of it is needed, and whether it is whole.")
    ego4d = group(data, "ego4d", "Ego4D's videos: `plan` before the download, `check` after it.")
    add("plan", plan_ego4d, "mc3 data ego4d plan", under=ego4d)
    add("check", check_ego4d, "mc3 data ego4d check", under=ego4d)
    epic = group(data, "epic-sounds", "EPIC-Sounds' sound: whose is needed, and whether it fits the annotations.")
    add("check", check_epic_sounds, "mc3 data epic-sounds check", under=epic)
    add("manifest", manifest, "mc3 manifest")
    step = add("shards", shards, "mc3 shards --submit 16 --slurm partition=cpu time=600")
    step.add_argument("--rank", type=int, metavar="R", help="cut only what falls to process R of ...")
    step.add_argument("--world", type=int, metavar="W", help="... W processes; `mc3 shards` then joins what they cut")
    step.add_argument("--submit", type=int, metavar="N", help="cut as N SLURM tasks (here, without SLURM), then join")
    step.add_argument("--slurm", nargs="+", default=[], metavar="KEY=VALUE", help="sbatch's parameters for the tasks")
    step = add("train", train, "mc3 train --method mc3 --seed 0")
    step.add_argument("--method", required=True, help="a row of mc3/methods.py, or `align` for the shared first stage")
    add_seed(step)
    step.add_argument("--dry-run", action="store_true", help="only print parameters, steps, memory and hours")
    step.add_argument("--processes", type=int, default=1, help="of a dry run, a device each (default: 1)")
    step.add_argument("--peak-tflops", type=float, help="of a dry run's device (default: that of the GPU here)")
    step = add("embed", embed, "mc3 embed --seed 0")
    step.add_argument("--method", help="a row of mc3/methods.py, or `align`; without it all, as far as they changed")
    add_seed(step)
    add_seed(add("probe", probe, "mc3 probe --seed 0"))
    step = add("submission", submission, "mc3 submission --method mc3 --seed 0 --protocol fine-tune --out mc3.zip")
    step.add_argument("--method", required=True, help="a row of mc3/methods.py that was probed, or untrained")
    add_seed(step)
    step.add_argument("--protocol", default="linear-probe", help="linear-probe, linear-probe-official or fine-tune")
    step.add_argument("--out", required=True, type=Path, metavar="ZIP", help="where to write it")
    for name, default, meaning in (
        ("--sls-pt", 2, "pre-training: 0 none, 1 on public images, 2 on public images and videos, 3 self-supervised on "
         "public data, 4 the same with EPIC-KITCHENS' videos, 5 on private data"),
        ("--sls-tl", 3, "training labels: 0 none, 1 of whole videos, 2 single timestamps, 3 start and end times, 4 "
         "also where in the picture, 5 also other knowledge of the classes"),
        ("--sls-td", 3, "training data: 0 none, 1 up to five examples a class, 2 up to a quarter, 3 training "
         "split, 4 training and validation, 5 more than these"),
        ("--t-mod", 0, "what the model was trained on: 0 audio, 1 video, 2 both"),
    ):  # fmt: skip
        step.add_argument(name, type=int, default=default, metavar="N", help=f"{meaning} ({default})")
    step = add("transfer", transfer, "mc3 transfer ESC-50")
    step.add_argument("folder", type=Path, help="the top of ESC-50 or ESC-10, as published")
    step.add_argument("--seed", type=int, default=0, help="of the checkpoints (default: 0)")
    step.add_argument("--full-size", action="store_true", help="also an untrained encoder of the paper's size: minutes")
    step = add("discover", discover, "mc3 discover my_video.mp4")
    step.add_argument("video", type=Path, help="a video file with sound")
    step.add_argument("--checkpoint", type=Path, help="a checkpoint's folder (default: the first seed's mc3)")
    step.add_argument("--every", type=float, default=0.5, metavar="SEC", help="step between windows (default: 0.5)")
    step.add_argument("--text", action="append", default=[], help="compare the sound with this too; may be repeated")
    step.add_argument("--top", type=int, default=10, help="how many moments to print (default: 10)")
    step.add_argument("--out", type=Path, metavar="CSV", help="write all windows there")
    step = add(
        "narrated", narrated, "mc3 narrated --events EPIC_Sounds_validation.csv --narrations EPIC_100_validation.csv"
    )
    step.add_argument("--events", type=Path, required=True, metavar="CSV", help="EPIC-Sounds' events with classes")
    step.add_argument("--narrations", type=Path, required=True, metavar="CSV", help="EPIC-100's narrated actions")
    step.add_argument("--verbs", type=Path, metavar="CSV", help="EPIC_100_verb_classes.csv, to check verb classes with")
    step.add_argument("--nouns", type=Path, metavar="CSV", help="EPIC_100_noun_classes_v2.csv, likewise")
    step.add_argument("--info", type=Path, metavar="CSV", help="EPIC_100_video_info.csv, for the ends of videos")
    step.add_argument(
        "--table", type=Path, metavar="CSV", default=Path("data/epic/verb_sounds.csv"),
        help="which sounds an action of each verb class makes (default: data/epic/verb_sounds.csv)",
    )  # fmt: skip
    step.add_argument(
        "--iou", type=float, default=0.1, help="temporal IoU from which a compatible event counts (default: 0.1)"
    )
    step.add_argument("--checkpoint", type=Path, metavar="FOLDER", help="score this checkpoint too; needs --audio")
    step.add_argument("--audio", type=Path, help="EPIC-Sounds' HDF5 file, or a folder with a file a video")
    step.add_argument("--videos", type=Path, metavar="FOLDER", help="the videos, for the audio-video score")
    step.add_argument("--out", type=Path, default=Path("figures/epic_narrations.csv"), metavar="CSV",
                      help="scores; more is written beside it (default: figures/epic_narrations.csv)")  # fmt: skip
    step = add("weights", weights, "mc3 weights convert --kind egovlp egovlp.pth --out weights/egovlp")
    step.add_argument("action", choices=["convert"], help="what to do with the file")
    step.add_argument("file", type=Path, help="the checkpoint as published")
    step.add_argument("--kind", required=True, help="egovlp, lavila, soundingactions, deit, ast or ssast")
    step.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="for MODALITY.safetensors, card.json")
    add("sources", sources, "mc3 sources")
    step = add("notebook", run_notebook, "mc3 notebook retrieval -p method cmc")
    step.add_argument("name", help="the notebook's name, without folder and .ipynb")
    step.add_argument(
        "-p", dest="parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="a parameter of the notebook's `parameters` cell; the value is read as YAML",
    )  # fmt: skip
    step = add("report", report, "mc3 report")
    step.add_argument("--table", action="store_true", help="only print Table 2 over seeds, for README.md")
    step = add("compare", compare, "mc3 compare --strict", config=False)
    step.add_argument("--absolute", type=float, default=0.02, help="allowed difference (0.02), plus ...")
    step.add_argument("--relative", type=float, default=0.05, help="... this share of the committed number (0.05)")
    step.add_argument("--strict", action="store_true", help="exit 1 when a number is outside the tolerance")
    step.add_argument("--tables", action="store_true", help="also show Tables 2 and 3, and where to go from there")
    step = add("repro", repro, "mc3 repro -- --force manifest")
    step.add_argument("dvc", nargs="*", metavar="DVC-ARGUMENT", help="handed to `dvc repro`, after --")
    return top


if __name__ == "__main__":
    sys.exit(main())
