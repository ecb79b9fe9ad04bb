"""A training step of MC3's refine stage: how fast, how near to what the device can do, and against the obvious way.

    python benchmarks/train_step.py step --config profiles/ego4d.yaml --batch 2 --frames 4
    python benchmarks/train_step.py loader --workers 0 2
    python benchmarks/train_step.py loss --worlds 1 8 64

`step` takes turns between `mc3`'s step and `straightforward.py`'s, so that both meet the same machine; each turn is a
process of its own, whose peak memory is thereby known. The share of the peak is against a large matrix product measured
in the same run (and against the maker's number where `mc3.cost` knows the device).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import multiprocessing
import resource
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mc3 import config, cost, losses, methods, objectives, train
from mc3.data import batches, shards, tokenizer
from mc3.model import MC3, freeze, recompute

STAGE = methods.get("mc3").stages[0]
WAYS = ("mc3", "straightforward")


def device() -> torch.device:
    """Where to measure: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait() -> float:
    """The time, once the device has done all that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def matmul_flops(dtype: torch.dtype, size: int, seconds: float = 3.0) -> float:
    """Operations a second of a square matrix product, the best of several."""
    a, b = (torch.randn(size, size, device=device(), dtype=dtype) for _ in range(2))
    best, began = 0.0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = wait()
        a @ b
        best = max(best, 2 * size**3 / (wait() - start))
    return best


class Products(TorchDispatchMode):
    """Collects the shapes of a step's matrix products; fused attention counts as those it consists of."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func` as it is, and note its operands' shapes."""
        name = str(func)
        if name.startswith(("aten.mm.", "aten.bmm.")):
            self.shapes.append((tuple(args[0].shape), tuple(args[1].shape)))
        elif name.startswith("aten.addmm."):
            self.shapes.append((tuple(args[1].shape), tuple(args[2].shape)))
        elif "_scaled_dot_product" in name:
            q, k = args[1:3] if "backward" in name else args[:2]
            (*batch, n, d), m = q.shape, k.shape[-2]
            groups = math.prod(batch)
            self.shapes += [((groups, n, d), (groups, d, m)), ((groups, n, m), (groups, m, d))]
            if "backward" in name:  # the scores again; gradients of values, mixing weights, queries, keys
                self.shapes += [((groups, m, n), (groups, n, d)), ((groups, n, d), (groups, d, m))]
                self.shapes += [((groups, m, n), (groups, n, d))]
        return func(*args, **(kwargs or {}))


def seconds_of_products(step: Callable[[int], float]) -> float:
    """What a step's matrix products take by themselves, one after the other, on operands that lie ready."""
    with Products() as products:
        step(0)
    total = 0.0
    for (left, right), times in Counter(products.shapes).items():
        a, b = torch.randn(left, device=device()), torch.randn(right, device=device())
        product = torch.bmm if a.ndim == 3 else torch.mm
        product(a, b)
        took = []
        for _ in range(5):
            start = wait()
            product(a, b)
            took.append(wait() - start)
        total += times * statistics.median(took)
    return total


def settings_of(args: argparse.Namespace) -> config.Config:
    """The profile with the command line's frames, batch and precision."""
    settings = config.load(args.config)
    model = settings.model
    video = dataclasses.replace(model.video, frames=args.frames or model.video.frames)
    text = dataclasses.replace(model.text, tokenizer="train")
    changed = {"batch_size": args.batch or settings.train.batch_size}
    changed |= {"microbatch_size": args.microbatch, "recompute": args.recompute, "compile": args.compile}
    return dataclasses.replace(
        settings,
        model=dataclasses.replace(model, video=video, text=text),
        train=dataclasses.replace(settings.train, **changed),
    )


def stepper(settings: config.Config, way: str, precision: str) -> Callable[[int], float]:
    """A function that takes step n, from bytes on the host to new weights, and returns its loss."""
    from straightforward import Straightforward

    torch.manual_seed(0)
    words = tokenizer.train(["C cuts a carrot", "C washes a plate"], settings.model.text.vocab_size)
    model = MC3(settings.model, words).to(device())
    freeze(model, STAGE.train)
    called: Any = model
    if way == "straightforward":
        called = Straightforward(model)
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), settings.train.learning_rate)
    else:
        if settings.train.recompute:
            recompute(model)
        if settings.train.compile:
            for encoder in model.encoders.values():
                encoder.compile()
        optimizer = train.make_optimizer(settings.train, model)
    size, stored = settings.train.batch_size, settings.clips.frame_size
    host = cost.inputs(settings, size)
    host["video"] = torch.randint(0, 256, (size, settings.model.video.frames, stored, stored, 3), dtype=torch.uint8)
    host["audio"] = torch.randn(host["audio"].shape).half()
    if torch.cuda.is_available():
        host = {m: x.pin_memory() for m, x in host.items()}

    def step(number: int) -> float:
        inputs = {m: x.to(device(), non_blocking=way == "mc3") for m, x in host.items()}
        generator = torch.Generator().manual_seed(number)
        theta = batches.crops(size, settings.train.crop_scale, settings.train.flip, generator).to(device())
        inputs["video"] = batches.augment(inputs["video"], theta, settings.model.video.image_size)
        with torch.autocast(device().type, torch.bfloat16, enabled=precision == "bf16"):
            embeddings = called({m: inputs[m] if m == "text" else inputs[m].float() for m in STAGE.modalities})
        batch = objectives.Batch(inputs, [slice(size)], torch.arange(size), [size], number)
        loss, _ = objectives.Objective(settings, STAGE)(embeddings, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.train.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def turn(settings: config.Config, way: str, precision: str, steps: int, threads: int, pipe: Any) -> None:
    """In a process of its own: seconds a step, peak memory, the first loss, seconds of the products alone."""
    torch.set_num_threads(threads)
    step = stepper(settings, way, precision)
    loss = step(0)
    seconds = []
    for number in range(1, steps + 1):
        start = wait()
        step(number)
        seconds.append(wait() - start)
    cuda = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if cuda else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    alone = seconds_of_products(step) if way == "mc3" and precision == "no" and not cuda else math.nan
    pipe.send((seconds, peak, loss, alone))


def bench_step(args: argparse.Namespace) -> None:
    """Both ways in turns, in each precision, and the matrix product beside them."""
    settings = settings_of(args)
    context = multiprocessing.get_context("spawn")
    needed = cost.training_flops(settings.model, STAGE) * settings.train.batch_size
    torch.set_num_threads(args.threads)
    lines = []
    for precision in args.precision:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        product = matmul_flops(dtype, args.matmul)
        stated = cost.peak_flops(device(), precision)
        found: dict[str, Any] = {way: ([], [], [], []) for way in WAYS}
        for _ in range(args.rounds):
            for way in WAYS:
                ours, theirs = context.Pipe()
                child = context.Process(target=turn, args=(settings, way, precision, args.steps, args.threads, theirs))
                child.start()
                theirs.close()
                seconds, *rest = ours.recv()
                child.join()
                found[way][0].extend(seconds)
                for held, value in zip(found[way][1:], rest, strict=True):
                    held.append(value)
        for way in WAYS:
            seconds, peak, loss = statistics.median(found[way][0]), max(found[way][1]), found[way][2][0]
            other = statistics.median(found["straightforward"][0])
            line = {
                "way": way, "precision": precision, "clips_per_sec": settings.train.batch_size / seconds,
                "ratio": other / seconds, "peak_gb": peak / 1e9, "of_matmul": needed / seconds / product,
                "matmul_tflops": product / 1e12, "first_loss": loss,
            }  # fmt: skip
            line |= {"mfu": needed / seconds / stated} if stated else {}
            alone = statistics.median(found[way][3])
            line |= {} if math.isnan(alone) else {"products_alone": alone / seconds}
            lines.append(line)
            shown = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items())
            print("  ".join(shown), flush=True)
    if args.out:
        Path(args.out).write_text(json.dumps(lines, indent=1) + "\n")


def bench_loader(args: argparse.Namespace) -> None:
    """Clips a second that the shards give, decoded and batched, by number of worker processes."""
    from torch.utils.data import DataLoader

    settings = config.load(args.config)
    torch.set_num_threads(1)
    model = MC3.initial(settings, 0)
    for held in (False, True):
        shards.IN_MEMORY_BYTES = 2**60 if held else 0
        clips = shards.open_clips(settings, "train", model.tokenizer, methods.MODALITIES)
        for workers in args.workers:
            loader = DataLoader(clips, settings.train.batch_size, num_workers=workers)  # type: ignore[arg-type]
            count, began = 0, time.perf_counter()
            for batch in loader:
                count += len(batch["text"])
                if time.perf_counter() - began > args.seconds:
                    break
            speed = count / (time.perf_counter() - began)
            where = "held in memory" if held else "from the shards"
            print(f"{where}, {workers} workers: {speed:.0f} clips/s", flush=True)


def bench_loss(args: argparse.Namespace) -> None:
    """The loss of one of W processes, forward and backward, with rows of its own against all keys, or whole."""
    settings = config.load(args.config)
    rows, dim = args.batch or 32, settings.model.embedding_dim
    print(f"{rows} rows a process, {dim} dimensions; ms and MB of the loss alone, a process")
    for world in args.worlds:
        shown = []
        for local in (True, False):
            generator = torch.Generator().manual_seed(0)
            keys = {
                m: torch.nn.functional.normalize(torch.randn(world * rows, dim, generator=generator), dim=1)
                .to(device()).requires_grad_()
                for m in methods.MODALITIES
            }  # fmt: skip
            held: dict[int, int] = {}

            def pack(tensor: Tensor, held: dict[int, int] = held) -> Tensor:
                held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            def once(keys: dict[str, Tensor] = keys, local: bool = local) -> Tensor:
                mine = {m: k[:rows] for m, k in keys.items()} if local else keys
                return losses.contrastive(mine, STAGE.pairs, 0.05, keys)

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                once()
            seconds = []
            for _ in range(args.steps):
                start = wait()
                once().backward()
                seconds.append(wait() - start)
            shown.append((1000 * statistics.median(seconds), sum(held.values()) / 1e6))
        (fast, small), (slow, large) = shown
        print(
            f"W = {world:3d}, batch {world * rows:6d}: own rows {fast:8.1f} ms {small:8.1f} MB; "
            f"whole {slow:8.1f} ms {large:8.1f} MB",
            flush=True,
        )


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["step", "loader", "loss"])
    parser.add_argument("--config", default="params.yaml")
    parser.add_argument("--batch", type=int, help="clips a step (the profile's)")
    parser.add_argument("--frames", type=int, help="frames a clip (the profile's)")
    parser.add_argument("--precision", nargs="+", default=["no"], choices=["no", "bf16"])
    parser.add_argument("--microbatch", type=int)
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--steps", type=int, default=3, help="measured in each turn, after one to warm up")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each way")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--matmul", type=int, default=4096, help="side of the matrix product")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2, 8, 32])
    parser.add_argument("--out", help="write the lines of `step` as JSON")
    args = parser.parse_args()
    {"step": bench_step, "loader": bench_loader, "loss": bench_loss}[args.what](args)


if __name__ == "__main__":
    main()
