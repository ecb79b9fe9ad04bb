"""Embeddings of any other model: read from one file, checked, and measured by the paper's protocol.

The file is safetensors (tensors "audio", "video", "text", [N, D] each, any of them; ids as a JSON list in the
metadata's "clip_id") or Parquet (the same names as columns, a vector a row).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import safe_open

from mc3 import methods, store
from mc3.config import Config, override
from mc3.data.shards import read_index, rows_of
from mc3.errors import ConfigError, DataError
from mc3.files import is_safe_id, reading, sha256, write_atomic
from mc3.paper import bootstrap, claims, tables
from mc3.paper.bootstrap import Measured
from mc3.paper.claims import Claim

FOLDER = Path("data/foreign")  # PROFILE/NAME.safetensors, the rows of every table
UNIT = 1e-5  # a vector whose length differs from 1 by less is taken as it is
EPIC_SPLITS = ("train", "validation")
ENTRY = ("row", "profile", "date", "card", "sha256", *tables.BOARD)  # columns of docs/leaderboard.csv

Arrays = dict[str, NDArray[np.float32]]


class Given(NamedTuple):
    """What a file holds: the ids of its rows, and an array a modality."""

    ids: list[str]
    arrays: Arrays


@dataclass
class Aligned:
    """A file's embeddings in the order of `mc3.store.clips`, and notes on what was left out or is missing."""

    tensors: Arrays
    notes: list[str]


def read(file: Path) -> Given:
    """Read ids and arrays of a safetensors or Parquet file; `DataError` for one that is not as this module says."""
    if not file.is_file():
        raise DataError(f"no file {file}; give the embeddings as safetensors or Parquet")
    readers = {".safetensors": _safetensors, ".parquet": _parquet}
    if file.suffix not in readers:
        raise DataError(f"{file} is neither .safetensors nor .parquet; write the embeddings as one of these")
    with reading(file, f"write the embeddings again, as {file.suffix[1:]}"):
        given = readers[file.suffix](file)
    ids, arrays = given
    if not arrays:
        raise DataError(f"{file} has none of {', '.join(methods.MODALITIES)}; name the tensors or columns so")
    if not all(isinstance(i, str) for i in ids):
        raise DataError(f"{file} has a clip_id that is no text; ids are those of `mc3 clips --export`")
    seen = pd.Series(ids)
    if seen.duplicated().any():
        doubled = seen[seen.duplicated()]
        raise DataError(f"{file} has {len(doubled)} clip ids twice, first {doubled.iloc[0]!r}; give each clip once")
    for modality, array in arrays.items():
        if len(array) != len(ids):
            raise DataError(f"{file} has {len(array)} rows of {modality} for {len(ids)} clip ids; give one a clip")
        if array.dtype.kind != "f" or array.ndim not in (2, 3) or not array.size:
            raise DataError(
                f"{file} has {modality} of shape {array.shape}, {array.dtype}; give a vector of floats a clip"
            )
        length = np.linalg.norm(array.reshape(len(array), -1).astype(np.float64), axis=1)
        if not (valid := np.isfinite(length) & (length > 0)).all():
            where = f"{ids[int(valid.argmin())]!r} of {modality} has length {length[int(valid.argmin())]}"
            raise DataError(f"{file}: clip {where}, but must have a direction; {(~valid).sum()} such vectors")
    return given


def align(config: Config, file: Path) -> Aligned:
    """A file's embeddings, unit rows in the order of `mc3.store.clips`; validation clips that it lacks are NaN.

    Every modality needs every test clip, and all need one width, or it is a `DataError`.
    """
    given, clips = read(file), store.clips(config)
    widths = {modality: array.shape[1:] for modality, array in given.arrays.items()}
    if any(len(width) != 1 for width in widths.values()):
        raise DataError(f"{file} has several vectors a clip; give their mean")
    if len(set(widths.values())) > 1:
        words = ", ".join(f"{modality} {width[0]}" for modality, width in widths.items())
        raise DataError(f"{file} has vectors of different widths ({words}); a pair is compared in one common space")
    notes = _unused(config, given.ids, file)
    at = pd.Index(given.ids).get_indexer(pd.Index(clips["clip_id"]))
    lost, test = at < 0, (clips["split"] == "test").to_numpy()
    if (lost & test).any():
        missing, n = clips.loc[lost & test, "clip_id"], int(test.sum())
        share = f"{len(missing):,} of {n:,} test clips ({len(missing) / n:.1%}), first {missing.iloc[0]!r}"
        raise DataError(f"{file} lacks {share}; numbers of a part would not compare: embed what "
                        f"`mc3 clips --export` writes. {' '.join(notes)}".rstrip())  # fmt: skip
    if lost.any():
        notes.append(f"{lost.sum():,} validation clips are missing; no table needs them.")
    return Aligned({m: np.where(lost[:, None], np.nan, _unit(a)[at]) for m, a in given.arrays.items()}, notes)


def probed(config: Config, file: Path) -> NDArray[np.float32]:
    """EPIC-Sounds class probabilities [events, classes] of the linear probe on a file's features, as in Table 4.

    The file has "audio", [N, D] or [N, views, D], of every training and validation event (ids: annotation_id), taken as
    they are: a probe of fixed rate suits features of about unit variance, as a LayerNorm's.
    """
    import torch

    from mc3.model import use_precision
    from mc3.paper import probe

    given = read(file)
    if "audio" not in given.arrays:
        raise DataError(f"{file} has no audio; EPIC-Sounds is classified by its sound")
    features = given.arrays["audio"].reshape(len(given.ids), -1, given.arrays["audio"].shape[-1])
    found, labels = {}, {}
    for split in EPIC_SPLITS:
        events = store.events(config, split)
        at = pd.Index(given.ids).get_indexer(pd.Index(events["clip_id"]))
        if (at < 0).any():
            first = events.loc[at < 0, "clip_id"].iloc[0]
            raise DataError(f"{file} lacks {(at < 0).sum():,} of {len(at):,} {split} events of EPIC-Sounds, first "
                            f"{first!r}; the probe needs all")  # fmt: skip
        found[split], labels[split] = features[at].astype(np.float32), events["class_id"].to_numpy(np.int64)
    torch.set_num_threads(1)
    use_precision(config)
    classes, seed = int(max(own.max() for own in labels.values())) + 1, config.seeds[0]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    head = probe.linear_probe(found["train"], labels["train"], classes, config.probe.linear, seed, device)
    return probe.probabilities(head, found["validation"], device)


def add(config: Config, file: Path, name: str, epic_sounds: Path | None, keep: bool) -> list[str]:
    """Check a file and store it as the row `name`: of the next page, or with `keep` of every table; returns notes."""
    check_name(name)
    aligned = align(config, file)
    tensors = dict(aligned.tensors)
    if epic_sounds is not None:
        tensors[store.LINEAR] = probed(config, epic_sounds)
    about = {"row": name, "clips": sha256(config.paths.shards / "index.parquet"), "file": sha256(file)}
    target = guest(config).paths.embeddings(name, "foreign")
    for other in target.parent.glob("*"):
        other.unlink()
    store.write_tensors(target, tensors, about)
    if keep:
        write_atomic(FOLDER / config.profile / target.name, target.read_bytes())
    return aligned.notes


def check_name(name: str) -> None:
    """Raise `ConfigError` for a name that cannot be a file's."""
    if not is_safe_id(name):
        raise ConfigError(f"{name!r} is no name for a row; give --row letters, digits, dots, dashes or underscores")


def install(config: Config) -> None:
    """Make the kept rows of this profile the foreign embeddings of the pipeline; the stage `embed` does it."""
    folder = config.paths.embeddings("", "foreign").parent
    kept = {file.name: file for file in sorted((FOLDER / config.profile).glob("*.safetensors"))}
    for left in set(folder.glob("*")) - {folder / name for name in kept}:
        left.unlink()
    clips = sha256(config.paths.shards / "index.parquet") if kept else ""
    for name, file in kept.items():
        check_name(file.stem)
        with reading(file, "delete it"), safe_open(file, "numpy") as tensors:
            if (tensors.metadata() or {}).get("clips") != clips:
                raise DataError(
                    f"{file} is of other clips; run `mc3 evaluate` again with --row {file.stem}, or delete it"
                )
        write_atomic(folder / name, file.read_bytes())


def guest(config: Config) -> Config:
    """The settings under which the row that was checked last is read by `mc3.store`, apart from the pipeline's."""
    return override(config, {"paths.work": str(config.paths.work / "evaluated")})


def beside(ours: pd.DataFrame, theirs: pd.DataFrame, row: str) -> pd.DataFrame:
    """Our table with the row `row` of `theirs` below our rows, above those without a model."""
    own = theirs[theirs["method"] == row]
    ours = ours[ours["method"] != row]
    last = len(ours) - ours["method"].isin(tables.priors.LABELS).sum()
    return pd.concat([ours[:last], own, ours[last:]], ignore_index=True)[ours.columns]


def measured(config: Config, row: str, draws: int = 1000) -> dict[str, Measured]:
    """`bootstrap.embedded` of our rows and of the guest `row`, on the same resamples."""
    ours, theirs = (bootstrap.embedded(c, rows, draws) for c, rows in
                    ((config, list(methods.METHODS)), (guest(config), [row])))  # fmt: skip
    return {name: replace(sample, cells=theirs[name].cells | sample.cells) for name, sample in ours.items()}


def entry(config: Config, row: str, table2: pd.DataFrame, table3: pd.DataFrame) -> pd.DataFrame:
    """The row of docs/leaderboard.csv for the guest `row`; date and card are the submitter's to fill in."""
    with safe_open(guest(config).paths.embeddings(row, "foreign"), "numpy") as file:
        digest = (file.metadata() or {})["file"]
    about: dict[str, Any] = {"row": row, "profile": config.profile, "date": "", "card": "", "sha256": digest}
    for table in (table2, table3):
        about |= table.set_index("method").loc[store.FOREIGN + row].to_dict()
    return pd.DataFrame([about])[[*ENTRY]]


def in_place_of_reference(row: str, sources: Mapping[str, Any]) -> list[Claim]:
    """The paper's claims about MC3 in `sources`, asked of `row` instead: those with a check in which MC3 is to lead."""
    reference, found = methods.with_role("reference"), []

    def put(cells: Sequence[tables.Cell]) -> tuple[tables.Cell, ...]:
        return tuple(cell._replace(method=row) if cell.method == reference else cell for cell in cells)

    for claim in claims.load():
        led = [check for check in claim.checks if any(cell.method == reference for cell in check.above)]
        if led and claim.source in sources:
            asked = tuple(replace(check, above=put(check.above), below=put(check.below)) for check in led)
            words = claim.text.replace(methods.get(reference).label, tables.label(row))
            found.append(replace(claim, checks=asked, text=words))
    return found


def _unused(config: Config, ids: Sequence[str], file: Path) -> list[str]:
    """Notes on ids that no table uses; `DataError` if all of them are of other splits or data sets."""
    index = read_index(config.paths.shards)
    train = set(rows_of(index, "ego4d", "train")["clip_id"])
    used = set(store.clips(config)["clip_id"])
    of_train, unknown = ([i for i in ids if i in train], [i for i in ids if i not in train and i not in used])
    if len(of_train) == len(ids):
        raise DataError(f"{file} has training clips only; embed what `mc3 clips --export --split test` writes")
    notes = [f"{len(of_train):,} training clips are ignored."] if of_train else []
    return notes + ([f"{len(unknown):,} ids are no clips here, first {unknown[0]!r}."] if unknown else [])


def _unit(array: NDArray[Any]) -> NDArray[np.float32]:
    """Rows of length 1 as float32; rows that are already so are not touched, so that no digit changes."""
    length = np.linalg.norm(array.astype(np.float64), axis=1, keepdims=True)
    return np.where(np.abs(length - 1) < UNIT, array, array / length).astype(np.float32)


def _safetensors(file: Path) -> Given:
    with safe_open(file, "numpy") as tensors:
        ids = json.loads((tensors.metadata() or {}).get("clip_id", "null"))
        if not isinstance(ids, list):
            raise ValueError('its metadata has no "clip_id", a JSON list of ids')
        names = [name for name in methods.MODALITIES if name in tensors.keys()]  # noqa: SIM118, it is no dictionary
        return Given(ids, {name: tensors.get_tensor(name) for name in names})


def _parquet(file: Path) -> Given:
    table = pd.read_parquet(file)
    if "clip_id" not in table:
        raise ValueError("it has no column clip_id")
    names = [name for name in methods.MODALITIES if name in table]
    return Given(table["clip_id"].tolist(), {name: np.stack(list(table[name])).astype(np.float64) for name in names})
