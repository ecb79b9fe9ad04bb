"""Damaged and hostile files of every format that the program reads: a right result, a listed skip or one named error.

`MC3_FAULTS` is how many damaged inputs are tried (200); the table of what they led to is printed, with `-s` or by
`make faults`. `CASES` are inputs that once led to anything else.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import resource
import shutil
import signal
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import small_work
import test_epic_kitchens
import test_shards
import test_weights
import torch
from conftest import ROOT, SHARED
from mutations import mutate
from raw_files import clicks, contents, write_hdf5, write_media
from safetensors.numpy import save_file
from test_text import wordpiece

from mc3 import checkpoint, config, methods, store
from mc3.config import Config
from mc3.data import annotations, ego4d, epic_sounds, manifest, media, prepare
from mc3.data.shards import ClipDataset
from mc3.errors import UserError
from mc3.extra import action_words, epic_kitchens, mine, transfer, weights
from mc3.index import Index
from mc3.model import MC3
from mc3.paper import claims, compare, findings, foreign, provenance, report, repro, sweep, tables

COUNT = int(os.environ.get("MC3_FAULTS", "200"))
SECONDS, GIGABYTES = 10, 2
ANNOTATIONS = SHARED / "annotations"


@dataclass(frozen=True)
class Reader:
    """What reads `file` of the small world; `exact`: a stored hash tells damage, so what is read is as it was."""

    file: str
    read: Callable[[Config, Path], Any]
    exact: bool = False


def whole_manifest(settings: Config, _: Path) -> None:
    manifest.write(settings)


def sounds(settings: Config, path: Path) -> None:
    for video, sound in epic_sounds.sounds(settings).items():
        if sound.fault is None:
            list(epic_sounds.clips_of(path, video, [(0.1, 1.6), (9.0, 10.5)], 16000))


def cut_shard(settings: Config, path: Path, only: str = "ego4d-train") -> list[Any]:
    """The training clips' shard, or all, and what their markers say of the clips."""
    table = manifest.read(settings.paths.work / "manifest.parquet")
    jobs = prepare.plan(table, settings, settings.paths.work / "shards.partial")
    done = [job for job in jobs if only in job.path.name]
    return [(prepare.write_shard(job)["records"], job.path.read_bytes()) for job in done]


def cut_all(settings: Config, path: Path) -> None:
    cut_shard(settings, path, only="")


def clips(settings: Config, _: Path) -> str:
    digest = hashlib.sha256()
    for dataset, split, kinds in (("ego4d", "train+validation+test", ("video", "audio", "sound")),
                                  ("epic_sounds", "train", ("audio", "sound"))):  # fmt: skip
        for item in ClipDataset(settings.paths.shards, dataset, split, kinds):
            for kind in kinds:
                digest.update(item[kind].numpy().tobytes())
    return digest.hexdigest()


def index(settings: Config, path: Path) -> None:
    clips(settings, path)
    store.labelled(settings)
    store.events(settings)


def model(settings: Config, path: Path) -> None:
    embedder = MC3.load(path.parent)
    assert embedder({"text": embedder.tokenize(["C cuts"])})["text"].isfinite().all()


def initial(settings: Config, _: Path) -> None:
    MC3.initial(settings, 0)


def resumed(settings: Config, path: Path) -> None:
    """From the newest state that is whole; its name has its hash."""
    state = checkpoint.Run(settings, "mc3", 0, "same", main=False).resume()
    assert state is not None
    assert state["step"] == (2 if hashlib.sha256(path.read_bytes()).hexdigest() in path.name else 1)


def converted(_: Config, path: Path) -> str:
    tensors, _ = weights.convert(path, "egovlp", test_weights.CONFIG)
    parts = (tensor.numpy().tobytes() for own in tensors.values() for tensor in own.values())
    return hashlib.sha256(b"".join(parts)).hexdigest()


def shown(settings: Config, path: Path) -> None:
    for clip in media.clips_of(path, [(0.0, 1.5), (2.0, 3.5)], 4, 32, 16000):
        assert clip.waveform is None or np.isfinite(clip.waveform).all()


def searched(_: Config, path: Path) -> None:
    index = Index.load(path.parent)
    for modality in index.known():
        assert len(index.search(np.full(4, 0.5), modality, 3))


def world_findings(settings: Config, path: Path) -> None:
    """What the pages add to the clips from the raw files."""
    whole_manifest(settings, path)
    findings.clips(settings)
    findings.scenarios(settings)


def kitchens(_: Config, path: Path) -> None:
    folder, report = path.parent, annotations.Report(path.parent)
    verbs = epic_kitchens.read_classes(folder / "verbs.csv")
    durations = epic_kitchens.read_durations(folder / "info.csv")
    epic_kitchens.read_narrations(folder / "narrations.csv", report, verbs, durations=durations)
    epic_kitchens.read_verb_sounds(folder / "sounds.csv")


def drawn(_: Config, path: Path) -> None:
    """The tables in figures/, printed, in the report, in README and compared."""
    folder = path.parent
    compare.show(folder)
    report.readme_table(folder)
    found = {name: tables.read(name, stage, folder) for name, stage in report.TABLES.items()}
    tables.overview(found["table2_discovery"], found["table3_retrieval"])
    report.metrics(found)
    claims.sentence(tables.read("claims", "claims", folder))
    report.gain(tables.read("differences", "claims", folder))
    files = {file.name: file.read_bytes() for file in folder.glob("*") if compare._is_compared(file.name)}
    compare.compare(files, {file.name: file.read_bytes() for file in (ROOT / "figures").glob("*.csv")})


def planned(settings: Config, path: Path) -> None:
    sweep.plan("x", sweep.load(str(path.with_suffix(""))), settings, [0])


def pipeline(_: Config, path: Path) -> None:
    with contextlib.chdir(path.parent):
        repro.stages()


FIGURES = ("table2_discovery.csv", "table3_retrieval.csv", "table4_epic_sounds.csv", "claims.csv", "differences.csv")
READERS = [
    Reader("world/v2/annotations/narration.json", whole_manifest),
    Reader("world/ego4d.json", world_findings),
    Reader("world/truth.csv", world_findings),
    Reader("world/sounding_actions_test.tsv", whole_manifest),
    Reader("world/v2/annotations/narration_verb_taxonomy.csv", whole_manifest),
    Reader("world/EPIC_Sounds_train.csv", whole_manifest),
    Reader("world/EPIC_audio.hdf5", sounds),
    Reader("world/v2/full_scale/t0.mp4", cut_shard),
    Reader("manifest.parquet", cut_all),
    Reader("shards/index.parquet", index),
    Reader("shards/ego4d-train-00000.tar", clips, exact=True),
    Reader("shards/epic_sounds-train-00000.tar", clips, exact=True),
    Reader("shards/tokenizer.json", initial),
    Reader("shards.partial/ego4d-train-00000.json", cut_shard, exact=True),
    Reader("shards.partial/ego4d-train-00000.tar", cut_shard, exact=True),
    Reader("checkpoints/mc3-0/final/model.safetensors", model),
    Reader("checkpoints/mc3-0/final/config.json", model),
    Reader("checkpoints/mc3-0/final/tokenizer.json", model),
    Reader("runs/mc3-0/state-00000002.pt", resumed),
    Reader("checkpoints/mc3-0/metrics.jsonl", lambda settings, _: store.training_log(settings, "mc3", 0)),
    Reader("embeddings/0/mc3.safetensors", lambda settings, _: store.discovery_scores(settings, "mc3", 0)),
    Reader("probe/0.safetensors", lambda settings, _: store.probe_scores(settings, 0)),
    Reader("probe/0.json", lambda settings, _: store.probe_metrics(settings, 0)),
    Reader("params.yaml", lambda _, path: config.load(path)),
    Reader("mine.safetensors", lambda settings, path: foreign.align(settings, path)),
    Reader("mine.parquet", lambda settings, path: foreign.align(settings, path)),
    Reader("index/rows.parquet", searched),
    Reader("index/index.safetensors", searched),
    Reader("clips.csv", lambda _, path: mine.read_clips(path)),
    Reader("egovlp.pth", converted, exact=True),
    Reader("converted.safetensors", lambda _, path: converted_into(path)),
    *(Reader(f"kitchens/{name}.csv", kitchens) for name in ("narrations", "verbs", "info", "sounds")),
    Reader("meta/esc50.csv", lambda _, path: transfer.read(path.parent.parent, annotations.Report(path.parent))),
    Reader("votes.csv", lambda _, path: action_words.read_votes(path, annotations.Report(path.parent))),
    *(Reader(f"figures/{name}", drawn) for name in FIGURES),
    Reader("figures/discovery.provenance.json", lambda settings, path: provenance.is_current(path, settings)),
    Reader("timings.json", lambda settings, _: repro.typical_seconds(settings)),
    Reader("dvc.yaml", pipeline),
    Reader("ablations.yaml", planned),
    Reader("claims.yaml", lambda _, path: claims.load(path)),
    Reader("real/events.csv", lambda _, path: epic_sounds.read_events(path, annotations.Report(path.parent))),
    Reader("real/verbs.csv", lambda _, path: ego4d.Taxonomy(path)),
    Reader("real/video.avi", shown),
]  # fmt: skip


def converted_into(path: Path) -> None:
    """Load a file of `init` into the encoder that it was converted for."""
    MC3(test_weights.CONFIG, wordpiece()).init_from({"video": path})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an undamaged file of every reader."""
    folder = tmp_path_factory.mktemp("hostile")
    with contextlib.redirect_stdout(io.StringIO()):
        settings = test_shards.build(folder, train=1)
        prepare.write(settings)
        settings = settings_of(folder)
        (folder / "shards.partial").mkdir()
        cut_shard(settings, folder)
    small_work.initial(settings, ["mc3"])
    clips_, rng = store.clips(settings), np.random.default_rng(0)
    sides = {m: small_work.unit(rng.normal(size=(len(clips_), 16))) for m in methods.MODALITIES}
    for name, tensors, about in (
        ("embeddings/0/mc3", sides, {"method": "mc3"}),
        ("mine", sides, {"clip_id": json.dumps(list(clips_["clip_id"]))}),
        ("probe/0", {"linear-probe/mc3": rng.random((3, 44), np.float32), "labels": np.arange(3)}, {}),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / f"{name}.safetensors", about)
    table = pd.DataFrame({"clip_id": clips_["clip_id"], **{m: list(side) for m, side in sides.items()}})
    table.to_parquet(folder / "mine.parquet")
    rows = pd.DataFrame({"file": ["a.wav", "b.mp4", ""], "start_sec": 0.0, "end_sec": 1.5, "text": ["", "", "cuts"]})
    Index(rows, {"audio": small_work.unit(rng.normal(size=(3, 4)))}, "weights").save(folder / "index")
    (folder / "clips.csv").write_text('path,start_sec,end_sec,text\na.mp4,0.5,2,cuts\nb.mp4,1,2.5,"a, b"\n')
    (folder / "probe" / "0.json").write_text(json.dumps({"seed": 0, "classes": 44, "metrics": {"linear-probe": {}}}))
    (folder / "params.yaml").write_text(small_work.text_of("profiles/mini.yaml"))
    lines = [json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (1, 2)]
    (folder / "checkpoints" / "mc3-0" / "metrics.jsonl").write_text("".join(lines))
    (output := folder / "runs" / "mc3-0" / "output").mkdir(parents=True)
    (output / "metrics.jsonl").write_text("".join(lines))
    for step in (1, 2):
        torch.save({"fingerprint": "same", "step": step, "model": {"a": torch.ones(9)}}, part := output.parent / "part")
        name = f"state-{step:08d}-{hashlib.sha256(part.read_bytes()).hexdigest()}.pt"
        part.rename(output.parent / name)
    test_weights.save_egovlp(folder / "egovlp.pth")
    tensors, _ = weights.convert(folder / "egovlp.pth", "egovlp", test_weights.CONFIG)
    save_file({name: t.numpy() for name, t in tensors["video"].items()}, folder / "converted.safetensors")
    (kitchens := folder / "kitchens").mkdir()
    rows = [test_epic_kitchens.line(f"P01_01_{n}", start=f"00:00:0{n}.00", stop=f"00:00:0{n}.90") for n in range(9)]
    for name, lines in {
        "narrations": [test_epic_kitchens.HEADER, *rows], "verbs": ["id,key", "0,take", "1,put"],
        "info": ["video_id,duration", "P01_01,60.5", "P01_02,61"],
        "sounds": ["verb_class,verb,sounds,because", "0,take,click; rustle,it does", "1,put,collision,", "2,look,,"],
    }.items():  # fmt: skip
        (kitchens / f"{name}.csv").write_text("\n".join(lines) + "\n")
    (folder / "meta").mkdir()
    rows = [f"{n}-1000-A-0.wav,{n},0,dog,True,1000,A" for n in range(1, 6)]
    (folder / "meta" / "esc50.csv").write_text("\n".join(["filename,fold,target,category,esc10,src_file,take", *rows]))
    rows = [f"1-{1000 + n}-A-0.wav,{','.join(str(n * w % 7) for w in range(1, 21))}" for n in range(1, 9)]
    (folder / "votes.csv").write_text("\n".join([",".join(("filename", *action_words.WORDS)), *rows]) + "\n")
    (figures := folder / "figures").mkdir()
    for name in (*FIGURES, compare.RUN):
        shutil.copy(ROOT / "figures" / name, figures)
    labelled = clips_[clips_["dataset"] == "ego4d"][["video_uid", "narration_time"]]
    labelled.assign(region="I").to_csv(folder / "world" / "truth.csv", index=False)
    (folder / "timings.json").write_text('{"world": 12.5, "train": 600.0}')
    for source in ("dvc.yaml", "experiments/ablations.yaml", "data/paper/claims.yaml"):
        shutil.copy(ROOT / source, folder)
    (real := folder / "real").mkdir()
    if SHARED.is_dir():
        with (ANNOTATIONS / "epic_sounds" / "EPIC_Sounds_validation.csv").open() as file:
            (real / "events.csv").write_text("".join(file.readline() for _ in range(40)))
        shutil.copyfile(ANNOTATIONS / "ego4d" / "narration_verb_taxonomy.csv", real / "verbs.csv")
        shutil.copyfile(SHARED / "video" / "mmaction2_test.avi", real / "video.avi")
    return folder


def settings_of(folder: Path) -> Config:
    """The settings under which the files in `folder` were made."""
    made = small_work.tiny(small_work.mini(folder))
    made["clips"] |= {"workers": 1, "clips_per_shard": 5, "frame_size": 64}
    made["model"]["video"]["image_size"] = 48
    return config.build(Config, made)


def place_of(folder: Path, name: str) -> Path | None:
    """A reader's file; a state's name goes on with its hash."""
    stem, suffix = name.rsplit(".", 1)
    return next(iter(sorted(folder.glob(f"{stem}*.{suffix}"))), None)


def outcome_of(reader: Reader, settings: Config, path: Path, expected: Any) -> str:
    """In a word what reading led to: "result", "error", or what must not be."""
    try:
        found = reader.read(settings, path)
    except UserError as error:
        return "error" if str(error).strip() and "\n" not in str(error).strip() else f"NO SENTENCE {error!r}"
    except Exception as error:
        at = next((f for f in reversed(traceback.extract_tb(error.__traceback__)) if "/mc3/" in f.filename), None)
        return f"TRACEBACK {type(error).__name__} {Path(at.filename).name if at else ''}: {str(error)[:100]}"
    return "ACCEPTED" if reader.exact and found != expected else "result"


def in_child(reader: Reader, folder: Path, inputs: list[int], log: Path) -> None:
    """Damage, read and restore a file once for each of `inputs`, in a process of its own with a limit on memory."""
    os.chdir(folder / "cwd")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    settings, path = settings_of(folder), place_of(folder, reader.file)
    assert path is not None
    whole = path.read_bytes()
    kept = {
        file: file.read_bytes() for file in path.parent.glob("*") if file.is_file() and file.suffix in (".json", ".tar")
    }
    expected = reader.read(settings, path) if reader.exact else None
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + GIGABYTES * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in inputs:
        for file, content in kept.items():  # what a reader made again beside it too
            file.write_bytes(content)
        path.write_bytes(mutate(path.name, whole, number))
        signal.alarm(SECONDS)
        outcome = outcome_of(reader, settings, path, expected)
        signal.alarm(0)
        with log.open("a") as file:
            file.write(json.dumps([reader.file, number, outcome]) + "\n")


def tried(reader: Reader, world: Path, folder: Path, inputs: list[int]) -> list[str]:
    """What each damaged input led to; a process that hangs or dies costs its input, and another goes on."""
    shutil.copytree(world, folder)
    (folder / "cwd").mkdir()
    if place_of(folder, reader.file) is None:
        return []
    log, outcomes, before = folder / "log", list[str](), contents(folder / "world")
    while len(outcomes) < len(inputs):
        child = multiprocessing.get_context("fork").Process(
            target=in_child, args=(reader, folder, inputs[len(outcomes) :], log)
        )
        child.start()
        child.join()
        lines = log.read_text().splitlines() if log.exists() else []
        outcomes = [json.loads(line)[2] for line in lines]
        if len(outcomes) < len(inputs):
            outcome = "HANG" if child.exitcode == -signal.SIGALRM else f"CRASH {child.exitcode}"
            outcomes.append(outcome)
            with log.open("a") as file:
                file.write(json.dumps([reader.file, inputs[len(outcomes) - 1], outcome]) + "\n")
    after = contents(folder / "world")
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed <= {reader.file.removeprefix("world/")}, "a reader writes into the raw data"
    assert contents(folder / "cwd") == {}, "a reader writes into the present folder"
    return outcomes


def changed_json(**values: Any) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps({**json.loads(data), **values}).encode()


def deeper(data: bytes) -> bytes:
    settings = json.loads(data)
    return json.dumps({**settings, "video": {**settings["video"], "depth": 1_000_000}}).encode()


def without_unknown(data: bytes) -> bytes:
    return data.replace(b'"[UNK]": 1', b'"[unk]": 1')


def one_bit(data: bytes) -> bytes:
    """In the log-mels of the first clip, whose member begins after its pictures."""
    at = data.index(b"NUMPY") + 400
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def unnamed_part(data: bytes) -> bytes:
    at = data.rindex(b"PK\x01\x02") + 46  # the last name in the ZIP file's list
    return data[:at] + b"\xb6" + data[at + 1 :]


def with_nan(data: bytes) -> bytes:
    return data[:-4] + np.float32(np.nan).tobytes()


def line(old: str, new: str) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert old.encode() in data
        return data.replace(old.encode(), new.encode(), 1)

    return change


BOMB = "a: &a [0, 0, 0, 0, 0, 0, 0, 0, 0]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)
PARAMS, CHECKPOINT, PARTIAL = "params.yaml", "checkpoints/mc3-0/final", "shards.partial/ego4d-train-00000"
NARRATION, VERBS = "world/v2/annotations/narration.json", "world/v2/annotations/narration_verb_taxonomy.csv"
# What a file was once changed to, and what reading says now ("": a right result; damage only costs work or is listed).
CASES: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "an empty done marker": (f"{PARTIAL}.json", lambda _: b"", ""),
    "a cut done marker": (f"{PARTIAL}.json", lambda data: data[:40], ""),
    "another place in a done marker": (f"{PARTIAL}.json", line('"fbank_offset": ', '"fbank_offset": 9'), ""),
    "a shard of the right size": (f"{PARTIAL}.tar", lambda data: bytes(len(data)), ""),
    "a flipped bit in a log-mel": (
        "shards/ego4d-train-00000.tar", one_bit, r"ego4d-train-00000\.tar is damaged at clip t0_\d+.*`mc3 shards`"),
    "a cut index": ("shards/index.parquet", lambda data: data[:-9], r"index\.parquet is damaged .*`mc3 shards`"),
    "another table as the manifest": (
        "manifest.parquet", lambda _: pd.DataFrame({"a": [1]}).to_parquet(), "has other columns|it has other columns"),
    "a million blocks": (f"{CHECKPOINT}/config.json", deeper, r"config\.json is damaged \(video\.depth is 1000000"),
    "weights that are no numbers": (
        f"{CHECKPOINT}/model.safetensors", with_nan, r"model\.safetensors is damaged \(values that are not finite"),
    "a tokenizer without its token for unknown words": (
        f"{CHECKPOINT}/tokenizer.json", without_unknown, r"tokenizer\.json is damaged"),
    "embeddings that are no numbers": ("embeddings/0/mc3.safetensors", with_nan, "no vector of finite numbers"),
    "cut embeddings": ("embeddings/0/mc3.safetensors", lambda data: data[:-9], r"mc3\.safetensors is damaged .*mc3 em"),
    "cut probe scores": ("probe/0.safetensors", lambda data: data[:-9], r"0\.safetensors is damaged .*`mc3 probe`"),
    "a key twice": (PARAMS, line("profile: mini\n", "profile: mini\nprofile: mini\n"), "key 'profile' is there twice"),
    "another encoding": (PARAMS, lambda data: data.decode().encode("utf-16"), "params.yaml is damaged .*codec"),
    "a share below 0": (PARAMS, line("misnarrated: 0.6", "misnarrated: -1"), "misnarrated is -1; it must"),
    "an infinite temperature": (PARAMS, line("temperature: 0.07", "temperature: .inf"), "temperature is inf; it must"),
    "a folder called ~": (PARAMS, line("raw: data/mini/world", "raw: '~'"), "paths.raw is '~'; write a path out"),
    "a source that is itself": (PARAMS, line("command: world", "command: source"), "source.command is 'source'; it"),
    "a tag": (PARAMS, line("profile: mini", "profile: !!python/name:os.system"), "could not determine a constructor"),
    "a deep nest": (PARAMS, lambda _: b"[" * 5000, "recursion"),
    "aliases of aliases": (PARAMS, lambda _: BOMB.encode(), "aliases hold each other"),
    "a batch of nothing": (PARAMS, line("batch_size: 64", "batch_size: 0"), "batch_size is 0; it must be above 0"),
    "narrations that are a number": (NARRATION, lambda _: b'{"videos": 5}', "has no narrations"),
    "a key twice in narrations": (NARRATION, line("{", '{"videos": 1, "videos": 2, '), "key 'videos' is there twice"),
    "a table with git's marks of a conflict": (
        "figures/table2_discovery.csv", lambda data: data + b"<<<<<<< HEAD\n", r"table2_discovery\.csv is damaged"),
    "a table without a column": (
        "figures/claims.csv", line("verdict", "verdikt"), r"it has no column verdict\).*dvc repro claims` makes it"),
    "a row twice": ("figures/table3_retrieval.csv", lambda data: data + data.splitlines()[-1], "the same method"),
    "metadata of a video that are text": ("world/ego4d.json", line('[{"vid', '[{"video_metadata": "x", "vid'), ""),
    "videos that are text": ("world/ego4d.json", lambda _: b'{"videos": ["x"]}', "none of the 2 rows"),
    "words that are numbers": (VERBS, line("['wash', 'rinse']", "[1, 2]"), "no list of words"),
    "a timestamp of 400 digits": ("world/EPIC_Sounds_train.csv", line("00:00:00.1", "9" * 400 + ":00:00.1"), ""),
    "a damaged list of parts": (
        "egovlp.pth", unnamed_part, "egovlp.pth is damaged: its list of parts cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_input_that_once_got_through_is_named(world: Path, tmp_path: Path, name: str):
    file, change, message = CASES[name]
    shutil.copytree(world, folder := tmp_path / "world")
    reader, path = next(r for r in READERS if r.file == file), folder / file
    expected = reader.read(settings_of(folder), path) if reader.exact else None
    path.write_bytes(change(path.read_bytes()))
    if message:
        with pytest.raises(UserError, match=message):
            reader.read(settings_of(folder), path)
    else:
        assert reader.read(settings_of(folder), path) == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_sound_with_samples_that_are_none_costs_its_video_and_is_listed(world: Path, tmp_path: Path, value: float):
    shutil.copytree(world, folder := tmp_path / "world")
    with h5py.File(folder / "world" / "EPIC_audio.hdf5", "a") as file:
        file["P01_00"][60000] = value
    settings = settings_of(folder)
    jobs = prepare.plan(manifest.read(folder / "manifest.parquet"), settings, folder / "shards.partial")
    facts = prepare.write_shard(next(job for job in jobs if "epic_sounds-train" in job.path.name))
    assert [(f["video_uid"], f["clips"]) for f in facts["failures"]] == [("P01_00", 3)]
    assert "P01_00 has samples" in facts["failures"][0]["reason"]


def test_sound_in_another_file_of_the_machine_is_never_opened(tmp_path: Path, mini_config: Config):
    secret, path = tmp_path / "secret", mini_config.paths.raw / mini_config.epic_sounds.audio
    secret.write_bytes(np.ones(48000, np.float32).tobytes())
    write_hdf5(tmp_path / "other.hdf5", sound=np.ones(48000, np.float32))
    path.parent.mkdir(parents=True)
    write_hdf5(path, own=np.zeros(48000, np.float32))
    with h5py.File(path, "a") as file:
        file.create_dataset("external", (48000,), np.float32, external=[(str(secret), 0, 192000)])
        file["linked"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "sound")
        file["soft"] = h5py.SoftLink("/linked")
        layout = h5py.VirtualLayout((48000,), np.float32)
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.hdf5"), "sound", (48000,))
        file.create_virtual_dataset("virtual", layout)
    found = epic_sounds.sounds(mini_config)
    assert found["own"].fault is None
    for video in ("external", "linked", "soft", "virtual"):
        assert "another file" in str(found[video].fault)
        with pytest.raises(UserError, match=rf"the sound of {video} .*another file"):
            next(epic_sounds.clips_of(path, video, [(0.0, 1.0)], 16000))


@pytest.mark.parametrize(
    "file",
    ["world/v2/full_scale/t0.mp4", "world/ego4d.json", "world/EPIC_audio.hdf5", "params.yaml", "shards/index.parquet",
     f"{CHECKPOINT}/model.safetensors", "mine.parquet"],
)  # fmt: skip
def test_a_pipe_in_place_of_a_file_is_named_and_not_waited_for(world: Path, tmp_path: Path, file: str):
    shutil.copytree(world, folder := tmp_path / "world")
    (folder / file).unlink()
    os.mkfifo(folder / file)
    reader = next(reader for reader in READERS if reader.file == file)
    signal.alarm(SECONDS)  # ends the tests, if it comes to that
    try:
        if file.endswith(".mp4"):
            reader.read(settings_of(folder), folder / file)
            facts = json.loads((folder / f"{PARTIAL}.json").read_text())
            assert "no regular file" in facts["failures"][0]["reason"]
        else:
            with pytest.raises(UserError, match=r"no regular file|is missing|no file|no checkpoint"):
                reader.read(settings_of(folder), folder / file)
    finally:
        signal.alarm(0)


def test_a_video_of_one_picture_a_second_is_cut_to_where_its_header_ends(tmp_path: Path):
    path = write_media(tmp_path / "slow.mp4", 12, fps=1, sound=clicks(12, [1.0], 16000))
    (clip,) = media.clips_of(path, [(10.9, 12.4)], 4, 32, 16000)
    assert clip.frames is not None
    with pytest.raises(UserError, match="cut short: no picture after 11"):
        list(media.clips_of(path, [(12.9, 14.4)], 4, 32, 16000))


def test_a_name_with_a_colon_is_a_file_and_a_list_of_files_is_no_video(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_media(tmp_path / "http:clip.mp4", 2)
    assert media.probe(Path("http:clip.mp4")).width > 0
    write_media(tmp_path / "secret.mp4", 2)
    for name, text in (("list.mp4", "ffconcat version 1.0\nfile secret.mp4\n"), ("list.m3u8", "#EXTM3U\nsecret.mp4\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=f"{name} cannot be decoded"):
            media.probe(tmp_path / name)


def test_every_damaged_input_is_a_right_result_a_listed_skip_or_one_named_error(world: Path, tmp_path: Path):
    each, rows, wrong = -(-COUNT // len(READERS)), [], []
    for place, reader in enumerate(READERS):
        inputs = [1_000_000 * place + number for number in range(each)]
        outcomes = tried(reader, world, tmp_path / str(place), inputs)
        counts = Counter(outcome.split()[0] for outcome in outcomes)
        rows.append({"file": reader.file, "inputs": len(outcomes), **counts})
        wrong += [(reader.file, n, o) for n, o in zip(inputs, outcomes, strict=False) if o not in ("result", "error")]
        shutil.rmtree(tmp_path / str(place))
    table = pd.DataFrame(rows).fillna(0).astype(dict.fromkeys({k for row in rows for k in row} - {"file"}, int))
    total = table.drop(columns="file").sum()
    print("\n" + table.to_string(index=False), total.to_string(), sep="\n\n")
    assert wrong == [], "\n".join(map(str, wrong[:60]))
