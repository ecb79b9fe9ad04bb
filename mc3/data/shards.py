"""Random access to the clips in tar shards, which `mc3.data.prepare` writes.

A shard is a tar file of whole videos. For each clip it has, if the clip has pictures and sound,
    {clip_id}.jpg  its T pictures below one another, one JPEG of W x (T * H), 4:4:4, with H as comment unless it is W
    {clip_id}.npy  log-mel energies before normalisation, float16 [L, mel_bins]
    {clip_id}.wav  the sound that they are computed from, 16-bit mono
`index.parquet` has the shard, the byte offsets and the SHA-256 of every clip of the manifest. A clip is compared with
its hash when a process first reads it, which takes 0.07 ms for 60 KB, and decoding these 0.25 ms.
"""

from __future__ import annotations

import hashlib
import io
import os
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image
from tokenizers import Tokenizer

from mc3.config import Config
from mc3.data.clip_table import COLUMNS, read_table
from mc3.errors import DataError
from mc3.files import is_safe_id

# Notebooks read pictures and sound without torch, whose import would take most of their time.
if TYPE_CHECKING:
    import torch
    from torch.utils.data import Dataset
else:
    Dataset = object

IN_MEMORY_BYTES = 2 * 2**30
MEMBERS = {"frames": "jpg", "fbank": "npy", "audio": "wav"}
# Those that the index has beside them: the clip's place, and the hash of its members one after another.
PLACES = {"shard": "str", **{f"{m}_{what}": "int64" for m in MEMBERS for what in ("offset", "size")}, "sha256": "str"}
REMEDY = "`mc3 shards` writes it again"


class ClipDataset(Dataset):
    """Map-style dataset of the clips of one data set, "ego4d" or "epic_sounds"; `index` is their rows of index.parquet.

    `split` is one or several joined by "+", in the index's order. `modalities`: of "audio", "sound", "video", "text",
    the last with a model's `tokenizer`, which cuts and pads. `in_memory` decodes everything now. A clip has the middle
    picture of each of `frames` equal segments (0: all that are stored), at the sides extended to `width` pixels (0:
    their own). Raises `DataError` if the shards are missing or do not fit their index, also when a clip is read first.
    """

    def __init__(
        self, folder: Path, dataset: str = "ego4d", split: str = "train",
        modalities: Sequence[str] = ("audio", "video"), tokenizer: Tokenizer | None = None,
        in_memory: bool = False, frames: int = 0, width: int = 0,
    ):  # fmt: skip
        self.folder, self.modalities, self.taken, self.width = Path(folder), tuple(modalities), frames, width
        index = read_index(self.folder)
        self.index = rows_of(index, dataset, split)
        if self.index.empty:
            known = sorted(set(index["dataset"] + " " + index["split"]))
            raise DataError(f"{self.folder} has no clips of {dataset} {split}; it has {', '.join(known)}")
        self._offsets = self.index[list(PLACES)].to_dict("list")
        self._files: dict[tuple[int, str], int] = {}
        self._intact = bytearray(len(self.index))  # 1 for a clip whose hash was compared
        self._decoded: dict[str, list[torch.Tensor]] = {}
        if "text" in self.modalities:
            import torch

            assert tokenizer is not None, "texts need a model's tokenizer"
            ids = [encoding.ids for encoding in tokenizer.encode_batch(list(self.index["text"]))]
            self._decoded["text"] = list(torch.tensor(ids, dtype=torch.int64))
        if in_memory:
            for modality in set(self.modalities) - {"text"}:
                self._decoded[modality] = [self._decode(i, modality) for i in range(len(self))]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int | tuple[int, Sequence[int]]) -> dict[str, Any]:
        """Clip `i`: its "index" and the modalities asked for, or of (i, frames), with these pictures of those stored.

        "video" uint8 [T, H, W, 3], "audio" float16 [L, mel_bins], "sound" int16 [S], "text" int64 [max_length]; with
        "video" there is "width", of the pictures themselves, which are in the middle of W.
        """
        i, chosen = i if isinstance(i, tuple) else (i, None)
        item: dict[str, Any] = {"index": i}
        item |= {m: self._decoded[m][i] if m in self._decoded else self._decode(i, m) for m in self.modalities}
        if "video" in item:
            item |= {"video": self._fit(item["video"], chosen), "width": item["video"].shape[2]}
        return item

    def _fit(self, video: torch.Tensor, chosen: Sequence[int] | None) -> torch.Tensor:
        """The chosen or the middle pictures of [T, H, W, 3], their outermost columns repeated up to `width`."""
        import torch

        (stored, _, own, _), taken, width = video.shape, self.taken or len(video), self.width or video.shape[2]
        if stored != taken:
            middle = (2 * torch.arange(taken) + 1) * (stored // taken) // 2
            video = video[middle if chosen is None else torch.as_tensor(chosen)]
        if own != width:
            video = video[:, :, (torch.arange(width) - (width - own) // 2).clamp(0, own - 1)]
        return video

    def _decode(self, i: int, modality: str) -> torch.Tensor:
        import torch

        if modality == "sound":
            return torch.from_numpy(self.waveform(i)[0].copy())
        return torch.from_numpy(self.frames(i) if modality == "video" else self.fbank(i))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}

    def frames(self, i: int) -> np.ndarray:
        """The pictures of clip `i`, uint8 [T, H, W, 3]."""
        strip = Image.open(io.BytesIO(self._read(i, "frames")))
        return np.array(strip).reshape(-1, int(strip.info.get("comment", strip.width)), strip.width, 3)

    def fbank(self, i: int) -> np.ndarray:
        """The log-mel energies of clip `i` before normalisation, float16 [L, mel_bins]."""
        return np.load(io.BytesIO(self._read(i, "fbank")), allow_pickle=False)

    def waveform(self, i: int) -> tuple[np.ndarray, int]:
        """The sound of clip `i`, int16 [S], and its sample rate."""
        with wave.open(io.BytesIO(self._read(i, "audio"))) as file:
            return np.frombuffer(file.readframes(file.getnframes()), "<i2"), file.getframerate()

    def _read(self, i: int, member: str) -> bytes:
        name, size = self._offsets["shard"][i], self._offsets[f"{member}_size"][i]
        if not size:
            raise DataError(f"clip {self.index['clip_id'][i]} has no {member}; ask for other modalities")
        key = (os.getpid(), name)  # worker processes must not share their parent's files
        if key not in self._files:
            self._files[key] = os.open(self.folder / name, os.O_RDONLY)
        if not self._intact[i]:
            clip = hashlib.sha256()
            for each in MEMBERS:
                place = self._offsets[f"{each}_size"][i], self._offsets[f"{each}_offset"][i]
                clip.update(os.pread(self._files[key], *place))
            if clip.hexdigest() != self._offsets["sha256"][i]:
                lost = f"{self.folder / name} is damaged at clip {self.index['clip_id'][i]}"
                raise DataError(f"{lost}, whose bytes have another SHA-256 than its index says; {REMEDY}")
            self._intact[i] = 1
        return os.pread(self._files[key], size, self._offsets[f"{member}_offset"][i])


def open_clips(config: Config, split: str, tokenizer: Tokenizer, modalities: Sequence[str]) -> ClipDataset:
    """Ego4D's clips of a split (or several, "a+b"), decoded now if they fit in `IN_MEMORY_BYTES`."""
    rows = rows_of(read_index(config.paths.shards), "ego4d", split)
    clips, frames = config.clips, config.model.video.frames
    pixels = len(rows) * clips.frames * clips.frame_size * clips.frame_width * 3
    fits = bool(pixels + rows["audio_size" if "sound" in modalities else "fbank_size"].sum() < IN_MEMORY_BYTES)
    return ClipDataset(config.paths.shards, "ego4d", split, modalities, tokenizer, fits, frames, clips.frame_width)


def read_index(folder: Path) -> pd.DataFrame:
    """The index of a folder of shards. Raises `DataError` if it or a shard is missing, damaged or cut short."""
    path = folder / "index.parquet"
    if not path.exists():
        raise DataError(f"no shards in {folder}; `mc3 shards` writes them")
    index = read_table(path, COLUMNS | PLACES, REMEDY)
    places = index.filter(regex="_offset$|_size$")
    if index.empty or not ((places >= 0) & (places < 2**50)).all(axis=None):
        raise DataError(f"{path} is damaged (it has no places of clips, or none in a file); {REMEDY}")
    ends = pd.concat([index[f"{m}_offset"] + index[f"{m}_size"] for m in MEMBERS], axis=1).max(axis=1)
    for shard, end in ends.groupby(index["shard"]).max().items():
        file = folder / str(shard)
        if not is_safe_id(shard) or not file.is_file() or file.stat().st_size < end:
            raise DataError(f"{file} is missing or cut short; {REMEDY}")
    return index


def rows_of(index: pd.DataFrame, dataset: str, split: str) -> pd.DataFrame:
    """The rows of an index for one data set and split (or several, "a+b"), numbered from 0."""
    return index[(index["dataset"] == dataset) & index["split"].isin(split.split("+"))].reset_index(drop=True)
