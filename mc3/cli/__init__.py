"""The `mc3` command: a user error is a line on stderr and exit code 1; anything else is a bug, with a traceback."""

import argparse
import gc
import os
import sys
from collections.abc import Sequence

from mc3 import __version__
from mc3.cli.commands import FOLDERS, GROUPS
from mc3.cli.parser import Arguments, Parser
from mc3.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit code: 0, or 1 after a one-line error."""
    gc.set_threshold(100_000)  # imports make objects that stay: collecting seldom saves .4 s of a start
    args = parser().parse_args(list(sys.argv[1:] if argv is None else argv) or ["--help"], Arguments())
    args.main = main
    try:
        code = args.command(args) or 0
        sys.stdout.flush()  # a closed pipe shows here, not when the interpreter ends
        return code
    except BrokenPipeError:  # the reader of our output, `head` for example, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (UserError, FileNotFoundError) as error:
        if args.debug:
            raise
        message = str(error)
        if isinstance(error, FileNotFoundError) and error.errno is not None:
            message = f"{error.filename} is missing; --debug shows where it was needed"
        if message.startswith("Caught "):  # by a DataLoader's worker, whose traceback torch makes the message
            message = message.rstrip().rpartition("\n")[2].partition(": ")[2]
        print(f"mc3: {' '.join(message.split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mc3: stopped; the same command continues from the last finished step", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line with all subcommands."""
    top = Parser(prog="mc3", description="MC3 (SoundingActions, CVPR 2024): learn how actions sound.")
    top.add_argument("--version", action="version", version=f"mc3 {__version__}")
    places = {"": top.add_subparsers(metavar="COMMAND", help=argparse.SUPPRESS, required=True)}
    top.usage = "mc3 COMMAND [OPTIONS]"
    for name, text in FOLDERS.items():
        place, _, last = name.rpartition(" ")
        places[name] = places[place].add_parser(last, description=text).add_subparsers(metavar="WHAT", required=True)
    listed = [group.add_to(places) for group in GROUPS]
    top.epilog = "\n\n".join([*listed, "`mc3 COMMAND --help` explains a command and shows an example."])
    return top
