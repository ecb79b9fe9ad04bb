import argparse
import json
import os
import pickle
import re
import zipfile
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import numpy as np
import published
import pytest
import torch
import yaml
from payloads import bombs
from raw_files import contents
from safetensors.torch import load_file, save_file
from timm.models.deit import VisionTransformerDistilled
from transformers import DistilBertConfig, DistilBertModel

import mc3
from mc3 import cli
from mc3.config import AudioConfig, ModelConfig, TextConfig, VideoConfig
from mc3.data import tokenizer
from mc3.encoders.audio import AudioEncoder
from mc3.encoders.text import TextEncoder
from mc3.encoders.video import VideoEncoder
from mc3.errors import ConfigError, DataError
from mc3.extra import weights

DIM, DEPTH, HEADS, WIDTH = 24, 2, 3, 8
CONFIG = ModelConfig(
    WIDTH,
    VideoConfig(frames=4, image_size=32, patch=16, dim=DIM, depth=DEPTH, heads=HEADS),
    AudioConfig(length=149, mel_bins=128, patch=16, stride=10, dim=DIM, depth=DEPTH, heads=HEADS),
    TextConfig(tokenizer="train", vocab_size=30, max_length=8, dim=DIM, depth=DEPTH, heads=HEADS, dropout=0.0),
)
DISTILBERT = DistilBertConfig(vocab_size=30, dim=DIM, hidden_dim=4 * DIM, n_layers=DEPTH, n_heads=HEADS)


def random(*shape):
    return torch.randn(*shape) * 0.3


def dense(name, out, into):
    return {f"{name}.weight": random(out, into), f"{name}.bias": random(out)}


def norm(name):
    return {f"{name}.weight": 1 + random(DIM), f"{name}.bias": random(DIM)}


def vit(prefix, tokens, positions, channels, time_attention=()):
    """A vision transformer's tensors under the names that timm and EgoVLP share."""
    state = {f"{prefix}{token}": random(1, 1, DIM) for token in tokens}
    state[f"{prefix}pos_embed"] = random(1, len(tokens) + positions, DIM)
    state |= {f"{prefix}patch_embed.proj.weight": random(DIM, channels, 16, 16),
              f"{prefix}patch_embed.proj.bias": random(DIM)}  # fmt: skip
    for i in range(DEPTH):
        block = f"{prefix}blocks.{i}"
        for attention in ("attn", *time_attention):
            state |= dense(f"{block}.{attention}.qkv", 3 * DIM, DIM) | dense(f"{block}.{attention}.proj", DIM, DIM)
        for name in ("norm1", "norm2", *(["norm3"] if time_attention else [])):
            state |= norm(f"{block}.{name}")
        state |= dense(f"{block}.mlp.fc1", 4 * DIM, DIM) | dense(f"{block}.mlp.fc2", DIM, 4 * DIM)
    return state | norm(f"{prefix}norm")


def video_state(frames=4):
    state = vit("video_model.", ["cls_token"], 4, 3, ["timeattn"])
    return state | {"video_model.temporal_embed": random(1, frames, DIM)} | dense("vid_proj.0", WIDTH, DIM)


def text_state():
    state = {f"text_model.{name}": tensor for name, tensor in DistilBertModel(DISTILBERT).state_dict().items()}
    return state | {"text_model.embeddings.position_ids": torch.arange(512)[None]} | dense("txt_proj.1", WIDTH, DIM)


def audio_state(positions=12 * 14):
    state = vit("audio_model.v.", ["cls_token", "dist_token"], positions, 1)
    return state | norm("audio_model.mlp_head.0") | dense("audio_model.mlp_head.1", WIDTH, DIM)


def parallel(state):
    return {f"module.{name}": tensor for name, tensor in state.items()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "egovlp.pth"


def save_egovlp(path, frames=4, **changes):
    state = parallel(video_state(frames) | text_state()) | changes
    state = {name: tensor for name, tensor in state.items() if tensor is not None}
    published.save_egovlp(path, state)
    return state


def below(prefix, state):
    """The tensors of a module, under their names in it; heads are none of a trunk's."""
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix) and "head" not in n}


def log_mels(*shape):
    return torch.randn(*shape) * 4.6 - 4.3


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def assert_computes_ast(converted, audio, state):
    """An encoder with the tensors `converted` has the features of transformers' AST with the trunk `state`."""
    encoder, clips = AudioEncoder(audio, WIDTH).eval(), log_mels(1, audio.length, 128)
    assert encoder.load_state_dict(converted, strict=False).unexpected_keys == []
    with torch.no_grad():
        assert_close(encoder.features(clips), published.audio_features(state, audio, clips))


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_an_egovlp_file_with_a_pickled_configuration_is_read_completely_and_torch_trusts_no_more_than_before(path):
    state, trusted = save_egovlp(path), set(torch.serialization.get_safe_globals())
    with pytest.raises(pickle.UnpicklingError, match=r"parse_config_of_egovlp"):
        torch.load(path, weights_only=True)
    tensors, card = weights.convert(path, "egovlp", CONFIG)
    assert set(torch.serialization.get_safe_globals()) == trusted
    back = {"video.trunk": "video_model", "video.projection": "vid_proj",
            "text.trunk": "text_model", "text.projection": "txt_proj"}  # fmt: skip
    named = {f"{modality}.{name}": tensor for modality, ours in tensors.items() for name, tensor in ours.items()}
    for name, tensor in named.items():
        start = next(start for start in back if name.startswith(start))
        assert torch.equal(tensor, state["module." + back[start] + name.removeprefix(start)])
    assert card["dropped"] == ["module.text_model.embeddings.position_ids"]
    assert len(named) + len(card["dropped"]) == len(state)
    assert card["adapted"] == {}


@pytest.mark.parametrize(("published_frames", "frames"), [(4, 4), (16, 16), (16, 4), (4, 16)])
def test_converted_egovlp_video_weights_compute_the_published_model_and_new_frames_are_zero(
    path, published_frames, frames
):
    state, config = save_egovlp(path, published_frames), replace(CONFIG.video, frames=frames)
    tensors, card = weights.convert(path, "egovlp", replace(CONFIG, video=config))
    assert bool(card["adapted"]) == (published_frames != frames)
    encoder = VideoEncoder(config, WIDTH).eval()
    encoder.load_state_dict(tensors["video"])
    assert not encoder.trunk.temporal_embed[:, published_frames:].any()
    clip = torch.randint(0, 256, (2, min(frames, published_frames), 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = published.video_forward(below("module.video_model.", state), config, clip)
        expected = expected @ state["module.vid_proj.0.weight"].T + state["module.vid_proj.0.bias"]
        assert_close(encoder(clip), expected)


def test_converted_text_weights_compute_distilbert(path):
    state = save_egovlp(path)
    encoder = TextEncoder(CONFIG.text, WIDTH).eval()
    encoder.load_state_dict(weights.convert(path, "egovlp", CONFIG)[0]["text"])
    reference = DistilBertModel(DISTILBERT).eval()
    trunk = below("module.text_model.", state)
    del trunk["embeddings.position_ids"]
    reference.load_state_dict(trunk)
    ids = torch.tensor([[2, 7, 8, 3, 0, 0], [2, 9, 10, 11, 12, 3]])
    with torch.no_grad():
        first = reference(ids, attention_mask=(ids > 0).long()).last_hidden_state[:, 0]
        expected = first.clamp(min=0) @ state["module.txt_proj.1.weight"].T + state["module.txt_proj.1.bias"]
        assert_close(encoder(ids), expected)


def test_lavilas_copy_gives_egovlps_weights_rounded_to_half_precision(path, tmp_path):
    state, renamed = save_egovlp(path), {}
    names = {"video_model": "visual", "text_model": "textual",
             "txt_proj": "text_projection", "vid_proj": "image_projection"}  # fmt: skip
    for name, tensor in state.items():
        name = name.removeprefix("module.")
        start = next(start for start in names if name.startswith(start))
        renamed[names[start] + name.removeprefix(start)] = tensor.half() if tensor.is_floating_point() else tensor
    renamed["logit_scale"] = torch.tensor(2.7)  # as LaViLa's own class writes it
    torch.save({"epoch": 0, "state_dict": renamed}, tmp_path / "lavila.pth")
    first, _ = weights.convert(path, "egovlp", CONFIG)
    second, card = weights.convert(tmp_path / "lavila.pth", "lavila", CONFIG)
    assert {m: set(t) for m, t in first.items()} == {m: set(t) for m, t in second.items()}
    for modality, tensors in first.items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(second[modality][name], tensor.half().float(), rtol=0, atol=0)
    assert "MIT" in card["licence"]


@pytest.mark.parametrize("modality", ["video", "text"])
def test_the_authors_checkpoints_have_audio_with_its_projection_and_a_second_modality(tmp_path, modality):
    state = audio_state() | (video_state(16) if modality == "video" else text_state())
    torch.save({"state_dict": parallel(state)}, tmp_path / "a.pth")
    tensors, _ = weights.convert(tmp_path / "a.pth", "soundingactions", CONFIG)
    assert set(tensors) == {"audio", modality}
    encoder = AudioEncoder(CONFIG.audio, WIDTH).eval()
    encoder.load_state_dict(tensors["audio"])
    clips = log_mels(2, 149, 128)
    norm, dense = ([state[f"audio_model.mlp_head.{i}.{kind}"] for kind in ("weight", "bias")] for i in (0, 1))
    with torch.no_grad():
        features = published.audio_features(below("audio_model.v.", state), CONFIG.audio, clips)
        features = torch.nn.functional.layer_norm(features, [DIM], *norm, 1e-5)
        assert_close(encoder(clips), features @ dense[0].T + dense[1])


def image_model():
    """timm's own distilled DeiT for 384 pixels, narrow."""
    made = VisionTransformerDistilled(img_size=384, patch_size=16, embed_dim=DIM, depth=DEPTH, num_heads=HEADS)
    return {name: tensor + random(*tensor.shape) for name, tensor in made.state_dict().items()}


@pytest.mark.parametrize("form", ["pth", "safetensors", "before torch 1.6"])
def test_an_image_model_becomes_an_audio_model_as_in_ast(tmp_path, form):
    state = image_model()
    path = tmp_path / ("deit.safetensors" if form == "safetensors" else "deit.pth")
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state}, path, _use_new_zipfile_serialization=form == "pth")
    tensors, card = weights.convert(path, "deit", CONFIG)
    ours = tensors["audio"]
    conv, grey = torch.nn.functional.conv2d, random(3, 1, 128, 149)
    found = conv(grey, ours["trunk.patch_embed.proj.weight"], stride=10)
    expected = conv(grey.expand(-1, 3, -1, -1), state["patch_embed.proj.weight"], stride=10)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    positions, before = ours["trunk.pos_embed"], state["pos_embed"]
    assert torch.equal(positions[:, :2], before[:, :2])
    for row, column in product(range(12), range(14)):
        assert torch.equal(positions[0, 2 + row * 14 + column], before[0, 2 + (6 + row) * 24 + 5 + column])
    untouched = set(state) - {"patch_embed.proj.weight", "pos_embed", *card["dropped"]}
    assert all(torch.equal(ours[f"trunk.{name}"], state[name]) for name in untouched)
    assert card["dropped"] == ["head.bias", "head.weight", "head_dist.bias", "head_dist.weight"]
    assert len(card["adapted"]) == 2
    assert not any(name.startswith("projection.") for name in ours)


def test_a_longer_axis_is_interpolated_linearly_between_patch_centres():
    embedding = random(1, 2 + 3 * 4, DIM)
    fitted = weights.fit_grid(embedding, (3, 4), (2, 10))
    grid = embedding[0, 2:].reshape(3, 4, DIM).numpy()
    centres = (np.arange(10) + 0.5) * 4 / 10 - 0.5
    for r, d in product((0, 1), range(DIM)):
        expected = np.interp(centres, np.arange(4), grid[r, :, d])
        np.testing.assert_allclose(fitted[0, 2:].reshape(2, 10, DIM)[r, :, d], expected, atol=1e-5)
    assert torch.equal(fitted[:, :2], embedding[:, :2])


def ast_state(positions):
    state = vit("v.", ["cls_token", "dist_token"], positions, 1) | norm("mlp_head.0") | dense("mlp_head.1", 527, DIM)
    return state | {f"v.{head}.{kind}": random(10) for head in ("head", "head_dist") for kind in ("weight", "bias")}


def test_an_ast_of_ten_seconds_keeps_the_middle_of_its_time_axis(tmp_path):
    state = ast_state(12 * 101)
    torch.save(parallel(state), tmp_path / "ast.pth")
    tensors, card = weights.convert(tmp_path / "ast.pth", "ast", CONFIG)
    grid = state["v.pos_embed"][:, 2:].reshape(12, 101, DIM)
    assert torch.equal(tensors["audio"]["trunk.pos_embed"][0, 2:].reshape(12, 14, DIM), grid[:, 43:57])
    heads = [f"module.mlp_head.{i}.{kind}" for i in (0, 1) for kind in ("bias", "weight")]
    assert [name for name in card["dropped"] if "mlp_head" in name] == heads
    assert list(card["adapted"]) == ["audio.trunk.pos_embed"]


@pytest.mark.parametrize("length", [149, 1024])
def test_a_converted_ast_computes_transformers_ast(tmp_path, length):
    audio = replace(CONFIG.audio, length=length)
    state, kind = ast_state(weights.patch_grid((128, length), 16, 10)[1] * 12), "ast"
    trunk = below("v.", state)
    if length == 149:  # AST itself never had this length: as the authors' it is taken as it is
        state, kind = {f"audio_model.v.{name}": tensor for name, tensor in trunk.items()}, "soundingactions"
    torch.save(parallel(state), tmp_path / "ast.pth")
    tensors, card = weights.convert(tmp_path / "ast.pth", kind, replace(CONFIG, audio=audio))
    assert card["adapted"] == {}
    assert_computes_ast(tensors["audio"], audio, trunk)


def ssast_state(patch=(16, 16)):
    """As after pretraining: no classifier of its own, ImageNet's heads and both predictors, sizes as numbers."""
    state = vit("v.", ["cls_token", "dist_token"], 128 // patch[0] * (1024 // patch[1]), 1)
    state["v.patch_embed.proj.weight"] = random(DIM, 1, *patch)
    state |= {"mask_embed": random(1, 1, DIM), "p_input_fdim": torch.tensor(128), "p_input_tdim": torch.tensor(1024)}
    for name in ("cpredlayer", "gpredlayer"):
        state |= dense(f"{name}.0", DIM, DIM) | dense(f"{name}.2", patch[0] * patch[1], DIM)
    return state | dense("v.head", 1000, DIM) | dense("v.head_dist", 1000, DIM)


def test_a_converted_ssast_computes_the_published_model_and_loads_into_the_encoder(tmp_path):
    state, audio = ssast_state(), AudioConfig(1024, 128, 16, 16, DIM, DEPTH, HEADS)
    torch.save(parallel(state), tmp_path / "ssast.pth")
    (file, _) = weights.write(tmp_path / "ssast.pth", "ssast", replace(CONFIG, audio=audio), tmp_path / "ssast")
    trunk, converted = below("v.", state), load_file(file)
    assert converted.keys() == {f"trunk.{name}" for name in trunk}
    assert all(torch.equal(converted[f"trunk.{name}"], tensor) for name, tensor in trunk.items())
    assert_computes_ast(converted, audio, trunk)


def test_an_ssast_is_adapted_from_the_input_size_in_its_file_and_one_of_frames_does_not_fit(tmp_path):
    torch.save(parallel(ssast_state((128, 2))), tmp_path / "ssast.pth")
    with pytest.raises(DataError, match=r"proj\.weight is \[24, 1, 128, 2\], not \[24, 1, 16, 16\]"):
        weights.convert(tmp_path / "ssast.pth", "ssast", CONFIG)
    state = ssast_state()
    torch.save(parallel(state), tmp_path / "ssast.pth")
    tensors, card = weights.convert(tmp_path / "ssast.pth", "ssast", CONFIG)
    assert len(tensors["audio"]) + len(card["dropped"]) == len(state)
    fitted = tensors["audio"]["trunk.pos_embed"]
    assert torch.equal(fitted, weights.fit_grid(state["v.pos_embed"], (8, 64), (12, 14)))
    assert fitted.shape == (1, 2 + 12 * 14, DIM)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [("video_model.norm.weight", None, r"model\.video: missing trunk\.norm\.weight"),
     ("text_model.embeddings.LayerNorm.bias", None, r"model\.text: missing trunk\.embeddings\.LayerNorm"),
     ("vid_proj.0.bias", None, r"missing projection\.0\.bias"),
     ("video_model.extra", torch.zeros(1), r"left over trunk\.extra"),
     ("smell_model.norm", torch.zeros(1), r"kind egovlp: it holds module\.smell_model\.norm"),
     ("video_model.norm.bias", torch.zeros(3), r"trunk\.norm\.bias is \[3\], not \[24\]"),
     ("video_model.norm.bias", torch.full((DIM,), torch.nan), r"not finite numbers: trunk\.norm\.bias")],
)  # fmt: skip
def test_every_tensor_is_accounted_for(path, name, tensor, message):
    save_egovlp(path, **{f"module.{name}": tensor})
    with pytest.raises(DataError, match=rf"egovlp\.pth.*{message}"):
        weights.convert(path, "egovlp", CONFIG)


def test_one_flipped_bit_anywhere_in_the_weights_is_noticed(path):
    save_egovlp(path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    with zipfile.ZipFile(path) as archive:
        parts = [part for part in archive.infolist() if "/data/" in part.filename]
    for part in rng.choice(np.array(parts, dtype=object), 12):
        header = 30 + int.from_bytes(whole[part.header_offset + 26 :][:2], "little")
        header += int.from_bytes(whole[part.header_offset + 28 :][:2], "little")
        at = part.header_offset + header + int(rng.integers(part.file_size))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << int(rng.integers(8))]) + whole[at + 1 :])
        with pytest.raises(
            DataError, match=rf"egovlp\.pth is damaged: its part {re.escape(part.filename)} has another"
        ):
            weights.convert(path, "egovlp", CONFIG)
    path.write_bytes(whole)
    weights.convert(path, "egovlp", CONFIG)


def test_a_configuration_in_a_file_of_the_old_format_is_named_and_not_called_dangerous(path):
    content = {"config": argparse.Namespace(lr=1), "state_dict": parallel(video_state() | text_state())}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    with pytest.raises(DataError, match=r"before 1\.6 and holds argparse\.Namespace, which is no tensor") as caught:
        weights.convert(path, "egovlp", CONFIG)
    assert "could run code" not in str(caught.value)
    torch.save(content, path)  # in today's format it is left out
    assert set(weights.convert(path, "egovlp", CONFIG)[0]) == {"video", "text"}


def test_a_tensor_that_is_there_twice_or_has_no_name_is_refused(path):
    state = save_egovlp(path)
    torch.save({**state, "video_model.norm.bias": torch.zeros(DIM)}, path)
    with pytest.raises(DataError, match=r"has video_model\.norm\.bias twice, with and without `module\.`"):
        weights.convert(path, "egovlp", CONFIG)
    torch.save({**state, 7: torch.zeros(1)}, path)
    with pytest.raises(DataError, match=r"a tensor called 7, which is no text"):
        weights.convert(path, "egovlp", CONFIG)


def test_another_kind_a_missing_and_a_truncated_file_are_errors_that_name_it(path):
    with pytest.raises(DataError, match=r"no weights at .*egovlp\.pth"):
        weights.convert(path, "egovlp", CONFIG)
    save_egovlp(path)
    with pytest.raises(DataError, match=r"not a checkpoint of kind lavila"):
        weights.convert(path, "lavila", CONFIG)
    with pytest.raises(ConfigError, match=r"no kind of weights 'clip'; known: egovlp"):
        weights.convert(path, "clip", CONFIG)
    for size in (path.stat().st_size // 2, 5000, 0):
        os.truncate(path, size)
        with pytest.raises(DataError, match=r"egovlp\.pth is damaged"):
            weights.convert(path, "egovlp", CONFIG)
    torch.save([1, 2], path)
    with pytest.raises(DataError, match=r"no state_dict"):
        weights.convert(path, "egovlp", CONFIG)


@pytest.mark.parametrize("name", list(bombs("")))
@pytest.mark.parametrize("form", ["zip", "before torch 1.6", "bare pickle"])
def test_code_in_a_checkpoint_never_runs(tmp_path, name, form):
    target, path = tmp_path / "written", tmp_path / "bomb.pth"
    content = {"config": bombs(target)[name], "state_dict": parallel(video_state() | text_state())}
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(content["config"], protocol=2))
        pickle.loads(path.read_bytes())
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
        torch.load(path, weights_only=False)
    assert target.exists()  # unsafe loading writes its file
    target.unlink()
    if form == "zip" and name in ("exec", "eval", "popen"):  # the calls are inert, and the tensors are read
        assert set(weights.convert(path, "egovlp", CONFIG)[0]) == {"video", "text"}
    else:
        refused = r"bomb\.pth (asks for [^<>]+, which could run code|is damaged|is of torch before 1\.6) ?.*; nothing"
        with pytest.raises(DataError, match=refused):
            weights.convert(path, "egovlp", CONFIG)
    assert not target.exists()


def test_the_command_writes_the_same_files_for_a_profile_each_time(path, tmp_path, mini_settings, monkeypatch, capsys):
    mini_settings["model"] = asdict(CONFIG)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(mini_settings))
    state = save_egovlp(path)
    monkeypatch.chdir(tmp_path)
    for out in ("a", "b"):
        assert cli.main(["weights", "convert", "--kind", "egovlp", "egovlp.pth", "--out", out]) == 0
    assert [*contents(Path("a"))] == ["card.json", "text.safetensors", "video.safetensors"]
    assert contents(Path("a")) == contents(Path("b"))
    assert torch.equal(load_file("a/video.safetensors")["trunk.cls_token"], state["module.video_model.cls_token"])
    card = json.loads(Path("a/card.json").read_text())
    assert (card["source"], len(card["sha256"])) == ("egovlp.pth", 64)
    assert card["mapped"]["video"]["tensors"] == len(load_file("a/video.safetensors"))
    assert "a/video.safetensors" in capsys.readouterr().out
    assert cli.main(["weights", "convert", "--kind", "deit", "egovlp.pth", "--out", "c"]) == 1
    assert capsys.readouterr().err.startswith("mc3: egovlp.pth")
    assert not Path("c").exists()


def test_converted_folders_join_to_a_checkpoint_that_computes_their_encoders(
    tmp_path, mini_settings, monkeypatch, capsys
):
    words = tokenizer.train(["washes a plate", "opens a door"], 30)
    (tmp_path / "words").mkdir()
    words.save(str(tmp_path / "words" / "tokenizer.json"))
    mini_settings["model"] = asdict(replace(CONFIG, text=replace(CONFIG.text, tokenizer="words", vocab_size=64)))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(mini_settings))
    monkeypatch.chdir(tmp_path)
    states = {"av": audio_state() | video_state(16), "al": audio_state() | text_state(), "deit": image_model()}
    states["al"]["text_model.embeddings.word_embeddings.weight"] = random(64, DIM)
    for name, state in states.items():
        torch.save(
            {"state_dict" if name != "deit" else "model": parallel(state) if name != "deit" else state}, f"{name}.pth"
        )
        kind = "deit" if name == "deit" else "soundingactions"
        assert cli.main(["weights", "convert", "--kind", kind, f"{name}.pth", "--out", name]) == 0
    assert cli.main(["weights", "join", "av", "al", "--out", "model"]) == 0
    assert "audio of av.pth" in capsys.readouterr().out
    model = mc3.load("model")
    assert "text of al.pth (soundingactions, not stated by its publisher" in model.about
    for modality, name in (("audio", "av"), ("video", "av"), ("text", "al")):
        known = load_file(f"{name}/{modality}.safetensors")
        own = model.encoders[modality].state_dict()
        assert all(torch.equal(own[key], tensor) for key, tensor in known.items())
        assert own.keys() == known.keys()
    assert model.embed(text="washes a plate", audio=(np.zeros(24000), 16000))["audio"].shape == (1, WIDTH)
    Path("cut").mkdir()
    Path("cut/audio.safetensors").write_bytes(Path("av/audio.safetensors").read_bytes())
    Path("cut/card.json").write_bytes(Path("av/card.json").read_bytes()[:40])
    for folders, message in (
        (["cut", "av", "al"], "cut/card.json is damaged"),
        (["av"], "no text.safetensors in av"),
        (["deit", "av", "al"], "deit/audio.safetensors has no"),
    ):
        assert cli.main(["weights", "join", *folders, "--out", "other"]) == 1
        assert message in capsys.readouterr().err
    assert cli.main(["weights", "convert", "av.pth", "--out", "other"]) == 1
    assert "takes one file and its --kind" in capsys.readouterr().err
    assert not Path("other").exists()
