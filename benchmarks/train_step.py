"""A training step of the profile in use, by part and number of threads: clips a second and milliseconds.

python benchmarks/train_step.py --threads 1 2
"""

from __future__ import annotations

import argparse
import time

import torch
from torch.utils.data import DataLoader

from mc3 import batches, config, methods, train

PARTS = ("augment", "forward and loss", "backward", "update")


def measure(settings: config.Config, threads: int, steps: int) -> dict[str, float]:
    """Milliseconds of each of `PARTS`, the mean over `steps` steps of MC3's refine stage, after four to warm up."""
    torch.set_num_threads(threads)
    model = train.initial(settings, 0)
    stage = methods.get("mc3").stages[0]
    train.freeze(model, stage.train)
    optimizer = train.make_optimizer(settings.train, model)
    clips = train.clips(settings, "train", model, stage.modalities)
    size = settings.train.batch_size
    loader = iter(DataLoader(clips, size))  # type: ignore[arg-type]
    held = [next(loader) for _ in range(min(steps + 4, len(clips) // size))]
    total = dict.fromkeys(PARTS, 0.0)
    for step in range(steps + 4):
        batch = held[step % len(held)]
        marks = [time.perf_counter()]
        generator = torch.Generator().manual_seed(step)
        theta = batches.crops(size, settings.train.crop_scale, settings.train.flip, generator)
        video = batches.augment(batch["video"], theta, settings.model.video.image_size)
        marks.append(time.perf_counter())
        embeddings = model({"video": video, "audio": batch["audio"], "text": batch["text"]})
        loss, _ = train.losses_of(settings, stage, embeddings, [size])
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.train.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        marks.append(time.perf_counter())
        if step >= 4:
            for part, start, end in zip(PARTS, marks, marks[1:], strict=False):
                total[part] += 1000 * (end - start) / steps
    return total


def main() -> None:
    """Print a line a number of threads, and the ratio to the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="params.yaml")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    settings = config.load(args.config)
    first = None
    for threads in args.threads:
        parts = measure(settings, threads, args.steps)
        speed = 1000 * settings.train.batch_size / sum(parts.values())
        first = first or speed
        shown = ", ".join(f"{name} {value:.0f} ms" for name, value in parts.items())
        print(f"{threads} threads: {speed:.0f} clips/s ({speed / first:.2f} x the first): {shown}")


if __name__ == "__main__":
    main()
