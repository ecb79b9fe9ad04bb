"""EPIC-Sounds classification with the audio encoder (Sec. 6.3, Table 4): two linear probes and fine-tune.

Linear probe: the encoder is frozen and one linear layer learns to name the sound from the trunk's output, so
features of a few windows an event are computed once. Official linear probe: what EPIC-Sounds' own code calls one; the
layer stands on a LayerNorm, and the trunk's position embeddings and class token learn too. Fine-tune: encoder and
layer learn together. The last two see a random window an epoch under SpecAugment. At test time the class
probabilities of uniform windows are summed, as the EPIC-Sounds protocol has it. Beside the trained methods stands
"untrained", the weights that the seed's training started from: what the architecture alone gives.

Sound and features stay on disk and are read as they are needed (`mc3.data.epic_views`).
"""

from __future__ import annotations

import copy
import dataclasses
import json
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn

from mc3 import evaluate, methods, store
from mc3.config import Config, ProbeRecipe
from mc3.errors import ConfigError
from mc3.files import write_atomic

if TYPE_CHECKING:
    from mc3.data.epic_views import Views
    from mc3.encoders.audio import AudioEncoder

OFFICIAL_LEARNED = ("pos_embed", "cls_token")  # of the trunk; AST's second token, dist_token, stays

# SpecAugment as EPIC-Sounds' baselines use it: two masks of up to 27 of 128 mel bins and two of up to 125 ms.
MASKS, MASKED_BINS = 2, 27 / 128


def learning_rate(recipe: ProbeRecipe, epoch: float) -> float:
    """The rate at `epoch`, parts counting: linear over the warm-up, then times `factors[i]` from `milestones[i]` on."""
    if epoch < recipe.warmup_epochs:
        return recipe.learning_rate * epoch / recipe.warmup_epochs
    passed = bisect_right(recipe.milestones, epoch)
    return recipe.learning_rate * (recipe.factors[passed - 1] if passed else 1.0)


def spec_augment(fbank: Tensor, fill: float, longest: int, generator: torch.Generator) -> Tensor:
    """SpecAugment without time warping: [B, L, mel] random bands of bins, and of up to `longest` frames, filled."""
    fbank = fbank.clone()
    for dim, most in ((2, max(1, round(MASKED_BINS * fbank.shape[2]))), (1, min(longest, fbank.shape[1] // 2))):
        size = fbank.shape[dim]
        place = torch.arange(size)
        for _ in range(MASKS):
            width = torch.randint(0, most + 1, (len(fbank), 1), generator=generator)
            start = (torch.rand(len(fbank), 1, generator=generator) * (size - width + 1)).long()
            masked = ((place >= start) & (place < start + width)).to(fbank.device)
            fbank = torch.where(masked.unsqueeze(3 - dim), fill, fbank)
    return fbank


def fitted(encoder: AudioEncoder, frames: int) -> AudioEncoder:
    """The encoder for inputs of `frames` frames, its position grid cut or interpolated as AST's is."""
    from mc3.encoders.audio import AudioEncoder, patch_grid
    from mc3.encoders.weights import fit_grid

    old = encoder.config
    if old.length == frames:
        return encoder
    new = dataclasses.replace(old, length=frames)
    grids = [patch_grid((c.mel_bins, c.length), c.patch, c.stride) for c in (old, new)]
    state = encoder.state_dict()
    state["trunk.pos_embed"] = fit_grid(state["trunk.pos_embed"], *grids)
    longer = AudioEncoder(new, state["projection.1.weight"].shape[0])
    longer.load_state_dict(state)
    return longer.to(state["trunk.pos_embed"].device).eval()


def features(
    encoders: Mapping[str, AudioEncoder], events: Views, views: int, batch_size: int, device: torch.device
) -> dict[str, NDArray[np.float32]]:
    """Trunk outputs of `views` uniform windows of every event, reading each event once for all encoders.

    Returns:
        encoder's name -> [events, views, dim]; an event no longer than a window has the same one `views` times.
    """
    parts = [part for _, part in _batches(encoders, events, views, batch_size, device)]
    return {name: np.concatenate([part[name] for part in parts]) for name in encoders}


def linear_probe(
    train: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: int,
    recipe: ProbeRecipe,
    seed: int,
    device: torch.device,
    title: str = store.LINEAR,
) -> nn.Linear:
    """Train one linear layer on frozen features.

    Args:
        train: [N, views, D], in memory or not; each epoch sees one of an event's windows, at random.
        labels: [N] class numbers.
        classes: width of the layer.
        recipe: the optimiser's settings.
        seed: of the layer's weights and of the order.
        device: where to train.
        title: of the progress bar.
    """
    torch.manual_seed(seed)
    head = nn.Linear(train.shape[2], classes).to(device)
    generator = torch.Generator().manual_seed(seed)

    def logits(rows: Tensor) -> Tensor:
        views = torch.randint(0, train.shape[1], (len(rows),), generator=generator)
        return head(torch.from_numpy(train[rows.numpy(), views.numpy()]).to(device))

    _fit(list(head.parameters()), logits, torch.from_numpy(labels).to(device), recipe, generator, title)
    return head


def official_probe(
    encoder: AudioEncoder,
    train: Views,
    classes: int,
    recipe: ProbeRecipe,
    seed: int,
    device: torch.device,
    title: str = store.OFFICIAL,
) -> nn.Sequential:
    """Train LayerNorm and linear layer with `OFFICIAL_LEARNED` of `encoder`'s trunk, in place; all else is frozen."""
    torch.manual_seed(seed)
    head = nn.Sequential(nn.LayerNorm(encoder.config.dim), nn.Linear(encoder.config.dim, classes)).to(device)
    learned = [getattr(encoder.trunk, name) for name in OFFICIAL_LEARNED]
    encoder.requires_grad_(False)
    for parameter in learned:
        parameter.requires_grad_(True)
    _learn(encoder, head, [*learned, *head.parameters()], train, recipe, seed, device, title)
    return head


def finetune(
    encoder: AudioEncoder,
    train: Views,
    classes: int,
    recipe: ProbeRecipe,
    seed: int,
    device: torch.device,
    title: str = store.FINETUNE,
) -> nn.Linear:
    """Train `encoder`'s trunk, in place, and a linear layer together; returns the layer."""
    torch.manual_seed(seed)
    head = nn.Linear(encoder.config.dim, classes).to(device)
    _learn(encoder, head, [*encoder.trunk.parameters(), *head.parameters()], train, recipe, seed, device, title)
    return head


def probabilities(head: nn.Module, found: NDArray[np.float32], device: torch.device) -> NDArray[np.float32]:
    """Class probabilities [events, classes] of features [events, views, D], mean over the views."""
    with torch.inference_mode():
        return head(torch.from_numpy(found).to(device)).softmax(dim=-1).mean(dim=1).cpu().numpy()


def run(config: Config, seed: int) -> Path:
    """Probe every method of `seed` that has an audio encoder, and the untrained weights, by all protocols chosen.

    Where `epic_sounds.annotations` has a split "test", its events are scored beside the validation events.

    Returns:
        The JSON file of metrics, as `load` reads it; the class scores are beside it, as `load_scores` reads them.
    """
    from mc3.data import epic_views
    from mc3.model import MC3
    from mc3.train import initial

    names = [name for name in methods.METHODS if "audio" in methods.get(name).modalities]
    chosen = {"official_methods": config.probe.official_methods, "finetune_methods": config.probe.finetune_methods}
    for setting, wanted in chosen.items():
        if strangers := sorted(set(wanted) - {store.UNTRAINED, *names}):
            raise ConfigError(
                f"probe.{setting} names {strangers[0]!r}; methods with audio: {', '.join([store.UNTRAINED, *names])}"
            )
    # Steps this small are slower shared between threads: on two busy cores one head took 0.3 s of one, 14 s of two.
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    scored = [split for split in ("validation", "test") if split in config.epic_sounds.annotations]
    views = {split: epic_views.of(config, split) for split in ("train", *scored)}
    labels, truth = _labels(views["train"]), _labels(views["validation"])
    classes = int(max(labels.max(), truth.max())) + 1
    frames = views["train"].frames
    encoders: dict[str, AudioEncoder] = {}
    for name in (store.UNTRAINED, *names):  # of nine whole models at once, two thirds would lie there for nothing
        checkpoint = config.paths.final(name, seed)
        model = initial(config, seed).eval() if name == store.UNTRAINED else MC3.load(checkpoint)
        encoders[name] = fitted(cast("AudioEncoder", model.encoders["audio"].to(device)), frames)
    at = (config.probe.views, config.evaluate.batch_size, device)
    scores: dict[str, NDArray[np.float32]] = {}

    def score(protocol: str, name: str, head: nn.Module, found: Mapping[str, NDArray[np.float32]]) -> None:
        for split in scored:
            key = f"{protocol}/{name}" if split == "validation" else f"{split}/{protocol}/{name}"
            scores[key] = probabilities(head, found[split], device)

    with tempfile.TemporaryDirectory(dir=config.paths.work, prefix="probe-") as folder:
        held = {split: _on_disk(encoders, views[split], *at, Path(folder) / split) for split in views}
        for name in encoders:
            found = {split: held[split][name] for split in held}
            recipe, title = config.probe.linear, f"{store.LINEAR} {name}"
            score(store.LINEAR, name, linear_probe(found["train"], labels, classes, recipe, seed, device, title), found)
    learners: tuple[tuple[str, Callable[..., nn.Module], ProbeRecipe, list[str]], ...] = (
        (store.OFFICIAL, official_probe, config.probe.official, config.probe.official_methods),
        (
            store.FINETUNE,
            finetune,
            config.probe.finetune,
            list(dict.fromkeys([store.UNTRAINED, *config.probe.finetune_methods])),
        ),
    )
    for protocol, learn, recipe, wanted in learners:
        for name in wanted:
            encoder = copy.deepcopy(encoders[name])
            head = learn(encoder, views["train"], classes, recipe, seed, device, f"{protocol} {name}")
            score(protocol, name, head, {split: features({"": encoder}, views[split], *at)[""] for split in scored})
    return _write(config, seed, scores, labels, truth)


def _labels(events: Views) -> NDArray[np.int64]:
    return events.index["class_id"].to_numpy(dtype=np.int64)


def _on_disk(
    encoders: Mapping[str, AudioEncoder], events: Views, views: int, batch_size: int, device: torch.device, folder: Path
) -> dict[str, NDArray[np.float32]]:
    """`features` of all events, each encoder's memory-mapped in `folder`: a gigabyte each at EPIC-Sounds' own size."""
    folder.mkdir()
    found: dict[str, NDArray[np.float32]] = {
        name: np.lib.format.open_memmap(
            folder / f"{name}.npy", "w+", np.float32, (len(events), views, encoder.config.dim)
        )
        for name, encoder in encoders.items()
    }
    for rows, parts in _batches(encoders, events, views, batch_size, device):
        for name, part in parts.items():
            found[name][rows] = part
    return found


def _batches(
    encoders: Mapping[str, AudioEncoder], events: Views, views: int, batch_size: int, device: torch.device
) -> Iterator[tuple[slice, dict[str, NDArray[np.float32]]]]:
    """`features` of `batch_size` events at a time, and their rows."""
    for begin in track(range(0, len(events), batch_size), f"features of {len(events)} events"):
        rows = slice(begin, min(begin + batch_size, len(events)))
        windows: list[Tensor] = []
        owner: list[NDArray[np.intp]] = []
        for i in range(rows.start, rows.stop):
            pieces = events.uniform(i, views)
            owner.append(len(windows) + np.arange(views) % len(pieces))
            windows += pieces
        batch, order = events.batch(windows, device), np.stack(owner)
        with torch.inference_mode():
            found = {name: e.features(batch).float().cpu().numpy()[order] for name, e in encoders.items()}
        yield rows, found


def _learn(
    encoder: AudioEncoder,
    head: nn.Module,
    learned: Sequence[nn.Parameter],
    train: Views,
    recipe: ProbeRecipe,
    seed: int,
    device: torch.device,
    title: str,
) -> None:
    """Train parameters of encoder and head on a random window of every event an epoch, under SpecAugment."""
    from mc3.encoders.audio import FBANK_MEAN

    generator = torch.Generator().manual_seed(seed)

    def logits(rows: Tensor) -> Tensor:
        batch = train.batch([train.random(row, generator) for row in rows.tolist()], device)
        return head(encoder.features(spec_augment(batch, FBANK_MEAN, train.mask, generator)))

    parts = nn.ModuleList([encoder.trunk, head]).train()
    _fit(learned, logits, torch.from_numpy(_labels(train)).to(device), recipe, generator, title)
    parts.eval()


def _fit(
    learned: Sequence[nn.Parameter],
    logits: Callable[[Tensor], Tensor],
    targets: Tensor,
    recipe: ProbeRecipe,
    generator: torch.Generator,
    title: str,
) -> None:
    """Minimise the cross-entropy of `logits(rows)` by `recipe`, over a new order of the rows each epoch."""
    optimizer = torch.optim.AdamW(learned, recipe.learning_rate, weight_decay=recipe.weight_decay)
    for epoch in track(range(recipe.epochs), title):
        batches = torch.randperm(len(targets), generator=generator).split(recipe.batch_size)
        for step, rows in enumerate(batches, 1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, epoch + step / len(batches))
            loss = nn.functional.cross_entropy(logits(rows), targets[rows.to(targets.device)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def _write(
    config: Config,
    seed: int,
    scores: Mapping[str, NDArray[np.float32]],
    labels: NDArray[np.int64],
    truth: NDArray[np.int64],
) -> Path:
    metrics: dict[str, dict[str, dict[str, float]]] = {"random": {"random": evaluate.random_classification(truth)}}
    for key, values in scores.items():
        if key.startswith("test/"):
            continue
        protocol, name = key.split("/")
        metrics.setdefault(protocol, {})[name] = evaluate.classification(values, truth)
    result = {
        "seed": seed,
        "train_events": len(labels),
        "test_events": len(truth),
        "classes": len(np.unique(truth)),
        "views": config.probe.views,
        "metrics": metrics,
    }
    file = config.paths.probe_metrics(seed)
    store.write_tensors(config.paths.probe_scores(seed), {**scores, "labels": truth}, {"seed": str(seed)})
    write_atomic(file, (json.dumps(result, indent=2) + "\n").encode())
    return file
