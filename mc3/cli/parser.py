"""Argument parsing shared by the commands: grouped help, suggestions for typos, common options."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from mc3.errors import ConfigError, DataError, suggest

Command = Callable[["Arguments"], int | None]
Option = tuple[tuple[str, ...], dict[str, Any]]

MOVED = {  # commands of the previous release, and what they are now
    "ablate": "`dvc repro experiments/dvc.yaml:ablations`",
    "seeds": "`mc3 repro`, whose tables are over all seeds of the profile",
    "study": "`dvc repro experiments/dvc.yaml:study`",
    "summary": "`mc3 compare --tables`",
    "tune": "`dvc repro experiments/dvc.yaml:tuning` (or :readings, :objectives)",
}


class Parser(argparse.ArgumentParser):
    """An argument parser that suggests the nearest name for a mistyped command or option."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            if value in MOVED:
                raise argparse.ArgumentError(None, f"`mc3 {value}` is now {MOVED[value]}")
            hint = suggest(value, action.choices, f"`{self.prog} --help` lists them")
            raise argparse.ArgumentError(None, f"no command {value!r}; {hint}")
        super()._check_value(action, value)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, but unknown options are an error of the subcommand, which knows its own."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown and self.prog.count(" "):
            hint = suggest(unknown[0], self._option_string_actions, f"`{self.prog} --help` lists its options")
            self.error(f"unknown argument {unknown[0]}; {hint}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """One line instead of the usage; exit code 2."""
        self.exit(2, f"{self.prog}: {message}\n")


class Arguments(argparse.Namespace):
    """A command's arguments, and the settings that they name, read when a command asks for them."""

    @cached_property
    def settings(self) -> Any:
        """The `mc3.config.Config` of --config."""
        return import_module("mc3.config").load(self.config)


def option(*names: str, **settings: Any) -> Option:
    """An option or argument of a command, as `add_argument` takes it."""
    return names, settings


class Group:
    """Commands that the help lists under one title."""

    def __init__(self, title: str) -> None:
        self.title, self.commands = title, list[tuple[Command, str, tuple[Option, ...]]]()

    def command(self, example: str, *options: Option) -> Any:
        """Makes a function a command of its name, described by its docstring."""

        def add(command: Command) -> Command:
            self.commands.append((command, example, options))
            return command

        return add

    def call(self, example: str, place: str, about: str, *arguments: str) -> None:
        """Makes a command of "module.function" of this package, which takes the settings and `arguments`."""

        def command(args: Arguments) -> None:
            module, _, function = place.rpartition(".")
            getattr(import_module(f"mc3.{module}"), function)(args.settings, *arguments)

        command.__name__, command.__doc__ = example.removeprefix("mc3 "), about
        self.command(example)(command)

    def add_to(self, places: Mapping[str, Any]) -> str:
        """Add the commands to the subparsers of `places`, by the words before a command's last; returns their help."""
        lines = [f"{self.title}:"]
        for command, example, options in self.commands:
            name, text = command.__name__, (command.__doc__ or "").strip()
            place, _, last = name.rpartition(" ")
            step = places[place].add_parser(last, description=text, epilog=f"example: {example}")
            step.set_defaults(command=command)
            step.add_argument("--config", default="params.yaml", metavar="FILE", help="the settings (params.yaml)")
            step.add_argument("--debug", action="store_true", help="show the traceback of an error")
            for names, settings in options:
                step.add_argument(*names, **settings)
            short = text.split("\n")[0].split("; ")[0].split(": ")[0].rstrip(".")
            lines.append(f"  {name:24}{short[0].lower()}{short[1:]}")
        return "\n".join(lines)


class Lazy:
    """A package whose modules are imported when they are asked for: `paper.report` is the module mc3.paper.report."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, module: str) -> Any:
        return import_module(f"{self.name}.{module}")


def check_exists(*paths: Path) -> None:
    """Raise `DataError` if there is nothing at one of `paths`. Asked before imports that take seconds."""
    if missing := [path for path in paths if not path.exists()]:
        raise DataError(f"no file {missing[0]}")


def check_positive(**seconds: float) -> None:
    """Raise `ConfigError` for an option that is not a length of time."""
    for name, value in seconds.items():
        if not 0 < value < float("inf"):
            raise ConfigError(f"--{name} {value}: give more than 0 seconds")


def check_count(**counts: int) -> None:
    """Raise `ConfigError` for an option that is not a number from 1."""
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"--{name} {value}: give 1 or more")


def check_name(kind: str, name: str, folder: str, known: Sequence[str]) -> None:
    """Raise `ConfigError` if `name` is not one of the `known` files of `folder`, and name the nearest."""
    if name not in known:
        where = f"known: {', '.join(known)}" if known else f"no {folder}/*.yaml here; run it at the repository's top"
        raise ConfigError(f"no {kind} {name!r}; {f'{suggest(name, known)} {where}'.lstrip()}")
