import dataclasses

import published
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mc3.config import AudioConfig
from mc3.encoders.audio import AudioEncoder, normalise, patch_grid
from mc3.errors import ConfigError

SMALL = AudioConfig(length=49, mel_bins=48, patch=16, stride=10, dim=24, depth=2, heads=3)
LARGE = {"dim": 768, "depth": 12, "heads": 12}
SECOND_AND_A_HALF, TEN_SECONDS = 149, 1024


def encoder(config=SMALL, noise=0.1):
    torch.manual_seed(0)
    return published.noisy(AudioEncoder(config, 8), noise)


def fbank(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 4.6 - 4.3


@pytest.mark.parametrize("length", [SECOND_AND_A_HALF, TEN_SECONDS])
@pytest.mark.parametrize(
    ("stride", "sizes", "noise"), [(10, {}, 0.1), (16, {}, 0.1), pytest.param(10, LARGE, 0.0, marks=pytest.mark.slow)]
)
def test_trunk_is_transformers_ast_at_a_clips_length_and_at_ten_seconds(length, stride, sizes, noise):
    model = encoder(dataclasses.replace(SMALL, length=length, mel_bins=128, stride=stride, **sizes), noise)
    clips = fbank(2, length, 128)
    with torch.no_grad():
        theirs = published.audio_features(model.trunk.state_dict(), model.config, clips)
        torch.testing.assert_close(model.features(clips), theirs, atol=1e-5, rtol=1e-5)


@given(length=st.integers(16, 60), bins=st.integers(16, 60), patch=st.integers(4, 16), stride=st.integers(1, 20))
def test_patch_grid_counts_the_windows_that_fit(length, bins, patch, stride):
    image = torch.zeros(bins, length)
    windows = image.unfold(0, patch, stride).unfold(1, patch, stride)
    assert patch_grid((bins, length), patch, stride) == tuple(windows.shape[:2])


@settings(max_examples=30)
@given(length=st.integers(1, 12), to=st.integers(1, 12))
def test_clips_are_cropped_at_the_end_or_padded_with_the_mean(length, to):
    clips = fbank(2, length, 3)
    fitted = normalise(clips, to)
    kept = min(length, to)
    assert fitted.shape == (2, to, 3)
    torch.testing.assert_close(fitted[:, :kept], (clips[:, :kept] + 4.2677393) / 9.1379948)
    assert not fitted[:, kept:].any()


def test_a_short_clip_is_the_clip_padded_with_audiosets_mean():
    model, clip = encoder(), fbank(1, 30, 48)
    padded = torch.cat([clip, torch.full((1, 19, 48), -4.2677393)], 1)
    with torch.no_grad():
        torch.testing.assert_close(model(clip), model(padded), atol=1e-6, rtol=1e-5)


def test_another_number_of_mel_bins_is_an_error_that_names_the_setting():
    with pytest.raises(ConfigError, match=r"64 mel bins, but model\.audio\.mel_bins is 48"):
        encoder()(fbank(1, 49, 64))
