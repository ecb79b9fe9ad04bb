"""User errors, of which the command line prints one line; every other exception is a bug and shows a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """An error that the user can fix; the message names the thing, where it is, and the remedy."""


class ConfigError(UserError, ValueError):
    """A setting that is unknown, missing or of the wrong type; the message names it."""


class DataError(UserError, ValueError):
    """A data file that is missing or wrong; the message names the file, the place in it and the remedy."""


class NotebookError(UserError, RuntimeError):
    """A notebook that failed; the message names the cell, the exception and the executed copy."""


def suggest(name: object, known: Iterable[str], otherwise: str = "", prefix: str = "") -> str:
    """A question for the nearest of the `known` names: "did you mean {prefix}NAME?"; `otherwise` if none is near."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f"did you mean {prefix}{near[0]}?" if near else otherwise
