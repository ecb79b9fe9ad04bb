"""Conversion of published checkpoints to the safetensors files that a profile's `init` names.

A rule maps, adapts or drops every tensor; one without a rule, or one that the encoders need and the file lacks, is an
error that names it. Checkpoints are pickles: torch's weights-only loader reads them, and objects that are not tensors
(EgoVLP's whole configuration) are replaced by inert ones, so that no code of the file runs.
"""

import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from mc3.config import ModelConfig
from mc3.data import tokenizer
from mc3.encoders.audio import fit_grid, patch_grid
from mc3.encoders.video import fit_frames
from mc3.errors import ConfigError, DataError
from mc3.files import reading, sha256, write_atomic
from mc3.model import ENCODERS, mismatch, some


class Kind(NamedTuple):
    """A publisher's format; `names` and `drop` apply after `module.` is removed from a tensor's name."""

    licence: str
    names: Mapping[str, str]  # prefix of a tensor's name: `modality.prefix`
    drop: str  # pattern of names that are not needed


EGOVLP = {"video_model.": "video.trunk.", "vid_proj.": "video.projection.",
          "text_model.": "text.trunk.", "txt_proj.": "text.projection."}  # fmt: skip
LAVILA = {"visual.": "video.trunk.", "image_projection.": "video.projection.",
          "textual.": "text.trunk.", "text_projection.": "text.projection."}  # fmt: skip
KINDS = {
    "egovlp": Kind("MIT (EgoVLP)", EGOVLP, r"text_model\.embeddings\.position_ids"),
    "lavila": Kind("MIT (LaViLa, EgoVLP)", LAVILA, r"textual\.embeddings\.position_ids|logit_scale"),
    "soundingactions": Kind(
        "not stated by its publisher; ask before passing it on",
        {**EGOVLP, "audio_model.v.": "audio.trunk.", "audio_model.mlp_head.": "audio.projection."},
        r"text_model\.embeddings\.position_ids|audio_model\.v\.head(_dist)?\..*",
    ),
    "deit": Kind("Apache-2.0 (DeiT)", {"": "audio.trunk."}, r"head(_dist)?\..*"),
    "ast": Kind("BSD-3-Clause (AST)", {"v.": "audio.trunk."}, r"v\.head(_dist)?\..*|mlp_head\..*"),
    "ssast": Kind(
        "BSD-3-Clause (SSAST)", {"v.": "audio.trunk."},
        r"v\.head(_dist)?\..*|mlp_head\..*|mask_embed|[cg]predlayer\..*|p_input_[ft]dim",
    ),
}  # fmt: skip


def write(source: str | Path, kind: str, config: ModelConfig, out: str | Path) -> list[Path]:
    """Write what `convert` returns to `out`/{modality}.safetensors and `out`/card.json, and return their paths."""
    tensors, card = convert(source, kind, config)
    content = {f"{modality}.safetensors": save(state, {"format": "pt"}) for modality, state in tensors.items()}
    content["card.json"] = (json.dumps(card, indent=2) + "\n").encode()
    for name, data in content.items():
        write_atomic(Path(out, name), data)
    return [Path(out, name) for name in content]


def join(folders: Sequence[Path], config: ModelConfig, out: Path) -> str:
    """Write a checkpoint folder for `mc3.load` of converted weights; returns what its card says of their origin.

    Each modality is of the first of `folders` that has it. `DataError` if none has, if it lacks the projection onto the
    common sphere (ImageNet's weights do), or does not fit `config`; `ConfigError` for a tokenizer that is yet to learn.
    """
    found = {m: next((f for f in folders if (f / f"{m}.safetensors").is_file()), None) for m in ENCODERS}
    if missing := [modality for modality, folder in found.items() if folder is None]:
        where = f"no {missing[0]}.safetensors in {', '.join(map(str, folders))}"
        raise DataError(f"{where}; add a folder of `mc3 weights convert` that has it")
    if config.text.tokenizer == "train":
        raise ConfigError("model.text.tokenizer is `train`; give a profile with a published one by --config")
    from mc3.pretrained import Model

    origins, files = [], dict[str, Path]()
    for modality, folder in found.items():
        assert folder is not None
        path, again = folder / f"{modality}.safetensors", "`mc3 weights convert` writes it again"
        files[modality] = path
        with reading(path, again), safe_open(path, "pt") as file:
            if not any(name.startswith("projection.") for name in file.keys()):  # noqa: SIM118, it is no dictionary
                lacks = f"{path} has no projection onto the common sphere"
                raise DataError(f"{lacks}; take it from a checkpoint that was trained with the others, or train it")
        with reading(folder / "card.json", again):
            card = json.loads((folder / "card.json").read_text())
            origins.append(f"{modality} of {card['source']} ({card['kind']}, {card['licence']})")
    model = Model(config, tokenizer.make(config.text, []))
    model.init_from(files)
    model.about = f"its publishers' data: {', '.join(origins)}"
    model.save_pretrained(out)
    return model.about


def convert(source: str | Path, kind: str, config: ModelConfig) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The weights of this package's encoders in a published checkpoint (.pth, .pt, .bin or .safetensors) of `kind`.

    Position embeddings are adapted to the sizes of `config`. Returns tensors float32 by modality, then by the encoder's
    names (`trunk.*`, and `projection.*` if the file has one), and a card: where they come from and what was changed.
    Raises `ConfigError` for an unknown kind, `DataError` if the file cannot be read without running code, or its
    tensors do not match its kind or the settings.
    """
    source = Path(source)
    if kind not in KINDS:
        raise ConfigError(f"no kind of weights {kind!r}; known: {', '.join(KINDS)}")
    form, state = KINDS[kind], read(source)
    tensors: dict[str, dict[str, Tensor]] = {}
    dropped, unknown, adapted = [], [], {}
    for original, tensor in state.items():
        name = original.removeprefix("module.")
        start = next((start for start in form.names if name.startswith(start)), None)
        if re.fullmatch(form.drop, name):
            dropped.append(original)
        elif start is None:
            unknown.append(original)
        else:
            modality, _, rest = (form.names[start] + name.removeprefix(start)).partition(".")
            if rest in tensors.get(modality, {}):
                raise DataError(f"{source} has {name} twice, with and without `module.`; which one counts is unknown")
            tensors.setdefault(modality, {})[rest] = tensor.float().contiguous().clone()
    if unknown or not tensors:
        raise DataError(f"{source} is not a checkpoint of kind {kind}: it holds {some(unknown) or 'no weights'}")
    for modality, weights in tensors.items():
        for name, fitted, how in list(_fitted(kind, modality, weights, state, config)):
            adapted[f"{modality}.{name}"] = f"{how}: {list(weights[name].shape)} -> {list(fitted.shape)}"
            weights[name] = fitted.contiguous()
        _check(source, modality, weights, config)
    sizes = {m: {"tensors": len(own), "parameters": sum(t.numel() for t in own.values())} for m, own in tensors.items()}
    names = {start: target for start, target in form.names.items() if target.split(".")[0] in tensors}
    return tensors, {
        "kind": kind, "source": source.name, "sha256": sha256(source), "licence": form.licence, "mapped": sizes,
        "names": names, "adapted": adapted, "dropped": sorted(dropped),
    }  # fmt: skip


class Inert:
    """Replaces any object of a checkpoint that is not a tensor; accepts all arguments and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read(source: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by name, read without running any code in it; `DataError` if it cannot be."""
    if not source.is_file():
        raise DataError(f"no weights at {source}; download them from their publisher first")
    if damaged := _damaged_part(source):
        raise DataError(f"{source} is damaged: its {damaged}; download the file again")
    zipped = False
    try:
        if source.suffix == ".safetensors":
            return load_file(source)
        zipped = zipfile.is_zipfile(source)  # not so before torch 1.6: names cannot be listed, and only known ones load
        foreign = get_unsafe_globals_in_checkpoint(source) if zipped else []
        with safe_globals([(Inert, name) for name in foreign]):
            data = torch.load(source, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a damaged pickle can fail in any way
        fault, remedy = "is damaged or not a checkpoint", "download the publisher's file again"
        if refused := re.search(r"GLOBAL (\S+)|unrecognized function", str(error)):
            fault = f"asks for {refused[1] or 'an unknown call'}, which could run code"
            if not zipped and refused[1]:  # a configuration, say: harmless perhaps, but there is no way around it
                fault = f"is of torch before 1.6 and holds {refused[1]}, which is no tensor and cannot be left out"
                remedy = "so load it with torch, if you trust its publisher, and save its state_dict alone"
        raise DataError(f"{source} {fault}; nothing was loaded, {remedy}") from error
    for key in ("state_dict", "model"):
        data = data[key] if isinstance(data, dict) and isinstance(data.get(key), dict) else data
    if not isinstance(data, dict) or not all(isinstance(t, Tensor) for t in data.values()):
        raise DataError(f"{source} holds no state_dict of tensors")
    if strange := [key for key in data if not isinstance(key, str)]:
        raise DataError(f"{source} has a tensor called {strange[0]!r}, which is no text; export its state_dict again")
    return data


def _damaged_part(source: Path) -> str | None:
    """What is damaged in a ZIP file, as torch writes it, by its own checksums; None of a whole or another file."""
    if not zipfile.is_zipfile(source):
        return None
    try:
        with zipfile.ZipFile(source) as archive:
            part = archive.testzip()
            return part and f"part {part} has another checksum"
    except Exception as error:  # damage to the list of parts can fail in any way
        return f"list of parts cannot be read ({error})"


def _fitted(
    kind: str, modality: str, weights: Mapping[str, Tensor], state: Mapping[str, Tensor], config: ModelConfig
) -> Iterator[tuple[str, Tensor, str]]:
    """The name, adapted value and change of each tensor that depends on frames, colour channels or grid."""
    times = weights.get("trunk.temporal_embed")
    if modality == "video" and times is not None and times.shape[1] != config.video.frames:
        how = "zeros added" if times.shape[1] < config.video.frames else "first positions kept"
        yield "trunk.temporal_embed", fit_frames(times, config.video.frames), how
    kernel = weights.get("trunk.patch_embed.proj.weight")
    if modality == "audio" and kernel is not None and kernel.shape[1] == 3:
        yield "trunk.patch_embed.proj.weight", kernel.sum(1, keepdim=True), "colour channels summed"
    positions = weights.get("trunk.pos_embed")
    if modality == "audio" and positions is not None:
        source = _source_grid(kind, positions.shape[1] - 2, state)
        target = patch_grid((config.audio.mel_bins, config.audio.length), config.audio.patch, config.audio.stride)
        if source and source != target:
            how = f"grid {source[0]} x {source[1]} cut to its centre or interpolated to {target[0]} x {target[1]}"
            yield "trunk.pos_embed", fit_grid(positions, source, target), how


def _source_grid(kind: str, positions: int, state: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """The grid of a checkpoint's patches; None if it is unknown, so that it has to be that of the settings."""
    grids = []
    if kind == "deit":
        grids = [(round(positions**0.5), round(positions**0.5))]
    elif kind == "ssast":  # has its input's size; its patches do not overlap
        plain = {name.removeprefix("module."): tensor for name, tensor in state.items()}
        if plain.keys() >= {"p_input_fdim", "p_input_tdim", "v.patch_embed.proj.weight"}:
            patch = plain["v.patch_embed.proj.weight"].shape[-1]
            grids = [patch_grid((int(plain["p_input_fdim"]), int(plain["p_input_tdim"])), patch, patch)]
    elif kind == "ast":  # published with these strides, for ten seconds (AudioSet) and one (Speech Commands)
        grids = [patch_grid((128, frames), 16, stride) for frames in (1024, 128) for stride in (10, 12, 14, 16)]
    return next((grid for grid in grids if grid[0] * grid[1] == positions), None)


def _check(source: Path, modality: str, weights: Mapping[str, Tensor], config: ModelConfig) -> None:
    """Raise `DataError` unless `weights` are those of the encoder, or of its trunk alone, and finite."""
    with torch.device("meta"):
        encoder = ENCODERS[modality](getattr(config, modality), config.embedding_dim)
    expected = encoder.state_dict()
    if not any(name.startswith("projection.") for name in weights):
        expected = {name: tensor for name, tensor in expected.items() if name.startswith("trunk.")}
    if faults := mismatch(weights, expected):
        raise DataError(f"{source} does not fit the settings under model.{modality}: {faults}")
    if broken := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        raise DataError(f"{source} has values that are not finite numbers: {some(broken)}")
