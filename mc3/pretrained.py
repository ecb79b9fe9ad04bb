"""A trained model for the user's own code: from a folder or the Hugging Face hub, on files, arrays or tensors.

model = mc3.load("data/mini/checkpoints/mc3-0/final")
embeddings = model.embed(video=["a.mp4", ("b.mp4", 3.0, 4.5)], text="chops an onion")
model.similarity(audio=(waveform, 44100), text=["chops an onion", "washes a plate"])
model.discover("my_video.mp4")
model.retrieve("chops an onion", mc3.index.build(model, files))
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from torch import Tensor
from torch.nn.functional import normalize

from mc3 import discover, windows
from mc3.data.audio import fbank, resample
from mc3.encoders.video import resize_and_crop
from mc3.errors import ConfigError, DataError
from mc3.index import Index, fingerprint
from mc3.methods import MODALITIES
from mc3.model import CONFIG, MC3, TOKENIZER, WEIGHTS

CARD = "README.md"
UNRECORDED = "its training data is not recorded"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
TEMPLATE = """---
{{ card_data }}
---
# MC3: how actions sound

Audio, video and text encoders onto one unit sphere, by multimodal contrastive-consensus coding (*SoundingActions*,
Chen et al., CVPR 2024).

**Trained on:** {{ about }}.

```python
import mc3

model = mc3.load("{{ repo_id | default('owner/name', true) }}")
model.similarity(video="my_video.mp4", text=["chops an onion", "washes a plate"])
model.discover("my_video.mp4")
```

The folder has weights (safetensors), settings (config.json) and a tokenizer; nothing in it is executed.
"""


class Model(
    MC3, ModelHubMixin, library_name="mc3", model_card_template=TEMPLATE,
    tags=["audio", "video", "egocentric", "contrastive-learning"],
):  # fmt: skip
    """`mc3.model.MC3` on a user's inputs; `from_pretrained`, `save_pretrained`, `push_to_hub` are the hub's own.

    Items of every method: a path; (path, start, end) in seconds; text as str; sound as (waveform [S] or [channels, S],
    samples a second), floats in [-1, 1] or int16; pictures as [T, H, W, 3] or [T, 3, H, W], uint8 or floats in [0, 1],
    any T, H and W. A list has several items. Arrays are of NumPy or torch.
    """

    about = UNRECORDED  # what it was trained on, in words

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> Model:
        """As `MC3.load`, and what the folder's model card says of the training data."""
        model = super().load(folder, device)
        assert isinstance(model, Model)
        card = Path(folder, CARD)
        text = card.read_text("utf-8", errors="replace") if card.is_file() else ""
        if line := re.search(r"^\*\*Trained on:\*\* (.{1,500})\.$", text, re.M):
            model.about = line[1]
        return model

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As `MC3.forward`; `ConfigError` for anything but tensors."""
        if wrong := [m for m in MODALITIES if m in batch and not isinstance(batch[m], Tensor)]:
            raise ConfigError(f"model(...) takes tensors; model.embed({wrong[0]}=...) takes files, arrays and text")
        return super().forward(batch)

    def embed(
        self, *, video: Any = None, audio: Any = None, text: Any = None, batch_size: int = 64
    ) -> dict[str, Tensor]:
        """Unit embeddings of the modalities given, [items, embedding_dim], float32 on the CPU.

        A file, or sound, longer than the model's clips is embedded window by window; the mean is normalised. Pictures
        given as an array are one clip: frames evenly spaced in it. `ConfigError` for an item of another kind or shape,
        `DataError` for a file without the modality, or damaged.
        """
        parts: dict[str, Callable[[Any], Iterator[Tensor]]]
        parts = {"video": self._pictures, "audio": self._sound, "text": self._text}
        found = {}
        for modality, given in (("video", video), ("audio", audio), ("text", text)):
            if given is not None:
                items = given if isinstance(given, list) else [given]
                pieces = ((i, piece) for i, item in enumerate(items) for piece in parts[modality](item))
                found[modality] = self._mean(modality, pieces, len(items), batch_size)
        if not found:
            raise ConfigError("nothing to embed; give video=, audio= or text=")
        return found

    def similarity(self, **items: Any) -> Tensor:
        """Cosines between the items of two modalities, [items of the first, items of the second], as `embed` takes."""
        if len(items) != 2:
            raise ConfigError(f"similarity takes two of video=, audio= and text=, not {', '.join(items) or 'none'}")
        first, second = (self.embed(**{modality: given})[modality] for modality, given in items.items())
        return first @ second.T

    def discover(self, path: str | Path, **options: Any) -> pd.DataFrame:
        """The moments whose sound comes from the action in the picture: `mc3.discover.moments` of this model."""
        return discover.moments(self, path, **options)

    def retrieve(
        self, query: Any, index: Index | str | Path, *, by: str = "", to: str = "", top: int = 10,
        approximate: bool = False,
    ) -> pd.DataFrame:  # fmt: skip
        """The `top` rows of an index (or of its folder) nearest to a query: `mc3.index.Index.search`.

        `by` is the query's modality: by default "text" for a str that names no file, "video" for a file with pictures,
        else "audio"; `to` that of the rows: by default "audio", or "video" for sound. `ConfigError` if another model
        made the index.
        """
        index = index if isinstance(index, Index) else Index.load(index)
        if index.model != fingerprint(self):
            raise ConfigError("the index was made by other weights; make it again with this model by `mc3 index`")
        by = by or self._kind(query)
        for name, value in (("by", by), ("to", to)):
            if value and value not in MODALITIES:
                raise ConfigError(f"{name} is {value!r}; choose from {', '.join(MODALITIES)}")
        unit = self.embed(**{by: query})[by]
        if len(unit) != 1:
            raise ConfigError(f"retrieve takes one query, not {len(unit)}")
        return index.search(unit[0], to or ("video" if by == "audio" else "audio"), top, approximate)

    def _kind(self, query: Any) -> str:
        if isinstance(query, str) and not Path(query).is_file():
            return "text"
        path = query[0] if isinstance(query, tuple) else query
        if not isinstance(path, str | Path):
            raise ConfigError("the query is an array; say by= which modality it is")
        return windows.streams(Path(path).resolve())[0]

    @torch.inference_mode()
    def _mean(self, modality: str, pieces: Iterator[tuple[int, Tensor]], count: int, batch_size: int) -> Tensor:
        """The normalised means of the embeddings of each item's pieces, [count, D]."""
        device = next(self.parameters()).device
        total = torch.zeros(count, self.config.embedding_dim)
        while batch := list(islice(pieces, batch_size)):
            inputs = torch.stack([piece for _, piece in batch]).to(device)
            own = self({modality: inputs})[modality].float().cpu()
            total.index_add_(0, torch.tensor([item for item, _ in batch]), own)
        return normalize(total, dim=-1)

    def _text(self, item: Any) -> Iterator[Tensor]:
        if not isinstance(item, str):
            raise ConfigError(f"text takes str, not {type(item).__name__}")
        yield self.tokenize([item])[0]

    def _sound(self, item: Any) -> Iterator[Tensor]:
        if _is_file(item):
            yield from self._of_file(item, "audio")
            return
        if not (isinstance(item, tuple) and len(item) == 2):
            raise ConfigError("audio takes a path, (path, start, end) or (waveform, samples a second)")
        sound, rate = np.asarray(item[0]), int(item[1])
        if sound.ndim not in (1, 2) or not sound.shape[-1] or rate < 1 or (sound.ndim == 2 and len(sound) > 32):
            raise ConfigError(f"sound of shape {sound.shape} at {rate} a second; give [S] or [channels, S], and S > 0")
        scale = 32768 if sound.dtype == np.int16 else 1
        wave = np.atleast_2d(sound).mean(axis=0, dtype=np.float64).astype(np.float32) / np.float32(scale)
        if not np.isfinite(wave).all() or np.abs(wave).max() > 16:
            raise ConfigError(
                f"sound of type {sound.dtype} up to {np.abs(wave).max()}; give int16 or floats in [-1, 1]"
            )
        wave = resample(wave, rate, windows.SAMPLE_RATE)
        size = round(windows.clip_sec(self.config) * windows.SAMPLE_RATE)
        for at in range(0, max(len(wave) - size // 2, 1), size):
            clip = np.pad(wave[at : at + size], (0, max(0, at + size - len(wave))))
            yield torch.from_numpy(fbank(clip, windows.SAMPLE_RATE, self.config.audio.mel_bins))

    def _pictures(self, item: Any) -> Iterator[Tensor]:
        if _is_file(item):
            yield from self._of_file(item, "video")
            return
        frames = torch.as_tensor(item) if isinstance(item, np.ndarray | Tensor) else torch.empty(0)
        if frames.ndim == 4 and frames.shape[-1] != 3 and frames.shape[1] == 3:
            frames = frames.movedim(1, -1)
        if frames.ndim != 4 or frames.shape[-1] != 3 or not frames.numel():
            raise ConfigError("video takes a path, (path, start, end) or an array [T, H, W, 3] or [T, 3, H, W]")
        if frames.is_floating_point():
            if not (frames.isfinite().all() and frames.min() >= 0 and frames.max() <= 1):
                raise ConfigError("pictures of floats are in [0, 1]; give those, or uint8")
            frames = frames.float() * 255
        elif frames.dtype != torch.uint8:
            raise ConfigError(f"pictures are uint8 or floats in [0, 1], not {frames.dtype}")
        count = self.config.video.frames
        evenly = ((torch.arange(count) + 0.5) * len(frames) / count).long()
        yield resize_and_crop(frames[evenly][None], self.config.video.image_size)[0].float()

    def _of_file(self, item: Any, modality: str) -> Iterator[Tensor]:
        """The windows of a file, or of a part of it; the last one of a part may be shorter."""
        path, *part = item if isinstance(item, tuple) else (item,)
        path, length = Path(path).resolve(), windows.clip_sec(self.config)
        if part:
            start, end = map(float, part)
            if not (0 <= start < end < np.inf):
                raise ConfigError(f"{path}: a part from {start} to {end} s; give start and end, 0 <= start < end")
            count = max(1, round((end - start) / length))
            if modality not in windows.streams(path):
                raise DataError(f"{path} has no {windows.NAMES[modality]}; give a file with it")
            edges = np.linspace(start, end, count + 1)
            spans = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
        else:
            spans = windows.along(path, length, length, (modality,))
        for clip in windows.inputs(self.config, path, spans, (modality,)):
            yield self._whole(clip[modality]) if modality == "audio" else clip[modality]

    def _whole(self, fbank: Tensor) -> Tensor:
        """Log-mel [any L, mel] with its last frame repeated, or cut, to the encoder's length, so that clips stack."""
        length = self.config.audio.length
        return torch.cat([fbank[:length], fbank[-1:].expand(max(0, length - len(fbank)), -1)])

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """As the hub's mixin does: weights, config.json, tokenizer.json and a model card (README.md)."""
        options["model_card_kwargs"] = {"about": self.about, **(options.get("model_card_kwargs") or {})}
        return super().save_pretrained(save_directory, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        keep = {f.name: f.read_bytes() for f in save_directory.iterdir() if f.is_file() and f.name == CARD}
        self.save(save_directory)
        for name, data in keep.items():
            (save_directory / name).write_bytes(data)

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, revision: str | None, cache_dir: str | Path | None, force_download: bool,
        local_files_only: bool, token: str | bool | None, device: str = "cpu", **_: Any,
    ) -> Model:  # fmt: skip
        if Path(model_id).is_dir():
            return cls.load(model_id, device)
        return cls.load(
            snapshot_download(
                model_id, revision=revision, cache_dir=cache_dir, force_download=force_download, token=token,
                local_files_only=local_files_only, allow_patterns=[WEIGHTS, CONFIG, TOKENIZER, CARD],
            ), device,
        )  # fmt: skip

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The model card, with what the model was trained on."""
        return super().generate_model_card(*args, **{"about": self.about, **kwargs})


def load(path: str | Path, device: str | torch.device = "cpu", *, offline: bool = False) -> Model:
    """A trained model: a checkpoint's folder, or else "owner/name" of the Hugging Face hub (`offline`: its cache).

    Nothing of a checkpoint is executed. `DataError` if there is neither, or if it is damaged.
    """
    if Path(path).exists() or not HUB_ID.fullmatch(str(path)):
        return Model.load(path, device)
    try:
        return Model.from_pretrained(str(path), local_files_only=offline, device=str(device))
    except OSError as error:  # the hub's errors are, and those of the network
        reason = str(error).split("\n")[0]
        raise DataError(f"no folder {path}, and the Hugging Face hub has it not ({reason}); check the name") from error


def _is_file(item: Any) -> bool:
    return isinstance(item, str | Path) or (isinstance(item, tuple) and isinstance(item[0], str | Path))
