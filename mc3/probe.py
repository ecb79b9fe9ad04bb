"""EPIC-Sounds classification with the audio encoder (Sec. 6.3, Table 4): linear probe and fine-tune.

Linear probe: the encoder is frozen and one linear layer learns to name the sound from the trunk's output, so
features of a few windows an event are computed once. Fine-tune: encoder and layer learn together, from a
random window an epoch under SpecAugment. At test time the class probabilities of uniform windows are summed, as the
EPIC-Sounds protocol has it. Beside the trained methods stands "untrained", the weights that the seed's
training started from: what the architecture alone gives.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn

from mc3 import embed, evaluate, methods
from mc3.config import Config, ConfigError, ProbeRecipe
from mc3.data import DataError, write_whole

if TYPE_CHECKING:
    from mc3.data.shards import ClipDataset
    from mc3.encoders.audio import AudioEncoder

UNTRAINED = "untrained"
LINEAR, FINETUNE = "linear-probe", "fine-tune"

# SpecAugment as EPIC-Sounds' baselines use it: two masks of up to 27 of 128 mel bins and two of up to 125 ms.
MASKS, MASKED_BINS, MASKED_FRAMES = 2, 27 / 128, 12


def path(config: Config, seed: int) -> Path:
    """Where `run` writes its metrics; the scores are beside it, with suffix .safetensors."""
    return config.paths.work / "probe" / f"{seed}.json"


def load(file: str | Path) -> dict[str, Any]:
    """Read a file of metrics: seed, train and test events, classes, views, and metrics by protocol and method.

    Raises:
        DataError: there is no such file; the message has the command that makes it.
    """
    file = Path(file)
    if not file.exists():
        raise DataError(
            f"no EPIC-Sounds results at {file}; `dvc repro probe@{file.stem}` trains what is missing and makes them"
        )
    return json.loads(file.read_text())


def load_scores(file: str | Path) -> dict[str, NDArray]:
    """Read the class scores beside a file of metrics.

    Returns:
        "{protocol}/{method}" -> [events, classes] mean class probabilities; "labels" -> [events].
    """
    return embed.load(Path(file).with_suffix(".safetensors"))[0]


def events(config: Config) -> pd.DataFrame:
    """The test events, one row each in the order of the scores, numbered from 0."""
    index = pd.read_parquet(config.paths.work / "shards" / "index.parquet")
    return index[(index["dataset"] == "epic_sounds") & (index["split"] == "validation")].reset_index(drop=True)


def window_starts(frames: int, length: int, views: int) -> NDArray[np.intp]:
    """First frames of `views` windows of `length`, evenly from an event's begin to its end; one if it is shorter."""
    if frames <= length:
        return np.zeros(1, dtype=np.intp)
    return (
        np.linspace(0, frames - length, views).round().astype(np.intp)
        if views > 1
        else np.array([(frames - length) // 2])
    )


def learning_rate(recipe: ProbeRecipe, epoch: float) -> float:
    """The rate at `epoch`, parts counting: linear over the warm-up, then times `factors[i]` from `milestones[i]` on."""
    if epoch < recipe.warmup_epochs:
        return recipe.learning_rate * epoch / recipe.warmup_epochs
    passed = bisect_right(recipe.milestones, epoch)
    return recipe.learning_rate * (recipe.factors[passed - 1] if passed else 1.0)


def spec_augment(fbank: Tensor, fill: float, generator: torch.Generator) -> Tensor:
    """SpecAugment without time warping: [B, L, mel] with random bands of bins and frames set to `fill`."""
    fbank = fbank.clone()
    for dim, most in ((2, max(1, round(MASKED_BINS * fbank.shape[2]))), (1, min(MASKED_FRAMES, fbank.shape[1] // 2))):
        size = fbank.shape[dim]
        place = torch.arange(size)
        for _ in range(MASKS):
            width = torch.randint(0, most + 1, (len(fbank), 1), generator=generator)
            start = (torch.rand(len(fbank), 1, generator=generator) * (size - width + 1)).long()
            masked = ((place >= start) & (place < start + width)).to(fbank.device)
            fbank = torch.where(masked.unsqueeze(3 - dim), fill, fbank)
    return fbank


def features(
    encoders: Mapping[str, AudioEncoder],
    dataset: ClipDataset,
    views: int,
    batch_size: int,
    device: torch.device,
) -> dict[str, NDArray[np.float32]]:
    """Trunk outputs of `views` uniform windows of every event, reading each event once for all encoders.

    Returns:
        encoder's name -> [events, views, dim]; an event shorter than a window has the same one `views` times.
    """
    length = next(iter(encoders.values())).config.length
    found: dict[str, list[NDArray[np.float32]]] = {name: [] for name in encoders}
    for begin in track(range(0, len(dataset), batch_size), f"features of {len(dataset)} events"):
        windows: list[Tensor] = []
        owner: list[NDArray[np.intp]] = []
        for i in range(begin, min(begin + batch_size, len(dataset))):
            fbank = dataset[i]["audio"]
            starts = window_starts(len(fbank), length, views)
            owner.append(len(windows) + np.arange(views) % len(starts))
            windows += [_window(fbank, start, length) for start in starts]
        batch = torch.stack(windows).to(device)
        with torch.inference_mode():
            for name, encoder in encoders.items():
                out = encoder.features(batch).float().cpu().numpy()
                found[name].append(out[np.stack(owner)])
    return {name: np.concatenate(parts) for name, parts in found.items()}


def linear_probe(
    train: NDArray[np.float32],
    labels: NDArray[np.int64],
    test: NDArray[np.float32],
    classes: int,
    recipe: ProbeRecipe,
    seed: int,
    device: torch.device,
    title: str = "linear probe",
) -> NDArray[np.float32]:
    """Train one linear layer on frozen features and return the class scores of the test events.

    Args:
        train: [N, views, D]; each epoch sees one of an event's windows, at random.
        labels: [N] class numbers.
        test: [M, views, D].
        classes: width of the layer.
        recipe: the optimiser's settings.
        seed: of the layer's weights and of the order.
        device: where to train.
        title: of the progress bar.

    Returns:
        [M, classes]: class probabilities, mean over the windows.
    """
    torch.manual_seed(seed)
    head = nn.Linear(train.shape[2], classes).to(device)
    inputs = torch.from_numpy(train).to(device)
    generator = torch.Generator().manual_seed(seed)

    def logits(rows: Tensor) -> Tensor:
        views = torch.randint(0, inputs.shape[1], (len(rows),), generator=generator)
        return head(inputs[rows.to(device), views.to(device)])

    _fit(head, logits, torch.from_numpy(labels).to(device), recipe, generator, title)
    return _probabilities(head, test, device)


def finetune(
    encoder: AudioEncoder,
    train: ClipDataset,
    test: ClipDataset,
    classes: int,
    config: Config,
    seed: int,
    device: torch.device,
    title: str = "fine-tune",
) -> NDArray[np.float32]:
    """Train `encoder`, in place, and a linear layer together; return the class scores of `test`'s events.

    Each epoch takes a random window of every event, under SpecAugment.

    Returns:
        [events of `test`, classes]: class probabilities, mean over the windows.
    """
    from mc3.encoders.audio import FBANK_MEAN

    torch.manual_seed(seed)
    head = nn.Linear(encoder.config.dim, classes).to(device)
    length = encoder.config.length
    generator = torch.Generator().manual_seed(seed)

    def logits(rows: Tensor) -> Tensor:
        windows = []
        for row in rows.tolist():
            fbank = train[row]["audio"]
            start = torch.randint(0, max(1, len(fbank) - length + 1), (), generator=generator)
            windows.append(_window(fbank, int(start), length))
        batch = spec_augment(torch.stack(windows), FBANK_MEAN, generator)
        return head(encoder.features(batch.to(device)))

    learned = nn.ModuleList([encoder.trunk, head]).train()
    _fit(learned, logits, torch.from_numpy(_labels(train)).to(device), config.probe.finetune, generator, title)
    learned.eval()
    found = features({"": encoder}, test, config.probe.views, config.evaluate.batch_size, device)[""]
    return _probabilities(head, found, device)


def run(config: Config, seed: int) -> Path:
    """Probe every method of `seed` that has an audio encoder, and the untrained weights; fine-tune those chosen.

    Returns:
        The JSON file of metrics, as `load` reads it; the class scores are beside it, as `load_scores` reads them.
    """
    from mc3.data.shards import ClipDataset
    from mc3.model import MC3
    from mc3.train import initial

    names = [name for name in methods.METHODS if "audio" in methods.get(name).modalities]
    if strangers := set(config.probe.finetune_methods) - set(names):
        raise ConfigError(
            f"probe.finetune_methods names {sorted(strangers)[0]!r}; methods with audio: {', '.join(names)}"
        )
    # Steps this small are slower shared between threads: on two busy cores one head took 0.3 s of one, 14 s of two.
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    shards = config.paths.work / "shards"
    train, test = (
        ClipDataset(shards, dataset="epic_sounds", split=split, modalities=("audio",), in_memory=True)
        for split in ("train", "validation")
    )
    labels, truth = _labels(train), _labels(test)
    classes = int(max(labels.max(), truth.max())) + 1
    encoders: dict[str, Any] = {UNTRAINED: initial(config, seed).encoders["audio"].to(device).eval()}
    for name in names:
        folder = config.paths.work / "checkpoints" / f"{name}-{seed}" / "final"
        encoders[name] = MC3.load(folder, device=device).encoders["audio"]
    at = (config.probe.views, config.evaluate.batch_size, device)
    learned, tested = features(encoders, train, *at), features(encoders, test, *at)
    scores = {}
    for name in encoders:
        scores[f"{LINEAR}/{name}"] = linear_probe(
            learned[name], labels, tested[name], classes, config.probe.linear, seed, device, f"{LINEAR} {name}"
        )
    for name in [UNTRAINED, *config.probe.finetune_methods]:
        scores[f"{FINETUNE}/{name}"] = finetune(
            encoders[name], train, test, classes, config, seed, device, f"{FINETUNE} {name}"
        )
    return _write(config, seed, scores, labels, truth)


def _labels(dataset: ClipDataset) -> NDArray[np.int64]:
    return dataset.index["class_id"].to_numpy(dtype=np.int64)


def _window(fbank: Tensor, start: int, length: int) -> Tensor:
    """Frames `start`.. of a raw log-mel, padded at the end with what normalising maps to 0: [length, mel]."""
    from mc3.encoders.audio import FBANK_MEAN

    window = fbank[start : start + length].float()
    return nn.functional.pad(window, (0, 0, 0, length - len(window)), value=FBANK_MEAN)


def _fit(
    learned: nn.Module,
    logits: Callable[[Tensor], Tensor],
    targets: Tensor,
    recipe: ProbeRecipe,
    generator: torch.Generator,
    title: str,
) -> None:
    """Minimise the cross-entropy of `logits(rows)` by `recipe`, over a new order of the rows each epoch."""
    optimizer = torch.optim.AdamW(learned.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    for epoch in track(range(recipe.epochs), title):
        batches = torch.randperm(len(targets), generator=generator).split(recipe.batch_size)
        for step, rows in enumerate(batches, 1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, epoch + step / len(batches))
            loss = nn.functional.cross_entropy(logits(rows), targets[rows.to(targets.device)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def _probabilities(head: nn.Linear, found: NDArray[np.float32], device: torch.device) -> NDArray[np.float32]:
    with torch.inference_mode():
        return head(torch.from_numpy(found).to(device)).softmax(dim=-1).mean(dim=1).cpu().numpy()


def _write(
    config: Config,
    seed: int,
    scores: Mapping[str, NDArray[np.float32]],
    labels: NDArray[np.int64],
    truth: NDArray[np.int64],
) -> Path:
    metrics: dict[str, dict[str, dict[str, float]]] = {"random": {"random": evaluate.random_classification(truth)}}
    for key, values in scores.items():
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
    file = path(config, seed)
    embed.save(file.with_suffix(".safetensors"), {**scores, "labels": truth}, {"seed": str(seed)})
    write_whole(file, (json.dumps(result, indent=2) + "\n").encode())
    return file
