"""The `mc3` command, its subcommands grouped by what people come for.

Commands import what they need when they run, so that `mc3 --help` and a mistyped name are answered at once. A user
error (a setting, a file, a method's name) is one line on stderr and exit code 1; anything else is a bug and shows a
traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from mc3 import __version__
from mc3.cli import data, experiments, reproduce, use
from mc3.cli.parser import Commands, Parser

GROUPS = (
    ("use a model", use.add),
    ("reproduce the paper", reproduce.add),
    ("data", data.add),
    ("experiments", experiments.add),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit code: 0, or 1 after a one-line error."""
    top = parser()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        top.print_help()
        return 0
    args = top.parse_args(arguments)
    args.main = main
    try:
        return args.command(args) or 0
    except BrokenPipeError:  # the reader of our output, `head` for example, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        message = _message(error)
        if message is None or args.debug:
            raise
        print(f"mc3: {message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mc3: stopped; the same command continues from the last finished step", file=sys.stderr)
        return 130


def _message(error: Exception) -> str | None:
    """The one line for a user error; None for a bug."""
    from mc3.errors import UserError

    if isinstance(error, UserError):
        return " ".join(str(error).split())
    if isinstance(error, FileNotFoundError):
        if error.errno is None:
            return " ".join(str(error).split())
        return f"{error.filename} is missing; --debug shows where it was needed"
    return None


def parser() -> argparse.ArgumentParser:
    """The command line with all subcommands."""
    top = Parser(prog="mc3", description="MC3 (SoundingActions, CVPR 2024): learn how actions sound.")
    top.add_argument("--version", action="version", version=f"mc3 {__version__}")
    commands = Commands(top)
    listed = []
    for title, add in GROUPS:
        add(commands)
        listed.append(commands.format_help(title))
    listed.append("`mc3 COMMAND --help` explains a command and shows an example.")
    top.epilog = "\n\n".join(listed)
    return top
