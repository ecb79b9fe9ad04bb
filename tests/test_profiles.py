"""Every profile is complete, consistent with itself and the encoders, and the pipeline resolves with it."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT

from mc3 import cli, config, methods, train
from mc3.encoders import audio
from mc3.errors import ConfigError
from mc3.model import ENCODERS

PROFILES = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))


def load(name: str) -> config.Config:
    return config.load(ROOT / "profiles" / f"{name}.yaml")


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_loads_under_its_own_name_and_survives_a_round_trip(name):
    profile = load(name)
    assert profile.profile == name
    assert config.build(config.Config, config.as_dict(profile)) == profile


@pytest.mark.parametrize("name", PROFILES)
def test_a_profiles_parts_fit_each_other(name):
    profile = load(name)
    clips, model = profile.clips, profile.model
    assert cli.parser().parse_args(profile.source.command.split()).command.__doc__
    assert (profile.source.command == "world") == (profile.world is not None)
    assert clips.frames == model.video.frames
    assert clips.frame_size >= model.video.image_size
    assert clips.mel_bins == model.audio.mel_bins
    samples = round((clips.before_sec + clips.after_sec) * clips.sample_rate)
    assert model.audio.length == 1 + (samples - 400) // 160  # 25 ms windows every 10 ms
    assert set(profile.init) == set(methods.MODALITIES)
    assert set(profile.train.epochs) == {"align", "refine"}
    assert set(profile.ego4d.labels) == {"validation", "test"}
    assert set(profile.probe.finetune_methods) <= {"ssast", *methods.METHODS}
    assert set(profile.probe.official_methods) <= {"untrained", *methods.METHODS}
    for recipe in (profile.probe.linear, profile.probe.official, profile.probe.finetune):
        assert len(recipe.milestones) == len(recipe.factors)
        assert max(recipe.milestones) < recipe.epochs


def test_a_setting_of_the_last_release_is_named_with_its_new_name(tmp_path):
    text = (ROOT / "profiles" / "mini.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("  microbatch_size: null", "  chunk: null"))
    expected = r"params\.yaml: unknown setting train\.chunk; it is now train\.microbatch_size$"
    with pytest.raises(ConfigError, match=expected):
        config.load(tmp_path / "params.yaml")


def test_the_settings_in_use_are_a_profile():
    assert (ROOT / "params.yaml").read_bytes() in [(ROOT / "profiles" / f"{n}.yaml").read_bytes() for n in PROFILES]


def test_the_ego4d_profile_is_the_papers_setting():
    profile = load("ego4d")
    assert (profile.ego4d.train_clips, len(profile.seeds), profile.model.embedding_dim) == (250_000, 5, 256)
    recipe = profile.train
    assert (recipe.optimizer, recipe.learning_rate, recipe.batch_size) == ("adam", 3e-5, 256)
    assert recipe.epochs == {"align": 5, "refine": 5}
    assert {train.learning_rate(recipe, step, 4880) for step in (0, 1, 2440, 4879)} == {3e-5}
    consensus = profile.loss.consensus
    assert (consensus.anchor, consensus.alpha) == ("audio", {"video": 0.5, "text": 1.0})
    assert (profile.clips.before_sec, profile.clips.after_sec) == (0.5, 1.0)


def test_the_ego4d_encoders_have_the_published_checkpoints_sizes():
    """EgoVLP's video encoder has 114 M parameters, DistilBERT 66 M, AST 12 x 14 patches of 1.5 s."""
    model = load("ego4d").model
    parameters = {}
    with torch.device("meta"):
        for modality, make in ENCODERS.items():
            encoder = make(getattr(model, modality), model.embedding_dim)
            parameters[modality] = sum(p.numel() for p in encoder.trunk.parameters()) / 1e6
            shapes = {name: tuple(t.shape) for name, t in encoder.state_dict().items()}
            if modality == "video":
                assert shapes["trunk.pos_embed"] == (1, 197, 768)
                assert shapes["trunk.temporal_embed"] == (1, 4, 768)
            elif modality == "audio":
                assert shapes["trunk.pos_embed"] == (1, 170, 768)
            else:
                assert shapes["trunk.embeddings.word_embeddings.weight"] == (30522, 768)
    assert parameters == pytest.approx({"video": 114, "audio": 86, "text": 66}, abs=1)
    assert audio.patch_grid((128, model.audio.length), model.audio.patch, model.audio.stride) == (12, 14)


def test_a_profile_without_a_world_is_one_line(repository, capsys):
    assert cli.main(["profile", "ego4d"]) == 0
    assert cli.main(["world"]) == 1
    assert capsys.readouterr().err == "mc3: profile ego4d has no `world` to generate; `mc3 profile mini` has one\n"
    assert not Path("data").exists()


def test_missing_ego4d_data_is_one_line_that_names_the_first_file(repository, capsys):
    cli.main(["profile", "ego4d"])
    assert cli.main(["source"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "data/ego4d/raw" in error


def test_settings_differ_between_profiles_only_in_values():
    """One code path: all profiles have the same keys, except for the world, which one may lack."""

    def keys(data, where=""):
        if not isinstance(data, dict):
            return {where}
        return {key for name, value in data.items() for key in keys(value, f"{where}.{name}")}

    found = {name: keys(yaml.safe_load((ROOT / "profiles" / f"{name}.yaml").read_text())) for name in PROFILES}
    without_world = {name: {k for k in all_keys if not k.startswith(".world")} for name, all_keys in found.items()}
    assert len({frozenset(k) for k in without_world.values()}) == 1
    assert {f.name for f in dataclasses.fields(config.World)} == {
        key.removeprefix(".world.").split(".")[0] for key in found["mini"] if key.startswith(".world.")
    }


@pytest.mark.parametrize("name", PROFILES)
def test_the_pipeline_has_a_stage_for_every_method_and_seed_of_a_profile(name, tmp_path):
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "mc3").mkdir()
    shutil.copy(ROOT / "mc3" / "methods.py", tmp_path / "mc3")
    shutil.copy(ROOT / "profiles" / f"{name}.yaml", tmp_path / "params.yaml")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    listed = subprocess.run(
        [sys.executable, "-m", "dvc", "stage", "list", "--name-only"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    stages, profile = set(listed.stdout.split()), load(name)
    for seed in profile.seeds:
        assert {f"align@{seed}", f"probe@{seed}"} <= stages
        assert {f"train@{method}-{seed}" for method in methods.METHODS} <= stages
    assert sum(stage.startswith("train@") for stage in stages) == len(methods.METHODS) * len(profile.seeds)


def test_dvcs_cache_and_the_outputs_share_the_disk(tmp_path):
    """A run of `ego4d` leaves 160 GB of shards and checkpoints, which must not exist twice."""
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
