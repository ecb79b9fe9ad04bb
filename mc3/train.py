"""The trainer (Sec. 4.1, 4.4): runs a method's stages, alone or under `accelerate launch`.

A killed run resumes from its last saved state (`mc3.checkpoint`) and ends with the same weights as an uninterrupted
one. On SIGTERM it saves its state and exits with code 75, "try again". The number of processes, which may differ when a
run resumes, and `train.threads` change rounding only.

The contrastive loss couples all clips of a batch. For batches that do not fit, `train.microbatch_size` embeds parts
without gradients, and again with the gradient of the whole batch's loss (GradCache, https://arxiv.org/abs/2101.06983).
"""

import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import Subset

from mc3 import cost, evaluate, methods, objectives, progress
from mc3.checkpoint import Run, sigterm
from mc3.config import Config, Train, as_dict
from mc3.data import batches
from mc3.data.audio import log_mel
from mc3.data.shards import ClipDataset, open_clips
from mc3.errors import ConfigError
from mc3.files import code_identity, sha256
from mc3.methods import Method
from mc3.model import MC3, embed_clips, freeze, recompute, use_precision
from mc3.pools import load

STOPPED = 75  # sysexits.h EX_TEMPFAIL
Values = dict[str, Any]  # a row of metrics.jsonl, or a saved state
Tensors = dict[str, Tensor]


def start(config: Config, method: Method, seed: int) -> MC3:
    """The model before a method's first step; the error about its align checkpoint names the command that makes it."""
    if method.start != "align":
        return MC3.initial(config if method.start == "init" else replace(config, init={}), seed)
    folder = config.paths.final("align", seed)
    model = MC3.load(folder)
    if model.config != config.model:
        raise ConfigError(f"{folder} has other `model` settings; run `mc3 train --method align --seed {seed}`")
    return model


def learning_rate(train: Train, step: int, total: int) -> float:
    """The rate of step `step` (from 0) of a stage of `total` steps: linear warm-up, then constant or cosine to 0."""
    if step < train.warmup_steps:
        return train.learning_rate * (step + 1) / train.warmup_steps
    if train.schedule == "constant":
        return train.learning_rate
    done = (step - train.warmup_steps) / max(1, total - train.warmup_steps)
    return train.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def make_optimizer(train: Train, model: MC3, objective: objectives.Objective | None = None) -> Optimizer:
    """Adam (the paper's) or AdamW (EgoVLP's code), fused; without decay for what the objective learns (a scale)."""
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[train.optimizer]
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = kind(learning, lr=train.learning_rate, weight_decay=train.weight_decay, fused=True)
    if objective is not None and (own := [p for p in objective.parameters() if p.requires_grad]):
        optimizer.add_param_group({"params": own, "weight_decay": 0.0})
    return optimizer


def autocast_precision(wanted: str) -> str:
    """For Accelerate: "bf16" if `wanted`, and if this device computes in it (else a line on stderr), otherwise "no"."""
    has = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else torch.cpu._is_avx512_bf16_supported()
    if wanted == "bf16" and not has:
        print("train.precision is bf16, which this device does not have; training in float32", file=sys.stderr)
    return "bf16" if wanted == "bf16" and has else "no"


def fingerprint(config: Config, method: str, seed: int) -> str:
    """A hash of what determines the weights but for rounding: settings, recipe, seed, code, clips, initial weights."""
    recipe = methods.get(method)
    settings = {name: values for name, values in as_dict(config).items() if name in ("model", "init", "loss", "train")}
    for name in ("workers", "threads", "checkpoint_every", "log_every"):
        del settings["train"][name]
    loss = settings["loss"]
    if not any(stage.consensus for stage in recipe.stages):  # other losses have an anchor too
        loss |= {"consensus": loss["consensus"]["anchor"], "consensus_weight": None}
    if all(stage.loss != "active_negatives" for stage in recipe.stages):
        loss["active_negatives"] = None
    if all(stage.temperature for stage in recipe.stages):
        loss["temperature"] = None
    code = code_identity("mc3.train", *objectives.modules(recipe))
    facts = json.dumps([settings, repr(recipe), seed, code], sort_keys=True)
    files = [config.paths.shards / name for name in ("index.parquet", "tokenizer.json")]
    if recipe.start == "align":
        files.append(config.paths.final("align", seed) / "model.safetensors")
    else:
        files += [path for path in config.init.values() if path is not None and path.exists()]
    return hashlib.sha256("".join([facts, *map(sha256, files)]).encode()).hexdigest()


def validate(model: MC3, dataset: ClipDataset, modalities: set[str], batch_size: int) -> dict[str, float]:
    """Sec. 6.1's discovery on the labelled clips of `dataset`: {"av_roc", "al_roc"}, those that `modalities` allow.

    And the mean similarity of each of their pairs ("av_similarity"). Empty without labels of both kinds.
    """
    labels = dataset.index["positive"]
    rows = np.flatnonzero(labels.notna())
    pairs = {n: evaluate.PAIRS[n] for n in evaluate.DISCOVERY if modalities.issuperset(evaluate.PAIRS[n])}
    if not pairs or labels.nunique() < 2:
        return {}
    found = embed_clips(model, Subset(dataset, rows.tolist()), {m for pair in pairs.values() for m in pair}, batch_size)
    truth = labels.iloc[rows].to_numpy(dtype=int)
    known = evaluate.PAIRS.items()
    scores = {name: evaluate.similarity(found[i], found[j]) for name, (i, j) in known if {i, j} <= found.keys()}
    means = {f"{name}_similarity": float(score.mean()) for name, score in scores.items()}
    return {f"{name}_roc": evaluate.discovery(scores[name], truth)["roc"] for name in pairs} | means


class Trainer:
    """Trains a method's stages in order, each with its own optimizer and schedule (two runs in the paper)."""

    def __init__(self, config: Config, recipe: Method, seed: int, accelerator: Accelerator, model: MC3, files: Run):
        self.config, self.recipe, self.seed = config, recipe, seed
        processes = batches.shares(config.train.batch_size, accelerator.num_processes)
        self.accelerator, self.model, self.files = accelerator, model, files
        other = {"audio": "sound"} if config.train.log_mel == "device" else {}
        self.members = {m: other.get(m, m) for m in recipe.modalities}  # of the shards, by what they become
        self.clips = open_clips(config, "train", model.tokenizer, tuple(self.members.values()))
        self.held_out = open_clips(config, "validation", model.tokenizer, recipe.modalities)
        size, count = config.train.batch_size, len(self.clips)
        epochs = [config.train.length(stage.epochs) for stage in recipe.stages]
        self.plans = [batches.draw(count, size, n, seed, k) for k, n in enumerate(epochs)]
        self.epoch_steps = count // size
        self.rows, self.mine = [len(part) for part in processes], processes[accelerator.process_index]
        self.best = -math.inf
        peak = cost.peak_flops(accelerator.device, accelerator.mixed_precision)
        self.peak = None if peak is None else peak * accelerator.num_processes

    def fit(self, stop: list[int]) -> None:
        """Train all stages, from the saved state if there is one; exit with code 75 once `stop` is not empty."""
        state = self.files.resume()
        self.accelerator.wait_for_everyone()  # before the main process clears anything
        first, within = (0, 0) if state is None else (state["stage"], state["step"])
        done, total = sum(map(len, self.plans[:first])) + within, sum(map(len, self.plans))
        self.files.open(done)
        if self.files.main:
            steps = f"from step {done} of {total} steps" if done else f"for {total} steps"
            devices = f"{self.accelerator.num_processes} x {self.accelerator.device.type}"
            print(f"{self.files.folder.name}: {len(self.clips)} clips, {steps}, {devices}", file=sys.stderr)
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.best = state["best"]
        with progress.bar(total, done, self.files.main) as show:
            for k in range(first, len(self.plans)):
                self.train_stage(k, state if k == first else None, stop, show)

    def begin(self, k: int) -> None:
        """Prepare the model and the objective for the first step of stage `k`."""
        stage = self.recipe.stages[k]
        freeze(self.model, stage.train, self.config.train.freeze)
        made = objectives.make(self.config, stage, self.model, len(self.clips), batches.seed_of(self.seed, k))
        self.objective = made.to(self.accelerator.device)

    def train_stage(self, k: int, state: Values | None, stop: list[int], show: Callable[[int, str], None]) -> None:
        """Train stage `k`, from the optimizer, objective and step of `state` if given."""
        train, stage, plan = self.config.train, self.recipe.stages[k], self.plans[k]
        before, done = sum(map(len, self.plans[:k])), 0
        self.begin(k)
        optimizer = make_optimizer(train, self.model, self.objective)
        if state is not None:
            self.objective.load_state_dict(state["objective"])
            optimizer.load_state_dict(state["optimizer"])
            done = state["step"]
        model = self.accelerator.prepare_model(self.objective.module(self.model))
        pending: list[tuple[Values, Tensors]] = []
        clock, waited = time.perf_counter(), 0.0
        loader = self.loader(k, done)
        for step in range(done, len(plan)):
            requested = time.perf_counter()
            batch = next(loader)
            waited += time.perf_counter() - requested
            rate = stage.rate * learning_rate(train, step, len(plan))
            parts = self.train_step(k, step, rate, model, optimizer, batch)
            row = {"step": before + step + 1, "stage": k, "epoch": step // self.epoch_steps + 1}
            pending.append(({**row, "lr": rate}, parts))
            epoch_ends = (step + 1) % self.epoch_steps == 0
            save = epoch_ends or (step + 1) % train.checkpoint_every == 0
            if not (save or (step + 1) % train.log_every == 0):
                continue
            rows, stopping = self.collect(pending, stop)
            seconds = time.perf_counter() - clock
            speed = len(pending) * train.batch_size / seconds
            timing = cost.timing(self.model.config, stage, speed, waited / seconds, self.peak)
            self.files.log(rows, timing)
            loss = f"{self.recipe.name} epoch {row['epoch']} loss {rows[-1]['loss']:.3f}"
            show(row["step"], f"{loss} {cost.format_timing(timing)}")
            pending.clear()
            if epoch_ends:
                self.end_epoch(k, row)
            if save or stopping:
                self.files.save(row["step"], stage=k, step=step + 1, best=self.best, model=self.model.state_dict(),
                                objective=self.objective.state_dict(), optimizer=optimizer.state_dict())  # fmt: skip
            if stopping:
                print(f"stopped at step {row['step']}; rerun the same command to resume", file=sys.stderr)
                sys.exit(STOPPED)
            clock, waited = time.perf_counter(), 0.0
        self.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        self.accelerator.free_memory()

    def train_step(self, k: int, step: int, rate: float, model: Any, optimizer: Optimizer, batch: Tensors) -> Tensors:
        """One update; returns the loss, its parts and the gradient's norm, to be averaged over processes."""
        parts = self.backward(k, step, model, self.inputs(k, step, batch))
        learning = [*model.parameters(), *self.objective.parameters()]
        parts["grad_norm"] = self.accelerator.clip_grad_norm_(learning, self.config.train.gradient_clip)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        self.objective.after_step(self.model)
        return parts

    def inputs(self, k: int, step: int, batch: Tensors) -> Tensors:
        """The inputs of stage `k`'s encoders, on the device: cropped frames, log-mels, token ids."""
        train, clips, device = self.config.train, self.config.clips, self.accelerator.device
        modalities = self.recipe.stages[k].modalities
        inputs = {m: batch[self.members[m]].to(device, non_blocking=True) for m in modalities}
        if train.log_mel == "device" and "audio" in inputs:
            inputs["audio"] = log_mel(inputs["audio"], clips.sample_rate, clips.mel_bins)
        if "video" in inputs:
            generator = torch.Generator().manual_seed(batches.seed_of(self.seed, k, step))
            width = torch.ones(train.batch_size)  # of other processes' clips, whose crops are drawn but not used
            width[self.mine] = batch["width"] / clips.frame_size
            padded = clips.frame_width / clips.frame_size
            theta = batches.crops(train.batch_size, train.crop_scale, train.flip, generator, width, padded)[self.mine]
            inputs["video"] = batches.augment(inputs["video"], theta.to(device), self.config.model.video.image_size)
        return inputs

    def backward(self, k: int, step: int, model: Any, inputs: Tensors) -> Tensors:
        """Add the gradient of stage `k`'s loss on the whole batch to what learns; returns the loss and its parts."""
        stage, count = self.recipe.stages[k], len(self.mine)
        size = self.config.train.microbatch_size or count
        microbatches = [slice(at, min(at + size, count)) for at in range(0, count, size)]

        def embedded(number: int, modalities: tuple[str, ...]) -> Tensors:
            named = (self.seed, k, step, self.accelerator.process_index, *[number] * (number > 0))
            torch.manual_seed(batches.seed_of(*named))  # both passes draw the same dropout
            rows = microbatches[number]
            return model({m: inputs[m][rows] for m in modalities} | {"rows": self.mine[rows], "seed": batch.seed})

        clips = torch.from_numpy(self.plans[k][step]).to(self.accelerator.device)
        batch = objectives.Batch(inputs, microbatches, clips, self.rows, batches.seed_of(self.seed, k, step))
        twice = len(microbatches) > 1
        with torch.no_grad() if twice else nullcontext():
            first = [embedded(number, stage.modalities) for number in range(len(microbatches))]
        embeddings = first[0]
        if twice:
            embeddings = {m: torch.cat([part[m] for part in first]).requires_grad_() for m in stage.modalities}
        with self.accelerator.autocast():  # an objective's own encoders run in the precision of the model's
            loss, parts = self.objective(embeddings, batch)
        loss.backward()
        for number, rows in enumerate(microbatches if twice else ()):
            last = number == len(microbatches) - 1  # when processes add up their gradients
            with nullcontext() if last else self.accelerator.no_sync(model):
                again = embedded(number, tuple(m for m in stage.modalities if m in stage.train))
                learning = [m for m, embedding in again.items() if embedding.requires_grad]
                gradients = [cast(Tensor, embeddings[m].grad)[rows] for m in learning]
                torch.autograd.backward([again[m] for m in learning], gradients)
        for parameter in self.objective.parameters():
            if parameter.grad is not None:  # averaged over processes, as is done for the encoders
                parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
        return parts

    def loader(self, k: int, first: int = 0) -> Iterator[Tensors]:
        """This process's part of every batch of stage `k` from step `first` on, in order."""
        size, stored, taken = self.config.train.batch_size, self.config.clips.frames, self.config.model.video.frames

        def items(step: int) -> list[tuple[int, np.ndarray]]:
            frames = batches.sample_frames(size, stored, taken, self.seed, k, step)
            return [(int(self.plans[k][step, i]), frames[i]) for i in self.mine]

        rows, workers = map(items, range(first, len(self.plans[k]))), self.config.train.workers
        pinned = self.accelerator.device.type == "cuda"
        return load(self.clips, workers, batch_sampler=rows, pin_memory=pinned)

    def collect(self, pending: list[tuple[Values, Tensors]], stop: list[int]) -> tuple[list[Values], bool]:
        """Rows of metrics with numbers for tensors, in one transfer, and whether any process received SIGTERM."""
        values = torch.stack([torch.stack(list(parts.values())) for _, parts in pending])
        stopped = torch.tensor(float(bool(stop)), device=values.device)
        values, stopped = self.accelerator.reduce((values, stopped), "mean")
        for (row, parts), numbers in zip(pending, values.tolist(), strict=True):
            row |= zip(parts, numbers, strict=True)
            if not (math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])):
                raise ConfigError(
                    f"the loss is {row['loss']} and its gradient {row['grad_norm']} at step {row['step']} of "
                    f"{self.recipe.name} (stage {row['stage']}, learning rate {row['lr']:.2g}): lower "
                    f'train.learning_rate, or set train.precision to "no"; {self.files.folder} keeps what was saved'
                )
        return [row for row, _ in pending], bool(stopped > 0)

    def end_epoch(self, k: int, row: Values) -> None:
        """Log the scores of `validate`; write best/ at the highest mean of its ROCs (the paper evaluates final/)."""
        known = {m for stage in self.recipe.stages[: k + 1] for m in stage.modalities}
        found = validate(self.model, self.held_out, known, self.config.evaluate.batch_size)
        freeze(self.model, self.recipe.stages[k].train, self.config.train.freeze)
        if not (found and self.files.main):
            return
        self.files.log([{**row, **found}])
        rocs = [value for name, value in found.items() if name.endswith("_roc")]
        if (mean := sum(rocs) / len(rocs)) > self.best:
            self.best = mean
            with self.files.writing():
                self.model.save(self.files.folder / "best", self.config.train.stored)


def run(config: Config, method: str, seed: int) -> Path:
    """Train `method` from `seed`, or resume; returns its folder in `work/checkpoints`. Exit code 75 after SIGTERM."""
    recipe = methods.get(method)
    objectives.check(recipe)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which deterministic cuBLAS needs
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # for debugging only
    torch.set_num_threads(config.train.threads)
    use_precision(config)
    parallel = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    accelerator = Accelerator(mixed_precision=autocast_precision(config.train.precision), kwargs_handlers=[parallel])
    if accelerator.num_processes == 1 and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        started = f"{os.environ['WORLD_SIZE']} processes were started, but each would train alone"
        raise ConfigError(f"{started}; without GPUs set ACCELERATE_USE_CPU=true")
    model = start(config, recipe, seed).to(accelerator.device)
    freeze(model, methods.MODALITIES, config.train.freeze)  # raises for a wrong name before anything is read
    if config.train.recompute:
        recompute(model)
    if config.train.compile:
        for encoder in model.encoders.values():
            encoder.compile()
    files = Run(config, method, seed, fingerprint(config, method, seed), accelerator.is_main_process)
    with sigterm() as stop:
        Trainer(config, recipe, seed, accelerator, model, files).fit(stop)
    files.finish(model, config.train.stored)
    accelerator.wait_for_everyone()
    return files.target
