"""`mc3 discover` on the user's files: tables, a page that plays the peaks, and the clips cut out."""

import base64
import hashlib
import html
import io
import os
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
import pandas as pd
from PIL import Image

from mc3.config import Config
from mc3.data import ego4d
from mc3.data.annotations import Report
from mc3.data.audio import fbank
from mc3.data.cutting import mp4_of
from mc3.data.media import probe, waveforms_of
from mc3.errors import ConfigError, DataError
from mc3.files import atomic, is_safe_id, write_atomic
from mc3.progress import bar

if TYPE_CHECKING:
    from mc3.pretrained import Model

FAILED = 3  # exit code where some file could not be read
VIDEOS = {".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".3gp", ".flv", ".wmv"}
WRITERS, PICTURES = (".csv", ".json"), (".png", ".svg", ".pdf")
RATE, MEL_BINS, MOST_COLUMNS = 16000, 64, 1000  # of the page's spectrogram


def files_of(paths: Sequence[str], endings: Collection[str] = VIDEOS) -> list[Path]:
    """The files named, and those in the folders named, with one of `endings`; `DataError` for what is neither."""
    found: list[Path] = []
    for name in paths:
        path = Path(name)
        if "://" in name:
            raise DataError(f"{name} is an address; download the video and give its file")
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in endings)
            if not inside:
                raise DataError(f"folder {path} has no such file; known endings: {', '.join(sorted(endings))}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"no file {path}" if not path.exists() else f"{path} is neither a file nor a folder")
    return found


def check_targets(**targets: tuple[Path | None, Sequence[str]]) -> None:
    """Raise `ConfigError` before any work for an option's path that could not be written after it.

    By option: the path, and the endings that it may have (any, if there are none).
    """
    for option, (path, endings) in targets.items():
        if path is not None and endings and path.suffix not in endings:
            raise ConfigError(f"--{option} {path}: give a name that ends in {' or '.join(endings)}")
        if path is not None and not path.absolute().parent.is_dir():
            raise ConfigError(f"--{option} {path}: there is no folder {path.absolute().parent}; make it first")


def open_model(config: Config, checkpoint: str | Path) -> "Model":
    """The model of a folder or of the Hugging Face hub; its `about` names it and what it was trained on, if known."""
    from mc3.pretrained import UNRECORDED, load  # slow to import: a wrong option is told before

    model, folder = load(checkpoint), Path(checkpoint)
    if model.about != UNRECORDED:
        trained = f"trained on {model.about}"
    elif not folder.resolve().is_relative_to(config.paths.work.resolve()):
        trained = "its training data is not recorded here"
    elif config.world:
        trained = "it learned a generated world of drawings: on real video its scores show the tool, not what sounds"
    else:
        trained = f"it was trained with the settings of the profile {config.profile}"
    model.about = f"checkpoint {checkpoint}: {trained}"
    return model


def read_narrations(path: Path, files: Sequence[Path]) -> dict[Path, pd.DataFrame]:
    """The narrations of each file (columns time_sec, text), whose name without ending is the `video_uid` in `path`.

    In Ego4D's or EgoClip's format; prints what cannot be used, and which of the files have none.
    """
    report, by_stem = Report(path.parent), {file.stem: file for file in files}
    found = {file: pd.DataFrame(columns=["time_sec", "text"]) for file in files}
    for uid, rows in ego4d.read_narrations(path, report):
        if uid in by_stem:
            kept = [(time, text) for _, time, narration in rows if (text := ego4d.clean(narration))]
            found[by_stem[uid]] = pd.DataFrame(kept, columns=["time_sec", "text"]).sort_values("time_sec")
    for reason, count in report.by_reason().items():
        print(f"{path}: {count} narrations left out: {reason}")
    if silent := [file.name for file, own in found.items() if own.empty]:
        print(f"{path}: no narrations of {', '.join(silent)}")
    return found


def run(
    config: Config, checkpoint: str | Path, files: Sequence[Path], every_sec: float, window_sec: float,
    texts: Sequence[str], top: int, narrations: Path | None = None, out: Path | None = None, page: Path | None = None,
    picture: Path | None = None, extract: Path | None = None,
) -> int:  # fmt: skip
    """Score the files with a checkpoint, print the best moments and write what is asked for.

    Returns the exit code: `FAILED` if a file could not be read; the others are done all the same.
    """
    told = read_narrations(narrations, files) if narrations else {}
    model, tables, failed = open_model(config, checkpoint), dict[Path, pd.DataFrame](), list[str]()
    print(model.about)
    for file in files:
        try:
            with bar(100, 0, main=True) as show:
                tables[file] = model.discover(
                    file, every_sec=every_sec, window_sec=window_sec, texts=texts, narrations=told.get(file),
                    show=partial(_percent, show, file.name),
                )  # fmt: skip
        except DataError as error:
            failed.append(str(error))
    for file, table in tables.items():
        print(
            f"\n{file}: {len(table)} windows" + ("" if table["z"].notna().any() else "; too few to calibrate z and p")
        )
        print(best(table, top).round(3).to_string(index=False))
    if tables and out is not None:
        every = pd.concat([table.assign(file=str(file)) for file, table in tables.items()], ignore_index=True)
        write_table(every, out)
        print(f"\n{len(every)} windows in {out}")
    if tables and page is not None:
        write_atomic(page, render(tables, top, model.about, page).encode())
        print(f"open {page}")
    if tables and picture is not None:
        from mc3.extra.plots import timeline

        drawn = timeline(
            {f.name: (best(t, top), t, energy_of(f, float(t["end_sec"].max()))) for f, t in tables.items()}
        )
        with atomic(picture) as own:
            drawn.savefig(own, format=picture.suffix[1:], dpi=150)
        print(f"timeline in {picture}")
    if extract is not None:
        print(f"{sum(_extract(file, table, top, extract) for file, table in tables.items())} clips in {extract}")
    for sentence in failed:
        print(f"left out: {sentence}")
    return FAILED if failed else 0


def write_table(table: pd.DataFrame, out: Path) -> None:
    """Write a table as CSV or, by the name's ending, JSON."""
    text = table.to_json(orient="records", indent=1) if out.suffix == ".json" else None
    write_atomic(out, (text or table.to_csv(index=False, float_format="%.6f")).encode())


def address(file: Path, page: Path) -> str:
    """The address of a media file as seen from a page, escaped for HTML: relative, or absolute on another drive."""
    try:
        return html.escape(quote(Path(os.path.relpath(file.resolve(), page.absolute().parent)).as_posix()))
    except ValueError:
        return html.escape(file.resolve().as_uri())


def fill(template: str, style: str, script: str, **parts: str) -> str:
    """A page that may run `script` and nothing else; `parts` are HTML."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return template.format(digest=digest, script=script, style=style, **parts)


def _percent(show: Callable[[int, str], None], name: str, done: int, total: int) -> None:
    show(100 * done // total, name)


def best(table: pd.DataFrame, top: int) -> pd.DataFrame:
    """The `top` peaks, the best first, without the columns that all have in common."""
    return table[table["peak"].between(1, top)].sort_values("peak").drop(columns="peak")


def render(tables: dict[Path, pd.DataFrame], top: int, about: str, page: Path) -> str:
    """One page: for each video the player, its curve, its spectrogram and its peaks, which play on click."""
    parts = [_section(number, file, table, top, page) for number, (file, table) in enumerate(tables.items())]
    return fill(PAGE, STYLE, SCRIPT, about=html.escape(about), body="\n".join(parts))


def _section(number: int, file: Path, table: pd.DataFrame, top: int, page: Path) -> str:
    shown, length = best(table, top), float(table["end_sec"].max())
    score = table["z"].fillna(table["similarity"]).to_numpy()
    low, high = float(score.min()), float(max(score.max(), score.min() + 1e-6))
    middle = (table["start_sec"] + table["end_sec"]).to_numpy() / 2
    curve = " ".join(f"{1000 * t / length:.1f},{95 - 90 * (s - low) / (high - low):.1f}"
                     for t, s in zip(middle, score, strict=True))  # fmt: skip
    marks = "".join(f'<circle cx="{1000 * (a + b) / 2 / length:.1f}" cy="6" r="4"/>'
                    for a, b in zip(shown["start_sec"], shown["end_sec"], strict=True))  # fmt: skip
    rows = "".join(
        f'<tr><td><button type="button" data-from="{row.start_sec}" data-to="{row.end_sec}">{clock(row.start_sec)}'
        f"</button></td><td>{_number(row.z)}</td><td>{_number(row.p)}</td><td>{row.similarity:.3f}</td>"
        f"<td>{html.escape(str(getattr(row, 'narration', '')))}</td></tr>"
        for row in shown.itertuples()
    )
    name = html.escape(file.name)
    return SECTION.format(number=number, name=name, address=address(file, page), length=length,
                          curve=curve, marks=marks, rows=rows, picture=_spectrogram(file, length),
                          low=f"{low:.2f}", high=f"{high:.2f}")  # fmt: skip


def energy_of(file: Path, length: float) -> np.ndarray:
    """The log-mel energies of the whole sound, float32 [mel, time], lowest band first, at most `MOST_COLUMNS` wide."""
    step = max(0.1, length / MOST_COLUMNS)
    windows = [(t, t + step) for t in np.arange(0.0, min(length, probe(file.resolve()).duration_sec) - step, step)]
    columns = [fbank(sound, RATE, MEL_BINS).mean(axis=0) for sound in waveforms_of(file.resolve(), windows, RATE)]
    return np.stack(columns, axis=1) if columns else np.zeros((MEL_BINS, 1), np.float32)


def _spectrogram(file: Path, length: float) -> str:
    """`energy_of` as a picture, a data URI."""
    energy = energy_of(file, length)[::-1]
    low, high = np.quantile(energy, [0.02, 0.995])
    grey = np.uint8(255 - 255 * np.clip((energy - low) / max(high - low, 1e-6), 0, 1))
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _extract(file: Path, table: pd.DataFrame, top: int, folder: Path) -> int:
    """Write the best moments as MP4 with sound, RANK_NAME_SECONDS.mp4; returns how many."""
    folder.mkdir(exist_ok=True)
    stem = file.stem if is_safe_id(file.stem) else hashlib.sha256(file.name.encode()).hexdigest()[:12]
    for rank, row in enumerate(best(table, top).itertuples(), 1):
        clip = mp4_of(file.resolve(), float(row.start_sec), float(row.end_sec))
        write_atomic(folder / f"{rank:02d}_{stem}_{row.start_sec:.1f}s.mp4", clip)
    return min(top, int((table["peak"] > 0).sum()))


def clock(seconds: float) -> str:
    """Seconds as minutes:seconds with one decimal."""
    return f"{int(seconds) // 60}:{seconds % 60:04.1f}"


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"


STYLE = """body { font: 16px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 64rem; padding: 0 1rem;
  color-scheme: light dark; } video { max-width: 100%; height: 20rem; background: #000; }
caption { text-align: left; white-space: nowrap; }
.track { position: relative; } svg, .track img { width: 100%; height: 6rem; display: block; cursor: pointer; }
.track img { height: 4rem; } polyline { fill: none; stroke: #0072B2; stroke-width: 2;
  vector-effect: non-scaling-stroke; }
circle { fill: #D55E00; } .head { position: absolute; top: 0; bottom: 0; width: 2px; background: #D55E00; left: 0; }
table { border-collapse: collapse; } th, td { padding: .15rem .8rem .15rem 0; text-align: left; }"""

SCRIPT = """for (const section of document.querySelectorAll("section")) {
  const video = section.querySelector("video"), track = section.querySelector(".track");
  const length = Number(section.dataset.length);
  let end = Infinity;
  const play = (from, to) => { end = to; video.currentTime = from; video.play(); };
  for (const button of section.querySelectorAll("button"))
    button.addEventListener("click", () => play(Number(button.dataset.from), Number(button.dataset.to)));
  track.addEventListener("click", event => {
    const box = track.getBoundingClientRect();
    play(length * (event.clientX - box.left) / box.width, Infinity);
  });
  video.addEventListener("timeupdate", () => {
    section.querySelector(".head").style.left = `${100 * video.currentTime / length}%`;
    if (video.currentTime >= end) { video.pause(); end = Infinity; }
  });
}"""

SECTION = """<section data-length="{length}"><h2>{name}</h2>
<video src="{address}" controls preload="metadata" aria-label="{name}"></video>
<div class="track"><svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img"
 aria-label="Agreement of sound and picture along the video, from {low} to {high}">
<polyline points="{curve}"/>{marks}</svg>
<img src="{picture}" alt="Spectrogram of the sound"><span class="head"></span></div>
<table><caption>The best moments; the curve is z, from {low} to {high}. Click a time to play it.</caption>
<thead><tr><th>at</th><th>z</th><th>p</th><th>cosine</th><th></th></tr></thead><tbody>{rows}</tbody></table></section>"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; media-src 'self' file:;
 style-src 'unsafe-inline'; script-src 'sha256-{digest}'">
<title>MC3: moments that sound</title><style>{style}</style></head>
<body><h1>When the sound comes from the action in the picture</h1>
<p>{about}.</p>
<p>z: by how many standard deviations a window's sound and pictures agree more than re-paired sound and pictures of the
same video, its averages taken off. p: the chance that a random re-pairing of the window agrees as well.</p>
{body}
<script>{script}</script></body></html>
"""
