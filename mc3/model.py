"""MC3: the three encoders as one object, where training, embedding and a user's own code meet.

A checkpoint is a folder with `model.safetensors`, `config.json` (the model's settings) and
`tokenizer.json`; nothing else is needed to use it, and nothing in it is executed.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models import vision_transformer
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint
from transformers.models.distilbert.modeling_distilbert import TransformerBlock

from mc3.config import ModelConfig, as_dict, build
from mc3.encoders import text
from mc3.encoders.audio import AudioEncoder
from mc3.encoders.text import TextEncoder
from mc3.encoders.video import Block, VideoEncoder
from mc3.encoders.weights import mismatch
from mc3.errors import ConfigError, DataError

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"


class MC3(nn.Module):
    """Audio, video and text encoders onto one unit sphere (Sec. 4)."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer | str | Path) -> None:
        """Random weights from torch's generator.

        Args:
            config: sizes of the encoders.
            tokenizer: of the narrations, or the path of its tokenizer.json.

        Raises:
            ConfigError: sizes that do not fit together, or a tokenizer that does not fit them.
        """
        super().__init__()
        self.config = config
        self.tokenizer = text.fit_tokenizer(tokenizer, config.text)
        self.encoders = nn.ModuleDict(
            {
                "audio": AudioEncoder(config.audio, config.embedding_dim),
                "video": VideoEncoder(config.video, config.embedding_dim),
                "text": TextEncoder(config.text, config.embedding_dim),
            }
        )

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Embed the modalities that `batch` has.

        Args:
            batch: any of "audio", raw log-mel [B, L, mel]; "video", uint8 or float in 0..255
                [B, T, height, width, 3]; "text", token ids [B, N]. Other keys are left alone.

        Returns:
            Unit vectors, float32 [B, embedding_dim], by modality.
        """
        raw = {name: encoder(batch[name]) for name, encoder in self.encoders.items() if name in batch}
        # under autocast in float32 nevertheless; a model in float64 stays there
        return {m: normalize(e.to(torch.promote_types(e.dtype, torch.float32)), dim=-1) for m, e in raw.items()}

    def tokenize(self, texts: list[str]) -> Tensor:
        """Narrations as the ids that "text" takes: int64 [B, max_length], on the model's device."""
        return text.tokenize(self.tokenizer, texts).to(next(self.parameters()).device)

    def init_from(self, init: Mapping[str, Path | None]) -> None:
        """Load the encoders that `init` names a converted weights file for (`mc3 weights convert`).

        A file holds all of an encoder (`trunk.*` and `projection.*`) or all of its trunk.

        Raises:
            ConfigError: `init` names another modality.
            DataError: a file is missing or damaged, or its tensors do not fit.
        """
        for modality, path in init.items():
            if modality not in self.encoders:
                raise ConfigError(f"unknown setting init.{modality}; known: {', '.join(self.encoders)}")
            if path is None:
                continue
            encoder = self.encoders[modality]
            tensors = _read(Path(path), "`mc3 weights convert` makes it from a published checkpoint")
            if not any(name.startswith("projection.") for name in tensors):
                tensors |= {n: t for n, t in encoder.state_dict().items() if n.startswith("projection.")}
            _load(encoder, tensors, Path(path))

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint folder, replacing one that is there only once all is written."""
        folder = Path(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
            new, old = Path(scratch, "new"), Path(scratch, "old")
            new.mkdir()
            state = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
            save_file(state, new / WEIGHTS, metadata={"format": "pt"})
            (new / CONFIG).write_text(json.dumps(as_dict(self.config), indent=2) + "\n")
            (new / TOKENIZER).write_text(self.tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
            if folder.exists():
                folder.rename(old)
            try:
                new.rename(folder)
            except OSError:
                old.rename(folder)
                raise

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> MC3:
        """Read a checkpoint folder, ready for inference (`eval` mode).

        Raises:
            DataError: it is missing, incomplete or damaged; the message says what makes it.
        """
        folder = Path(folder)
        made = re.fullmatch(r"(.+)-(\d+)", folder.parent.name)
        command = (
            f"`mc3 train --method {made[1]} --seed {made[2]}` or `dvc repro` makes it"
            if made
            else "`dvc repro` makes it"
        )
        for name in (CONFIG, TOKENIZER, WEIGHTS):
            if not (folder / name).is_file():
                raise DataError(f"no checkpoint at {folder} ({name} is missing); {command}")
        tensors = _read(folder / WEIGHTS, command)
        try:
            config = build(ModelConfig, json.loads((folder / CONFIG).read_text()))
            model = cls(config, folder / TOKENIZER)
        except Exception as error:  # tokenizers raises bare Exception for a file it cannot read
            raise DataError(f"the checkpoint at {folder} is damaged ({error}); {command} again") from error
        _load(model, tensors, folder / WEIGHTS)
        return model.to(device).eval()


def freeze(model: nn.Module, learning: tuple[str, ...], patterns: Sequence[str] = ()) -> None:
    """Only these modalities' encoders learn; the others are fixed, dropout included.

    Parameters whose name fits one of `patterns` (of fnmatch) are fixed too.

    Raises:
        ConfigError: a pattern fits no parameter, or nothing is left to learn.
    """
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
    """Keep only the inputs of transformer blocks for the backward pass, which computes the rest again.

    Dropout draws the same again. Half the memory and less, for a third more time.
    """
    for module in model.modules():
        if isinstance(module, Block | vision_transformer.Block | TransformerBlock):
            whole = partial(checkpoint, module.forward, use_reentrant=False)
            module.forward = whole  # type: ignore[method-assign]  # in place, so that parameters keep their names


def _read(path: Path, remedy: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise DataError(f"no weights at {path}; {remedy}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path} is damaged or cut short ({error}); {remedy} again") from error


def _load(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load every tensor into every parameter, or say what does not fit."""
    if faults := mismatch(tensors, module.state_dict()):
        raise DataError(f"{path} does not fit the model's settings: {faults}")
    module.load_state_dict(tensors)
