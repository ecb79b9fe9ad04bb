"""The probes' two inputs: windows of AST's log-mels, and EPIC-Sounds' own crops against a spectrogram by hand."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import small_work
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import write_hdf5, write_raw

from mc3.config import Config, build, override
from mc3.data import epic_views, manifest, prepare
from mc3.data.epic_views import AstViews, OfficialViews
from mc3.encoders.audio import FBANK_MEAN
from mc3.errors import ConfigError, DataError
from mc3.model import MC3
from mc3.paper import probe

CPU = torch.device("cpu")
SECOND = 24000


def mel_by_hand(sound: np.ndarray) -> np.ndarray:
    """Every 5 ms the naive transform of 10 ms around it, HTK triangles in Hz, natural logarithm."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(240) / 240)
    padded = np.concatenate([np.zeros(120), sound, np.zeros(120)])
    frames = np.stack([padded[t : t + 240] * hann for t in range(0, len(sound) + 1, 120)])
    magnitude = np.abs(np.fft.rfft(frames, 2048, axis=1))  # zeros after the window change phases only
    hertz = np.arange(1025) * SECOND / 2048
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 12000 / 700), 130) / 2595) - 1)
    triangles = [np.interp(hertz, edges[k : k + 3], [0, 1, 0]) for k in range(128)]
    return np.log(magnitude @ np.array(triangles).T + 1e-6)


@given(st.integers(1, 500), st.integers(1, 148), st.integers(1, 10))
def test_windows_lie_inside_the_event_from_its_begin_to_its_end(frames: int, length: int, views: int) -> None:
    starts = epic_views.starts(frames, length, views)
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


def test_padding_of_asts_windows_is_what_normalising_maps_to_zero() -> None:
    views = AstViews([{"audio": torch.zeros(5, 128, dtype=torch.float16)}], 8)
    window = views.batch(views.uniform(0, 5), CPU)
    expected = torch.tensor([0.0] * 5 + [FBANK_MEAN] * 3).reshape(1, 8, 1)
    torch.testing.assert_close(window, expected.expand(1, 8, 128))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.integers(4800, 60000))
def test_the_official_log_mel_is_the_one_computed_by_hand(seed: int, length: int) -> None:
    rng = np.random.default_rng(seed)
    sound = 0.1 * rng.normal(size=length) + 0.3 * np.sin(rng.uniform(0.01, 3) * np.arange(length))
    mine = epic_views.log_mel(torch.from_numpy(sound.astype(np.float32))).numpy()
    assert mine.shape == (1 + length // 120, 128)
    np.testing.assert_allclose(mine, mel_by_hand(sound), atol=2e-3)
    silence = epic_views.log_mel(torch.zeros(length))
    assert silence.unique().tolist() == pytest.approx([np.log(1e-6)])  # the floor


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, dict[str, np.ndarray]]:
    """A small world with noise as sound, cut into shards; and the sound of each video."""
    changes = {"clips.workers": 1, "clips.mel_bins": 128, "model.audio.mel_bins": 128, "probe.features": "epic_sounds"}
    settings = override(build(Config, small_work.mini(tmp_path_factory.mktemp("views"))), changes)
    write_raw(settings)
    rng = np.random.default_rng(0)
    sound = {v: (rng.integers(-9000, 9000, 12 * SECOND) / 32768).astype(np.float32) for v in ("P01_00", "P01_01")}
    write_hdf5(settings.paths.raw / settings.epic_sounds.audio, **sound)
    manifest.write(settings)
    prepare.write(settings)
    return settings, sound


@pytest.fixture
def cut(made: tuple[Config, dict[str, np.ndarray]], tmp_path: Path) -> tuple[Config, dict[str, np.ndarray]]:
    """`made`, its raw files copied and no 24 kHz sound cut yet."""
    settings, sound = made
    shutil.copytree(settings.paths.raw, tmp_path / "world", ignore=shutil.ignore_patterns("*.mp4"))
    return override(settings, {"paths.raw": str(tmp_path / "world"), "paths.work": str(tmp_path)}), sound


def test_official_views_are_crops_of_the_bare_event_and_short_ones_repeat_their_last_frame(cut) -> None:
    settings, sound = cut
    views = epic_views.of(settings, "validation")
    times = {f"P01_01_{i}": span for i, span in enumerate(((0.1, 0.4), (1.5, 4.0), (2.0, 10.0)))}
    assert sorted(views.index["clip_id"]) == sorted(times)
    for i, clip in enumerate(views.index["clip_id"]):
        start, stop = (round(t * SECOND) for t in times[clip])
        event = sound["P01_01"][start:stop]
        pieces = views.uniform(i, 5)
        spectrograms = views.batch(pieces, CPU).numpy()
        assert spectrograms.shape[1:] == (400, 128)
        starts = np.linspace(0, len(event) - 47976, 5).round().astype(int) if len(event) > 47976 else [0]
        by_hand = [mel_by_hand(event[start : start + 47976]) for start in starts]
        by_hand = [np.pad(mel, ((0, 400 - len(mel)), (0, 0)), "edge") for mel in by_hand]
        np.testing.assert_allclose(spectrograms, by_hand, atol=5e-3)
        drawn = {len(views.random(i, torch.Generator().manual_seed(seed))) for seed in range(5)}
        assert drawn == {min(len(event), 47976)}


def test_the_24_khz_sound_is_cut_once_and_again_when_the_file_changes(cut) -> None:
    settings, sound = cut
    file = settings.paths.work / "epic_sounds_24khz" / "train.npy"
    for _ in range(2):
        OfficialViews(settings, "train")
        made = file.stat().st_mtime_ns
    assert np.load(file).dtype == np.int16
    assert OfficialViews(settings, "train").batch([torch.zeros(9, dtype=torch.int16)], CPU).shape == (1, 400, 128)
    assert file.stat().st_mtime_ns == made
    path = settings.paths.raw / settings.epic_sounds.audio
    write_hdf5(path, **dict.fromkeys(sound, np.zeros(13 * SECOND, np.float32)))
    OfficialViews(settings, "train")
    assert not np.load(file).any()
    path.unlink()
    with pytest.raises(DataError, match=r"no sound at .*EPIC_audio\.hdf5"):
        OfficialViews(settings, "train")


def test_seeds_that_are_probed_at_once_cut_the_24_khz_sound_once(cut, monkeypatch) -> None:
    settings, _ = cut
    written, write = [], epic_views._write_sound

    def slowly(*arguments) -> None:
        written.append(1)
        time.sleep(0.3)  # the other is at the same place by now
        write(*arguments)

    monkeypatch.setattr(epic_views, "_write_sound", slowly)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: OfficialViews(settings, "train"), range(2))
    assert len(written) == 1
    assert torch.equal(first.uniform(0, 1)[0], second.uniform(0, 1)[0])


def test_an_encoder_reads_either_kind_of_views_and_another_is_refused(cut) -> None:
    settings, _ = cut
    encoder = MC3.initial(settings, 0).encoders["audio"].eval()
    for kind, frames in (("ast", 148), ("epic_sounds", 400)):
        views = epic_views.of(override(settings, {"probe.features": kind}), "train")
        found = probe.features({"": probe.resize_input(encoder, views.frames)}, views, 2, 2, CPU)[""]
        assert views.frames == frames
        assert found.shape == (3, 2, settings.model.audio.dim)
        assert np.isfinite(found).all()
    with pytest.raises(ConfigError, match=r"probe\.features is 'mfcc'; it must be one of ast, epic_sounds"):
        override(settings, {"probe.features": "mfcc"})
