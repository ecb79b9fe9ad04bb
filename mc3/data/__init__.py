"""From the publishers' files to clips: annotations -> manifest -> shards."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

SAFE_ID = re.compile(r"(?!\.)[A-Za-z0-9_.-]{1,200}")


class DataError(ValueError):
    """A data file that is missing or wrong; the message names the file, the place in it and the remedy."""


def is_safe_id(value: Any) -> bool:
    """Whether an id read from a file may become part of a path: no separator, no leading dot."""
    return isinstance(value, str) and SAFE_ID.fullmatch(value) is not None


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there complete or not at all, by way of a neighbour that is renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    neighbour = path.with_name(f".{path.name}.partial")
    neighbour.write_bytes(data)
    neighbour.replace(path)
