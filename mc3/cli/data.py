"""Commands that make or check data: the generated world, the real data sets, clips."""

from __future__ import annotations

import argparse

from mc3.cli.parser import Group, load_config, option
from mc3.errors import ConfigError

GROUP = Group("data")
FOLDERS = {  # commands that have commands, and their help
    "data": "What a data set's publisher ships: what of it is needed, and whether it is whole.",
    "data ego4d": "Ego4D's videos: `plan` before the download, `check` after it.",
    "data epic-sounds": "EPIC-Sounds' sound: whose is needed, and whether it fits.",
}

for name, place, text in (
    ("data ego4d plan", "data.inventory.plan",
     "List the videos to download: how many, hours, with or without sound, about how many bytes."),
    ("data ego4d check", "data.inventory.write",
     "Check the downloaded videos: missing, truncated, without sound, shorter than their annotations."),
    ("data epic-sounds check", "data.epic_sounds.check",
     "Check EPIC-Sounds' annotations and sound against each other; list the videos whose sound is needed."),
):  # fmt: skip
    GROUP.call(f"mc3 {name}", place, text)
GROUP.call("mc3 world", "world.write", "Generate the small world in the real data sets' own file formats.")


@GROUP.command("mc3 source")
def source(args: argparse.Namespace) -> int:
    """Run the command that the profile names as its source of raw data."""
    return args.main([*load_config(args).source.command.split(), "--config", args.config])


GROUP.call("mc3 manifest", "data.manifest.write", "Read the publishers' annotations into one table of clips.")


@GROUP.command(
    "mc3 shards --submit 16 --slurm partition=cpu time=600",
    option("--rank", type=int, metavar="R", help="cut only what falls to process R of ..."),
    option("--world", type=int, metavar="W", help="... W processes; `mc3 shards` then joins what they cut"),
    option("--submit", type=int, metavar="N", help="cut as N SLURM tasks (here, without SLURM), then join"),
    option("--slurm", nargs="+", default=[], metavar="KEY=VALUE", help="sbatch's parameters for the tasks"),
)
def shards(args: argparse.Namespace) -> None:
    """Cut the clips once and pack them; --rank or --submit spread the work over machines."""
    import yaml

    if (args.rank is None) != (args.world is None):
        raise ConfigError("--rank and --world go together: rank R of a world of W processes")
    if args.submit is not None and (args.submit < 1 or args.rank is not None):
        raise ConfigError("--submit takes how many tasks, one or more, and makes their ranks itself")
    pairs = [pair.partition("=") for pair in args.slurm]
    if args.slurm and (args.submit is None or not all(name and value for name, _, value in pairs)):
        raise ConfigError("--slurm takes KEY=VALUE and goes with --submit, e.g. --submit 16 --slurm partition=cpu")
    config = load_config(args)
    from mc3.data import prepare, submit

    if args.submit is not None:
        submit.submit(config, args.submit, {name: yaml.safe_load(value) for name, _, value in pairs})
    elif args.rank is not None:
        prepare.write_share(config, args.rank, args.world)
    else:
        prepare.write(config)
