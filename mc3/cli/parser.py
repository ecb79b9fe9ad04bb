"""Argument parsing shared by the commands: grouped help, suggestions for typos, common options."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

Command = Callable[[argparse.Namespace], int | None]

MOVED = {
    "ablate": "`dvc repro experiments/dvc.yaml:ablations`",
    "seeds": "`dvc repro experiments/dvc.yaml:seeds`",
    "study": "`dvc repro experiments/dvc.yaml:study`",
    "summary": "`mc3 compare --tables`",
    "tune": "`dvc repro experiments/dvc.yaml:tuning` (or :readings, :objectives)",
}  # commands of the previous release, and what they are now


class Parser(argparse.ArgumentParser):
    """An argument parser that suggests the nearest name for a mistyped command or option."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            if value in MOVED:
                raise argparse.ArgumentError(None, f"`mc3 {value}` is now {MOVED[value]}")
            near = difflib.get_close_matches(str(value), action.choices, n=1)
            hint = f"did you mean {near[0]}?" if near else f"`{self.prog} --help` lists them"
            raise argparse.ArgumentError(None, f"no command {value!r}; {hint}")
        super()._check_value(action, value)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, but unknown options are an error of the subcommand, which knows its own."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown and self.prog.count(" "):
            near = difflib.get_close_matches(unknown[0], self._option_string_actions, n=1)
            hint = f"did you mean {near[0]}?" if near else f"`{self.prog} --help` lists its options"
            self.error(f"unknown argument {unknown[0]}; {hint}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """One line instead of the usage; exit code 2."""
        self.exit(2, f"{self.prog}: {message}\n")


class Commands:
    """Collects subcommands, and lists them in groups."""

    def __init__(self, top: argparse.ArgumentParser) -> None:
        self.subparsers = top.add_subparsers(metavar="COMMAND", help=argparse.SUPPRESS, required=True)
        top.usage = "mc3 COMMAND [OPTIONS]"
        self.listed: list[tuple[str, str]] = []

    def add(self, name: str, command: Command, example: str, config: bool = True, under: Any = None) -> Any:
        """A subcommand, described by the docstring of `command`; `under` a group of its own such as `mc3 data`."""
        text = (command.__doc__ or "").strip()
        step = (under or self.subparsers).add_parser(name, description=text, epilog=f"example: {example}")
        step.set_defaults(command=command)
        if config:
            step.add_argument("--config", default="params.yaml", metavar="FILE", help="the settings (params.yaml)")
        step.add_argument("--debug", action="store_true", help="show the traceback of an error")
        self.listed.append((example.split(" --")[0].removeprefix("mc3 ") if under else name, text.split("\n")[0]))
        return step

    def group(self, name: str, text: str, under: Any = None) -> Any:
        """A subcommand that has subcommands."""
        found = (under or self.subparsers).add_parser(name, description=text)
        return found.add_subparsers(metavar="WHAT", required=True)

    def format_help(self, title: str) -> str:
        """The lines of the commands added since the last call."""
        lines = [f"{title}:"]
        for name, text in self.listed:
            short = text.split("; ")[0].split(": ")[0].rstrip(".")
            lines.append(f"  {name:24}{short[0].lower()}{short[1:]}")
        self.listed.clear()
        return "\n".join(lines)


def add_seed(step: argparse.ArgumentParser) -> None:
    """The option --seed."""
    step.add_argument("--seed", type=int, required=True, help="one of the profile's seeds")


def load_config(args: argparse.Namespace) -> Any:
    """The settings that --config names."""
    from mc3 import config

    return config.load(args.config)


def check_method(name: str) -> str:
    """`name`, if it is a method; `ConfigError` otherwise."""
    from mc3 import methods

    return methods.get(name).name


def check_exists(path: Path) -> Path:
    """`path`, if there is something; `DataError` otherwise. Asked before imports that take seconds."""
    from mc3.errors import DataError

    if not path.exists():
        raise DataError(f"no file {path}")
    return path
