"""The submission, read back as the challenge's organisers describe it, for the published list of test events."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from raw_files import TIMES_HEADER

from mc3 import cli, store
from mc3.config import Config, override
from mc3.data.clip_table import COLUMNS
from mc3.data.shards import PLACES
from mc3.errors import ConfigError, DataError
from mc3.extra import submission

LEVELS = {"sls_pt": 2, "sls_tl": 3, "sls_td": 3, "t_mod": 0}


def scored(config: Config, ids: list[str], scores: np.ndarray) -> None:
    """Write the index and the probe scores of the test events `ids`, as shards and probe do."""
    others = {name: "" if kind == "str" else 0 for name, kind in {**COLUMNS, **PLACES}.items()}
    index = pd.DataFrame({**others, "clip_id": ids, "dataset": "epic_sounds", "split": "test"})
    config.paths.shards.mkdir(parents=True)
    index.to_parquet(config.paths.shards / "index.parquet")
    tensors = {"linear-probe/mc3": scores[:2], "test/linear-probe/mc3": scores, "labels": np.zeros(2, np.int64)}
    store.write_tensors(config.paths.probe_scores(0), tensors, {"seed": "0"})


@pytest.fixture
def real(mini_config: Config, shared_data: Path) -> tuple[Config, list[str], np.ndarray]:
    file = shared_data / "annotations" / "epic_sounds" / "EPIC_Sounds_recognition_test_timestamps.csv"
    ids = pd.read_csv(file)["annotation_id"].tolist()
    scores = np.random.default_rng(0).random((len(ids), 44), dtype=np.float32)
    config = override(mini_config, {"epic_sounds.annotations.test": str(file.resolve())})
    scored(config, ids[::-1], scores)  # the shards are in another order than the annotations
    return config, ids, scores


def test_all_published_test_events_are_in_the_file_once_with_44_scores_and_the_bytes_repeat(real, tmp_path) -> None:
    config, ids, scores = real
    assert len(ids) == 5131
    first = submission.write(config, "mc3", 0, "linear-probe", LEVELS, tmp_path / "a.zip").read_bytes()
    assert submission.write(config, "mc3", 0, "linear-probe", LEVELS, tmp_path / "b.zip").read_bytes() == first
    with zipfile.ZipFile(io.BytesIO(first)) as file:
        assert file.namelist() == ["test.json"]
        content = json.loads(file.read("test.json"))
    results = content.pop("results")
    assert content == {"version": "0.1", "challenge": "audio_based_interaction_recognition", **LEVELS}
    assert sorted(results) == sorted(ids)
    for name, own in zip(ids[::-1], scores.tolist(), strict=True):
        assert list(results[name]) == ["interaction"]
        assert list(results[name]["interaction"].items()) == [(str(number), score) for number, score in enumerate(own)]


def test_events_without_scores_are_counted_and_named(mini_config: Config, tmp_path: Path) -> None:
    file = tmp_path / "test.csv"
    rows = [f"P01_1_{i},P01,P01_1,00:00:01.000,00:00:02.000,24000,48000" for i in "01"]
    file.write_text("\n".join([TIMES_HEADER, *rows]))
    config = override(mini_config, {"epic_sounds.annotations.test": str(file)})
    scored(config, ["P01_1_0"], np.zeros((1, 44), np.float32))
    for own, protocol, message in (
        (config, "linear-probe", r"1 of 2 events of .*test\.csv have no scores, such as P01_1_1"),
        (config, "fine-tune", r"no test scores fine-tune/mc3 of seed 0; there are linear-probe/mc3"),
        (mini_config, "linear-probe", "has no `test`"),
    ):
        with pytest.raises((DataError, ConfigError), match=message):
            submission.write(own, "mc3", 0, protocol, LEVELS, tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


@pytest.mark.parametrize("name", LEVELS)
def test_a_level_outside_its_scale_is_refused_with_the_scale(name: str) -> None:
    for wrong in (-1, submission.LEVELS[name] + 1, None):
        with pytest.raises(ConfigError, match=rf"{name} is 0\.\.\d, not {wrong}; "):
            submission.content(["a"], np.zeros((1, 44)), {**LEVELS, name: wrong})


@pytest.mark.parametrize(
    ("ids", "scores"), [(["a"], np.zeros((1, 43))), (["a", "a"], np.zeros((2, 44))), (["a"], np.full((1, 44), np.nan))]
)
def test_scores_that_the_challenge_would_not_take_are_refused(ids: list[str], scores: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"44 classes|finite and of each event once"):
        submission.content(ids, scores, LEVELS)


def test_the_command_declares_every_level_and_its_defaults_are_valid() -> None:
    args = cli.parser().parse_args(["submission", "--method", "mc3", "--seed", "0", "--out", "a.zip"])
    levels = {name: getattr(args, name) for name in submission.LEVELS}
    assert submission.content(["a"], np.zeros((1, 44)), levels)["challenge"] == submission.CHALLENGE
