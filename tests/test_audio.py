import published
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mc3.config import AudioConfig
from mc3.encoders.audio import AudioEncoder, normalise, patch_grid
from mc3.errors import ConfigError

SMALL = AudioConfig(length=49, mel_bins=48, patch=16, stride=10, dim=24, depth=2, heads=3)
SECOND_AND_A_HALF, TEN_SECONDS = 149, 1024


def encoder(config=SMALL, seed=0, noise=0.1):
    """An encoder whose every parameter, biases and norms too, is away from its initial value."""
    torch.manual_seed(seed)
    model = AudioEncoder(config, 8).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model


def fbank(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 4.6 - 4.3


def assert_trunk_is_transformers_ast(model, clips):
    with torch.no_grad():
        ours = model.features(clips)
        theirs = published.audio_model(model.trunk.state_dict(), model.config)(
            (clips + 4.2677393) / (2 * 4.5689974)
        ).pooler_output
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [SECOND_AND_A_HALF, TEN_SECONDS])
@pytest.mark.parametrize("stride", [10, 16])
def test_trunk_is_transformers_ast_at_a_clips_length_and_at_ten_seconds(length, stride):
    model = encoder(AudioConfig(length=length, mel_bins=128, patch=16, stride=stride, dim=24, depth=2, heads=3))
    assert_trunk_is_transformers_ast(model, fbank(2, length, 128))


@pytest.mark.slow
@pytest.mark.parametrize("length", [SECOND_AND_A_HALF, TEN_SECONDS])
def test_full_size_trunk_is_transformers_ast(length):
    config = AudioConfig(length=length, mel_bins=128, patch=16, stride=10, dim=768, depth=12, heads=12)
    model = encoder(config, noise=0.0)
    assert_trunk_is_transformers_ast(model, fbank(1, length, 128))


def test_a_clip_of_149_frames_and_128_bins_is_170_tokens():
    model = encoder(AudioConfig(length=149, mel_bins=128, patch=16, stride=10, dim=24, depth=2, heads=3))
    assert model.trunk.patch_embed.grid_size == (12, 14)
    assert model.trunk.pos_embed.shape[1] == 170
    seen = []
    model.trunk.blocks[0].register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape[1]))
    model(fbank(1, 149, 128))
    assert seen == [170]


@given(length=st.integers(16, 60), bins=st.integers(16, 60), patch=st.integers(4, 16), stride=st.integers(1, 20))
def test_patch_grid_counts_the_windows_that_fit(length, bins, patch, stride):
    image = torch.zeros(bins, length)
    windows = image.unfold(0, patch, stride).unfold(1, patch, stride)
    assert patch_grid((bins, length), patch, stride) == tuple(windows.shape[:2])


def test_normalisation_maps_audiosets_mean_to_zero_and_two_deviations_to_one():
    mean, std = -4.2677393, 4.5689974
    values = torch.tensor([mean, mean + 2 * std, mean - std]).reshape(1, 3, 1)
    torch.testing.assert_close(normalise(values, 3).flatten(), torch.tensor([0.0, 1.0, -0.5]), atol=1e-6, rtol=0)


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


def test_half_and_single_precision_of_the_same_values_agree_exactly():
    model, clip = encoder(), fbank(2, 49, 48).half()
    with torch.no_grad():
        assert torch.equal(model(clip), model(clip.float()))


def test_an_embedding_does_not_depend_on_the_other_clips():
    model, clips = encoder(), fbank(3, 49, 48)
    with torch.no_grad():
        together, alone = model(clips), torch.cat([model(clip[None]) for clip in clips])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


def test_attention_is_fused():
    assert all(block.attn.fused_attn for block in encoder().trunk.blocks)


def test_every_parameter_learns():
    model = encoder()
    model(fbank(2, 49, 48)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_another_number_of_mel_bins_is_an_error_that_names_the_setting():
    with pytest.raises(ConfigError, match=r"64 mel bins, but model\.audio\.mel_bins is 48"):
        encoder()(fbank(1, 49, 64))


@pytest.mark.parametrize("fault", [{"dim": 25}, {"length": 8}])
def test_sizes_that_do_not_fit_are_errors(fault):
    with pytest.raises(ConfigError, match=r"model\.audio\."):
        AudioEncoder(AudioConfig(**{**SMALL.__dict__, **fault}), 8)
