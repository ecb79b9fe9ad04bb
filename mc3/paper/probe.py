"""EPIC-Sounds classification with the audio encoder (Sec. 6.3, Table 4): two linear probes and fine-tuning.

- Linear probe: a linear layer learns from features of the frozen trunk, computed once for a few windows an event.
- Official linear probe, as in EPIC-Sounds' own code: LayerNorm and a linear layer learn, and of the trunk the position
  embeddings and the class token.
- Fine-tuning: trunk and linear layer learn together.

The last two see one random window an event and epoch, under SpecAugment. At test time the class probabilities of
uniform windows are averaged, as in the EPIC-Sounds protocol. Row "untrained" has the seed's initial weights.
"""

import copy
import dataclasses
import hashlib
import json
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn

from mc3 import evaluate, methods, store
from mc3.config import Config, ProbeRecipe, as_dict
from mc3.data import epic_views
from mc3.data.epic_views import Views
from mc3.encoders.audio import FBANK_MEAN, AudioEncoder, fit_grid, patch_grid
from mc3.errors import ConfigError
from mc3.files import code_identity, naming, reserve, sha256, write_atomic
from mc3.model import MC3, use_precision

ALL = "all"  # stands for a method where a probe is named: those of a seed are made together
OFFICIAL_LEARNED = ("pos_embed", "cls_token")  # of the trunk; AST's second token, dist_token, stays frozen

# SpecAugment as in EPIC-Sounds' baselines: two masks of up to 27 of 128 mel bins and two of up to 125 ms.
MASKS, MASKED_BINS = 2, 27 / 128


def learning_rate(recipe: ProbeRecipe, epoch: float) -> float:
    """The rate at a fractional `epoch`: linear warm-up, then times `factors[i]` from `milestones[i]` on."""
    if epoch < recipe.warmup_epochs:
        return recipe.learning_rate * epoch / recipe.warmup_epochs
    return recipe.learning_rate * (1.0, *recipe.factors)[bisect_right(recipe.milestones, epoch)]


def spec_augment(fbank: Tensor, fill: float, longest: int, generator: torch.Generator) -> Tensor:
    """SpecAugment without time warping: fills random bands of bins, and of up to `longest` frames, in [B, L, mel]."""
    for dim, most in ((2, max(1, round(MASKED_BINS * fbank.shape[2]))), (1, min(longest, fbank.shape[1] // 2))):
        size = fbank.shape[dim]
        position = torch.arange(size)
        for _ in range(MASKS):
            width = torch.randint(0, most + 1, (len(fbank), 1), generator=generator)
            start = (torch.rand(len(fbank), 1, generator=generator) * (size - width + 1)).long()
            masked = ((position >= start) & (position < start + width)).to(fbank.device)
            fbank = torch.where(masked.unsqueeze(3 - dim), fill, fbank)
    return fbank


def resize_input(encoder: AudioEncoder, frames: int) -> AudioEncoder:
    """The encoder for inputs of `frames` frames: its position grid is cut or interpolated, as in AST."""
    old = encoder.config
    if old.length == frames:
        return encoder
    new = dataclasses.replace(old, length=frames)
    grids = [patch_grid((c.mel_bins, c.length), c.patch, c.stride) for c in (old, new)]
    state = encoder.state_dict()
    state["trunk.pos_embed"] = fit_grid(state["trunk.pos_embed"], *grids)
    resized = AudioEncoder(new, state["projection.1.weight"].shape[0])
    resized.load_state_dict(state)
    return resized.to(state["trunk.pos_embed"].device).eval()


def features(
    encoders: Mapping[str, AudioEncoder], events: Views, views: int, batch_size: int, device: torch.device,
    scratch: Path | None = None,
) -> dict[str, NDArray[np.float32]]:  # fmt: skip
    """Trunk outputs [events, views, dim] of `views` uniform windows of every event, by encoder's name.

    Each event is read once for all encoders. In `scratch`, if given, outputs are memory-mapped: a gigabyte an encoder.
    """
    found = {name: _empty((len(events), views, encoder.config.dim), scratch) for name, encoder in encoders.items()}
    for begin in track(range(0, len(events), batch_size), f"features of {len(events)} events"):
        rows = slice(begin, min(begin + batch_size, len(events)))
        windows = [events.uniform(i, views) for i in range(rows.start, rows.stop)]
        counts = np.array([[len(own)] for own in windows])
        order = counts.cumsum()[:, None] - counts + np.arange(views) % counts  # each event's views in the batch
        batch = events.batch(list(chain.from_iterable(windows)), device)
        with torch.inference_mode():
            for name, encoder in encoders.items():
                found[name][rows] = encoder.features(batch).float().cpu().numpy()[order]
    return found


def linear_probe(
    train: NDArray[np.float32], labels: NDArray[np.int64], classes: int, recipe: ProbeRecipe, seed: int,
    device: torch.device, title: str = store.LINEAR,
) -> nn.Linear:  # fmt: skip
    """A linear layer trained on frozen features [N, views, D] and labels [N], a random view of each event an epoch."""
    torch.manual_seed(seed)
    head = nn.Linear(train.shape[2], classes).to(device)

    def logits(rows: Tensor, generator: torch.Generator) -> Tensor:
        views = torch.randint(0, train.shape[1], (len(rows),), generator=generator)
        return head(torch.from_numpy(train[rows.numpy(), views.numpy()]).to(device, head.weight.dtype))

    _fit(list(head.parameters()), logits, labels, recipe, seed, title)
    return head


def adapt(
    protocol: str, encoder: AudioEncoder, train: Views, classes: int, recipe: ProbeRecipe, seed: int,
    device: torch.device, title: str = "",
) -> nn.Module:  # fmt: skip
    """Train a head by `protocol` and, in place, a part of `encoder`'s trunk, not its projection; returns the head."""
    torch.manual_seed(seed)
    dim, trunk = encoder.config.dim, encoder.trunk
    if protocol == store.OFFICIAL:
        head: nn.Module = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, classes)).to(device)
        encoder.requires_grad_(False)
        tuned = [getattr(trunk, name).requires_grad_(True) for name in OFFICIAL_LEARNED]
    else:
        head = nn.Linear(dim, classes).to(device)
        tuned = list(trunk.parameters())

    def logits(rows: Tensor, generator: torch.Generator) -> Tensor:
        batch = train.batch([train.random(row, generator) for row in rows.tolist()], device)
        return head(encoder.features(spec_augment(batch, FBANK_MEAN, train.mask, generator)))

    learning = nn.ModuleList([trunk, head]).train()
    _fit([*tuned, *head.parameters()], logits, _labels(train), recipe, seed, title or protocol)
    learning.eval()
    return head


def probabilities(head: nn.Module, found: NDArray[np.float32], device: torch.device) -> NDArray[np.float32]:
    """Class probabilities [events, classes] of features [events, views, D]: means over views, to five decimals."""
    with torch.inference_mode():
        inputs = torch.from_numpy(found).to(device, next(head.parameters()).dtype)
        found = head(inputs).softmax(dim=-1).mean(dim=1).cpu().numpy()
    return found.round(5).astype(np.float32)  # the heads of two processors differ by less


def made_from(config: Config, method: str, seed: int) -> str:
    """A hash of all that determines a seed's probe (`ALL`): settings, events, checkpoints, initial weights, code."""
    facts = [as_dict(config.probe), seed, code_identity("mc3.paper.probe")]
    facts += [sha256(config.paths.shards / "index.parquet")]
    names = [*_probed(), *[store.SSAST] * (config.probe.ssast == "train")]
    facts += [sha256(config.paths.final(name, seed) / "model.safetensors") for name in names]
    facts += [sha256(path) for path in config.init.values() if path is not None and path.exists()]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def run(config: Config, seed: int) -> Path:
    """Probe the initial weights, SSAST and the methods of `seed` that have audio; returns the file of metrics."""
    adapted = {
        store.OFFICIAL: (config.probe.official, config.probe.official_methods),
        store.FINETUNE: (config.probe.finetune, [store.UNTRAINED, *config.probe.finetune_methods]),
    }
    names = [*store.PROBED, *(name for name in _probed() if "audio" in methods.get(name).modalities)]
    for setting in ("official_methods", "finetune_methods"):
        if unknown := sorted(set(getattr(config.probe, setting)) - set(names)):
            raise ConfigError(f"probe.{setting} names {unknown[0]!r}; methods with audio: {', '.join(names)}")
    names = [name for name in names if name != store.SSAST or config.probe.ssast]
    # Steps this small are slower with several threads: on two busy cores one head took 0.3 s with one, 14 s with two.
    torch.set_num_threads(1)
    use_precision(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    scored = [split for split in ("validation", "test") if split in config.epic_sounds.annotations]
    events = {split: epic_views.of(config, split) for split in ("train", *scored)}
    labels, truth = _labels(events["train"]), _labels(events["validation"])
    classes = int(max(labels.max(), truth.max())) + 1
    encoders = {name: _encoder(config, name, seed, events["train"].frames, device) for name in names}
    embedding = (config.probe.views, config.evaluate.batch_size, device)
    scores: dict[str, NDArray[np.float32]] = {}
    metrics: dict[str, dict[str, dict[str, float]]] = {"random": {"random": evaluate.random_classification(truth)}}

    def score(protocol: str, name: str, head: nn.Module, found: Mapping[str, NDArray[np.float32]]) -> None:
        own = scores[f"{protocol}/{name}"] = probabilities(head, found["validation"], device)
        metrics.setdefault(protocol, {})[name] = evaluate.classification(own, truth)
        if "test" in found:
            scores[f"test/{protocol}/{name}"] = probabilities(head, found["test"], device)

    found = {split: features(encoders, events[split], *embedding, config.paths.work) for split in events}
    for name in names:
        own = {split: found[split].pop(name) for split in found}
        recipe, title = config.probe.linear, f"{store.LINEAR} {name}"
        score(store.LINEAR, name, linear_probe(own["train"], labels, classes, recipe, seed, device, title), own)
    for protocol, (recipe, chosen) in adapted.items():
        for name in (name for name in dict.fromkeys(chosen) if name in names):
            encoder = copy.deepcopy(encoders[name])
            head = adapt(protocol, encoder, events["train"], classes, recipe, seed, device, f"{protocol} {name}")
            score(protocol, name, head, {s: features({"": encoder}, events[s], *embedding)[""] for s in scored})
    result = {"seed": seed, "train_events": len(labels), "test_events": len(truth), "classes": len(np.unique(truth)),
              "views": config.probe.views, "metrics": metrics}  # fmt: skip
    file = config.paths.probe_metrics(seed)
    store.write_tensors(config.paths.probe_scores(seed), {**scores, "labels": truth}, {"seed": str(seed)})
    write_atomic(file, (json.dumps(result, indent=2) + "\n").encode())
    write_atomic(config.paths.made("probe", ALL, seed), made_from(config, ALL, seed).encode())
    return file


def _probed() -> list[str]:
    """The methods of Table 4: those with the role "later" are in no table of the paper's Section 6.3."""
    return [name for name, entry in methods.METHODS.items() if entry.get("role") != "later"]


def _labels(events: Views) -> NDArray[np.int64]:
    return events.index["class_id"].to_numpy(dtype=np.int64)


def _encoder(config: Config, name: str, seed: int, frames: int, device: torch.device) -> AudioEncoder:
    """The audio encoder of a method's checkpoint, or of the seed's initial weights; the rest of the model is freed."""
    if name == store.SSAST and config.probe.ssast != "train":
        config, name = dataclasses.replace(config, init={"audio": Path(str(config.probe.ssast))}), store.UNTRAINED
    model = MC3.initial(config, seed).eval() if name == store.UNTRAINED else MC3.load(config.paths.final(name, seed))
    return resize_input(cast(AudioEncoder, model.encoders["audio"].to(device)), frames)


def _empty(shape: tuple[int, ...], scratch: Path | None) -> NDArray[np.float32]:
    """An array in memory, or in an unnamed file on the disk of `scratch`, which the system frees even after a kill."""
    if scratch is None:
        return np.empty(shape, np.float32)
    with naming(scratch), tempfile.TemporaryFile(dir=scratch) as file:
        array = np.memmap(file, np.float32, "w+", shape=shape)
        reserve(file.fileno())
        return array


def _fit(
    learned: Sequence[nn.Parameter], logits: Callable[[Tensor, torch.Generator], Tensor], labels: NDArray[np.int64],
    recipe: ProbeRecipe, seed: int, title: str,
) -> None:  # fmt: skip
    """Minimise the cross-entropy of `logits(rows, generator)` by `recipe`, in a new order of the rows each epoch."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.from_numpy(labels).to(learned[0].device)
    optimizer = torch.optim.AdamW(learned, recipe.learning_rate, weight_decay=recipe.weight_decay)
    for epoch in track(range(recipe.epochs), title):
        batches = torch.randperm(len(targets), generator=generator).split(recipe.batch_size)
        for step, rows in enumerate(batches, 1):
            optimizer.param_groups[0]["lr"] = learning_rate(recipe, epoch + step / len(batches))
            loss = nn.functional.cross_entropy(logits(rows, generator), targets[rows.to(targets.device)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
