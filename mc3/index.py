"""An index of clips and texts: embeddings to search by cosine, in any direction between the modalities.

index/
  rows.parquet        a row each: file, start_sec, end_sec, text
  index.safetensors   unit embeddings by modality, float32 [N, D], NaN where a row lacks the modality
  MODALITY.faiss      a graph for approximate search, if it was asked for (`pip install faiss-cpu`)
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from safetensors import safe_open

from mc3 import windows
from mc3.errors import ConfigError, DataError
from mc3.files import reading, replace_folder
from mc3.methods import MODALITIES
from mc3.model import MC3
from mc3.store import write_tensors

AGAIN = "`mc3 index` makes it again"
ROWS, TENSORS = "rows.parquet", "index.safetensors"
COLUMNS = ["file", "start_sec", "end_sec", "text"]
BLOCK = 65_536  # rows that are compared at a time
LINKS, LOOKED_AT = 32, 256  # of FAISS's graph (HNSW): neighbours of a row, candidates of a search


@dataclass(frozen=True)
class Index:
    """Rows (`COLUMNS`) and their embeddings; `model` identifies the weights that made them (`fingerprint`)."""

    rows: pd.DataFrame
    embeddings: dict[str, NDArray[np.float32]]
    model: str
    folder: Path | None = None

    def save(self, folder: str | Path, approximate: bool = False) -> None:
        """Write the index; only an index is replaced. `approximate` adds graphs for FAISS, `ConfigError` without it."""
        faiss: Any = _faiss() if approximate else None
        with replace_folder(Path(folder), "mc3 index", "--out") as new:
            self.rows.to_parquet(new / ROWS, index=False)
            write_tensors(new / TENSORS, self.embeddings, {"model": self.model})
            for modality, own in self.embeddings.items() if faiss else ():
                graph = faiss.IndexIDMap(faiss.IndexHNSWFlat(own.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT))
                there = np.flatnonzero(np.isfinite(own[:, 0]))
                graph.add_with_ids(np.ascontiguousarray(own[there]), there)
                faiss.write_index(graph, str(new / f"{modality}.faiss"))

    @classmethod
    def load(cls, folder: str | Path) -> "Index":
        """Read an index; `DataError` if it is missing, damaged or not in step with its rows."""
        folder = Path(folder)
        for name in (ROWS, TENSORS):
            if not (folder / name).is_file():
                raise DataError(f"no index at {folder} ({name} is missing); `mc3 index FOLDER --out {folder}` makes it")
        with reading(folder / ROWS, AGAIN):
            rows = pd.read_parquet(folder / ROWS)[COLUMNS]
        with reading(folder / TENSORS, AGAIN), safe_open(folder / TENSORS, "numpy") as file:
            model = (file.metadata() or {})["model"]
            embeddings = {name: file.get_tensor(name) for name in MODALITIES if name in file.keys()}  # noqa: SIM118
            if any(own.ndim != 2 or len(own) != len(rows) for own in embeddings.values()):
                raise ValueError(f"it has other embeddings than the rows of {ROWS}")
        return cls(rows, embeddings, model, folder)

    def search(self, query: ArrayLike, modality: str, top: int = 10, approximate: bool = False) -> pd.DataFrame:
        """The `top` rows whose embedding of `modality` is nearest to `query` [D]: rank, similarity (cosine), `COLUMNS`.

        Exact, or with `approximate` by FAISS's graph. `ConfigError` if no row has the modality, or for a graph that was
        not made.
        """
        own = self.embeddings.get(modality, np.empty((0, 0), np.float32))
        found = int(np.isfinite(own[:, :1]).sum())
        if not found:
            raise ConfigError(f"the index has no {modality}; search for one of {', '.join(self.known()) or 'none'}")
        unit = np.asarray(query, np.float32)
        if unit.shape != own.shape[1:]:
            raise ConfigError(f"the query is {unit.shape}, the index's rows {own.shape[1:]}; use one model for both")
        if approximate:
            similarity, rows = self._graph(modality).search(unit[None], min(top, found))
            similarity, rows = similarity[0], rows[0]
        else:
            parts = [own[at : at + BLOCK] @ unit for at in range(0, len(own), BLOCK)]
            every = np.nan_to_num(np.concatenate(parts), nan=-np.inf)
            rows = np.argsort(-every, kind="stable")[: min(top, found)]
            similarity = every[rows]
        table = self.rows.iloc[rows].reset_index(drop=True)
        table.insert(0, "similarity", similarity)
        table.insert(0, "rank", np.arange(1, len(table) + 1))
        return table

    def known(self) -> list[str]:
        """The modalities of which there is an embedding."""
        return [name for name, own in self.embeddings.items() if np.isfinite(own[:, 0]).any()]

    def _graph(self, modality: str) -> Any:
        file = (self.folder or Path()) / f"{modality}.faiss"
        if self.folder is None or not file.is_file():
            raise ConfigError(f"the index has no graph {file.name}; make it by `mc3 index ... --approximate`")
        graph = _faiss().read_index(str(file))
        _faiss().downcast_index(graph.index).hnsw.efSearch = LOOKED_AT
        return graph


def build(
    model: MC3, sources: Iterable[str | Path | tuple[Path, pd.DataFrame | None]], texts: Sequence[str] = (),
    every_sec: float | None = None, failed: list[str] | None = None,
    show: Callable[[int, str], None] = lambda done, name: None,
) -> Index:  # fmt: skip
    """Index media files and texts.

    A source is a file, of which windows are indexed, one each `every_sec` (by default one after the other), or a file
    and its clips: columns start_sec, end_sec and perhaps text, which is embedded too. A file without pictures or
    without sound has only the other. One that cannot be read goes to `failed`, or is a `DataError` without such a list;
    so is an index of nothing.
    """
    length = windows.clip_sec(model.config)
    rows, parts = list[pd.DataFrame](), list[tuple[str, int, NDArray[np.float32]]]()
    count = 0
    for number, source in enumerate(sources):
        file, clips = source if isinstance(source, tuple) else (source, None)
        path = Path(file).resolve()
        try:
            have = windows.streams(path)
            if clips is None:
                spans = windows.along(path, length if every_sec is None else every_sec, length, have)
                clips = pd.DataFrame(spans, columns=COLUMNS[1:3])
            clips = clips.sort_values("start_sec", kind="stable")
            spans = list(zip(clips["start_sec"], clips["end_sec"], strict=True))
            found = windows.embed(model, path, spans, have)
        except DataError as error:
            if failed is None:
                raise
            failed.append(str(error))
            continue
        clips = clips.assign(file=str(path), text=clips["text"].fillna("") if "text" in clips else "")[COLUMNS]
        parts += [(modality, count, own) for modality, own in found.items()]
        rows.append(clips)
        count += len(clips)
        show(number + 1, path.name)
    if texts:
        rows.append(pd.DataFrame({"file": "", "start_sec": np.nan, "end_sec": np.nan, "text": list(texts)}))
    if not rows:
        raise DataError("nothing to index: no file could be read" + (f"; {failed[0]}" if failed else ""))
    table = pd.concat(rows, ignore_index=True)
    said = np.flatnonzero(table["text"] != "")
    embeddings = {m: np.full((len(table), model.config.embedding_dim), np.nan, np.float32) for m in MODALITIES}
    for modality, at, own in parts:
        embeddings[modality][at : at + len(own)] = own
    if said.size:
        embeddings["text"][said] = windows.embed_texts(model, table["text"].iloc[said].tolist())
    return Index(table, embeddings, fingerprint(model))


def fingerprint(model: MC3) -> str:
    """SHA-256 of a model's weights, so that an index is not searched by another model."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {list(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise ConfigError("approximate search needs FAISS; `pip install faiss-cpu`, or search exactly") from None
    return faiss
