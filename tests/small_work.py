"""A small work folder in the pipeline's own formats, made without the pipeline, with an order that is known.

Clips of region I have audio, video and text embeddings around their action group's direction; in
region II the text, in III the audio, in IV the video points elsewhere. So it is known what each
figure must show. Narrations hold what HTML, scripts, Markdown and matplotlib would take for markup.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image
from safetensors.numpy import save_file
from scipy.io import wavfile

from mc3 import config, evaluate, methods
from mc3.data import tokenizer
from mc3.model import MC3

ROOT = Path(__file__).resolve().parents[1]
VERBS = ("cut", "wash", "close", "hold", "lift", "stir")
NOUNS = ("carrot", "plate", "door", "cup")
HOSTILE = (  # text that must stay text; obeyed, it would set window.ran
    "<script>window.ran = 1</script>", '"><img src=x onerror="window.ran = 1">',
    "</script></style></title><script>window.ran = 1</script>", "' onmouseover='window.ran = 1",
    "[x](javascript:window.ran=1)", "\u202emorf ylno\u202c \u2066 \u200b",
    "<!-- ]]> &lt;script&gt; `${window.ran = 1}`",
    "<svg onload=window.ran=1>", "<a href=' javascript:window.ran=1'>",
)  # fmt: skip


def text_of(name: str) -> str:
    """The text of a file of this repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def mini(work: Path, raw: Path | None = None) -> dict[str, Any]:
    """The mini profile with one seed, from random weights, its paths under `work`; change it, `config.build` it."""
    settings = yaml.safe_load(text_of("profiles/mini.yaml"))
    settings["paths"] = {"raw": str(raw or work / "world"), "shards": str(work / "shards"), "work": str(work)}
    settings["source"]["out"] = settings["paths"]["raw"]
    settings["init"] = dict.fromkeys(settings["init"])
    settings["seeds"] = [0]
    settings["model"]["text"]["tokenizer"] = "train"
    return settings


def tiny(settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` with encoders of width 16, all work in one process."""
    settings["model"]["embedding_dim"] = 16
    for encoder in ("audio", "video", "text"):
        settings["model"][encoder] |= {"dim": 16, "depth": 1, "heads": 2}
    for group in ("world", "clips"):
        settings[group]["workers"] = 1
    settings["train"]["threads"] = 1
    return settings


def make(folder: Path, clips: int = 240, events: int = 120, dim: int = 16) -> Path:
    """Write `folder`/params.yaml and the work folder that it names; return the params file."""
    settings = mini(folder / "mini", folder / "world")
    settings["clips"]["frame_size"] = 64
    settings["evaluate"]["clusters"] = 5
    folder.mkdir(parents=True, exist_ok=True)
    params = folder / "params.yaml"
    params.write_text(yaml.safe_dump(settings, sort_keys=False))
    rng = np.random.default_rng(0)
    index, truth = _clips(rng, clips, events)
    work = folder / "mini"
    (work / "shards").mkdir(parents=True)
    (folder / "world").mkdir()
    _shard(work / "shards", index, rng)
    truth.to_csv(folder / "world" / "truth.csv", index=False)
    uids = sorted(set(truth["video_uid"]))
    metadata = [{"video_uid": uid, "scenarios": [("kitchen", "garden")[i % 2]]} for i, uid in enumerate(uids)]
    (folder / "world" / "ego4d.json").write_text(json.dumps({"videos": metadata}))
    manifest = index.drop(columns=[c for c in index if c.endswith(("_offset", "_size")) or c in ("shard", "sha256")])
    manifest.to_parquet(work / "manifest.parquet", index=False)
    _embeddings(work / "embeddings", index, truth, rng, dim)
    _probe(work / "probe", folder / "world", index, rng)
    _metrics(work / "checkpoints", rng)
    return params


def scripts(folder: Path, **bodies: str) -> Path:
    """Write shell scripts, by name, that stand in for programs; returns `folder`."""
    folder.mkdir(exist_ok=True)
    for name, body in bodies.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return folder


def unit(points: np.ndarray) -> np.ndarray:
    """`points` [N, D] on the unit sphere, as embeddings are stored."""
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def ablations(figures: Path, settings: config.Config, seeds: int = 3) -> Path:
    """Write `figures`/ablations of all of experiments/ablations.yaml, falling by .01 from one setting to the next."""
    sweep = yaml.safe_load(text_of("experiments/ablations.yaml"))["settings"]
    rows = [(group, setting, i) for group, names in sweep.items() for i, setting in enumerate(names)]
    table = pd.DataFrame(rows, columns=["group", "setting", "place"]).assign(method="mc3", seeds=seeds)
    for name, top in (("av_roc", 0.7), ("al_roc", 0.8), ("selection", 0.75)):
        table = table.assign(**{name: top - 0.01 * table["place"], f"{name}_std": 0.001 if seeds > 1 else None})
    (figures / "ablations").mkdir(parents=True)
    table.drop(columns="place").to_csv(figures / "ablations" / "trials.csv", index=False)
    (figures / "ablations" / "origin.json").write_text(json.dumps({"settings": config.as_dict(settings)}))
    return figures


def initial(settings: config.Config, names: Sequence[str]) -> None:
    """Save a tokenizer of all texts, and checkpoints `names` of initial weights, each of a seed of its own."""
    texts = pd.read_parquet(settings.paths.shards / "index.parquet")["text"]
    tokenizer.train(texts, 512).save(str(settings.paths.shards / "tokenizer.json"))
    for seed, name in enumerate(names, 1):
        MC3.initial(settings, seed).save(settings.paths.final(name, 0))


def _clips(rng: np.random.Generator, clips: int, events: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    verb = rng.choice(VERBS, clips, p=[0.35, 0.25, 0.15, 0.1, 0.1, 0.05])
    noun = rng.choice(NOUNS, clips, p=[0.4, 0.3, 0.2, 0.1])
    region = rng.choice(["I", "II", "III", "IV"], clips, p=[0.5, 0.2, 0.2, 0.1])
    split = np.repeat(["train", "validation", "test"], [clips // 4, clips // 4, clips - 2 * (clips // 4)])
    number = np.arange(clips)
    time = 2.5 * (1 + number % 20)
    video = [f"{split[i]}-{i // 20:03d}" for i in number]
    labelled = split != "train"
    ego = pd.DataFrame({
        "clip_id": [f"{v}_{round(1000 * t):09d}" for v, t in zip(video, time, strict=True)],
        "dataset": "ego4d", "split": split, "video_uid": video, "narration_time": time,
        "start_sec": time - 0.5, "end_sec": time + 1.0,
        "text": [f"C {v}s the {n} with the left hand $1 <{i}> {HOSTILE[i % len(HOSTILE)]}"
                 for i, v, n in zip(number, verb, noun, strict=True)],
        "verb": verb, "noun": noun, "action_group": [f"{v} {n}" for v, n in zip(verb, noun, strict=True)],
        "positive": pd.array(np.where(labelled, region == "I", None), dtype="Int8"),
        "votes": np.where(labelled, np.where(region == "I", "1,1,0", "0,0,1"), ""),
        "class_id": pd.array([None] * clips, dtype="Int16"), "path": [f"v2/full_scale/{v}.mp4" for v in video],
    })  # fmt: skip
    epic = pd.DataFrame({
        "clip_id": [f"P01_01_{i}" for i in range(events)], "dataset": "epic_sounds",
        "split": np.where(np.arange(events) < events // 2, "train", "validation"),
        "video_uid": [f"P01_{1 + i // 10:02d}" for i in range(events)],
        "narration_time": np.nan, "start_sec": np.arange(events) * 1.0, "end_sec": np.arange(events) + 1.0,
        "text": "", "verb": "", "noun": "", "action_group": "", "positive": pd.array([None] * events, dtype="Int8"),
        "votes": "", "class_id": pd.array((np.arange(events) ** 2 // 7) % 44, dtype="Int16"), "path": "EPIC_audio.hdf5",
    })  # fmt: skip
    truth = ego[["video_uid", "narration_time"]].assign(region=region)
    return pd.concat([ego, epic], ignore_index=True), truth


def _shard(folder: Path, index: pd.DataFrame, rng: np.random.Generator) -> None:
    """One uncompressed tar with a film strip, a log-mel and a WAV a clip, and the index with their places."""
    places: dict[str, list[int]] = {f"{m}_{p}": [] for m in ("frames", "fbank", "audio") for p in ("offset", "size")}
    digests = []
    with tarfile.open(folder / "00000.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for i, row in enumerate(index.itertuples()):
            seconds = np.arange(24000) / 16000
            tone = 0.4 * np.sin(2 * np.pi * (200 + 40 * (i % 40)) * seconds) * np.exp(-3 * (seconds % 0.5))
            wav, fbank, picture = io.BytesIO(), io.BytesIO(), io.BytesIO()
            wavfile.write(wav, 16000, (32767 * (tone + 0.02 * rng.normal(size=24000))).astype(np.int16))
            mel = rng.normal(-8, 1, (148, 64)) + 5 * np.exp(-(((np.arange(64) - 1.5 * (i % 40)) / 3.0) ** 2))
            np.save(fbank, mel.astype(np.float16))
            if row.dataset == "ego4d":
                grid = np.linspace(0, 1, 64)
                colours = rng.uniform(0, 255, (4, 1, 1, 3)) * grid[None, :, None, None] + 60 * grid[None, None, :, None]
                pixels = np.clip(np.broadcast_to(colours, (4, 64, 64, 3)), 0, 255).astype(np.uint8).reshape(256, 64, 3)
                Image.fromarray(pixels).save(picture, "JPEG", quality=90, subsampling=0)
            members = {"frames": picture.getvalue(), "fbank": fbank.getvalue(), "audio": wav.getvalue()}
            for (name, data), suffix in zip(members.items(), ("jpg", "npy", "wav"), strict=True):
                if data:
                    info = tarfile.TarInfo(f"{row.clip_id}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
                end = tar.offset - (-len(data) % 512) - len(data)
                places[f"{name}_offset"].append(end if data else 0)
                places[f"{name}_size"].append(len(data))
            digests.append(hashlib.sha256(b"".join(members.values())).hexdigest())
    index.assign(shard="00000.tar", **places, sha256=digests).to_parquet(folder / "index.parquet", index=False)


def _embeddings(folder: Path, index: pd.DataFrame, truth: pd.DataFrame, rng: np.random.Generator, dim: int) -> None:
    (folder / "0").mkdir(parents=True)
    ego = index[index["dataset"] == "ego4d"]
    kept = (ego["split"] != "train").to_numpy()
    names = sorted(set(ego["action_group"]))
    centre = rng.normal(size=(len(names), dim))[[names.index(g) for g in ego["action_group"]]][kept]
    region = truth["region"].to_numpy()[kept]
    for k, name in enumerate(["align", *methods.METHODS]):
        noise = 1.2 - 0.07 * k
        tensors = {}
        for modality, stranger in (("audio", "III"), ("video", "IV"), ("text", "II")):
            if modality in methods.get(name).modalities:
                shift = np.where((region == stranger)[:, None], rng.normal(size=centre.shape), centre)
                tensors[modality] = unit(shift + noise * rng.normal(size=centre.shape))
        save_file(tensors, folder / "0" / f"{name}.safetensors", {"method": name, "seed": "0", "inputs": "0" * 64})


def _probe(folder: Path, raw: Path, index: pd.DataFrame, rng: np.random.Generator) -> None:
    """Scores that favour the right class, most of all where the encoder was fine-tuned; and the class names' file."""
    truth = index.query("dataset == 'epic_sounds' and split == 'validation'")["class_id"].to_numpy(dtype=np.int64)
    scores, metrics = {}, {"random": {"random": evaluate.random_classification(truth)}}
    for protocol, names in (
        ("linear-probe", ("untrained", *(n for n in methods.METHODS if "audio" in methods.get(n).modalities))),
        ("fine-tune", ("untrained", "mc3")),
        ("linear-probe", ("ssast",)),
    ):
        for k, name in enumerate(names):
            likelihood = np.exp(rng.normal(size=(len(truth), 44)) + (1 + 0.2 * k) * np.eye(44)[truth])
            known = (likelihood / likelihood.sum(axis=1, keepdims=True)).astype(np.float32)
            scores[f"{protocol}/{name}"] = known
            metrics.setdefault(protocol, {})[name] = evaluate.classification(known, truth)
    folder.mkdir()
    about = {"seed": 0, "train_events": len(truth), "test_events": len(truth), "classes": len(set(truth)), "views": 5}
    (folder / "0.json").write_text(json.dumps({**about, "metrics": metrics}))
    save_file({**scores, "labels": truth}, folder / "0.safetensors")
    names = pd.DataFrame({"class_id": range(44), "class": [f"sound {c} / <b>" for c in range(44)]})
    for split in ("train", "validation"):
        names.to_csv(raw / f"EPIC_Sounds_{split}.csv", index=False)


def _metrics(folder: Path, rng: np.random.Generator) -> None:
    """Two epochs of five steps, with the pairs' ROC on validation at the end of each."""
    for name in ("align", *methods.METHODS):
        run = folder / f"{name}-0"
        run.mkdir(parents=True)
        rows: list[dict[str, float]] = []
        for step in range(1, 11):
            rows.append({"step": step, "stage": 0, "epoch": 1 + (step - 1) // 5, "loss": 9.0 / step})
            if step % 5 == 0:
                known = methods.get(name).modalities
                pairs = [pair for pair, other in (("av", "video"), ("al", "text")) if other in known]
                rows.append({"step": step, "stage": 0, "epoch": step // 5} | {f"{p}_roc": rng.random() for p in pairs})
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
