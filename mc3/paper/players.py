"""Clips of a page that play: each cut from its raw video into figures/report/clips/, with a picture to click on."""

import base64
import html
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from PIL import Image

from mc3.config import Config
from mc3.data import cutting
from mc3.errors import DataError
from mc3.files import is_safe_id, write_atomic

if TYPE_CHECKING:
    from mc3.data.shards import ClipDataset

FOLDER = Path("figures/report/clips")
CRF = 23
ABSENT = "The raw videos are not here, so that these clips have a picture only; `dvc repro raw` fetches or makes them."


def show(config: Config, clips: "ClipDataset", shown: pd.DataFrame, name: str) -> Any:
    """Players of the clips in `shown`: group (a heading), row (of `clips`), note. Their files are in FOLDER/`name`.

    Nothing plays, or is read, before a click. A clip whose raw video is missing has its picture alone, and the page
    says so. Raises `DataError` for a clip id that is no file name.
    """
    from IPython.display import HTML

    folder = FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    files = {row: _cut(config, clips.index.iloc[row], folder) for row in dict.fromkeys(shown["row"])}
    for stale in set(folder.glob("*.mp4")) - set(files.values()):
        stale.unlink()
    parts = [f"<p>{ABSENT}</p>"] if None in files.values() else []
    for group, members in shown.groupby("group", sort=False):
        items = "".join(
            f"<li>{_player(clips, m.row, files[m.row])}{html.escape(m.note)}</li>" for m in members.itertuples()
        )
        parts.append(f'<p class="clips-title">{html.escape(str(group))}</p><ul class="clips">{items}</ul>')
    return HTML("\n".join(parts))


def of_retrieval(examples: pd.DataFrame, texts: pd.Series) -> pd.DataFrame:
    """The queries and results of Figure 7 (rows of `findings.retrieved`), for `show`."""
    lines = []
    for (direction, query), results in examples.groupby(["direction", "query"], sort=False):
        group = f"{direction}: {texts.iloc[query]}"
        lines.append((group, query, f"query: {texts.iloc[query]}"))
        for item in results.itertuples():
            verdict = "correct" if item.correct else "wrong"
            lines.append((group, item.retrieved, f"{item.rank} {verdict}: {texts.iloc[item.retrieved]}"))
    return pd.DataFrame(lines, columns=["group", "row", "note"])


def _cut(config: Config, clip: pd.Series, folder: Path) -> Path | None:
    """The clip's file, cut from its raw video; None if there is no such video."""
    if not is_safe_id(clip["clip_id"]):
        raise DataError(f"clip id {clip['clip_id']!r} in {config.paths.shards} is no file name; run `mc3 shards` again")
    source, target = config.paths.raw / clip["path"], folder / f"{clip['clip_id']}.mp4"
    if not source.exists():
        return None
    write_atomic(target, cutting.mp4_of(source, clip["start_sec"], clip["end_sec"], CRF))
    return target


def _player(clips: "ClipDataset", row: int, file: Path | None) -> str:
    frames, buffer = clips.frames(row), io.BytesIO()
    picture = Image.fromarray(frames[len(frames) // 2])
    picture.thumbnail((192, 192))
    picture.save(buffer, "WEBP", quality=80, method=6)
    poster = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    text = html.escape(str(clips.index["text"].iloc[row]))
    if file is None:
        return f'<video poster="{poster}" role="img" aria-label="Clip: {text}"></video>'
    source = f"../{file.as_posix()}"
    return f'<video controls preload="none" poster="{poster}" src="{source}" aria-label="Clip: {text}"></video>'
