"""A step has the gradient of the whole batch: in microbatches, in several processes, with recomputed blocks."""

import functools
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path

import pytest
import small_training
import torch
from safetensors.torch import load_file, save_file
from small_training import SEED, configured, weights
from small_work import mini
from torch import Tensor

from mc3 import methods, objectives, train
from mc3.config import Config
from mc3.data import batches
from mc3.data.audio import fbank, log_mel
from mc3.data.shards import open_clips
from mc3.model import MC3, recompute

EVERY = ("ssast", *methods.METHODS, *methods.OTHERS)
# Of a gradient's norm: the effect of the order of sums at tau .05.
CLOSE = {torch.float32: 4e-6, torch.float64: 1e-12}


@pytest.fixture
def settings(settings: dict) -> dict:
    return coupled(settings)


def coupled(settings: dict) -> dict:
    settings["model"]["text"]["dropout"] = 0.0
    settings["loss"]["consensus"]["stop_gradient"] = False
    return settings


def gradients(config: Config, method: str, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Gradients of each stage's first step from the initial weights, and the loss and its parts, by stage and name."""
    trainer, found = small_training.trainer(config, method, dtype), {}
    model, accelerator = trainer.model, trainer.accelerator
    if config.train.recompute:
        recompute(model)
    for k in range(len(trainer.recipe.stages)):
        trainer.begin(k)
        model.zero_grad()
        prepared = accelerator.prepare_model(trainer.objective.module(model))
        batch = next(iter(trainer.loader(k)))
        parts = trainer.backward(k, 0, prepared, trainer.inputs(k, 0, batch))
        parts = {name: accelerator.reduce(part, "mean") for name, part in parts.items()}
        found |= {f"{k} {name}": p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        found |= {f"{k} parts {name}": part for name, part in parts.items()}
        accelerator.unwrap_model(prepared)
        accelerator.free_memory()
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory, shards: Path) -> Callable[..., dict[str, Tensor]]:
    """The gradients of the whole batch in one process, of a method in a type."""
    config = configured(coupled(small_training.settings(mini(tmp_path_factory.mktemp("whole") / "work"), shards)))
    return functools.cache(functools.partial(gradients, config))


def write_gradients(config: Config, folder: Path, of: Sequence[str] = EVERY) -> None:
    for method, dtype in [*((method, torch.float64) for method in of), ("wo_align", torch.float32)]:
        found = gradients(config, method, dtype)
        if torch.distributed.get_rank() == 0:
            save_file(found, folder / f"{method}-{dtype}.safetensors")


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    close = CLOSE[next(iter(expected.values())).dtype]
    for k in {name.split()[0] for name in expected}:
        names = [name for name in expected if name.startswith(f"{k} encoders")]
        a, b = (torch.cat([tensors[name].flatten() for name in names]) for tensors in (found, expected))
        assert b.norm() > 0
        assert (a - b).norm() <= close * b.norm()
    parts, wanted = ({name: x for name, x in tensors.items() if " parts " in name} for tensors in (found, expected))
    torch.testing.assert_close(parts, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("count", "size"), [(2, None), (3, 2)])
def test_several_processes_compute_the_gradient_of_one_for_every_method(settings, whole, tmp_path, count, size):
    small_training.processes(count, write_gradients, configured(settings, microbatch_size=size), tmp_path)
    for file in tmp_path.glob("*.safetensors"):
        found, method = load_file(file), file.stem.partition("-")[0]
        assert_same(found, whole(method, next(iter(found.values())).dtype))
    assert len(list(tmp_path.glob("*.safetensors"))) == len(EVERY) + 1


def test_the_whole_batch_distance_has_the_gradient_of_one_process_and_one_microbatch(settings, tmp_path):
    settings["loss"]["consensus"] |= {"distance": "frobenius", "inverse": "linear"}
    whole = {dtype: gradients(configured(settings), "wo_align", dtype) for dtype in CLOSE}
    assert_same(gradients(configured(settings, microbatch_size=5), "wo_align"), whole[torch.float64])
    small_training.processes(3, write_gradients, configured(settings, microbatch_size=2), tmp_path, ["wo_align"])
    for dtype in CLOSE:
        assert_same(load_file(tmp_path / f"wo_align-{dtype}.safetensors"), whole[dtype])


@pytest.mark.parametrize("method", EVERY)
def test_microbatches_give_the_gradient_of_the_whole_batch(settings, whole, method):
    for size, dtype in ((1, torch.float64), (5, torch.float32), (13, torch.float64)):
        assert_same(gradients(configured(settings, microbatch_size=size), method, dtype), whole(method, dtype))


def test_a_microbatch_as_large_as_the_batch_changes_nothing(settings, whole):
    for size in (14, 100):
        found = gradients(configured(settings, microbatch_size=size), "mc3")
        assert all(torch.equal(found[name], tensor) for name, tensor in whole("mc3", torch.float64).items())


def test_both_passes_over_a_microbatch_draw_the_same_dropout(settings):
    settings["model"]["text"]["dropout"] = 0.5
    config = configured(settings, microbatch_size=5)
    found = gradients(config, "mc3", torch.float32)
    # the reference: one graph through all microbatches, each with the dropout of its position
    trainer = small_training.trainer(config, "mc3")
    trainer.begin(0)
    model, stage = trainer.model, trainer.recipe.stages[0]
    inputs = trainer.inputs(0, 0, next(iter(trainer.loader(0))))
    parts = []
    for number in range(3):
        torch.manual_seed(batches.seed_of(SEED, 0, 0, 0, *[number] * (number > 0)))
        parts.append(model({m: tensor[5 * number :][:5] for m, tensor in inputs.items()}))
    embeddings = {m: torch.cat([part[m] for part in parts]) for m in stage.modalities}
    batch = objectives.Batch(inputs, [slice(14)], torch.arange(14), [14], SEED)
    objectives.Objective(config, stage)(embeddings, batch)[0].backward()
    found = {name: tensor for name, tensor in found.items() if " parts " not in name}
    assert_same(found, {f"0 {name}": p.grad for name, p in model.named_parameters()})
    # dropout is random: without the seeds the passes would differ
    assert not torch.equal(model({"text": inputs["text"]})["text"], model({"text": inputs["text"]})["text"])


@pytest.mark.parametrize("size", [None, 5])
def test_recomputing_blocks_changes_no_bit_even_with_dropout(settings, size):
    settings["model"]["text"]["dropout"] = 0.5
    for encoder in ("audio", "video", "text"):
        settings["model"][encoder]["depth"] = 2
    kept = gradients(configured(settings, microbatch_size=size), "wo_align")
    again = gradients(configured(settings, microbatch_size=size, recompute=True), "wo_align")
    assert kept.keys() == again.keys()
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_recomputing_blocks_halves_the_saved_activations(settings):
    for encoder in ("audio", "video", "text"):
        settings["model"][encoder] |= {"depth": 6}
    inputs = {"video": torch.zeros(8, 4, 32, 32, 3), "text": torch.ones(8, 16, dtype=torch.int64)}
    model = MC3.initial(configured(settings), SEED)
    kept = small_training.saved_bytes(lambda: model(inputs))
    recompute(model)
    assert small_training.saved_bytes(lambda: model(inputs)) < 0.5 * kept


@pytest.mark.parametrize("size", [None, 5])
@pytest.mark.parametrize("patterns", [["encoders.video.trunk.*", "*.text.*embeddings*"], ["encoders.video.*"]])
def test_frozen_parameters_get_no_gradient_and_the_others_the_same_one(settings, whole, patterns, size):
    everything = whole("mc3", torch.float64)
    found = gradients(configured(settings, microbatch_size=size, freeze=patterns), "mc3")
    frozen = {name for name in everything for pattern in patterns if fnmatch(name, f"0 {pattern}")}
    assert frozen
    torch.testing.assert_close(found, {name: everything[name] for name in everything.keys() - frozen})


def test_frozen_parameters_do_not_change_in_a_run(settings):
    config = configured(settings, freeze=["encoders.audio.trunk.blocks.*"])
    before = MC3.initial(config, SEED).state_dict()
    after = weights(train.run(config, "align", SEED))
    same = {name for name in after if torch.equal(before[name], after[name])}
    assert {name for name in after if name.startswith("encoders.audio.trunk.blocks.")} <= same
    assert "encoders.audio.projection.1.weight" not in same


def test_batched_log_mels_equal_those_of_single_clips():
    rng = torch.Generator().manual_seed(0)
    for rate, bins in ((16000, 128), (16000, 40), (8000, 64)):
        sound = torch.randn(5, int(1.5 * rate), generator=rng) / 10
        sound[1] = 0  # silence
        each = torch.stack([torch.from_numpy(fbank(one.numpy(), rate, bins)) for one in sound])
        torch.testing.assert_close(log_mel(sound.double(), rate, bins).float(), each, rtol=1e-6, atol=1e-6)
        # quiet bands of a loud clip lose digits in float32
        torch.testing.assert_close(log_mel(sound, rate, bins), each, rtol=1e-4, atol=1e-3)
    whole = (sound * 32768).round().clamp(-32768, 32767).to(torch.int16)
    torch.testing.assert_close(log_mel(whole, rate, bins), log_mel(whole.float() / 32768, rate, bins))


def test_log_mels_of_the_device_give_the_gradients_of_those_from_the_shards(settings):
    config = configured(settings)
    clips = open_clips(config, "train", MC3.initial(config, SEED).tokenizer, ("sound",))
    stored = {i: fbank(clips.waveform(i)[0] / 32768.0) for i in range(len(clips))}
    made = gradients(configured(settings, log_mel="device"), "clap")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mc3.data.shards.ClipDataset.fbank", lambda self, i: stored[i].astype("float32"))
        read = gradients(configured(settings), "clap")
    torch.testing.assert_close(made, read, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_compiled_encoders_reach_nearly_the_same_weights(settings):
    plain, compiled = (weights(train.run(configured(settings, compile=c), "align", SEED)) for c in (False, True))
    assert compiled.keys() == plain.keys()
    for name in plain:
        if not name.endswith(("qkv.bias", "k_lin.bias")):  # Adam turns rounding into steps, as with several processes
            torch.testing.assert_close(compiled[name], plain[name], rtol=1e-3, atol=2e-4, msg=name)
