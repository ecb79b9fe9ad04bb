"""Speed and memory of a training step of MC3's refine stage, of the shards' loader and of the distributed loss.

    python benchmarks/train_step.py step --config profiles/ego4d.yaml --batch 2 --frames 4
    python benchmarks/train_step.py loader --workers 0 2
    python benchmarks/train_step.py loss --worlds 1 8 64

`step` alternates between `mc3`'s step and `straightforward.py`'s, so that both meet the same load. Each round runs in
its own process, whose peak memory is reported. Speed is compared with a large matrix product measured in the same run,
and with the maker's peak if `mc3.cost` knows the device.
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
VARIANTS = ("mc3", "straightforward")


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def now() -> float:
    """The time in seconds, once the device has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def matmul_flops(dtype: torch.dtype, size: int, seconds: float = 3.0) -> float:
    """Operations a second of a square matrix product: the best of several."""
    a, b = (torch.randn(size, size, device=device(), dtype=dtype) for _ in range(2))
    best, began = 0.0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = now()
        a @ b
        best = max(best, 2 * size**3 / (now() - start))
    return best


class Products(TorchDispatchMode):
    """Collects the shapes of a step's matrix products; fused attention counts as its own products."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func` and record its operands' shapes."""
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
            if "backward" in name:  # scores again; gradients of values, attention weights, queries, keys
                self.shapes += [((groups, m, n), (groups, n, d)), ((groups, n, d), (groups, d, m))]
                self.shapes += [((groups, m, n), (groups, n, d))]
        return func(*args, **(kwargs or {}))


def seconds_of_products(step: Callable[[int], float]) -> float:
    """Seconds that a step's matrix products take alone, one after the other, with operands in memory."""
    with Products() as products:
        step(0)
    total = 0.0
    for (left, right), times in Counter(products.shapes).items():
        a, b = torch.randn(left, device=device()), torch.randn(right, device=device())
        product = torch.bmm if a.ndim == 3 else torch.mm
        product(a, b)
        seconds = []
        for _ in range(5):
            start = now()
            product(a, b)
            seconds.append(now() - start)
        total += times * statistics.median(seconds)
    return total


def settings_of(args: argparse.Namespace) -> config.Config:
    """The profile with the command line's frames, batch size and options."""
    settings = config.load(args.config)
    model = settings.model
    video = dataclasses.replace(model.video, frames=args.frames or model.video.frames)
    text = dataclasses.replace(model.text, tokenizer="train")
    batch_size = args.batch or settings.train.batch_size
    train = dataclasses.replace(settings.train, batch_size=batch_size, recompute=args.recompute, compile=args.compile)
    return dataclasses.replace(settings, model=dataclasses.replace(model, video=video, text=text), train=train)


def make_step(settings: config.Config, variant: str, precision: str) -> Callable[[int], float]:
    """A function that runs step n, from bytes on the host to new weights, and returns the loss."""
    from straightforward import Straightforward

    torch.manual_seed(0)
    words = tokenizer.train(["C cuts a carrot", "C washes a plate"], settings.model.text.vocab_size)
    model = MC3(settings.model, words).to(device())
    freeze(model, STAGE.train)
    objective = objectives.make(settings, STAGE, model, settings.train.batch_size, 0)
    forward: Any = model
    if variant == "straightforward":
        forward = Straightforward(model)
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), settings.train.learning_rate)
    else:
        if settings.train.recompute:
            recompute(model)
        if settings.train.compile:
            for encoder in model.encoders.values():
                encoder.compile()
        optimizer = train.make_optimizer(settings.train, model)
    size, stored, width = settings.train.batch_size, settings.clips.frame_size, settings.clips.frame_width
    host = cost.inputs(settings.model, size)
    host["video"] = torch.randint(0, 256, (size, settings.model.video.frames, stored, width, 3), dtype=torch.uint8)
    host["audio"] = torch.randn(host["audio"].shape).half()
    if torch.cuda.is_available():
        host = {m: x.pin_memory() for m, x in host.items()}

    def step(number: int) -> float:
        inputs = {m: x.to(device(), non_blocking=variant == "mc3") for m, x in host.items()}
        generator = torch.Generator().manual_seed(number)
        wide = [width / stored] * 2
        theta = batches.crops(size, settings.train.crop_scale, settings.train.flip, generator, *wide)
        inputs["video"] = batches.augment(inputs["video"], theta.to(device()), settings.model.video.image_size)
        with torch.autocast(device().type, torch.bfloat16, enabled=precision == "bf16"):
            embeddings = forward({m: inputs[m] if m == "text" else inputs[m].float() for m in STAGE.modalities})
        batch = objectives.Batch(inputs, [slice(size)], torch.arange(size), [size], number)
        loss, _ = objective(embeddings, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.train.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def measure(settings: config.Config, variant: str, precision: str, steps: int, threads: int, pipe: Any) -> None:
    """Send seconds of each step, peak memory, first loss, seconds of the products alone. Runs in its own process."""
    torch.set_num_threads(threads)
    step = make_step(settings, variant, precision)
    loss = step(0)
    seconds = []
    for number in range(1, steps + 1):
        start = now()
        step(number)
        seconds.append(now() - start)
    cuda = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if cuda else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    alone = seconds_of_products(step) if variant == "mc3" and precision == "no" and not cuda else math.nan
    pipe.send((seconds, peak, loss, alone))


def bench_step(args: argparse.Namespace) -> None:
    """Alternate between both variants in each precision, and measure a matrix product beside them."""
    settings = settings_of(args)
    context = multiprocessing.get_context("spawn")
    flops = cost.training_flops(settings.model, STAGE) * settings.train.batch_size
    torch.set_num_threads(args.threads)
    lines = []
    for precision in args.precision:
        product = matmul_flops(torch.bfloat16 if precision == "bf16" else torch.float32, args.matmul)
        peak_flops = cost.peak_flops(device(), precision)
        rounds: dict[str, list[Any]] = {variant: [] for variant in VARIANTS}
        for _ in range(args.rounds):
            for variant in VARIANTS:
                receiver, sender = context.Pipe(duplex=False)
                arguments = (settings, variant, precision, args.steps, args.threads, sender)
                child = context.Process(target=measure, args=arguments)
                child.start()
                sender.close()
                rounds[variant].append(receiver.recv())
                child.join()
        medians = {v: statistics.median(t for seconds, *_ in rounds[v] for t in seconds) for v in VARIANTS}
        for variant, seconds in medians.items():
            _, peaks, first_losses, alone = zip(*rounds[variant], strict=True)
            line = {
                "variant": variant, "precision": precision, "clips_per_sec": settings.train.batch_size / seconds,
                "ratio": medians["straightforward"] / seconds, "peak_gb": max(peaks) / 1e9,
                "of_matmul": flops / seconds / product, "matmul_tflops": product / 1e12, "first_loss": first_losses[0],
            }  # fmt: skip
            if peak_flops:
                line["mfu"] = flops / seconds / peak_flops
            if not math.isnan(alone[0]):
                line["products_alone"] = statistics.median(alone) / seconds
            lines.append(line)
            print(
                "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()), flush=True
            )
    if args.out:
        Path(args.out).write_text(json.dumps(lines, indent=1) + "\n")


def bench_loader(args: argparse.Namespace) -> None:
    """Clips a second that the loader gives, decoded and batched, by number of worker processes."""
    from torch.utils.data import DataLoader

    settings = config.load(args.config)
    torch.set_num_threads(1)
    model = MC3.initial(settings, 0)
    for where, limit in (("from the shards", 0), ("in memory", 2**60)):
        shards.IN_MEMORY_BYTES = limit
        clips = shards.open_clips(settings, "train", model.tokenizer, methods.MODALITIES)
        for workers in args.workers:
            loader = DataLoader(clips, settings.train.batch_size, num_workers=workers)  # type: ignore[arg-type]
            count, began = 0, time.perf_counter()
            for batch in loader:
                count += len(batch["text"])
                if time.perf_counter() - began > args.seconds:
                    break
            speed = count / (time.perf_counter() - began)
            print(f"{where}, {workers} workers: {speed:.0f} clips/s", flush=True)


def bench_loss(args: argparse.Namespace) -> None:
    """The loss of one of W processes, forward and backward: its own rows against all keys, or the whole matrix."""
    settings = config.load(args.config)
    rows, dim = args.batch or 32, settings.model.embedding_dim
    print(f"{rows} rows per process, {dim} dimensions; ms and MB of the loss alone, per process")
    for world in args.worlds:
        results = []
        for local in (True, False):
            generator = torch.Generator().manual_seed(0)
            keys = {
                m: torch.nn.functional.normalize(torch.randn(world * rows, dim, generator=generator), dim=1)
                .to(device()).requires_grad_()
                for m in methods.MODALITIES
            }  # fmt: skip
            saved: dict[int, int] = {}

            def pack(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
                saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            def loss(keys: dict[str, Tensor] = keys, local: bool = local) -> Tensor:
                queries = {m: k[:rows] for m, k in keys.items()} if local else keys
                return losses.contrastive(queries, STAGE.pairs, 0.05, keys)

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                loss()
            seconds = []
            for _ in range(args.steps):
                start = now()
                loss().backward()
                seconds.append(now() - start)
            results.append((1000 * statistics.median(seconds), sum(saved.values()) / 1e6))
        (own_ms, own_mb), (whole_ms, whole_mb) = results
        print(
            f"W = {world:3d}, batch {world * rows:6d}: own rows {own_ms:8.1f} ms {own_mb:8.1f} MB; "
            f"whole {whole_ms:8.1f} ms {whole_mb:8.1f} MB",
            flush=True,
        )


def main() -> None:
    """Run one of the three benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=["step", "loader", "loss"])
    parser.add_argument("--config", default="params.yaml")
    parser.add_argument("--batch", type=int, help="clips per step (default: the profile's)")
    parser.add_argument("--frames", type=int, help="frames per clip (default: the profile's)")
    parser.add_argument("--precision", nargs="+", default=["no"], choices=["no", "bf16"])
    parser.add_argument("--recompute", action="store_true", help="as train.recompute")
    parser.add_argument("--compile", action="store_true", help="as train.compile")
    parser.add_argument("--steps", type=int, default=3, help="measured steps per round, after one to warm up")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of each variant")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--matmul", type=int, default=4096, help="side of the matrix product")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="of the loader")
    parser.add_argument("--seconds", type=float, default=10.0, help="per setting of the loader")
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2, 8, 32], help="process counts W of the loss")
    parser.add_argument("--out", help="write the results of `step` as JSON")
    args = parser.parse_args()
    {"step": bench_step, "loader": bench_loader, "loss": bench_loss}[args.benchmark](args)


if __name__ == "__main__":
    main()
