"""Commands that reproduce the paper: the pipeline as a whole, and its steps from training to report."""

from __future__ import annotations

import argparse
from pathlib import Path

from mc3.cli.parser import Commands, add_seed, check_method, load_config


def repro(args: argparse.Namespace) -> int:
    """Run every stage that is out of date; prints the running stage and the time left."""
    config = load_config(args)
    from mc3.paper import repro

    return repro.run(config, args.dvc)


def compare(args: argparse.Namespace) -> int:
    """Compare the numbers in figures/ with the committed ones; with --tables, show Tables 2 and 3 too."""
    from mc3.paper import compare

    differences = compare.run(Path("figures"), args.absolute, args.relative)
    if args.tables:
        compare.show(Path("figures"))
    return 1 if differences and args.strict else 0


def profile(args: argparse.Namespace) -> None:
    """Choose the settings: copies profiles/NAME.yaml to params.yaml."""
    from mc3 import config
    from mc3.errors import ConfigError
    from mc3.files import write_atomic

    folder = Path("profiles")
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if args.name not in names:
        where = f"known: {', '.join(names)}" if names else f"no {folder}/*.yaml here; run it at the repository's top"
        raise ConfigError(f"no profile {args.name!r}; {where}")
    source, target = folder / f"{args.name}.yaml", Path(args.config)
    config.load(source)
    write_atomic(target, source.read_bytes())
    print(f"{target} is now profile {args.name}; `mc3 repro` runs what that changes")


def train(args: argparse.Namespace) -> None:
    """Train one method from one seed; with --dry-run, estimate memory and time instead."""
    config, method = load_config(args), check_method(args.method)
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
    """Embed the validation and test clips with one method, or with all that changed."""
    config = load_config(args)
    method = check_method(args.method) if args.method else None
    from mc3 import embed

    if method:
        embed.run(config, method, args.seed)
    else:
        embed.run_all(config, args.seed)


def probe(args: argparse.Namespace) -> None:
    """Classify EPIC-Sounds: linear probe and fine-tuning."""
    config = load_config(args)
    from mc3.paper import probe

    probe.run(config, args.seed)


def sources(args: argparse.Namespace) -> None:
    """Write what stages depend on: canonical notebooks and code identities."""
    config = load_config(args)
    from mc3.paper import notebook

    out = config.paths.work / "sources"
    copies = notebook.sources(Path("notebooks"), out)
    print(f"{len(copies)} canonical notebooks and {len(notebook.codes(config, out))} code identities in {out}")


def notebook(args: argparse.Namespace) -> None:
    """Execute one notebook: its figures, and its page of the report."""
    import yaml

    from mc3.errors import ConfigError

    try:
        parameters = {name: yaml.safe_load(value) for name, value in args.parameter}
    except yaml.YAMLError as error:
        raise ConfigError(f"-p takes a name and a YAML value: {error}") from None
    config = load_config(args)
    from mc3.paper import notebook

    print(f"open {notebook.run(args.name, config, {'config': args.config, **parameters})}")


def report(args: argparse.Namespace) -> None:
    """Write the report's contents page, the overview figure and metrics.json; or print the README's table."""
    config = load_config(args)
    from mc3.paper import report

    print(report.readme_table() if args.table else f"open {report.write(config)}")


def add(commands: Commands) -> None:
    """Add the commands of this group."""
    step = commands.add("repro", repro, "mc3 repro -- --force manifest")
    step.add_argument("dvc", nargs="*", metavar="DVC-ARGUMENT", help="passed to `dvc repro`, after --")
    step = commands.add("compare", compare, "mc3 compare --strict", config=False)
    step.add_argument("--absolute", type=float, default=0.02, help="allowed difference (0.02), plus ...")
    step.add_argument("--relative", type=float, default=0.05, help="... this share of the committed number (0.05)")
    step.add_argument("--strict", action="store_true", help="exit 1 when a number is outside the tolerance")
    step.add_argument("--tables", action="store_true", help="also show Tables 2 and 3, and where to go from there")
    commands.add("profile", profile, "mc3 profile mini").add_argument("name", help="the name of a file in profiles/")
    step = commands.add("train", train, "mc3 train --method mc3 --seed 0")
    step.add_argument("--method", required=True, help="a row of mc3/methods.py, or `align` for the shared first stage")
    add_seed(step)
    step.add_argument("--dry-run", action="store_true", help="only print parameters, steps, memory and hours")
    step.add_argument("--processes", type=int, default=1, help="of a dry run, a device each (default: 1)")
    step.add_argument("--peak-tflops", type=float, help="of a dry run's device (default: that of the GPU here)")
    step = commands.add("embed", embed, "mc3 embed --seed 0")
    step.add_argument("--method", help="a row of mc3/methods.py, or `align` (default: all that changed)")
    add_seed(step)
    add_seed(commands.add("probe", probe, "mc3 probe --seed 0"))
    commands.add("sources", sources, "mc3 sources")
    step = commands.add("notebook", notebook, "mc3 notebook retrieval -p method cmc")
    step.add_argument("name", help="the notebook's name, without folder and .ipynb")
    step.add_argument(
        "-p", dest="parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="a parameter of the notebook's `parameters` cell; the value is read as YAML",
    )  # fmt: skip
    step = commands.add("report", report, "mc3 report")
    step.add_argument("--table", action="store_true", help="only print Table 2 over seeds, for README.md")
