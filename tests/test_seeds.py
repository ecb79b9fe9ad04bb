"""More seeds: only those that are missing are trained, the pipeline stays as it was, and the tables are over all."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_work
from conftest import ROOT
from safetensors.numpy import load_file, save_file

from mc3 import config, embed, methods, probe, seeds, trials
from mc3.config import Config
from mc3.data import DataError

METHODS = ("align", *methods.METHODS)


def digests(folder: Path) -> dict[str, str]:
    """Of all files of a work folder but those of other seeds."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and folder / "seeds" not in path.parents]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def pipeline(tmp_path, monkeypatch) -> Config:
    """The pipeline's results of seed 0, with the present folder as the repository's top."""
    settings = config.load(small_work.make(tmp_path / "top"))
    shutil.copy(ROOT / "requirements.lock", tmp_path / "top")
    monkeypatch.chdir(tmp_path / "top")
    monkeypatch.setattr(embed, "unchanged", lambda settings, name, seed: True)
    return settings


@pytest.fixture
def asked(pipeline, monkeypatch) -> list[str]:
    """What is trained and probed, in order; the results are seed 0's with some noise."""
    steps: list[str] = []

    def train(settings, name, seed, held):
        if trials.is_done(settings, f"{name}-{seed}", "as it is"):
            return
        steps.append(f"{name}-{seed}")
        rng = np.random.default_rng(seed)
        found = load_file(embed.path(settings, name, 0))
        noisy = {m: x + rng.normal(0, 0.3, x.shape).astype(np.float32) for m, x in found.items()}
        embed.path(settings, name, seed).parent.mkdir(parents=True, exist_ok=True)
        unit = {m: x / np.linalg.norm(x, axis=1, keepdims=True) for m, x in noisy.items()}
        save_file(unit, embed.path(settings, name, seed), {"method": name, "seed": str(seed), "inputs": "0"})
        trials.mark_done(settings, f"{name}-{seed}", "as it is")

    def classify(settings, seed):
        steps.append(f"probe-{seed}")
        result = json.loads(probe.path(settings, 0).read_text())
        result["metrics"]["fine-tune"]["mc3"]["top1"] += 0.01 * seed
        probe.path(settings, seed).write_text(json.dumps({**result, "seed": seed}))
        scores = load_file(probe.path(settings, 0).with_suffix(".safetensors"))
        save_file(scores, probe.path(settings, seed).with_suffix(".safetensors"))

    monkeypatch.setattr(trials, "embedded", train)
    monkeypatch.setattr(probe, "run", classify)
    return steps


def test_the_profiles_seed_is_not_trained_again_and_the_pipelines_files_stay(pipeline, asked):
    before = digests(pipeline.paths.work)
    seeds.run(pipeline, [0, 1, 2])
    assert asked == [f"{name}-{seed}" for seed in (1, 2) for name in (*METHODS, "probe")]
    assert digests(pipeline.paths.work) == before


def test_a_stopped_run_goes_on_and_a_whole_one_trains_nothing(pipeline, asked, monkeypatch):
    run = probe.run
    with monkeypatch.context() as patch:
        patch.setattr(probe, "run", lambda settings, seed: run(settings, seed) if seed < 2 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            seeds.run(pipeline, [0, 1, 2])
    asked.clear()
    seeds.run(pipeline, [0, 1, 2])
    assert asked == ["probe-2"]
    asked.clear()
    seeds.run(pipeline, [0, 1, 2])
    assert asked == []


def test_tables_have_the_mean_and_deviation_of_the_numbers_of_each_seed(pipeline, asked):
    found = seeds.run(pipeline, [0, 1, 2])
    each = pd.read_csv("figures/seeds/per_seed.csv")
    for stem, table in found.items():
        for row in table[table["seeds"] > 0].to_dict("records"):
            assert row["seeds"] == 3
            mine = each[(each["table"] == stem) & (each["method"] == row["method"])]
            if "protocol" in row:
                mine = mine[mine["protocol"] == row["protocol"]]
            for metric, values in mine.groupby("metric")["value"]:
                assert len(values) == 3
                assert row[metric] == pytest.approx(values.mean(), abs=1e-4)
                assert row[f"{metric}_std"] == pytest.approx(values.std(ddof=1), abs=1e-4)
    written = pd.read_csv("figures/seeds/table2_discovery.csv")
    assert (written.loc[written["method"] == "mc3", "av_roc_std"] > 0).all()
    assert Path("figures/seeds/overview.png").exists()
    assert Path("figures/seeds/differences.png").exists()
    apart = pd.read_csv("figures/seeds/differences.csv")
    means = written.set_index("method")["av_roc"]
    for row in apart[apart["metric"] == "av_roc"].to_dict("records"):
        assert row["seeds"] == 3
        assert row["difference"] == pytest.approx(means["mc3"] - means[row["method"]], abs=1e-4)
        assert row["low"] <= row["difference"] <= row["high"]
    judged = pd.read_csv("figures/seeds/claims.csv")
    assert (judged["seeds"] == 3).all()
    assert {"holds", "does not hold", "undecided"} & set(judged["verdict"])
    about = json.loads(Path("figures/seeds.provenance.json").read_text())
    assert about["settings"]["seeds"] == [0, 1, 2]


def test_results_that_are_out_of_date_are_not_mixed_with_new_ones(pipeline, monkeypatch):
    monkeypatch.setattr(embed, "unchanged", lambda settings, name, seed: name != "cmc")
    with pytest.raises(DataError, match=r"cmc-0 are not up to date; `make repro` makes them"):
        seeds.run(pipeline, [0, 1])
