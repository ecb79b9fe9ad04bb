"""EPIC-Sounds protocols: windows, recipe, what learns and what does not, and the files."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_work
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from mc3 import config, evaluate, methods, probe, train
from mc3.config import AudioConfig, ConfigError, ProbeRecipe
from mc3.data import DataError, tokenizer
from mc3.encoders.audio import FBANK_MEAN, AudioEncoder

CPU = torch.device("cpu")
RECIPE = ProbeRecipe(
    epochs=30,
    batch_size=32,
    learning_rate=1e-2,
    weight_decay=0.0,
    warmup_epochs=2,
    milestones=[10, 20],
    factors=[0.05, 0.01],
)
SMALL = AudioConfig(length=32, mel_bins=128, patch=16, stride=16, dim=16, depth=1, heads=2)


class Events:
    """Events of three classes, each loud in its own bands, of 20 to 80 frames; what the probes use of `ClipDataset`."""

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


def encoder(seed: int = 0) -> AudioEncoder:
    torch.manual_seed(seed)
    return AudioEncoder(SMALL, 8).eval()


@given(st.integers(1, 500), st.integers(1, 148), st.integers(1, 10))
def test_windows_lie_inside_the_event_from_its_begin_to_its_end(frames: int, length: int, views: int) -> None:
    starts = probe.window_starts(frames, length, views)
    if frames <= length:
        assert starts.tolist() == [0]
        return
    assert len(starts) == views
    assert 0 <= starts.min() <= starts.max() <= frames - length
    if views > 1:
        assert (starts[0], starts[-1]) == (0, frames - length)
        assert np.ptp(np.diff(starts)) <= 1
    else:
        assert abs((frames - length) - 2 * starts[0]) <= 1


def test_the_rate_rises_over_the_warm_up_and_falls_at_milestones() -> None:
    rates = [probe.learning_rate(RECIPE, epoch) for epoch in (0.5, 1, 2, 9.99, 10, 19.99, 20, 30)]
    assert rates == pytest.approx([0.0025, 0.005, 0.01, 0.01, 0.0005, 0.0005, 0.0001, 0.0001])
    assert probe.learning_rate(dataclasses.replace(RECIPE, warmup_epochs=0), 0.0) == 0.01


def test_spec_augment_fills_a_few_whole_bands_and_leaves_the_rest() -> None:
    fbank = torch.randn(64, 100, 128)
    masked = probe.spec_augment(fbank, 99.0, torch.Generator().manual_seed(0))
    hit = masked == 99.0
    torch.testing.assert_close(masked[~hit], fbank[~hit])
    bins, frames = hit.all(dim=1), hit.all(dim=2)
    assert torch.equal(hit, bins[:, None, :] | frames[:, :, None])
    assert 27 < int(bins.sum(dim=1).max()) <= 2 * 27
    assert 12 < int(frames.sum(dim=1).max()) <= 2 * 12
    assert torch.equal(masked, probe.spec_augment(fbank, 99.0, torch.Generator().manual_seed(0)))


def test_features_are_the_trunks_of_windows_cut_by_hand() -> None:
    events, one, two = Events(9, seed=1), encoder(1), encoder(2)
    found = probe.features({"one": one, "two": two}, events, 3, 4, CPU)
    assert found["one"].shape == (9, 3, SMALL.dim)
    for i in range(9):
        fbank = events[i]["audio"].float()
        for view in range(3):
            start = round(view / 2 * max(0, len(fbank) - 32))
            with torch.inference_mode():
                alone = two.features(fbank[None, start : start + 32])  # a short one is padded by the encoder itself
            np.testing.assert_allclose(found["two"][i, view], alone[0].numpy(), atol=1e-4)


def test_a_linear_probe_is_as_good_as_logistic_regression_and_sums_the_views() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 600)
    points = (2.0 * rng.normal(size=(5, 12)))[labels][:, None] + 2.5 * rng.normal(size=(600, 4, 12))
    points = points.astype(np.float32)
    scores = probe.linear_probe(points[:400], labels[:400], points[400:], 5, RECIPE, 0, CPU)
    regression = LogisticRegression(max_iter=1000).fit(points[:400].reshape(-1, 12), labels[:400].repeat(4))
    views = regression.predict_proba(points[400:].reshape(-1, 12)).reshape(200, 4, 5).sum(axis=1)
    ours, theirs = (evaluate.classification(s, labels[400:])["top1"] for s in (scores, views))
    assert ours == pytest.approx(theirs, abs=0.03)
    assert theirs > 0.7
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)


def test_fine_tuning_learns_the_sounds_and_moves_the_trunk_but_not_the_projection(mini_config: config.Config) -> None:
    recipe = dataclasses.replace(RECIPE, batch_size=16, milestones=[20, 25], learning_rate=5e-3)
    settings = dataclasses.replace(mini_config, probe=dataclasses.replace(mini_config.probe, finetune=recipe, views=2))
    learned, test = encoder(), Events(60, seed=3)
    before = {name: tensor.clone() for name, tensor in learned.state_dict().items()}
    scores = probe.finetune(learned, Events(96, seed=2), test, 3, settings, 0, CPU)
    truth = test.index["class_id"].to_numpy(dtype=int)
    assert evaluate.classification(scores, truth)["top1"] > 0.9
    moved = {name for name, tensor in learned.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if name.startswith("trunk.")}


def test_padding_is_what_normalising_maps_to_zero() -> None:
    window = probe._window(torch.zeros(5, 128, dtype=torch.float16), 2, 8)
    assert window.shape == (8, 128)
    assert window[3:].unique().tolist() == pytest.approx([FBANK_MEAN])
    assert window[:3].unique().tolist() == [0.0]


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty events and checkpoints of start weights, encoders of width 16."""
    params = small_work.make(tmp_path_factory.mktemp("probe") / "work", clips=8, events=60)
    settings = yaml.safe_load(params.read_text())
    settings["model"]["audio"] |= {"dim": 16, "depth": 1, "heads": 2}
    settings["probe"]["linear"] |= {"epochs": 2}
    settings["probe"]["finetune"] |= {"epochs": 1}
    settings["train"]["threads"] = 1
    params.write_text(yaml.safe_dump(settings))
    settings = config.load(params)
    shards = settings.paths.work / "shards"
    tokenizer.train(pd.read_parquet(shards / "index.parquet")["text"], 512).save(str(shards / "tokenizer.json"))
    for seed, name in enumerate(methods.METHODS, 1):
        train.initial(settings, seed).save(settings.paths.work / "checkpoints" / f"{name}-0" / "final")
    return params


def test_a_run_writes_every_methods_metrics_of_the_scores_beside_them_and_the_same_bytes_again(params: Path) -> None:
    settings = config.load(params)
    file = probe.run(settings, 0)
    bytes_of = [f.read_bytes() for f in (file, file.with_suffix(".safetensors"))]
    result, scores, events = probe.load(file), probe.load_scores(file), probe.events(settings)
    assert list(result["metrics"]["linear-probe"]) == ["untrained", *methods.METHODS]
    assert list(result["metrics"]["fine-tune"]) == ["untrained", *settings.probe.finetune_methods]
    assert scores["labels"].tolist() == events["class_id"].tolist()
    for protocol in ("linear-probe", "fine-tune"):
        for name, metrics in result["metrics"][protocol].items():
            assert metrics == evaluate.classification(scores[f"{protocol}/{name}"], scores["labels"])
    assert result["metrics"]["random"]["random"] == evaluate.random_classification(events["class_id"])
    assert (result["train_events"], result["test_events"]) == (30, 30)
    assert not np.array_equal(scores["linear-probe/mc3"], scores["linear-probe/untrained"])
    again = probe.run(settings, 0)
    assert [f.read_bytes() for f in (again, again.with_suffix(".safetensors"))] == bytes_of
    assert json.loads(bytes_of[0])["seed"] == 0


def test_a_method_to_fine_tune_that_does_not_exist_is_named(params: Path) -> None:
    settings = config.load(params)
    wrong = dataclasses.replace(settings, probe=dataclasses.replace(settings.probe, finetune_methods=["mc4"]))
    with pytest.raises(ConfigError, match=r"probe\.finetune_methods names 'mc4'"):
        probe.run(wrong, 0)


def test_missing_results_are_named_with_the_stage_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="dvc repro probe@3`"):
        probe.load(tmp_path / "3.json")
