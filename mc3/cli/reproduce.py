"""Commands that reproduce the paper: the pipeline as a whole, and its steps from training to report."""

from __future__ import annotations

import argparse
from pathlib import Path

from mc3 import methods
from mc3.cli.parser import SEED, Group, check_name, load_config, option
from mc3.errors import ConfigError
from mc3.files import write_atomic

GROUP = Group("reproduce the paper")


@GROUP.command(
    "mc3 repro -- --force manifest",
    option("dvc", nargs="*", metavar="DVC-ARGUMENT", help="passed to `dvc repro`, after --"),
)
def repro(args: argparse.Namespace) -> int:
    """Run every stage that is out of date; prints the running stage and the time left."""
    config = load_config(args)
    from mc3.paper import repro

    return repro.run(config, args.dvc)


@GROUP.command(
    "mc3 compare --strict",
    option("--absolute", type=float, default=0.02, help="allowed difference (0.02), plus ..."),
    option("--relative", type=float, default=0.05, help="... this share of the committed number (0.05)"),
    option("--strict", action="store_true", help="exit 1 when a number is outside the tolerance"),
    option("--tables", action="store_true", help="also show Tables 2 and 3, and where to go from there"),
    config=False,
)
def compare(args: argparse.Namespace) -> int:
    """Compare the numbers in figures/ with the committed ones; with --tables, show Tables 2 and 3 too."""
    from mc3.paper import compare

    differences = compare.run(Path("figures"), args.absolute, args.relative)
    if args.tables:
        compare.show(Path("figures"))
    return 1 if differences and args.strict else 0


@GROUP.command("mc3 profile mini", option("name", help="the name of a file in profiles/"))
def profile(args: argparse.Namespace) -> None:
    """Choose the settings: copies profiles/NAME.yaml to params.yaml."""
    from mc3 import config

    check_name("profile", args.name, "profiles", sorted(path.stem for path in Path("profiles").glob("*.yaml")))
    source, target = Path("profiles", f"{args.name}.yaml"), Path(args.config)
    config.load(source)
    write_atomic(target, source.read_bytes())
    print(f"{target} is now profile {args.name}; `mc3 repro` runs what that changes")


@GROUP.command(
    "mc3 train --method mc3 --seed 0",
    option("--method", required=True, help="a row of mc3/methods.py, or `align` for the shared first stage"),
    SEED,
    option("--dry-run", action="store_true", help="only print parameters, steps, memory and hours"),
    option("--processes", type=int, default=1, help="of a dry run, a device each (default: 1)"),
    option("--peak-tflops", type=float, help="of a dry run's device (default: that of the GPU here)"),
)
def train(args: argparse.Namespace) -> None:
    """Train one method from one seed; with --dry-run, estimate memory and time instead."""
    config, recipe = load_config(args), methods.get(args.method)
    from mc3 import objectives

    objectives.check(recipe)  # before the heavy imports below
    if args.dry_run:
        from mc3 import cost

        print(cost.plan(config, args.method, args.processes, args.peak_tflops))
    else:
        from mc3 import train

        train.run(config, args.method, args.seed)


@GROUP.command(
    "mc3 embed --seed 0",
    option("--method", help="a row of mc3/methods.py, or `align` (default: all that changed)"),
    SEED,
)
def embed(args: argparse.Namespace) -> None:
    """Embed the validation and test clips with one method, or with all that changed."""
    config = load_config(args)
    if args.method:
        methods.get(args.method)  # before imports that take seconds
    from mc3 import embed

    if args.method:
        embed.run(config, args.method, args.seed)
    else:
        embed.run_all(config, args.seed)


GROUP.call("mc3 probe --seed 0", "paper.probe.run", "Classify EPIC-Sounds: linear probe and fine-tuning.", SEED)


@GROUP.command("mc3 sources")
def sources(args: argparse.Namespace) -> None:
    """Write what stages depend on: canonical notebooks and code identities."""
    config = load_config(args)
    from mc3.paper import notebook

    out = config.paths.work / "sources"
    copies = notebook.sources(Path("notebooks"), out)
    print(f"{len(copies)} canonical notebooks and {len(notebook.codes(config, out))} code identities in {out}")


@GROUP.command(
    "mc3 notebook retrieval -p method cmc",
    option("name", help="the notebook's name, without folder and .ipynb"),
    option("-p", dest="parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
           help="a parameter of the notebook's `parameters` cell; the value is read as YAML"),
)  # fmt: skip
def notebook(args: argparse.Namespace) -> None:
    """Execute one notebook: its figures, and its page of the report."""
    import yaml

    try:
        parameters = {name: yaml.safe_load(value) for name, value in args.parameter}
    except yaml.YAMLError as error:
        raise ConfigError(f"-p takes a name and a YAML value: {error}") from None
    config = load_config(args)
    from mc3.paper import notebook

    print(f"open {notebook.run(args.name, config, {'config': args.config, **parameters})}")


@GROUP.command("mc3 report", option("--table", action="store_true", help="only print README.md's Table 2 over seeds"))
def report(args: argparse.Namespace) -> None:
    """Write the report's contents page, the overview figure and metrics.json; or print the README's table."""
    config = load_config(args)
    from mc3.paper import report

    print(report.readme_table() if args.table else f"open {report.write(config)}")
