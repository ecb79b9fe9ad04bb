"""`mc3 filter`: clips that sound, mined from a table of clips by the agreement of sound and pictures.

This is how training sets for making sound to actions are mined. Whole videos in groups are scored; each group is a file
in OUT.parts/ when it is done, so that a killed run continues and several machines share the work, as in preparing.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mc3.config import Config
from mc3.errors import ConfigError, DataError
from mc3.extra import own_video
from mc3.files import atomic, reading, write_atomic
from mc3.progress import bar

if TYPE_CHECKING:
    from mc3.pretrained import Model

NEEDED = ("path", "start_sec", "end_sec")
SCORE = "score"
CLIPS_PER_PART = 2000


def read_clips(path: Path) -> pd.DataFrame:
    """A table of clips, CSV or Parquet: path, start_sec, end_sec and any others, kept; `DataError` if it is none."""
    with reading(path, f"give a CSV or Parquet file with {', '.join(NEEDED)}"):
        table = pd.read_csv(path, dtype={"path": str}) if path.suffix == ".csv" else pd.read_parquet(path)
        if missing := [name for name in NEEDED if name not in table]:
            raise DataError(f"{path} has no column {missing[0]}; it needs {', '.join(NEEDED)}")
        times = table[["start_sec", "end_sec"]].apply(pd.to_numeric, errors="coerce").astype("float64")
    wrong = ~(np.isfinite(times).all(axis=1) & (times["start_sec"] < times["end_sec"])) | table["path"].isna()
    if wrong.any():
        where = f"{path}, row {int(np.flatnonzero(wrong)[0]) + 1}"
        raise DataError(f"{where}: needs a path, and start_sec before end_sec ({wrong.sum()} such rows); correct them")
    return table.assign(**times, path=table["path"].astype(str)).reset_index(drop=True)


def run(
    config: Config, checkpoint: str | Path, source: Path, out: Path, root: Path, split: str | None = None,
    keep: float | None = None, threshold: float | None = None, rank: int | None = None, world: int = 1,
) -> int:  # fmt: skip
    """Write `source` with a column `score`, the cosine of each clip's sound and pictures; returns the exit code.

    Only clips of `split` are scored and filtered, if it is given, and of Ego4D, if the table says so (EPIC-Sounds' have
    no pictures); the others stay. `keep` the best share, or those from `threshold` on. With `rank` only this process's
    share is scored. A file that cannot be read is listed, its clips are left out, and the code is `own_video.FAILED`.
    """
    if rank is not None and not 0 <= rank < world:
        raise ConfigError(f"rank {rank} is not one of a world of {world}; ranks count from 0 to {world - 1}")
    table = read_clips(source)
    chosen = pd.Series(True, index=table.index)
    for column, value in (("split", split), ("dataset", "ego4d" if "dataset" in table else None)):
        if value is not None:
            if column not in table:
                raise ConfigError(f"--{column} {value}: {source} has no column {column}")
            chosen &= table[column] == value
    if not chosen.any():
        raise DataError(f"{source} has no clip to score" + (f" of the split {split}" if split else ""))
    model = own_video.open_model(config, checkpoint)
    print(model.about)
    from mc3.index import fingerprint

    groups, made = list(_groups(table[chosen])), fingerprint(model)
    folder = out.with_name(out.name + ".parts")
    folder.mkdir(exist_ok=True)
    parts = [folder / f"{number:05d}-{_key(made, own)}.json" for number, own in enumerate(groups)]
    mine = range(len(groups)) if rank is None else range(rank, len(groups), world)
    with bar(sum(len(groups[i]) for i in mine), 0, main=True) as show:
        done = 0
        for i in mine:
            if not parts[i].exists():
                scores = _scored(model, groups[i], root)
                with atomic(parts[i]) as own:
                    own.write_text(json.dumps(scores))
            done += len(groups[i])
            show(done, "scoring clips")
    if rank is not None:
        print(f"rank {rank} of {world}: {done} clips in {len(mine)} parts; `mc3 filter` without --rank joins them")
        return 0
    scores, failures = pd.Series(np.nan, index=table.index), list[str]()
    for own, part in zip(groups, parts, strict=True):
        with reading(part, "remove it, and run the same command again"):
            facts = json.loads(part.read_text())
            scores[own.index] = [np.nan if score is None else float(score) for score in facts["scores"]]
            failures += map(str, facts["failures"])
    kept = _kept(scores, chosen, keep, threshold)
    result = table.assign(**{SCORE: scores})[kept]
    data = result.to_csv(index=False) if out.suffix == ".csv" else result.to_parquet(index=False)
    write_atomic(out, data.encode() if isinstance(data, str) else data)
    for part in parts:
        part.unlink()
    if not any(folder.iterdir()):  # parts of another checkpoint or table stay
        folder.rmdir()
    print(f"{int(kept[chosen].sum())} of {int(chosen.sum())} scored clips and {int((~chosen).sum())} others in {out}")
    for sentence in failures:
        print(f"left out: {sentence}")
    return own_video.FAILED if failures else 0


def _groups(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The clips in groups of whole files, each sorted by file and start."""
    ordered, waiting, count = table.sort_values(["path", "start_sec"], kind="stable"), list[pd.DataFrame](), 0
    for _, own in ordered.groupby("path", sort=False):
        waiting.append(own)
        count += len(own)
        if count >= CLIPS_PER_PART:
            yield pd.concat(waiting)
            waiting, count = [], 0
    if waiting:
        yield pd.concat(waiting)


def _key(model: str, clips: pd.DataFrame) -> str:
    facts = clips[list(NEEDED)].to_csv() + model
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def _scored(model: "Model", clips: pd.DataFrame, root: Path) -> dict[str, list[Any]]:
    """The scores of clips in their order, None where a file cannot be read, and why not."""
    from mc3 import windows

    scores, failures = list[float | None](), list[str]()
    for path, own in clips.groupby("path", sort=False):
        spans = list(zip(own["start_sec"], own["end_sec"], strict=True))
        try:
            file = (root / str(path)).resolve()
            if missing := [windows.NAMES[m] for m in windows.NAMES if m not in windows.streams(file)]:
                raise DataError(f"{file} has no {missing[0]}; take its {len(own)} clips out of the table")
            found = windows.embed(model, file, spans, ("video", "audio"))
            scores += (found["video"] * found["audio"]).sum(axis=1).tolist()
        except DataError as error:
            failures.append(str(error))
            scores += [None] * len(own)
    return {"scores": scores, "failures": failures}


def _kept(scores: pd.Series, chosen: pd.Series, keep: float | None, threshold: float | None) -> pd.Series:
    """Which rows stay: those not `chosen`, and of the scored ones all, the best share or those from a threshold on."""
    scored = scores.notna()
    if keep is not None:
        count = round(keep * scored.sum())
        best: Sequence[int] = scores[scored].sort_values(ascending=False, kind="stable").index[:count]
        scored &= scores.index.isin(best)
    elif threshold is not None:
        scored &= scores >= threshold
    return ~chosen | scored
