"""The profile `ego4d` from docs/ego4d.md's first command to its last, at full model size, on a stand-in for Ego4D.

The stand-in has the publishers' files where the document asks for them: videos of the generated world beside real
ones, narrations, labels, EPIC-Sounds, and checkpoints with the published names and shapes and random numbers.
Only `QUANTITIES` differ from profiles/ego4d.yaml. Takes 20 to 50 minutes on two CPU cores, 12 GB of memory and
25 GB of disk, which it gives back.
"""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import published
import pytest
import torch
import yaml
from clones import COMMIT, ROOT, copy, ran, run
from conftest import SHARED
from raw_files import narration
from safetensors import safe_open
from test_text import wordpiece
from timm.models.deit import VisionTransformerDistilled
from transformers import DistilBertConfig, DistilBertModel

from mc3 import config, methods, world
from mc3.encoders.audio import AudioEncoder
from mc3.encoders.video import VideoEncoder
from mc3.extra import weights
from mc3.model import MC3

pytestmark = pytest.mark.slow

# How much, never how large: model, init, loss, optimiser, precision, windows and pictures stay the profile's.
QUANTITIES = {
    "seeds": [0], "ego4d.train_clips": 4,  # two batches, so that each stage of a method takes two steps an epoch
    "train.batch_size": 2, "train.epochs": {"align": 1, "refine": 1}, "train.workers": 1, "train.threads": 2,
    "clips.workers": 2, "evaluate.clusters": 3, "evaluate.chunk": 4, "evaluate.batch_size": 4,
    "probe.linear.epochs": 2, "probe.official.epochs": 1, "probe.finetune.epochs": 1,
}  # fmt: skip
WORLD = config.World(
    seed=0, videos={"train": 2, "validation": 1, "test": 2}, silent_videos=0, seconds=10.0, clip_every_sec=2.5,
    fps=10, size=320, epic_events={"train": 8, "validation": 8}, workers=1,
    rates=config.load(ROOT / "profiles" / "mini.yaml").world.rates,
)  # fmt: skip
UID = "00000000-0000-4000-8000-00000000000{}"  # real videos under uids of Ego4D's form
GLASSES, PENCIL, SILENT, LOST = (UID.format(i) for i in range(4))
REAL = {GLASSES: "egoblur_glasses_table.mp4", PENCIL: "mmaction2_test.avi", SILENT: "mmaction2_test_noaudio.mp4"}
# seconds, sound and narrations. LOST is listed in ego4d.json and narrated, but never came with the download.
VIDEOS = {
    GLASSES: (1.4, True, [(0.4, "#C C touches the table"), (0.9, "#O A person X talks")]),
    PENCIL: (6.56, True, [(2.0, "#C C applies the pencil"), (9.0, "#C C closes the box")]),
    SILENT: (10.0, False, [(3.0, "#C C throws a ball"), (6.0, "#C C lifts a barbell")]),
    LOST: (30.0, True, [(12.0, "#C C opens the drawer"), (20.0, "#C C closes the #unsure")]),
}
SOUND = {"v": "video", "a": "audio", "l": "text"}


def commands(heading: str) -> list[str]:
    """The shell lines of a section of docs/ego4d.md, without comments."""
    text = (ROOT / "docs" / "ego4d.md").read_text()
    section = re.search(rf"^## \d+\. {heading}.*?(?=^## )", text, re.S | re.M)
    assert section, heading
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", section[0], re.S)).splitlines()
    return [line.partition("  #")[0].strip() for line in lines if line and not line.startswith("#")]


def ours(heading: str) -> str:
    """Those of `commands` that are this repository's, not another's downloader, in one line."""
    return " && ".join(line for line in commands(heading) if re.match(r"mc3 |dvc |mkdir ", line))


def shrink(params: Path) -> None:
    settings = config.as_dict(config.override(config.load(params), QUANTITIES))
    params.write_text(yaml.safe_dump(settings, sort_keys=False))


def write_release(profile: config.Config) -> None:
    """What sections 2 and 3 of the document download, without the weights."""
    raw, files = profile.paths.raw, profile.ego4d
    world.write(replace(profile, world=WORLD))
    (raw / "truth.csv").unlink()  # only a generated world knows it
    metadata = json.loads((raw / files.metadata).read_text())
    narrations = json.loads((raw / files.narrations).read_text())["videos"]
    listed = [uid for uid in VIDEOS if SHARED.is_dir() or uid not in REAL]
    for uid in listed:
        seconds, sound, lines = VIDEOS[uid]
        rate = {"audio_base_denominator": 48000 if sound else None}
        metadata["videos"].append({"video_uid": uid, "duration_sec": seconds, "video_metadata": rate})
        more = {"annotation_uid": f"{uid}_0"}
        lines = [narration(t, text) | {"timestamp_frame": round(30 * t), **more} for t, text in lines]
        passes = {"narration_pass_1": lines[:1], "narration_pass_2": lines[1:]}
        passes = {name: {"narrations": own, "summaries": []} for name, own in passes.items()}
        narrations[uid] = {"status": "complete", **passes}
        if uid in REAL:
            shutil.copyfile(SHARED / "video" / REAL[uid], raw / files.videos / f"{uid}.mp4")
    (raw / files.metadata).write_text(json.dumps(metadata))
    (raw / files.narrations).write_text(json.dumps({"videos": narrations}))
    (raw / "manifest.csv").write_text("video_uid\n" + "".join(f"{v['video_uid']}\n" for v in metadata["videos"]))
    write_labels(raw, files, listed)
    if SHARED.is_dir():
        for name in (files.verb_taxonomy, files.noun_taxonomy):
            shutil.copyfile(SHARED / "annotations" / "ego4d" / name.name, raw / name)
        events = pd.read_csv(SHARED / "annotations" / "epic_sounds" / "EPIC_Sounds_validation.csv")
        names = dict(zip(events["class_id"], events["class"], strict=True))
        for name in profile.epic_sounds.annotations.values():
            table = pd.read_csv(raw / name)
            assert list(table) == list(events)
            table.assign(**{"class": table["class_id"].map(names)}).to_csv(raw / name, index=False)


def write_labels(raw: Path, files: config.Ego4DFiles, listed: list[str]) -> None:
    """Of the world's labels as many as tables and figures need at least, and one of each listed video with sound."""
    for split, name in files.labels.items():
        table = pd.read_csv(raw / name, sep="\t")
        sounding = table["positive"] == 1
        count, added = (1, [PENCIL]) if split == "validation" else (3, [GLASSES, LOST])
        kept = pd.concat([table[sounding].head(count), table[~sounding].head(1)])
        if split == "test":
            kept["action_group"] = "wash plate"  # retrieval needs a group with more than two clips that sound
        more = [{"narration_time": time, "video_uid": uid, "clip_text": text, "positive": 0, "votes": "0,1,0"}
                for uid in added if uid in listed for time, text in VIDEOS[uid][2][:1]]  # fmt: skip
        pd.concat([kept, pd.DataFrame(more)]).to_csv(raw / name, sep="\t", index=False)


def write_checkpoints(folder: Path, model: config.ModelConfig) -> None:
    """egovlp.pth, DeiT's and SSAST's files and DistilBERT's tokenizer.json, with the publishers' names and sizes."""
    torch.manual_seed(0)
    text, width = model.text, model.embedding_dim
    sizes = DistilBertConfig(dim=text.dim, hidden_dim=4 * text.dim, n_layers=text.depth, n_heads=text.heads)
    state = {f"text_model.{name}": tensor for name, tensor in DistilBertModel(sizes).state_dict().items()}
    state |= {"text_model.embeddings.position_ids": torch.arange(512)[None]}
    video = VideoEncoder(model.video, width).trunk.state_dict()
    state |= {f"video_model.{name}": tensor for name, tensor in video.items()}
    for name, dim in (("txt_proj.1", text.dim), ("vid_proj.0", model.video.dim)):
        state |= {f"{name}.{kind}": tensor for kind, tensor in torch.nn.Linear(dim, width).state_dict().items()}
    target = folder / "data/ego4d/weights"
    target.mkdir()
    published.save_egovlp(target / "egovlp.pth", {f"module.{name}": tensor for name, tensor in state.items()})
    audio = model.audio
    sizes = {"embed_dim": audio.dim, "depth": audio.depth, "num_heads": audio.heads}
    deit = VisionTransformerDistilled(img_size=384, patch_size=16, **sizes)
    torch.save({"model": deit.state_dict()}, target / "deit_base_distilled_patch16_384-d0272ac0.pth")
    long = replace(audio, length=1024, stride=16)  # AudioSet's ten seconds; patches do not overlap
    ssast = {f"v.{name}": tensor for name, tensor in AudioEncoder(long, width).trunk.state_dict().items()}
    ssast |= {"p_input_fdim": torch.tensor(128), "p_input_tdim": torch.tensor(1024)}
    ssast |= {"mask_embed": torch.zeros(1, 1, audio.dim)}
    torch.save({f"module.{name}": tensor for name, tensor in ssast.items()}, target / "SSAST-Base-Patch-400.pth")

    letters = [chr(c) for c in range(33, 127) if not 65 <= c <= 90]
    words = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [f"[unused{i}]" for i in range(99, 994)] + letters + [f"##{c}" for c in letters]
    words += ["the", "washes", "plate", "with", "hand"]
    tokenizer = wordpiece([*words, *(f"word{i}" for i in range(30522 - len(words)))])
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    assert tokenizer.get_vocab_size() == 30522
    target = folder / model.text.tokenizer
    target.mkdir(parents=True)
    tokenizer.save(str(target / "tokenizer.json"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A clone in which the document's commands were run in its order; {section: what they printed}."""
    top = tmp_path_factory.mktemp("lab")
    clone = copy(top / "clone")
    told = {}
    try:
        with pytest.MonkeyPatch.context() as patch:
            run("git init -q .", clone)
            run("mc3 profile ego4d", clone)
            assert (clone / "params.yaml").read_bytes() == (clone / "profiles" / "ego4d.yaml").read_bytes()
            shrink(clone / "params.yaml")
            run(f"{COMMIT} start", clone)
            patch.chdir(clone)
            profile = config.load()
            (clone / "data" / "ego4d").mkdir(parents=True)
            write_release(replace(profile, paths=replace(profile.paths, raw=top / "disk")))
            profile.paths.raw.symlink_to(top / "disk")  # terabytes may lie on another disk
            videos = profile.paths.raw / profile.ego4d.videos
            videos.rename(top / "later")
            told["plan"] = run(ours("Which videos to download"), clone)
            (top / "later").rename(videos)
            told["check"] = run(ours("Check the download"), clone)
            write_checkpoints(clone, profile.model)
            told["weights"] = run(ours("Weights"), clone)
            told["clips"] = run(ours("Clips"), clone)
            launches = " && ".join(commands("Training"))  # of the align stage and of MC3
            gpus = "--config_file profiles/launch/8gpu.yaml"
            assert launches.count(gpus) == 2
            told["launched"] = run(launches.replace(gpus, "--cpu --num_processes 1"), clone)
            told["rest"] = run(ours("Tables"), clone)
        yield clone, told
    finally:
        shutil.rmtree(top)


@pytest.fixture
def profile(lab, monkeypatch) -> config.Config:
    monkeypatch.chdir(lab[0])
    return config.load()


def test_nothing_but_quantities_differs_from_the_papers_profile(profile):
    paper = config.as_dict(config.load("profiles/ego4d.yaml"))
    used = config.as_dict(profile)

    def leaves(data, where=""):
        if isinstance(data, dict) and where not in QUANTITIES:
            return {k: v for name, part in data.items() for k, v in leaves(part, f"{where}.{name}".strip(".")).items()}
        return {where: data}

    changed = {place for place, value in leaves(used).items() if leaves(paper)[place] != value}
    assert changed == {place for place in QUANTITIES if leaves(paper)[place] != QUANTITIES[place]}
    assert (profile.model.video.depth, profile.model.video.dim, profile.model.video.image_size) == (12, 768, 224)


def test_the_plan_lists_every_video_that_a_clip_is_of_and_no_other(lab, profile):
    clips = pd.read_parquet("data/ego4d/manifest.parquet")
    listed = Path("data/ego4d/video_uids.txt").read_text().split()
    assert listed == sorted(set(clips.loc[clips["dataset"] == "ego4d", "video_uid"]))
    assert LOST in listed
    assert SILENT not in listed
    assert {path.stem for path in Path("data/ego4d/raw/v2/full_scale").iterdir()} - set(listed) <= {SILENT}
    assert f"to download: {len(listed)} videos" in lab[1]["plan"]
    fetch = next(line for line in commands("Which videos to download") if line.startswith("ego4d "))
    assert fetch in lab[1]["plan"]


def test_the_check_names_the_video_that_never_came_and_finds_the_others_good(lab):
    table = pd.read_csv(lab[0] / "data/ego4d/inventory.csv", keep_default_na=False).set_index("video_uid")
    assert table.loc[table["problem"] != "", "problem"].to_dict() == {LOST: "missing"}
    assert "1 missing" in lab[1]["check"]


def test_every_clip_of_a_video_that_came_is_in_the_shards(profile):
    clips, index = pd.read_parquet("data/ego4d/manifest.parquet"), pd.read_parquet("data/ego4d/shards/index.parquet")
    assert sorted(index["clip_id"]) == sorted(clips.loc[clips["video_uid"] != LOST, "clip_id"])
    counts = index.groupby(["dataset", "split"]).size()
    assert counts["ego4d", "train"] == QUANTITIES["ego4d.train_clips"]
    assert counts["epic_sounds"].to_dict() == {"train": 8, "validation": 8}
    report = json.loads(Path("data/ego4d/shards_report.json").read_text())
    assert [failure["video_uid"] for failure in report["failed_videos"]] == [LOST]
    manifest_report = json.loads(Path("data/ego4d/manifest_report.json").read_text())
    assert ("video without audio" in manifest_report["dropped_by_reason"]) == (profile.paths.raw.joinpath(
        profile.ego4d.videos, f"{SILENT}.mp4").exists())  # fmt: skip


def test_training_starts_from_the_published_weights(profile):
    torch.manual_seed(1)
    model = MC3.initial(profile, seed=0)
    folder = Path("data/ego4d/weights")
    state = weights.read(folder / "egovlp.pth")
    names = {"video.trunk.": "video_model.", "video.projection.": "vid_proj.",
             "text.trunk.": "text_model.", "text.projection.": "txt_proj."}  # fmt: skip
    compared = 0
    for name, tensor in model.encoders.state_dict().items():
        start = next((start for start in names if name.startswith(start)), None)
        if start:
            assert torch.equal(tensor, state["module." + names[start] + name.removeprefix(start)]), name
            compared += tensor.numel()
    assert compared > 180e6
    image = torch.load(folder / "deit_base_distilled_patch16_384-d0272ac0.pth", weights_only=True)["model"]
    audio = model.encoders["audio"].trunk.state_dict()
    assert all(torch.equal(audio[name], image[name]) for name in image if "blocks" in name or name.startswith("norm"))
    # two steps of Adam at 3e-5 move no weight by more than a little over twice that
    with safe_open("data/ego4d/checkpoints/align-0/final/model.safetensors", "pt") as trained:
        name = "encoders.video.trunk.blocks.11.mlp.fc1.weight"
        moved = (trained.get_tensor(name) - state["module.video_model.blocks.11.mlp.fc1.weight"]).abs()
    assert 0 < moved.max() < 1e-4


def test_each_stage_of_a_method_took_two_steps_and_its_loss_is_a_number(profile):
    for name in ("align", *methods.METHODS):
        folder = profile.paths.work / "checkpoints" / f"{name}-0"
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines if "loss" in line]
        expected = sum(2 * (2 if stage.epochs == "both" else 1) for stage in methods.get(name).stages)
        assert len(losses) == expected, name
        assert np.isfinite(losses).all()
        assert (folder / "final" / "model.safetensors").stat().st_size > 1e9


def test_every_stage_ran_but_the_trainings_launched_by_hand_and_there_is_nothing_left_to_do(lab):
    trained = set(re.findall(r"\] train (\w+)-0 ", lab[1]["rest"]))
    assert trained == set(methods.METHODS) - {"mc3"}
    locked = yaml.safe_load((lab[0] / "dvc.lock").read_text())["stages"]
    assert set(locked) == set(run("dvc stage list --name-only", lab[0]).split())
    outs = [out["path"] for stage in locked.values() for out in stage["outs"]]
    assert len(outs) > 60
    assert all((lab[0] / path).exists() for path in outs)
    assert "up to date" in run("dvc status", lab[0])
    assert ran(run("dvc repro", lab[0])) == []


def test_tables_have_a_row_for_each_method_with_numbers_where_it_has_the_modalities(lab):
    figures = lab[0] / "figures"
    for name, metric in (("table2_discovery", r"(?P<a>[av])(?P<b>[vl])_(roc|pr)"),
                         ("table3_retrieval", r"(?P<a>[val])2(?P<b>[val])_(r|hit)\d+")):  # fmt: skip
        table = pd.read_csv(figures / f"{name}.csv").set_index("method")
        assert set(table.index) >= {"random", *methods.METHODS}
        columns = {column: match for column in table if (match := re.fullmatch(metric, column))}
        assert columns
        for method in methods.METHODS:
            for column, match in columns.items():
                has = {SOUND[match["a"]], SOUND[match["b"]]} <= set(methods.get(method).modalities)
                assert np.isfinite(table.loc[method, column]) == has, (method, column)
    table = pd.read_csv(figures / "table4_epic_sounds.csv")
    linear = table[table["protocol"] == "linear-probe"].set_index("method")
    probed = [name for name, entry in methods.METHODS.items() if entry.get("role") != "later"]
    measured = linear.loc[["ssast", "untrained", *probed], ["top1", "top5", "mca", "map", "mauc"]]
    assert np.isfinite(measured).all(axis=None)
    assert {"ssast", "untrained", "mc3"} <= set(table.loc[table["protocol"] == "fine-tune", "method"])


def test_the_consensus_notebook_shows_region_one_against_the_rest(lab):
    for name in ("figure2_regions", "figure3_consensus"):
        table = pd.read_csv(lab[0] / "figures" / f"{name}.csv")
        assert set(table["region"]) - {"all"} == {"I", "II-IV"}
        assert np.isfinite(table.drop(columns=["checkpoint", "pair", "region"], errors="ignore")).all(axis=None)


def test_classes_and_verbs_have_the_publishers_names(lab):
    recall = pd.read_csv(lab[0] / "figures" / "epic_sounds_per_class.csv")
    published_names = pd.read_csv(lab[0] / "data/ego4d/raw/EPIC_Sounds_validation.csv").set_index("class_id")["class"]
    assert recall["name"].tolist() == [published_names[published_names.index == i].iloc[0] for i in recall["class_id"]]
    if SHARED.is_dir():
        clips = pd.read_parquet(lab[0] / "data/ego4d/manifest.parquet")
        verbs = set(pd.read_csv(SHARED / "annotations/ego4d/narration_verb_taxonomy.csv")["label"])
        assert set(clips["verb"]) - {""} <= verbs


def test_results_say_that_they_are_of_this_profile(lab):
    for path in sorted((lab[0] / "figures").glob("*.provenance.json")):
        provenance = json.loads(path.read_text())
        assert provenance["settings"]["profile"] == "ego4d"
        assert provenance["dirty"] is False
        assert provenance["settings"]["ego4d"]["train_clips"] == QUANTITIES["ego4d.train_clips"]
    assert "ego4d" in (lab[0] / "figures" / "report" / "index.html").read_text()
