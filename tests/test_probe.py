"""EPIC-Sounds protocols: windows, recipe, which parameters learn, and the files."""

import dataclasses
import json
import signal
import subprocess
import sys
import tracemalloc
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_work
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression

from mc3 import config, evaluate, methods, store
from mc3.config import AudioConfig, ProbeRecipe
from mc3.data.epic_views import AstViews
from mc3.encoders.audio import AudioEncoder
from mc3.errors import ConfigError, DataError
from mc3.paper import probe

CPU = torch.device("cpu")
RECIPE = ProbeRecipe(epochs=30, batch_size=32, learning_rate=1e-2, weight_decay=0.0, warmup_epochs=2,
                     milestones=[10, 20], factors=[0.05, 0.01])  # fmt: skip
SMALL = AudioConfig(length=32, mel_bins=128, patch=16, stride=16, dim=16, depth=1, heads=2)


class Events:
    """Stand-in for `ClipDataset`: events of 20 to 80 frames in three classes, each loud in its own bands."""

    def __init__(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.index = pd.DataFrame({"class_id": pd.array(rng.integers(0, 3, n), dtype="Int16")})
        self.fbanks = []
        for label in self.index["class_id"]:
            fbank = rng.normal(-9, 1, (rng.integers(20, 81), 128))
            fbank[:, 40 * label : 40 * label + 40] += 6
            self.fbanks.append(torch.from_numpy(fbank.astype(np.float16)))

    def __len__(self) -> int:
        return len(self.fbanks)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"audio": self.fbanks[i]}


def views(n: int, seed: int) -> AstViews:
    return AstViews(Events(n, seed), SMALL.length)


def encoder(seed: int = 0) -> AudioEncoder:
    torch.manual_seed(seed)
    return AudioEncoder(SMALL, 8).eval()


def changed(before: torch.nn.Module, after: torch.nn.Module) -> set[str]:
    """The names of the parameters in which two modules differ."""
    other = after.state_dict()
    return {name for name, tensor in before.state_dict().items() if not torch.equal(tensor, other[name])}


def test_spec_augment_fills_a_few_whole_bands_and_leaves_the_rest() -> None:
    fbank = torch.randn(64, 100, 128)
    masked = probe.spec_augment(fbank, 99.0, 12, torch.Generator().manual_seed(0))
    hit = masked == 99.0
    torch.testing.assert_close(masked[~hit], fbank[~hit])
    bins, frames = hit.all(dim=1), hit.all(dim=2)
    assert torch.equal(hit, bins[:, None, :] | frames[:, :, None])
    assert 27 < int(bins.sum(dim=1).max()) <= 2 * 27
    assert 12 < int(frames.sum(dim=1).max()) <= 2 * 12
    assert torch.equal(masked, probe.spec_augment(fbank, 99.0, 12, torch.Generator().manual_seed(0)))


def test_features_are_the_trunk_outputs_of_windows_cut_by_hand() -> None:
    events, one, two = Events(9, seed=1), encoder(1), encoder(2)
    found = probe.features({"one": one, "two": two}, AstViews(events, 32), 3, 4, CPU)
    assert found["one"].shape == (9, 3, SMALL.dim)
    for i in range(9):
        fbank = events[i]["audio"].float()
        for view in range(3):
            start = round(view / 2 * max(0, len(fbank) - 32))
            with torch.inference_mode():
                alone = two.features(fbank[None, start : start + 32])  # a short one is padded by the encoder itself
            np.testing.assert_allclose(found["two"][i, view], alone[0].numpy(), atol=1e-4)


class Wide:
    """Stand-in for an encoder whose outputs take more memory than anything else."""

    config = types.SimpleNamespace(dim=4096)

    def features(self, fbank: torch.Tensor) -> torch.Tensor:
        return fbank.mean(dim=(1, 2))[:, None].expand(-1, 4096)


def test_features_on_disk_stay_out_of_memory_and_are_the_same(tmp_path: Path) -> None:
    events, wide = views(300, seed=4), {"a": Wide(), "b": Wide()}
    tracemalloc.start()
    found = probe.features(wide, events, 5, 10, CPU, tmp_path)
    head = probe.linear_probe(found["a"], np.zeros(300, np.int64), 2, dataclasses.replace(RECIPE, epochs=2), 0, CPU)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(array.nbytes for array in found.values()) > 49e6
    assert peak < 8e6
    assert head.weight.shape == (2, 4096)
    np.testing.assert_array_equal(found["b"], probe.features({"b": Wide()}, events, 5, 10, CPU)["b"])


KILLED = """
import os, signal, sys
from pathlib import Path
from test_probe import CPU, Wide, probe, views

found = probe.features({"": Wide()}, views(20, seed=4), 5, 10, CPU, Path(sys.argv[1]))
assert found[""].any() and found[""].nbytes > 1e6
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_probe_leaves_no_features_on_disk(tmp_path: Path) -> None:
    child = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parent)
    assert child.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_a_linear_probe_is_as_good_as_logistic_regression_and_averages_the_views() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 600)
    points = (2.0 * rng.normal(size=(5, 12)))[labels][:, None] + 2.5 * rng.normal(size=(600, 4, 12))
    points = points.astype(np.float32)
    scores = probe.probabilities(probe.linear_probe(points[:400], labels[:400], 5, RECIPE, 0, CPU), points[400:], CPU)
    regression = LogisticRegression(max_iter=1000).fit(points[:400].reshape(-1, 12), labels[:400].repeat(4))
    views = regression.predict_proba(points[400:].reshape(-1, 12)).reshape(200, 4, 5).sum(axis=1)
    ours, theirs = (evaluate.classification(s, labels[400:])["top1"] for s in (scores, views))
    assert ours == pytest.approx(theirs, abs=0.03)
    assert theirs > 0.7
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6))
def test_the_score_of_an_event_is_the_mean_of_its_views_class_probabilities(seed: int, count: int) -> None:
    found = np.random.default_rng(seed).normal(size=(3, count, 4)).astype(np.float32)
    torch.manual_seed(seed)
    head = torch.nn.Linear(4, 6)
    weight, bias = (parameter.detach().numpy() for parameter in head.parameters())
    exponentials = np.exp(found @ weight.T + bias)
    expected = (exponentials / exponentials.sum(axis=2, keepdims=True)).mean(axis=1)
    half_a_digit = 0.5e-5  # probabilities are stored to five decimals
    np.testing.assert_allclose(probe.probabilities(head, found, CPU), expected, rtol=1e-4, atol=half_a_digit)


def test_rates_rise_over_the_warm_up_and_fall_at_milestones_by_the_recipe_of_epic_sounds_ssast_in_ego4d() -> None:
    settings = config.load(small_work.ROOT / "profiles" / "ego4d.yaml").probe
    for recipe in (settings.linear, settings.official, settings.finetune):
        assert (recipe.epochs, recipe.batch_size, recipe.weight_decay, settings.views) == (30, 128, 1e-4, 5)
        rates = [probe.learning_rate(recipe, epoch) for epoch in (0, 0.5, 1, 2, 9.99, 10, 19.99, 20, 30)]
        assert rates == pytest.approx([0, 2.5e-5, 5e-5, 1e-4, 1e-4, 5e-6, 5e-6, 1e-6, 1e-6])
    assert probe.learning_rate(dataclasses.replace(RECIPE, warmup_epochs=0), 0.0) == 0.01


def test_fine_tuning_learns_the_sounds_and_changes_the_trunk_but_not_the_projection() -> None:
    recipe = dataclasses.replace(RECIPE, batch_size=16, milestones=[20, 25], learning_rate=5e-3)
    learned, test = encoder(), Events(60, seed=3)
    head = probe.adapt(store.FINETUNE, learned, views(96, seed=2), 3, recipe, 0, CPU)
    scores = probe.probabilities(head, probe.features({"": learned}, AstViews(test, 32), 2, 256, CPU)[""], CPU)
    truth = test.index["class_id"].to_numpy(dtype=int)
    assert evaluate.classification(scores, truth)["top1"] > 0.9
    assert changed(encoder(), learned) == {name for name in learned.state_dict() if name.startswith("trunk.")}


def test_the_official_linear_probe_changes_positions_class_token_and_head_and_nothing_else() -> None:
    learned = encoder()
    recipe = dataclasses.replace(RECIPE, epochs=3, milestones=[1, 2])
    head = probe.adapt(store.OFFICIAL, learned, views(64, seed=2), 3, recipe, 0, CPU)
    assert [type(layer).__name__ for layer in head] == ["LayerNorm", "Linear"]
    torch.manual_seed(0)
    fresh = torch.nn.Sequential(torch.nn.LayerNorm(SMALL.dim), torch.nn.Linear(SMALL.dim, 3))
    assert changed(fresh, head) == fresh.state_dict().keys()
    assert changed(encoder(), learned) == {"trunk.pos_embed", "trunk.cls_token"}


def test_the_linear_probe_leaves_the_encoder_unchanged() -> None:
    learned, events = encoder(), views(20, seed=2)
    found = probe.features({"": learned}, events, 2, 8, CPU)[""]
    head = probe.linear_probe(found, events.index["class_id"].to_numpy(dtype=np.int64), 3, RECIPE, 0, CPU)
    assert [name for name, _ in head.named_parameters()] == ["weight", "bias"]
    assert changed(encoder(), learned) == set()


@pytest.mark.parametrize("frames", [20, 48, 400])
def test_an_encoder_resized_to_other_inputs_differs_in_its_position_grid_alone(frames: int) -> None:
    own = encoder()
    longer = probe.resize_input(own, frames)
    assert probe.resize_input(own, SMALL.length) is own
    assert changed(own, longer) == {"trunk.pos_embed"}
    places = own.trunk.pos_embed.detach(), longer.trunk.pos_embed.detach()
    grids = [place[:, 2:].unflatten(1, (8, -1)) for place in places]  # 8 rows of 16 bins
    assert grids[1].shape[2] == (frames - 16) // 16 + 1
    if frames > SMALL.length:  # linear between the old columns, whose mean it keeps
        torch.testing.assert_close(grids[1].mean(2), grids[0].mean(2), atol=1e-5, rtol=1e-4)
    assert torch.equal(places[0][:, :2], places[1][:, :2])
    assert longer.features(torch.zeros(1, frames, 128)).shape == (1, SMALL.dim)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> config.Config:
    """Sixty events, and checkpoints of initial weights of several seeds, encoders of width 16."""
    params = small_work.make(tmp_path_factory.mktemp("probe") / "work", clips=8, events=60)
    settings = small_work.tiny(yaml.safe_load(params.read_text()))
    for recipe, epochs in (("linear", 2), ("official", 1), ("finetune", 1)):
        settings["probe"][recipe]["epochs"] = epochs
    settings = config.build(config.Config, settings)
    small_work.initial(settings, ["ssast", *methods.METHODS])
    return settings


def test_a_run_writes_metrics_that_follow_from_its_scores_and_the_same_bytes_again(work: config.Config) -> None:
    file = probe.run(work, 0)
    bytes_of = [f.read_bytes() for f in (file, file.with_suffix(".safetensors"))]
    result, scores, events = store.probe_metrics(work, 0), store.probe_scores(work, 0), store.events(work)
    probed = [name for name, entry in methods.METHODS.items() if entry.get("role") != "later"]
    assert list(result["metrics"]["linear-probe"]) == ["ssast", "untrained", *probed]
    assert list(result["metrics"]["linear-probe-official"]) == work.probe.official_methods
    assert list(result["metrics"]["fine-tune"]) == ["untrained", *work.probe.finetune_methods]
    assert scores["labels"].tolist() == events["class_id"].tolist()
    for protocol in ("linear-probe", "linear-probe-official", "fine-tune"):
        for name, metrics in result["metrics"][protocol].items():
            assert metrics == evaluate.classification(scores[f"{protocol}/{name}"], scores["labels"])
    assert result["metrics"]["random"]["random"] == evaluate.random_classification(events["class_id"])
    assert (result["train_events"], result["test_events"]) == (30, 30)
    assert not np.array_equal(scores["linear-probe/mc3"], scores["linear-probe/untrained"])
    again = probe.run(work, 0)
    assert [f.read_bytes() for f in (again, again.with_suffix(".safetensors"))] == bytes_of
    assert json.loads(bytes_of[0])["seed"] == 0


def test_test_events_are_scored_beside_the_validation_events_whose_scores_stay_the_same(work: config.Config) -> None:
    probe.run(work, 0)
    before = store.probe_scores(work, 0)
    file = work.paths.shards / "index.parquet"
    index = pd.read_parquet(file)
    more = index[(index["dataset"] == "epic_sounds") & (index["split"] == "validation")][::-1].assign(split="test")
    more["clip_id"], more["class_id"] = more["clip_id"] + "_t", pd.array([None] * len(more), dtype="Int16")
    pd.concat([index, more]).to_parquet(file)
    probe.run(config.override(work, {"epic_sounds.annotations.test": "test.csv"}), 0)
    index.to_parquet(file)
    assert store.probe_metrics(work, 0)["test_events"] == 30
    scores, on_test = store.probe_scores(work, 0), store.probe_scores(work, 0, "test")
    assert scores.keys() == before.keys()
    assert all(np.array_equal(scores[key], before[key]) for key in before)
    assert on_test.keys() == before.keys() - {"labels"}
    for key, values in on_test.items():
        np.testing.assert_allclose(values, scores[key][::-1], atol=1e-6)  # the same sounds in reverse order


def test_an_ssast_is_probed_from_its_training_or_a_converted_file_or_not_at_all(work, tmp_path: Path) -> None:
    settings = config.override(work, {"probe.finetune_methods": ["ssast"]})
    probe.run(settings, 0)
    trained = store.probe_scores(settings, 0)
    weights = load_file(settings.paths.final("ssast", 0) / "model.safetensors")
    start, converted = "encoders.audio.trunk.", tmp_path / "audio.safetensors"
    trunk = {n.removeprefix("encoders.audio."): tensor for n, tensor in weights.items() if n.startswith(start)}
    save_file(trunk, converted)
    probe.run(config.override(settings, {"probe.ssast": str(converted)}), 0)
    read = store.probe_scores(settings, 0)
    assert read.keys() == trained.keys() >= {"linear-probe/ssast", "fine-tune/ssast"}
    assert all(np.array_equal(read[key], trained[key]) for key in trained)
    probe.run(config.override(settings, {"probe.ssast": None}), 0)
    without = store.probe_scores(settings, 0)
    assert trained.keys() - without.keys() == {"linear-probe/ssast", "fine-tune/ssast"}
    assert all(np.array_equal(without[key], trained[key]) for key in without)
    with pytest.raises(DataError, match=r"no weights at .*none\.safetensors; `mc3 weights convert` makes it"):
        probe.run(config.override(settings, {"probe.ssast": str(tmp_path / "none.safetensors")}), 0)


@pytest.mark.parametrize("setting", ["official_methods", "finetune_methods"])
def test_a_method_that_does_not_exist_is_named(work: config.Config, setting: str) -> None:
    with pytest.raises(ConfigError, match=rf"probe\.{setting} names 'mc4'"):
        probe.run(config.override(work, {f"probe.{setting}": ["mc4"]}), 0)
