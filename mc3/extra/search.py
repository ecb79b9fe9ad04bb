"""`mc3 index` and `mc3 retrieve`: the user's clips and texts, searched from any modality to any other."""

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mc3.config import Config
from mc3.data import cutting, media
from mc3.data.annotations import read_text
from mc3.data.encode import SOUND_RATES
from mc3.errors import ConfigError, DataError
from mc3.extra import mine, own_video
from mc3.files import atomic, write_atomic
from mc3.progress import bar

SOUNDS = {".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac"}
MUXED = (".mp4", ".mov", ".m4v", ".mkv")
TABLES = {".csv", ".parquet"}


def sources_of(paths: Sequence[str], root: Path) -> tuple[list[tuple[Path, pd.DataFrame | None]], list[str]]:
    """What is to be indexed: media files, with their clips where a table lists these; and the lines of text files."""
    found, texts = list[tuple[Path, pd.DataFrame | None]](), list[str]()
    for name in paths:
        path = Path(name)
        if path.is_file() and path.suffix == ".txt":
            texts += [line.strip() for line in read_text(path, "texts").splitlines() if line.strip()]
        elif path.is_file() and path.suffix in TABLES:
            table = mine.read_clips(path)
            found += [(root / file, own) for file, own in table.groupby("path", sort=False)]
        else:
            found += [(file, None) for file in own_video.files_of([name], own_video.VIDEOS | SOUNDS)]
    return found, texts


def make(
    config: Config, checkpoint: str | Path, paths: Sequence[str], root: Path, every_sec: float | None, out: Path,
    approximate: bool,
) -> int:  # fmt: skip
    """Index files, folders, tables of clips and texts as a folder `out`; returns the exit code."""
    sources, texts = sources_of(paths, root)
    from mc3.index import build  # slow to import: a wrong name is told before

    model, failed = own_video.open_model(config, checkpoint), list[str]()
    print(model.about)
    with bar(len(sources), 0, main=True) as show:
        index = build(model, sources, texts, every_sec, failed, show)
    index.save(out, approximate)
    counts = (f"{np.isfinite(own[:, 0]).sum()} {name}" for name, own in index.embeddings.items())
    print(f"{len(index.rows)} rows in {out}: {', '.join(counts)}")
    for sentence in failed:
        print(f"left out: {sentence}")
    return own_video.FAILED if failed else 0


def run(
    config: Config, checkpoint: str | Path, folder: Path, query: str, by: str, to: str, part: Sequence[float] | None,
    top: int, approximate: bool, out: Path | None = None, page: Path | None = None, mux: Path | None = None,
) -> None:  # fmt: skip
    """Search the index in `folder`, print the rows found and write what is asked for."""
    from mc3.index import Index

    index = Index.load(folder)
    if "://" in query:
        raise DataError(f"{query} is an address; download the file and give it")
    if not Path(query).is_file() and Path(query).suffix.lower() in own_video.VIDEOS | SOUNDS:
        raise DataError(f"no file {query}; give a media file, or a text without such an ending")
    model = own_video.open_model(config, checkpoint)
    print(model.about)
    table = model.retrieve((query, *part) if part else query, index, by=by, to=to, top=top, approximate=approximate)
    shown = table.dropna(axis=1, how="all")
    print(shown.loc[:, (shown != "").any()].round(3).to_string(index=False))
    if out is not None:
        own_video.write_table(table, out)
    if page is not None:
        write_atomic(page, render(table, query, part, model.about, page).encode())
        print(f"open {page}")
    if mux is not None:
        best = table[table["file"] != ""].iloc[:1]
        if best.empty:
            raise ConfigError("--mux needs a row with sound; search with --to audio")
        row = best.iloc[0]
        put_sound(Path(query).resolve(), Path(row["file"]), float(row["start_sec"]), mux)
        print(f"{mux}: the pictures of {query} with the sound of {row['file']} from {row['start_sec']:.1f} s")


def put_sound(pictures: Path, sound: Path, start: float, out: Path) -> None:
    """Write `out`: the pictures of one file as they are, with the sound of another from `start` (seconds) on.

    Silence follows where the sound ends. `DataError` if the container cannot hold these pictures.
    """
    rate = media.probe(sound).audio_rate
    rate = rate if rate in SOUND_RATES else cutting.FALLBACK_RATE
    seconds = media.probe(pictures).duration_sec
    windows = [(start + at, start + min(at + 1, seconds)) for at in range(int(seconds) + (seconds % 1 > 0))]
    with atomic(out) as own:
        cutting.with_sound(pictures, media.waveforms_of(sound, windows, rate), rate, own, out.suffix)


def render(table: pd.DataFrame, query: str, part: Sequence[float] | None, about: str, page: Path) -> str:
    """One page: the query and the rows found, which play."""
    rows = "".join(
        f"<tr><td>{row.rank}</td><td>{row.similarity:.3f}</td>"
        f"<td>{_player(Path(row.file), row.start_sec, row.end_sec, page) if row.file else ''}</td>"
        f"<td>{_place(row.file, row.start_sec, row.end_sec)}{html.escape(row.text)}</td></tr>"
        for row in table.itertuples()
    )
    start, end = part or (None, None)
    asked = _player(Path(query), start, end, page) if Path(query).is_file() else ""
    name = _place(query, start, end).removesuffix("<br>") if asked else html.escape(query)
    return own_video.fill(PAGE, STYLE, "", about=html.escape(about), query=name, player=asked, rows=rows)


def _place(file: str, start: float | None, end: float | None) -> str:
    """A file's name and the part of it, and a line break; "" without a file."""
    if not file:
        return ""
    part = "" if start is None or end is None else f", {own_video.clock(start)} to {own_video.clock(end)}"
    return f"{html.escape(Path(file).name)}{part}<br>"


def _player(file: Path, start: float | None, end: float | None, page: Path) -> str:
    part = "" if start is None or end is None else f"#t={start:.2f},{end:.2f}"
    kind = "audio" if file.suffix.lower() in SOUNDS else "video"
    name = html.escape(file.name)
    return f'<{kind} src="{own_video.address(file, page)}{part}" controls preload="metadata" title="{name}"></{kind}>'


STYLE = """body { font: 16px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 64rem; padding: 0 1rem;
  color-scheme: light dark; } video { height: 9rem; max-width: 100%; background: #000; }
caption { text-align: left; white-space: nowrap; }
table { border-collapse: collapse; } th, td { padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; }
td { overflow-wrap: anywhere; }"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; media-src 'self' file:;
 style-src 'unsafe-inline'">
<title>MC3: retrieved</title><style>{style}</style></head>
<body><h1>{query}</h1>{player}
<p>{about}.</p>
<table><caption>Nearest first; similarity is the cosine.</caption>
<thead><tr><th></th><th>similarity</th><th></th><th></th></tr></thead><tbody>{rows}</tbody></table>
</body></html>
"""
