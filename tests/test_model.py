import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from mc3.config import ModelConfig, build
from mc3.errors import ConfigError, DataError
from mc3.model import MC3

TINY = {
    "embedding_dim": 8,
    "video": {"frames": 2, "image_size": 32, "patch": 16, "dim": 16, "depth": 1, "heads": 2},
    "audio": {"length": 48, "mel_bins": 32, "patch": 16, "stride": 16, "dim": 16, "depth": 1, "heads": 2},
    "text": {
        "tokenizer": "train",
        "vocab_size": 20,
        "max_length": 6,
        "dim": 16,
        "depth": 1,
        "heads": 2,
        "dropout": 0.0,
    },
}
PAPER = {
    "embedding_dim": 256,
    "video": {"frames": 4, "image_size": 224, "patch": 16, "dim": 768, "depth": 12, "heads": 12},
    "audio": {"length": 149, "mel_bins": 128, "patch": 16, "stride": 10, "dim": 768, "depth": 12, "heads": 12},
    "text": {"tokenizer": "distilbert-base-uncased", "vocab_size": 30522, "max_length": 16, "dim": 768, "depth": 6,
             "heads": 12, "dropout": 0.1},
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cuts", "a", "carrot"])}
    made = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def model(tokenizer, seed=0, **changes):
    torch.manual_seed(seed)
    return MC3(build(ModelConfig, {**TINY, **changes}), tokenizer).eval()


def batch(mc3, size=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    video, audio = mc3.config.video, mc3.config.audio
    shape = (size, video.frames, video.image_size, video.image_size, 3)
    return {
        "video": torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng),
        "audio": (torch.randn(size, audio.length, audio.mel_bins, generator=rng) * 4.6 - 4.3).half(),
        "text": mc3.tokenize(["cuts a carrot"] * size),
        "index": torch.arange(size),
    }


def digest(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_the_papers_configuration_has_the_published_sizes(tokenizer):
    with torch.device("meta"):  # shapes only
        mc3 = MC3(build(ModelConfig, PAPER), tokenizer).eval()
    sizes = {name: sum(p.numel() for p in encoder.trunk.parameters()) for name, encoder in mc3.encoders.items()}
    # A ViT-B layer has 7,087,872 parameters; a time attention and its norm add 2,363,904.
    layer, time = 7_087_872, 2_363_904
    patches_rgb, patches_one, norm = 768 * 768 + 768, 256 * 768 + 768, 2 * 768
    assert sizes == {
        "video": 12 * (layer + time) + patches_rgb + norm + (1 + 197 + 4) * 768,
        "audio": 12 * layer + patches_one + norm + (2 + 170) * 768,
        "text": 66_362_880,  # distilbert-base-uncased
    }
    assert round(sizes["video"] / 1e6) == 114
    assert [p.shape for p in mc3.encoders["text"].projection.parameters()] == [(256, 768), (256,)]
    embeddings = mc3({name: tensor.to("meta") for name, tensor in batch(mc3, size=2).items()})
    assert {name: tuple(e.shape) for name, e in embeddings.items()} == dict.fromkeys(
        ("audio", "video", "text"), (2, 256)
    )


def test_the_papers_configuration_embeds_a_sample(tokenizer):
    mc3 = MC3(build(ModelConfig, PAPER), tokenizer).eval()
    with torch.inference_mode():
        embeddings = mc3(batch(mc3, size=1))
    for embedding in embeddings.values():
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(1))


def test_embeddings_are_unit_vectors_of_the_modalities_given(tokenizer):
    mc3 = model(tokenizer)
    given = batch(mc3)
    for names in (["audio"], ["video", "text"], ["audio", "video", "text"]):
        embeddings = mc3({name: given[name] for name in [*names, "index"]})
        assert sorted(embeddings) == sorted(names)
        for embedding in embeddings.values():
            torch.testing.assert_close(embedding.norm(dim=1), torch.ones(3))


def test_embeddings_are_float32_unit_vectors_under_autocast_too(tokenizer):
    mc3 = model(tokenizer)
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = mc3(batch(mc3))
    for embedding in embeddings.values():
        assert embedding.dtype == torch.float32
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(3))


def test_one_seed_makes_one_model(tokenizer):
    states = [model(tokenizer, seed).state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["encoders.video.trunk.cls_token"], states[2]["encoders.video.trunk.cls_token"])


def test_a_loaded_checkpoint_gives_the_bits_of_the_saved_one(tokenizer, tmp_path):
    mc3 = model(tokenizer)
    mc3.save(tmp_path / "a")
    loaded = MC3.load(tmp_path / "a")
    assert loaded.config == mc3.config
    assert not loaded.training
    ours, theirs = mc3(batch(mc3)), loaded(batch(loaded))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_saving_twice_and_saving_what_was_loaded_give_the_same_bytes(tokenizer, tmp_path):
    mc3 = model(tokenizer)
    for name in ("a", "b"):
        mc3.save(tmp_path / name)
    MC3.load(tmp_path / "a").save(tmp_path / "c")
    assert digest(tmp_path / "a") == digest(tmp_path / "b") == digest(tmp_path / "c")
    assert list(digest(tmp_path / "a")) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_saving_replaces_a_checkpoint_and_leaves_nothing_else_behind(tokenizer, tmp_path):
    model(tokenizer, seed=0).save(tmp_path / "best")
    (tmp_path / "best" / "stale").touch()
    model(tokenizer, seed=1).save(tmp_path / "best")
    expected = model(tokenizer, seed=1).state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in load_file(tmp_path / "best" / "model.safetensors").items())
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert len(digest(tmp_path / "best")) == 3


def test_a_save_that_fails_keeps_the_old_checkpoint(tokenizer, tmp_path, monkeypatch):
    model(tokenizer, seed=0).save(tmp_path / "best")
    before = digest(tmp_path / "best")

    def full_disk(*_args, **_kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("mc3.model.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        model(tokenizer, seed=1).save(tmp_path / "best")
    assert digest(tmp_path / "best") == before
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_checkpoint_that_cannot_be_moved_into_place_leaves_the_old_one(tokenizer, tmp_path, monkeypatch):
    model(tokenizer, seed=0).save(tmp_path / "best")
    before, rename = digest(tmp_path / "best"), Path.rename

    def fails_for_the_new(path, target):
        if path.name == "new":
            raise OSError("Read-only file system")
        return rename(path, target)

    monkeypatch.setattr("pathlib.Path.rename", fails_for_the_new)
    with pytest.raises(OSError, match="Read-only"):
        model(tokenizer, seed=1).save(tmp_path / "best")
    assert digest(tmp_path / "best") == before


def test_a_missing_checkpoint_is_one_sentence_with_the_remedy(tmp_path):
    with pytest.raises(
        DataError, match=r"no checkpoint at .*mc3-3/final .*`mc3 train --method mc3 --seed 3`"
    ) as caught:
        MC3.load(tmp_path / "mc3-3" / "final")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"no checkpoint at .*elsewhere .*`dvc repro`"):
        MC3.load(tmp_path / "elsewhere")


def test_a_truncated_checkpoint_is_one_sentence_naming_the_file(tokenizer, tmp_path):
    folder = tmp_path / "align-0" / "final"
    model(tokenizer).save(folder)
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size - 100)
    with pytest.raises(
        DataError, match=r"model\.safetensors is damaged.*`mc3 train --method align --seed 0`"
    ) as caught:
        MC3.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_other_damage_names_the_checkpoint(tokenizer, tmp_path, name):
    folder = tmp_path / "align-0" / "final"
    model(tokenizer).save(folder)
    os.truncate(folder / name, 20)
    with pytest.raises(DataError, match=r"align-0/final is damaged"):
        MC3.load(folder)


def test_weights_that_do_not_fit_are_listed_by_name(tokenizer, tmp_path):
    folder = tmp_path / "a"
    model(tokenizer).save(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["extra"] = tensors.pop("encoders.video.trunk.norm.weight")
    tensors["encoders.audio.trunk.norm.bias"] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(DataError) as caught:
        MC3.load(folder)
    for fault in (
        "missing encoders.video.trunk.norm.weight",
        "left over extra",
        "encoders.audio.trunk.norm.bias is [3], not [16]",
    ):
        assert fault in str(caught.value)


def test_a_checkpoint_is_self_contained(tokenizer, tmp_path):
    model(tokenizer).save(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert MC3.load(tmp_path / "there").tokenize(["a carrot cuts"]).tolist() == [[2, 5, 6, 4, 3, 0]]
    assert json.loads((tmp_path / "there" / "config.json").read_text()) == TINY


@pytest.mark.parametrize("with_projection", [True, False])
def test_initial_weights_are_loaded_by_modality(tokenizer, tmp_path, with_projection):
    source, mc3 = model(tokenizer, seed=1), model(tokenizer, seed=0)
    before = {name: tensor.clone() for name, tensor in mc3.state_dict().items()}
    tensors = source.encoders["video"].state_dict()
    if not with_projection:
        tensors = {name: t for name, t in tensors.items() if not name.startswith("projection.")}
    save_file(tensors, tmp_path / "video.safetensors")
    mc3.init_from({"video": tmp_path / "video.safetensors", "audio": None, "text": None})
    for name, tensor in mc3.state_dict().items():
        changed = name.startswith("encoders.video.") and (with_projection or ".projection." not in name)
        assert torch.equal(tensor, source.state_dict()[name] if changed else before[name])


def test_initial_weights_that_are_missing_or_of_another_size_are_errors(tokenizer, tmp_path):
    mc3 = model(tokenizer)
    with pytest.raises(DataError, match=r"no weights at .*gone\.safetensors; `mc3 weights convert`"):
        mc3.init_from({"audio": tmp_path / "gone.safetensors"})
    wider = model(tokenizer, audio={**TINY["audio"], "dim": 32}).encoders["audio"]
    save_file(wider.state_dict(), tmp_path / "audio.safetensors")
    with pytest.raises(
        DataError, match=r"audio\.safetensors does not fit.*projection\.0\.bias is \[32\], not \[16\];.* 14 more"
    ):
        mc3.init_from({"audio": tmp_path / "audio.safetensors"})
    with pytest.raises(ConfigError, match=r"unknown setting init\.smell"):
        mc3.init_from({"smell": None})


def test_the_default_profile_builds(tokenizer, request):
    settings = yaml.safe_load((request.config.rootpath / "profiles" / "mini.yaml").read_text())
    mc3 = MC3(build(ModelConfig, settings["model"]), tokenizer).eval()
    assert {name: e.shape for name, e in mc3(batch(mc3)).items()} == dict.fromkeys(("audio", "video", "text"), (3, 64))


def run_python(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_the_libraries_of_the_encoders_are_imported_with_the_first_model_only():
    heavy = ("timm", "transformers", "torchvision", "torchaudio", "torch._dynamo", "scipy", "sklearn")
    program = f"import sys, mc3.train, mc3.embed, mc3.paper.probe; print([m for m in {heavy} if m in sys.modules])"
    assert run_python(program) == "[]"


def test_a_first_encoder_without_memory_leaves_the_libraries_usable():
    program = (
        "import numpy, torch; from mc3.config import TextConfig; from mc3.encoders.text import TextEncoder\n"
        "state = torch.random.get_rng_state()\n"
        f"with torch.device('meta'): TextEncoder(TextConfig(**{TINY['text']}), 8)\n"
        "from mc3.data.audio import fbank; print(fbank(numpy.zeros(400, numpy.float32)).shape)\n"
        "print(torch.equal(state, torch.random.get_rng_state()))"
    )
    assert run_python(program).split("\n") == ["(1, 128)", "True"]
