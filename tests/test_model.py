import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from raw_files import contents
from safetensors.torch import load_file, save_file
from test_text import wordpiece

from mc3 import config, methods
from mc3.config import ModelConfig, build
from mc3.errors import ConfigError, DataError
from mc3.model import MC3

SIZES = {"dim": 16, "depth": 1, "heads": 2}
TINY = {
    "embedding_dim": 8,
    "video": {"frames": 2, "image_size": 32, "patch": 16, **SIZES},
    "audio": {"length": 48, "mel_bins": 32, "patch": 16, "stride": 16, **SIZES},
    "text": {"tokenizer": "train", "vocab_size": 20, "max_length": 6, "dropout": 0.0, **SIZES},
}


@pytest.fixture(scope="module")
def tokenizer():
    return wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cuts", "a", "carrot"])


def model(tokenizer, seed=0, **changes):
    torch.manual_seed(seed)
    return MC3(build(ModelConfig, {**TINY, **changes}), tokenizer).eval()


@pytest.fixture(scope="module")
def noisy(tokenizer):
    """A model whose every parameter, biases and norms too, is far from its initial value."""
    mc3 = model(tokenizer)
    with torch.no_grad():
        for parameter in mc3.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return mc3


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


def test_the_papers_configuration_has_the_published_sizes(tokenizer):
    with torch.device("meta"):  # shapes only
        mc3 = MC3(config.load(ROOT / "profiles" / "ego4d.yaml").model, tokenizer).eval()
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
    assert {name: tuple(e.shape) for name, e in embeddings.items()} == dict.fromkeys(methods.MODALITIES, (2, 256))


@pytest.mark.parametrize("autocast", [False, True])
def test_embeddings_are_float32_unit_vectors_of_the_modalities_given(tokenizer, autocast):
    mc3 = model(tokenizer)
    given = batch(mc3)
    for names in (["audio"], ["video", "text"], ["audio", "video", "text"]):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            embeddings = mc3({name: given[name] for name in [*names, "index"]})
        assert sorted(embeddings) == sorted(names)
        for embedding in embeddings.values():
            torch.testing.assert_close(embedding.norm(dim=1), torch.ones(3))  # of the same type


def test_every_parameter_learns(noisy):
    embeddings = noisy(batch(noisy))
    sum((e * torch.randn_like(e)).sum() for e in embeddings.values()).backward()
    assert [name for name, p in noisy.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_an_embedding_does_not_depend_on_the_other_samples(noisy):
    given = batch(noisy) | {"text": noisy.tokenize(["cuts a carrot", "a carrot", "cuts cuts"])}
    with torch.no_grad():
        together, alone = noisy(given), [noisy({m: x[i : i + 1] for m, x in given.items()}) for i in range(3)]
    for modality, embedding in together.items():
        each = torch.cat([one[modality] for one in alone])
        torch.testing.assert_close(embedding, each, atol=1e-6, rtol=1e-5)
        assert torch.pdist(each).min() > 1e-3


def test_the_types_of_storage_give_the_embeddings_of_the_same_values_in_float32(noisy):
    given = batch(noisy)
    assert (given["video"].dtype, given["audio"].dtype) == (torch.uint8, torch.float16)
    with torch.no_grad():
        for modality in ("video", "audio"):
            encoder = noisy.encoders[modality]
            assert torch.equal(encoder(given[modality]), encoder(given[modality].float()))


def test_attention_is_fused(noisy):
    assert all(block.attn.fused_attn for block in noisy.encoders["audio"].trunk.blocks)
    assert noisy.encoders["text"].trunk.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("modality", "fault"),
    [("video", {"image_size": 40}), ("video", {"dim": 25}), ("audio", {"dim": 25}), ("audio", {"length": 8}),
     ("text", {"dim": 25})],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_errors(tokenizer, modality, fault):
    with pytest.raises(ConfigError, match=rf"model\.{modality}\."):
        model(tokenizer, **{modality: TINY[modality] | fault})


def test_saving_twice_and_saving_what_was_loaded_give_the_same_bytes(tokenizer, tmp_path):
    mc3 = model(tokenizer)
    for name in ("a", "b"):
        mc3.save(tmp_path / name)
    loaded = MC3.load(tmp_path / "a")
    loaded.save(tmp_path / "c")
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")
    assert list(contents(tmp_path / "a")) == ["config.json", "model.safetensors", "tokenizer.json"]
    torch.testing.assert_close(loaded(batch(loaded)), mc3(batch(mc3)), rtol=0, atol=0)
    assert not loaded.training


def test_saving_replaces_a_checkpoint_and_leaves_nothing_else_behind(tokenizer, tmp_path):
    model(tokenizer, seed=0).save(tmp_path / "best")
    (tmp_path / "best" / "stale").touch()
    model(tokenizer, seed=1).save(tmp_path / "best")
    expected = model(tokenizer, seed=1).state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in load_file(tmp_path / "best" / "model.safetensors").items())
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert len(contents(tmp_path / "best")) == 3


def full_disk(*_args, **_kwargs):
    raise OSError("No space left on device")


def read_only_for_the_new(path, target, rename=Path.rename):
    if path.name == "new":
        raise OSError("Read-only file system")
    return rename(path, target)


@pytest.mark.parametrize(
    ("replaced", "fault"), [("mc3.model.save_file", full_disk), ("pathlib.Path.rename", read_only_for_the_new)]
)
def test_a_save_that_fails_keeps_the_old_checkpoint(tokenizer, tmp_path, monkeypatch, replaced, fault):
    model(tokenizer, seed=0).save(tmp_path / "best")
    before = contents(tmp_path / "best")
    monkeypatch.setattr(replaced, fault)
    with pytest.raises(OSError, match=r"No space left|Read-only"):
        model(tokenizer, seed=1).save(tmp_path / "best")
    assert contents(tmp_path / "best") == before
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_missing_checkpoint_is_one_sentence_with_the_remedy(tmp_path):
    with pytest.raises(DataError, match=r"^no checkpoint at .*mc3-3/final .*`mc3 train --method mc3 --seed 3`[^\n]*$"):
        MC3.load(tmp_path / "mc3-3" / "final")
    with pytest.raises(DataError, match=r"no checkpoint at .*elsewhere .*`dvc repro`"):
        MC3.load(tmp_path / "elsewhere")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_truncated_file_is_one_sentence_naming_the_checkpoint_and_the_remedy(tokenizer, tmp_path, name):
    folder = tmp_path / "align-0" / "final"
    model(tokenizer).save(folder)
    os.truncate(folder / name, (folder / name).stat().st_size - 100)
    remedy = "`mc3 train --method align --seed 0`"
    with pytest.raises(DataError, match=rf"^.*align-0/final/{name} is damaged.*{remedy}[^\n]*$"):
        MC3.load(folder)


def test_weights_that_do_not_fit_are_listed_by_name(tokenizer, tmp_path):
    folder = tmp_path / "a"
    model(tokenizer).save(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["extra"] = tensors.pop("encoders.video.trunk.norm.weight")
    tensors["encoders.audio.trunk.norm.bias"] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(DataError, match=r"missing encoders\.video\.trunk\.norm\.weight.*left over extra") as caught:
        MC3.load(folder)
    assert "encoders.audio.trunk.norm.bias is [3], not [16]" in str(caught.value)


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
    kept = {name: t for name, t in tensors.items() if with_projection or not name.startswith("projection.")}
    save_file(kept, tmp_path / "video.safetensors")
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
    message = r"audio\.safetensors does not fit.*projection\.0\.bias is \[32\], not \[16\];.* 14 more"
    with pytest.raises(DataError, match=message):
        mc3.init_from({"audio": tmp_path / "audio.safetensors"})
    with pytest.raises(ConfigError, match=r"unknown setting init\.smell"):
        mc3.init_from({"smell": None})


def run_python(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [("mc3.config, mc3.evaluate, mc3.methods, mc3.store", "torch transformers timm accelerate sklearn scipy"),
     ("mc3.train, mc3.embed, mc3.paper.probe",  # its encoders' libraries come with the first model
      "timm transformers torchvision torchaudio torch._dynamo scipy sklearn")],
)  # fmt: skip
def test_a_module_imports_without_the_heavy_libraries(modules, heavy):
    assert run_python(f"import sys, {modules}; print([m for m in {heavy.split()} if m in sys.modules])") == "[]"


def test_a_first_encoder_without_memory_leaves_the_libraries_usable():
    program = (
        "import numpy, torch; from mc3.config import TextConfig; from mc3.encoders.text import TextEncoder\n"
        "state = torch.random.get_rng_state()\n"
        f"with torch.device('meta'): TextEncoder(TextConfig(**{TINY['text']}), 8)\n"
        "from mc3.data.audio import fbank; print(fbank(numpy.zeros(400, numpy.float32)).shape)\n"
        "print(torch.equal(state, torch.random.get_rng_state()))"
    )
    assert run_python(program).split("\n") == ["(1, 128)", "True"]
