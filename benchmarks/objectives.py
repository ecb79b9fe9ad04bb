"""Time of each loss alone, forward and backward from given embeddings, by batch size.

    python benchmarks/objectives.py --out benchmarks/objectives.csv

Float32 in one process, by default with one thread and the width of profiles/ego4d.yaml. Every round times each method
once, in an order of its own, so that all of them meet the same load; the first one warms up. The ratio is to `mc3`,
Eq. 1 and 3, in this run.
"""

from __future__ import annotations

import argparse
import csv
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import normalize

from mc3 import config, methods, objectives

# Eq. 1 over all pairs; Eq. 1 and 3; and the losses that are not the paper's
METHODS = ("wo_consensus", "mc3", "peers", "gram", "triangle", "symile", "third_party")


def make_step(settings: config.Config, method: str, batch_size: int) -> Callable[[int], None]:
    """A function that computes a method's loss and its gradient in the embeddings, in step n."""
    generator, width = torch.Generator().manual_seed(0), settings.model.embedding_dim
    drawn = {m: torch.randn(batch_size, width, generator=generator) for m in methods.MODALITIES}
    embeddings = {m: normalize(x, dim=1).requires_grad_() for m, x in drawn.items()}
    (stage,) = methods.get(method).stages
    # none of these losses needs the model but for its type
    objective = objectives.make(settings, stage, nn.Linear(1, 1), batch_size, 0)

    def step(number: int) -> None:
        clips = torch.arange(batch_size)
        loss, _ = objective(embeddings, objectives.Batch({}, [slice(batch_size)], clips, [batch_size], number))
        loss.backward()
        for leaf in (*embeddings.values(), *objective.parameters()):
            leaf.grad = None

    return step


def measure(settings: config.Config, batch_size: int, seconds: float) -> dict[str, float]:
    """The median of each method in milliseconds, over as many rounds as fit in `seconds`."""
    steps = {method: make_step(settings, method, batch_size) for method in METHODS}
    taken: dict[str, list[float]] = {method: [] for method in METHODS}
    number, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds or number < 2:
        for method in random.Random(number).sample(METHODS, len(METHODS)):
            start = time.perf_counter()
            steps[method](number)
            if number:
                taken[method].append(time.perf_counter() - start)
        number += 1
    return {method: 1000 * statistics.median(each) for method, each in taken.items()}


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="profiles/ego4d.yaml")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--seconds", type=float, default=30.0, help="per batch size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", help="write the table as CSV")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings, rows = config.load(args.config), [("method", "batch", "milliseconds", "of_mc3")]
    for batch_size in args.batches:
        found = measure(settings, batch_size, args.seconds)
        rows += [(m, str(batch_size), f"{ms:.2f}", f"{ms / found['mc3']:.2f}") for m, ms in found.items()]
    for row in rows:
        print("  ".join(f"{value:12}" for value in row).rstrip())
    if args.out:
        with Path(args.out).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
