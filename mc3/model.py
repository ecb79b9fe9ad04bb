"""MC3: the three encoders as one model, for training, for embedding and for a user's own code.

A checkpoint is a folder with `model.safetensors`, `config.json` (the model's settings) and `tokenizer.json`. It needs
nothing else, and none of it is executed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Dataset, Subset

from mc3.config import Config, ModelConfig, as_dict, build
from mc3.encoders import text
from mc3.encoders.audio import AudioEncoder
from mc3.encoders.text import TextEncoder
from mc3.encoders.video import Block as VideoBlock
from mc3.encoders.video import VideoEncoder, fit_frames
from mc3.errors import ConfigError, DataError
from mc3.files import reading, swapped
from mc3.methods import MODALITIES
from mc3.pools import load

ENCODERS: dict[str, Any] = {"video": VideoEncoder, "audio": AudioEncoder, "text": TextEncoder}
WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"


class MC3(nn.Module):
    """Audio, video and text encoders onto one unit sphere (Sec. 4)."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer | str | Path) -> None:
        """Random weights from torch's global generator; `ConfigError` for sizes or a tokenizer that do not fit."""
        super().__init__()
        self.config = config
        self.tokenizer = text.fit_tokenizer(tokenizer, config.text)
        self.encoders = make_encoders(config)

    @classmethod
    def initial(cls, config: Config, seed: int) -> MC3:
        """The first weights of `seed`: random, or those of `config.init`. `DataError` without the shards' tokenizer."""
        tokenizer = config.paths.shards / "tokenizer.json"
        if not tokenizer.exists():
            raise DataError(f"no tokenizer at {tokenizer}; `dvc repro shards` makes it")
        torch.manual_seed(seed)
        with reading(tokenizer, "`dvc repro shards` makes it again"):
            model = cls(config.model, tokenizer)
        model.init_from(config.init)
        return model

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Embed the modalities that `batch` has; other keys are ignored.

        "audio": raw log-mel [B, L, mel]; "video": uint8 or float in 0..255 [B, T, height, width, 3]; "text": token ids
        [B, N]. Returns unit vectors [B, embedding_dim], float32 (also under autocast) or float64 of a float64 model.
        """
        raw = {name: encoder(batch[name]) for name, encoder in self.encoders.items() if name in batch}
        return {m: normalize(e.to(torch.promote_types(e.dtype, torch.float32)), dim=-1) for m, e in raw.items()}

    def tokenize(self, texts: list[str]) -> Tensor:
        """Token ids of narrations, the input "text": int64 [B, max_length], on the model's device."""
        return text.tokenize(self.tokenizer, texts).to(next(self.parameters()).device)

    def init_from(self, init: Mapping[str, Path | None]) -> None:
        """Load converted weights (`mc3 weights convert`), whole encoders or `trunk.*`; `DataError` if one is unfit."""
        for modality, path in init.items():
            if modality not in self.encoders:
                raise ConfigError(f"unknown setting init.{modality}; known: {', '.join(self.encoders)}")
            if path is None:
                continue
            encoder = self.encoders[modality]
            remedy = "`mc3 weights convert` makes it from a published checkpoint"
            if not Path(path).exists():
                raise DataError(f"no weights at {path}; {remedy}")
            tensors = _read(Path(path), remedy)
            if not any(name.startswith("projection.") for name in tensors):
                tensors |= {n: t for n, t in encoder.state_dict().items() if n.startswith("projection.")}
            if (name := "trunk.temporal_embed") in tensors:
                tensors[name] = fit_frames(tensors[name], self.config.video.frames)
            if faults := mismatch(tensors, encoder.state_dict()):
                raise DataError(f"{path} does not fit the settings under model.{modality}: {faults}")
            encoder.load_state_dict(tensors)

    def save(self, folder: str | Path, stored: str = "float32") -> None:
        """Write a checkpoint folder, weights as `stored`; an older one is replaced once the new one is complete."""
        with swapped(Path(folder)) as new:
            state = {name: tensor.to(getattr(torch, stored)).contiguous() for name, tensor in self.state_dict().items()}
            save_file(state, new / WEIGHTS, metadata={"format": "pt"})
            (new / CONFIG).write_text(json.dumps(as_dict(self.config), indent=2) + "\n")
            (new / TOKENIZER).write_text(self.tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> MC3:
        """Read a checkpoint folder, ready for inference (`eval` mode); `DataError` names the command that makes it."""
        folder = Path(folder)
        named = re.fullmatch(r"(.+)-(\d+)", folder.parent.name)
        trained = f"`mc3 train --method {named[1]} --seed {named[2]}` or " if named else ""
        command = f"{trained}`dvc repro` makes it"
        for name in (CONFIG, TOKENIZER, WEIGHTS):
            if not (folder / name).is_file():
                raise DataError(f"no checkpoint at {folder} ({name} is missing); {command}")
        tensors = _read(folder / WEIGHTS, f"{command} again")
        with reading(folder / CONFIG, f"{command} again"):
            try:
                config = build(ModelConfig, json.loads((folder / CONFIG).read_text(encoding="utf-8")))
                with torch.device("meta"):  # sizes of any number cost nothing there
                    expected = {f"encoders.{name}": t for name, t in make_encoders(config).state_dict().items()}
            except ConfigError as error:  # not of the user's settings
                raise ValueError(str(error)) from error
        if faults := mismatch(tensors, expected):
            raise DataError(f"{folder / WEIGHTS} does not fit {CONFIG} beside it: {faults}; {command} again")
        with reading(folder / TOKENIZER, f"{command} again"):
            model = cls(config, folder / TOKENIZER)
        model.load_state_dict(tensors)
        return model.to(device).eval()


def use_precision(config: Config) -> None:
    """Make this process's new models, and what goes with them, float64 if `train.precision` says so, else float32."""
    torch.set_default_dtype(torch.float64 if config.train.precision == "fp64" else torch.float32)


def make_encoders(config: ModelConfig) -> nn.ModuleDict:
    """The three encoders with random weights, by modality."""
    return nn.ModuleDict({m: ENCODERS[m](getattr(config, m), config.embedding_dim) for m in MODALITIES})


def embed_clips(
    model: MC3, dataset: Dataset, modalities: Collection[str], batch_size: int, workers: int = 0, title: str = ""
) -> dict[str, NDArray[np.float32]]:
    """Unit embeddings of all clips of `dataset` by modality: [N, D], in its order.

    Each process embeds its share, and all get the result. A `title` shows progress. Leaves the model in `eval` mode.
    """
    from accelerate import PartialState
    from accelerate.utils import gather_object
    from rich.progress import track

    state = PartialState(cpu=not torch.cuda.is_available())
    device = next(model.eval().parameters()).device
    # All processes must gather in one order, which no set has.
    found: dict[str, list[Tensor]] = {m: [] for m in MODALITIES if m in modalities}
    rows = list(range(len(dataset)))  # type: ignore[arg-type]  # map-style
    with state.split_between_processes(rows) as mine, torch.inference_mode():
        loader = load(Subset(dataset, mine), workers, batch_size=batch_size)
        steps = -(-len(mine) // batch_size)
        for batch in track(loader, title, steps, disable=not (title and state.is_main_process)):
            for m, embedding in model({m: batch[m].to(device) for m in found}).items():
                found[m].append(embedding.float().cpu())
    # Shares are consecutive and gathered in the order of the processes, so each clip occurs once and in its position.
    return {m: torch.cat(gather_object(parts)).numpy() for m, parts in found.items()}


def freeze(model: nn.Module, learning: tuple[str, ...], patterns: Sequence[str] = ()) -> None:
    """Freeze all encoders, dropout included, but those of `learning`, and the parameters of the fnmatch `patterns`."""
    for modality, encoder in cast(nn.ModuleDict, model.encoders).items():
        encoder.requires_grad_(modality in learning).train(modality in learning)
    for pattern in patterns:
        fixed = [parameter for name, parameter in model.named_parameters() if fnmatchcase(name, pattern)]
        if not fixed:
            name = next(name for name, _ in model.named_parameters())
            raise ConfigError(f"train.freeze has {pattern!r}, which fits no parameter; they are named like {name}")
        for parameter in fixed:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(f"train.freeze {list(patterns)} leaves nothing to learn in {', '.join(learning)}")


def recompute(model: nn.Module) -> None:
    """Store only the inputs of transformer blocks: at most half the memory, a third more time, and equal dropout."""
    from timm.models.vision_transformer import Block as AudioBlock
    from transformers.models.distilbert.modeling_distilbert import TransformerBlock as TextBlock

    for module in model.modules():
        if isinstance(module, AudioBlock | VideoBlock | TextBlock):
            forward = partial(checkpoint, module.forward, use_reentrant=False)
            module.forward = forward  # type: ignore[method-assign]  # in place, so that parameters keep their names


def _read(path: Path, remedy: str) -> dict[str, Tensor]:
    with reading(path, remedy):
        tensors = load_file(path)
        if broken := [n for n, t in tensors.items() if not (t.is_floating_point() and t.isfinite().all())]:
            raise ValueError(f"values that are not finite numbers in {some(broken)}")
        return tensors


def mismatch(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """The differences in names and shapes between `tensors` and `expected`, as text; empty if there are none."""
    found, wanted = ({name: list(tensor.shape) for name, tensor in of.items()} for of in (tensors, expected))
    faults = [f"missing {name}" for name in sorted(wanted.keys() - found.keys())]
    faults += [f"left over {name}" for name in sorted(found.keys() - wanted.keys())]
    both = sorted(found.keys() & wanted.keys())
    return some(faults + [f"{m} is {found[m]}, not {wanted[m]}" for m in both if found[m] != wanted[m]])


def some(names: list[str]) -> str:
    """The first names, and how many more there are."""
    return "; ".join(names[:8]) + (f"; and {len(names) - 8} more" if len(names) > 8 else "")
