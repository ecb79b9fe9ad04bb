"""Every profile is complete, consistent with itself and the encoders, and the pipeline resolves with it."""

import dataclasses
import functools
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from small_work import ROOT, text_of

from mc3 import cli, config, evaluate, methods, train
from mc3.data import media
from mc3.encoders import audio
from mc3.errors import ConfigError
from mc3.model import ENCODERS
from mc3.paper import findings

PROFILES = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))


@functools.cache
def load(name: str) -> config.Config:
    return config.load(ROOT / "profiles" / f"{name}.yaml")


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_loads_under_its_own_name_survives_a_round_trip_and_its_parts_fit_each_other(name):
    profile = load(name)
    assert profile.profile == name
    assert config.build(config.Config, config.as_dict(profile)) == profile
    clips, model = profile.clips, profile.model
    assert cli.parser().parse_args(profile.source.command.split()).command.__doc__
    assert (profile.source.command == "world") == (profile.world is not None)
    assert clips.frames % model.video.frames == 0
    negatives = profile.loss.active_negatives
    assert profile.train.batch_size < negatives.negatives < negatives.pool < profile.ego4d.train_clips
    assert clips.frame_size >= model.video.image_size
    assert clips.mel_bins == model.audio.mel_bins
    samples = round((clips.before_sec + clips.after_sec) * clips.sample_rate)
    assert model.audio.length == 1 + (samples - 400) // 160  # 25 ms windows every 10 ms
    assert set(profile.init) == set(methods.MODALITIES)
    assert set(profile.train.epochs) - {"pretrain"} == {"align", "refine"}
    assert ("pretrain" in profile.train.epochs) == (profile.pretrain is not None)
    assert set(profile.ego4d.labels) == {"validation", "test"}
    assert set(profile.probe.finetune_methods) <= {"ssast", *methods.METHODS}
    assert set(profile.probe.official_methods) <= {"untrained", *methods.METHODS}
    for recipe in (profile.probe.linear, profile.probe.official, profile.probe.finetune):
        assert len(recipe.milestones) == len(recipe.factors)
        assert max(recipe.milestones) < recipe.epochs


def test_a_setting_of_the_last_release_is_named_with_its_new_name(tmp_path):
    text = text_of("profiles/mini.yaml")
    (tmp_path / "params.yaml").write_text(text.replace("  microbatch_size: null", "  chunk: null"))
    with pytest.raises(ConfigError, match=r"params\.yaml: unknown .* train\.chunk; it is now train\.microbatch_size$"):
        config.load(tmp_path / "params.yaml")


def test_the_settings_in_use_are_a_profile():
    assert (ROOT / "params.yaml").read_bytes() in [(ROOT / "profiles" / f"{n}.yaml").read_bytes() for n in PROFILES]


MC3 = methods.get("mc3").stages[0]
PRINTED = {  # what the paper prints of its setting: ours and the paper's
    "Sec. 4.2: the contrastive loss is the sum over all pairs": lambda p: (MC3.contrastive, 1),
    "Sec. 4.4: there are six pairwise contrastive losses": lambda p: (2 * len(MC3.pairs), 6),
    "Eq. 2: one scalar c^t a sample, brought back by the K of the modality with the minimum": lambda p: (
        p.loss.consensus.inverse, "minimum"),
    "Eq. 4: L_MC3 is the sum of both losses": lambda p: (MC3.consensus * p.loss.consensus_weight, 1),
    "Sec. 4.4: audio as the anchor": lambda p: (p.loss.consensus.anchor, "audio"),
    "Sec. 4.4: alpha_l and alpha_v are 1 and 0.5": lambda p: (p.loss.consensus.alpha, {"text": 1, "video": 0.5}),
    "Sec. 4.4: video and language start from [34], audio from ImageNet": lambda p: (
        {m: path.parent.name for m, path in p.init.items()}, {"video": "egovlp", "text": "egovlp", "audio": "deit"}),
    "Sec. 4.4: we train all encoders": lambda p: ((set(MC3.train), p.train.freeze), (set(methods.MODALITIES), [])),
    "Sec. 4.4: 8 GPUs": lambda p: (yaml.safe_load(text_of("profiles/launch/8gpu.yaml"))["num_processes"], 8),
    "Sec. 4.4: a learning rate of 3e-5, no schedule": lambda p: (
        {train.learning_rate(p.train, step, 4880) for step in (0, 1, 2440, 4879)}, {3e-5}),
    "Sec. 4.4: a batch size of 256": lambda p: (p.train.batch_size, 256),
    "Sec. 4.4: 5 epochs for both stages": lambda p: (p.train.epochs, {"align": 5, "refine": 5}),
    "Sec. 4.4: the Adam optimizer": lambda p: ((p.train.optimizer, p.train.weight_decay), ("adam", 0)),
    "Sec. 4.4: the final checkpoint": lambda p: (p.paths.final("mc3", 0).name, "final"),
    "Sec. 5: from 0.5 s before to 1 s after the timestamp": lambda p: (
        (p.clips.before_sec, p.clips.after_sec), (0.5, 1.0)),
    "Sec. 5: 1.5 s": lambda p: (p.clips.before_sec + p.clips.after_sec, 1.5),
    "Sec. 5: a training set of 250K clips": lambda p: (p.ego4d.train_clips, 250_000),
    "Sec. 5: labels for validation and for test": lambda p: (set(p.ego4d.labels), {"validation", "test"}),
    "Table 2: five times with different seeds": lambda p: (len(set(p.seeds)), 5),
    "Sec. 6.1: 20 clusters": lambda p: (p.evaluate.clusters, 20),
    "Figure 6: the top 8 clips": lambda p: (inspect.signature(findings.clusters).parameters["top"].default, 8),
    "Sec. 6.1: of 30K test clips, none is left out of the linkage": lambda p: (
        inspect.signature(evaluate.clusters).parameters["at_most"].default >= 30_000, True),
    "Table 3: recall at 5 and 10, at 1 in the supplement": lambda p: (p.evaluate.recall_at, [1, 5, 10]),
    "Sec. 6.2: groups of more than two, halved into 7,559 queries and a pool of 7,032": lambda p: (
        tuple(map(len, evaluate.split_groups(ODD + EVEN + ["pair"] * 2))), (7559, 7032)),
    "Sec. 6.3: linear probe and fine-tuning of MC3": lambda p: ("mc3" in p.probe.finetune_methods, True),
    "Sec. 6.3: the input of EPIC-Sounds' own baselines, to compare with them": lambda p: (
        p.probe.features, "epic_sounds"),
}  # fmt: skip
# As many odd groups as there are more queries than pool clips (527), and the others in even ones.
ODD = [f"odd {i}" for i in range(7559 - 7032) for _ in range(3)]
EVEN = [f"even {i // 10}" for i in range(7559 + 7032 - len(ODD))]


@pytest.mark.parametrize("sentence", PRINTED)
def test_the_ego4d_profile_has_what_the_paper_prints_of_its_setting(sentence):
    ours, papers = PRINTED[sentence](load("ego4d"))
    assert ours == papers


def test_the_ego4d_profile_takes_egovlps_frames_the_middles_of_equal_segments_and_nearly_all_of_a_16_to_9_picture():
    profile = load("ego4d")
    clips, video = profile.clips, profile.model.video
    assert (video.frames, video.image_size, profile.model.embedding_dim) == (4, 224, 256)
    each = clips.frames // video.frames
    stored, segments = (media.frame_times(-0.5, 1.0, n) for n in (clips.frames, video.frames))
    assert each >= 3
    assert stored[each // 2 :: each] == pytest.approx(segments)
    assert clips.frame_size * 16 / 9 - 2 < clips.frame_width <= clips.frame_size * 16 / 9
    assert profile.train.crop_scale == [0.5, 1.0]


def test_mini_stores_squares_and_the_models_frames_and_frames_that_do_not_fit_are_refused():
    clips, video = load("mini").clips, load("mini").model.video
    assert (clips.frames, clips.frame_width) == (video.frames, clips.frame_size)
    with pytest.raises(ConfigError, match=r"clips\.frames is 6; it must be a multiple of model\.video\.frames, 4"):
        config.override(load("mini"), {"clips.frames": 6})
    with pytest.raises(ConfigError, match=r"clips\.max_aspect is 0\.5; it must be 1"):
        config.override(load("mini"), {"clips.max_aspect": 0.5})


def test_the_ego4d_encoders_have_the_published_checkpoints_sizes():
    model = load("ego4d").model
    with torch.device("meta"):
        made = {m: make(getattr(model, m), model.embedding_dim).trunk for m, make in ENCODERS.items()}
    assert made["video"].pos_embed.shape == (1, 197, 768)
    assert made["video"].temporal_embed.shape == (1, 4, 768)
    assert made["audio"].pos_embed.shape == (1, 170, 768)
    assert made["text"].embeddings.word_embeddings.weight.shape == (30522, 768)
    parameters = {m: sum(p.numel() for p in trunk.parameters()) / 1e6 for m, trunk in made.items()}
    assert parameters == pytest.approx({"video": 114, "audio": 86, "text": 66}, abs=1)  # EgoVLP, AST, DistilBERT
    assert audio.patch_grid((128, model.audio.length), model.audio.patch, model.audio.stride) == (12, 14)


def test_a_missing_world_or_ego4ds_missing_data_are_one_line_that_names_it(repository, capsys):
    assert cli.main(["profile", "ego4d"]) == 0
    faults = {"world": "no `world` to generate; `mc3 profile mini` has one", "source": "data/ego4d/raw"}
    for command, missing in faults.items():
        assert cli.main([command]) == 1
        error = capsys.readouterr().err
        assert missing in error
        assert error.count("\n") == 1
    assert not Path("data").exists()


def test_settings_differ_between_profiles_only_in_values_and_in_whether_they_generate_a_world():
    tables = {name: pd.json_normalize(yaml.safe_load(text_of(f"profiles/{name}.yaml"))) for name in PROFILES}
    found = {name: set(table.columns) for name, table in tables.items()}
    own = ("world", "pretrain", "train.epochs.pretrain")  # of a profile that generates what it needs
    assert len({frozenset(key for key in keys if not key.startswith(own)) for keys in found.values()}) == 1
    of_the_world = {key.split(".")[1] for key in found["mini"] if key.startswith("world.")}
    assert {field.name for field in dataclasses.fields(config.World)} == of_the_world


def test_dvcs_cache_and_the_outputs_share_the_disk(tmp_path):
    (tmp_path / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", tmp_path / ".dvc")
    (tmp_path / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    command = "mkdir folder && cp number folder/file && cat number number > file"
    stage = {"cmd": command, "deps": ["number"], "outs": ["folder", "file"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"first": stage}}))
    for number in range(2):  # made, and made anew
        (tmp_path / "number").write_text(f"{number}\n")
        subprocess.run([sys.executable, "-m", "dvc", "repro", "-q", "--force"], cwd=tmp_path, check=True)
        cached = {path.read_bytes(): path for path in (tmp_path / ".dvc" / "cache").rglob("*") if path.is_file()}
        for out in (tmp_path / "folder" / "file", tmp_path / "file"):
            assert out.samefile(cached[out.read_bytes()]) or shares_blocks(tmp_path)
            assert not out.stat().st_mode & 0o222 or shares_blocks(tmp_path)


def shares_blocks(folder: Path) -> bool:
    """Whether the file system copies by reference (Btrfs, XFS, APFS), which DVC then prefers."""
    (folder / "one").write_text("1")
    clone = ["cp", "-c"] if sys.platform == "darwin" else ["cp", "--reflink=always"]
    return subprocess.run([*clone, "one", "two"], cwd=folder, capture_output=True).returncode == 0
