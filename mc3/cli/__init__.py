"""The `mc3` command: an error of the user or the machine is a line on stderr and exit code 1; others are bugs."""

import argparse
import errno
import gc
import os
import re
import sys
from collections.abc import Sequence

from mc3 import __version__
from mc3.cli.commands import FOLDERS, GROUPS
from mc3.cli.parser import Arguments, Parser
from mc3.errors import UserError

PERMISSION = "fix its permissions, or set another folder in params.yaml"
REMEDIES = {
    errno.ENOSPC: "free some space on its disk", errno.EDQUOT: "free some of your quota on its disk",
    errno.EROFS: "make its disk writable, or set another folder in params.yaml", errno.EACCES: PERMISSION,
    errno.EPERM: PERMISSION, errno.EMFILE: "allow more open files, for example by `ulimit -n 4096`",
    errno.EFBIG: "allow larger files, for example by `ulimit -f unlimited`",
}  # fmt: skip
FROM_LOADER = re.compile(r"Caught \w+ in DataLoader worker process \d+\..*\n[\w.]+: (?=[^\n]*$)", re.DOTALL)
PEER_ENDED = re.compile(r"(closed|reset) by peer|remote process exit")  # as gloo and NCCL report it


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
    except (UserError, OSError) as error:
        known = isinstance(error, UserError | FileNotFoundError) or error.errno in REMEDIES
        if args.debug or not known:
            raise
        message = FROM_LOADER.sub("", str(error).rstrip())
        if isinstance(error, FileNotFoundError) and error.errno is not None:
            message = f"{error.filename} is missing; --debug shows where it was needed"
        elif isinstance(error, OSError) and error.errno in REMEDIES:
            fault = f"{error.filename or 'a file'} cannot be written or read ({error.strerror})"
            message = f"{fault}; {REMEDIES[error.errno]}, and run the same command again"
        print(f"mc3: {' '.join(message.split())}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if args.debug or "WORLD_SIZE" not in os.environ or not PEER_ENDED.search(str(error)):
            raise
        print("mc3: another process of this training has ended; what it says is the cause", file=sys.stderr)
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
