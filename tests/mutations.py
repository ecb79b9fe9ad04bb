"""Seeded damage to the bytes of a file: as disks, networks and editors do it, and as somebody who means harm."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

Rng = np.random.Generator
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 10**30, 10**400, 1e308, float("nan"), float("inf"), "", "x", "../../x", "\x00", "\ud800",
    "é" * 300, [], {}, [[]], [None], {"": {}}, "9" * 5000, "-", "1e999", '"',
)  # fmt: skip


def flip(data: bytes, rng: Rng) -> bytes:
    out = bytearray(data)
    for at in rng.integers(len(out), size=rng.integers(1, 9)):
        out[at] ^= 1 << int(rng.integers(8))
    return bytes(out)


def cut(data: bytes, rng: Rng) -> bytes:
    return data[: int(rng.integers(len(data)))]


def empty(data: bytes, rng: Rng) -> bytes:
    return b""


def nothing_but_nul(data: bytes, rng: Rng) -> bytes:
    first, last = np.sort(rng.integers(len(data) + 1, size=2))
    return data[:first] + bytes(last - first) + data[last:]


def noise(data: bytes, rng: Rng) -> bytes:
    at, size = int(rng.integers(len(data))), int(rng.integers(1, 200))
    return data[:at] + rng.bytes(size) + data[at + size :]


def inserted(data: bytes, rng: Rng) -> bytes:
    at = int(rng.integers(len(data)))
    what = (b"\x00", b'"', b"'", b"\xff\xfe", b"\xef\xbb\xbf", b"[" * 100_000, b"{" * 5000, b"\n", b"\r", b"\t", b",",
            b"-", b"9" * 400, b"1e999", b"nan", b"&a *a", b"!!python/object:os.system ", "\u2028".encode())  # fmt: skip
    return data[:at] + what[int(rng.integers(len(what)))] + data[at:]


def doubled(data: bytes, rng: Rng) -> bytes:
    first, last = np.sort(rng.integers(len(data) + 1, size=2))
    return data[:last] + data[first:last] + data[last:]


def marked(data: bytes, rng: Rng) -> bytes:
    """With a byte order mark, or in another encoding."""
    encodings = ("utf-8-sig", "utf-16", "cp037")
    return data.decode(errors="replace").encode(encodings[int(rng.integers(3))], errors="replace")


def swapped(data: bytes, rng: Rng) -> bytes:
    """Two cells of a table, or two lines, in each other's place."""
    separator = (b"\t" if b"\t" in data else b",", b"\n")[int(rng.integers(2))]
    cells = data.split(separator)
    a, b = rng.integers(len(cells), size=2)
    cells[a], cells[b] = cells[b], cells[a]
    return separator.join(cells)


def renumbered(data: bytes, rng: Rng) -> bytes:
    """One digit of a text as another value."""
    places = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    if not places:
        return flip(data, rng)
    at = places[int(rng.integers(len(places)))]
    values = (b"-1", b"1e999", b"9" * 400, b"nan", b"inf", b"0", b"1e300", b"0x10", b"", b"1.5", b"true", b"~")
    return data[:at] + values[int(rng.integers(len(values)))] + data[at + 1 :]


def retyped_json(data: bytes, rng: Rng) -> bytes:
    """Another value, or a key less, somewhere in JSON."""
    whole = json.loads(data)
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            places.append((value, key))
            walk(value[key])

    walk(whole)
    holder, key = places[int(rng.integers(len(places)))]
    if isinstance(holder, dict) and rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = VALUES[int(rng.integers(len(VALUES)))]
    return json.dumps(whole).encode()


def retyped_parquet(data: bytes, rng: Rng) -> bytes:
    """A column less, or one of other values or another type."""
    table = pd.read_parquet(io.BytesIO(data))
    name = table.columns[int(rng.integers(len(table.columns)))]
    kind = int(rng.integers(8))
    if kind == 0:
        table = table.drop(columns=name)
    elif kind == 1:
        table = table.iloc[:0]
    elif kind == 2:
        table[name] = table[name].sample(frac=1, random_state=int(rng.integers(1000))).to_numpy()
    else:
        value = (None, "../../../etc/passwd", -1, 2**62, float("nan"))[kind - 3]
        table[name] = pd.Series([value] * len(table), index=table.index)
    table.to_parquet(buffer := io.BytesIO(), index=False)
    return buffer.getvalue()


def retyped_safetensors(data: bytes, rng: Rng) -> bytes:
    """Another header, or numbers that are not finite."""
    size = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + size], data[8 + size :]
    if rng.random() < 0.4:
        at = int(rng.integers(len(body) // 8)) * 8
        values = [np.full(2, v, t).tobytes() for v in (np.nan, np.inf) for t in ("<f4", "<f2")]
        value = values[int(rng.integers(4))]
        return data[: 8 + size] + body[:at] + value + body[at + len(value) :]
    header = retyped_json(header, rng)
    return len(header).to_bytes(8, "little") + header + body


ANY: tuple[Callable[[bytes, Rng], bytes], ...] = (flip, flip, cut, empty, nothing_but_nul, noise, inserted, doubled)
TEXT = (*ANY, marked, swapped, swapped, renumbered, renumbered)
BY_SUFFIX: dict[str, tuple[Callable[[bytes, Rng], bytes], ...]] = {
    ".json": (*TEXT, *[retyped_json] * 8), ".jsonl": TEXT, ".csv": TEXT, ".tsv": TEXT, ".yaml": TEXT,
    ".parquet": (*ANY, *[retyped_parquet] * 6), ".safetensors": (*ANY, *[retyped_safetensors] * 6),
}  # fmt: skip


def mutate(name: str, data: bytes, seed: int) -> bytes:
    """`data` of a file called `name` with one damage, or two; the same for the same seed."""
    rng = np.random.default_rng(seed)
    known = BY_SUFFIX.get(name[name.rfind(".") :], ANY)
    for _ in range(1 + (rng.random() < 0.2)):
        damage = known[int(rng.integers(len(known)))]
        try:
            data = damage(data, rng) if data else data
        except Exception:  # damaged twice, it is of its format no more
            data = flip(data, rng)
    return data
