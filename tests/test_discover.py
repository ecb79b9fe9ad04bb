"""`mc3 discover`: windows of a user's video with their audio-video similarity, and a column for each text."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from raw_files import clicks, write_media
from scipy.stats import kstest
from small_work import unit

from mc3.config import Config
from mc3.data import tokenizer
from mc3.data.audio import fbank
from mc3.data.media import clips_of
from mc3.discover import COLUMNS, calibrate, moments, peaks
from mc3.errors import ConfigError, DataError
from mc3.model import MC3

SECONDS, RATE = 10.0, 16000


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sound = clicks(SECONDS, np.arange(0.7, SECONDS, 1.3), RATE)
    return write_media(tmp_path_factory.mktemp("media") / "video.mp4", SECONDS, sound=sound)


@pytest.fixture
def model(mini_config: Config) -> MC3:
    torch.manual_seed(0)
    return MC3(mini_config.model, tokenizer.train(["washes a plate", "similarity"], 512)).eval()


def test_similarities_are_those_of_the_windows_embedded_one_by_one(model: MC3, video: Path) -> None:
    table = moments(model, video, every_sec=2.0, texts=["washes a plate"])
    assert list(table) == [*COLUMNS, "text: washes a plate"]
    assert table["start_sec"].tolist() == [0.0, 2.0, 4.0, 6.0, 8.0]
    with torch.inference_mode():
        text = model({"text": model.tokenize(["washes a plate"])})["text"][0]
        for row in table.itertuples(index=False):
            (clip,) = clips_of(video, [(row.start_sec, row.end_sec)], 4, model.config.video.image_size, RATE)
            inputs = {"video": torch.tensor(clip.frames), "audio": torch.tensor(fbank(clip.waveform, mel_bins=64))}
            x = {m: model({m: one[None]})[m][0] for m, one in inputs.items()}
            assert row.similarity == pytest.approx(float(x["audio"] @ x["video"]), abs=1e-5)
            assert row[6] == pytest.approx(float(x["audio"] @ text), abs=1e-5)


def test_no_text_replaces_a_column_of_the_table_and_a_repeated_one_makes_one(model: MC3, video: Path) -> None:
    names = [*COLUMNS, "text: similarity"]
    plain, table = moments(model, video), moments(model, video, texts=[*names, names[1]])
    assert list(table) == [*COLUMNS, *(f"text: {name}" for name in names)]
    pd.testing.assert_frame_equal(table[list(plain)], plain, check_exact=True)


@given(st.integers(0, 10_000), st.integers(2, 40), st.sampled_from([0.5, 0.75, 2.0]))
def test_z_and_p_equal_a_loop_over_re_paired_windows(seed: int, n: int, every: float) -> None:
    rng = np.random.default_rng(seed)
    audio, video = (unit(rng.normal(size=(n, 6))) for _ in range(2))
    starts = every * np.arange(n)
    z, p = calibrate(audio, video, starts, 1.5)
    a, v = audio - audio.mean(axis=0), video - video.mean(axis=0)
    known = [
        [float(a[t] @ v[s]) for s in range(n) if abs(starts[s] - starts[t]) >= 1.5]
        + [float(v[t] @ a[s]) for s in range(n) if abs(starts[s] - starts[t]) >= 1.5]
        for t in range(n)
    ]
    every = np.concatenate([*known, np.empty(0)])
    for t in range(n):
        if len(known[t]) < 20:
            assert np.isnan([z[t], p[t]]).all()
            continue
        own = float((a[t] * v[t]).sum())
        assert z[t] == pytest.approx((own - every.mean()) / every.std(), rel=1e-3, abs=1e-3)
        assert p[t] == pytest.approx(
            (1 + sum(k >= own for k in known[t])) / (1 + len(known[t])), abs=1.5 / len(known[t])
        )


def test_what_a_whole_video_looks_and_sounds_like_changes_no_z() -> None:
    rng = np.random.default_rng(0)
    audio, video, starts = rng.normal(size=(90, 8)), rng.normal(size=(90, 8)), 0.5 * np.arange(90)
    plain = calibrate(audio, video, starts, 1.5)
    for one, other in zip(plain, calibrate(audio + 3, video - rng.normal(size=8), starts, 1.5), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-9)


def test_p_is_uniform_where_sound_and_pictures_have_nothing_to_do_with_each_other() -> None:
    rng = np.random.default_rng(0)
    audio, video = (unit(rng.normal(size=(600, 16))) for _ in range(2))
    z, p = calibrate(audio, video, 0.5 * np.arange(600), 1.5)
    assert kstest(p, "uniform").pvalue > 0.01
    assert abs(z.mean()) < 0.15
    assert abs(z.std() - 1) < 0.1


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=40))
def test_peaks_overlap_nowhere_and_suppress_only_what_a_better_one_overlaps(scores: list[float]) -> None:
    starts, values = 0.5 * np.arange(len(scores)), np.array(scores)
    rank = peaks(values, starts, 1.5)
    kept = np.flatnonzero(rank)
    assert sorted(rank[kept]) == list(range(1, len(kept) + 1))
    assert (np.diff(values[kept[np.argsort(rank[kept])]]) <= 0).all()
    assert (np.diff(starts[kept]) >= 1.5).all()
    for row in set(range(len(scores))) - set(kept):
        near = kept[np.abs(starts[kept] - starts[row]) < 1.5]
        assert (values[near] >= values[row]).any()


def test_a_video_a_little_shorter_than_a_window_is_one_window_without_z(model: MC3, tmp_path: Path) -> None:
    path = write_media(tmp_path / "short: 1.mp4", 1.4, sound=clicks(1.4, np.array([0.5]), RATE))
    table = moments(model, path)
    assert table[["start_sec", "end_sec", "peak"]].to_numpy().tolist() == [[0.0, 1.5, 1]]
    assert table[["z", "p"]].isna().all(axis=None)


def test_a_step_or_window_of_no_length_and_a_video_without_sound_or_too_short_are_refused(model, video, tmp_path):
    for name, seconds in (
        ("every_sec", 0.0),
        ("every_sec", -1.0),
        ("every_sec", float("inf")),
        ("window_sec", float("nan")),
    ):
        with pytest.raises(ConfigError, match=f"{name} is .*more than 0 seconds"):
            moments(model, video, **{name: seconds})
    with pytest.raises(DataError, match=r"silent\.mp4 has no sound"):
        moments(model, write_media(tmp_path / "silent.mp4", 3.0))
    with pytest.raises(DataError, match=r"lasts \d+\.\d\d s, too little for a window of 60"):
        moments(model, video, window_sec=60.0)
