"""Commands that make or check data: the generated world, the real data sets, clips."""

from __future__ import annotations

import argparse

from mc3.cli.parser import Commands, load_config


def source(args: argparse.Namespace) -> int:
    """Run the command that the profile names as its source of raw data."""
    return args.main([*load_config(args).source.command.split(), "--config", args.config])


def world(args: argparse.Namespace) -> None:
    """Generate the small world in the real data sets' own file formats."""
    from mc3 import world

    world.write(load_config(args))


def plan_ego4d(args: argparse.Namespace) -> None:
    """List the videos to download: how many, hours, with or without sound, about how many bytes."""
    config = load_config(args)
    from mc3.extra import inventory

    inventory.plan(config)


def check_ego4d(args: argparse.Namespace) -> None:
    """Check the downloaded videos: missing, truncated, without sound, shorter than their annotations."""
    config = load_config(args)
    from mc3.extra import inventory

    inventory.write(config)


def check_epic_sounds(args: argparse.Namespace) -> None:
    """Check EPIC-Sounds' annotations and sound against each other; list the videos whose sound is needed."""
    config = load_config(args)
    from mc3.data import epic_sounds

    epic_sounds.check(config)


def manifest(args: argparse.Namespace) -> None:
    """Read the publishers' annotations into one table of clips."""
    from mc3.data import manifest

    manifest.write(load_config(args))


def shards(args: argparse.Namespace) -> None:
    """Cut the clips once and pack them; --rank or --submit spread the work over machines."""
    import yaml

    from mc3.errors import ConfigError

    if (args.rank is None) != (args.world is None):
        raise ConfigError("--rank and --world go together: rank R of a world of W processes")
    if args.submit is not None and (args.submit < 1 or args.rank is not None):
        raise ConfigError("--submit takes how many tasks, one or more, and makes their ranks itself")
    pairs = [pair.partition("=") for pair in args.slurm]
    if args.slurm and (args.submit is None or not all(name and value for name, _, value in pairs)):
        raise ConfigError("--slurm takes KEY=VALUE and goes with --submit, e.g. --submit 16 --slurm partition=cpu")
    config = load_config(args)
    from mc3.data import prepare
    from mc3.extra import submit

    if args.submit is not None:
        submit.submit(config, args.submit, {name: yaml.safe_load(value) for name, _, value in pairs})
    elif args.rank is not None:
        prepare.write_share(config, args.rank, args.world)
    else:
        prepare.write(config)


def add(commands: Commands) -> None:
    """Add the commands of this group."""
    data = commands.group("data", "What a data set's publisher ships: what of it is needed, and whether it is whole.")
    ego4d = commands.group("ego4d", "Ego4D's videos: `plan` before the download, `check` after it.", data)
    commands.add("plan", plan_ego4d, "mc3 data ego4d plan", under=ego4d)
    commands.add("check", check_ego4d, "mc3 data ego4d check", under=ego4d)
    epic = commands.group("epic-sounds", "EPIC-Sounds' sound: whose is needed, and whether it fits.", data)
    commands.add("check", check_epic_sounds, "mc3 data epic-sounds check", under=epic)
    commands.add("world", world, "mc3 world")
    commands.add("source", source, "mc3 source")
    commands.add("manifest", manifest, "mc3 manifest")
    step = commands.add("shards", shards, "mc3 shards --submit 16 --slurm partition=cpu time=600")
    step.add_argument("--rank", type=int, metavar="R", help="cut only what falls to process R of ...")
    step.add_argument("--world", type=int, metavar="W", help="... W processes; `mc3 shards` then joins what they cut")
    step.add_argument("--submit", type=int, metavar="N", help="cut as N SLURM tasks (here, without SLURM), then join")
    step.add_argument("--slurm", nargs="+", default=[], metavar="KEY=VALUE", help="sbatch's parameters for the tasks")
