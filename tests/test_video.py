import numpy as np
import published
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv

from mc3.config import VideoConfig
from mc3.encoders.video import DividedAttention, VideoEncoder, resize_and_crop
from mc3.errors import ConfigError

SMALL = VideoConfig(frames=4, image_size=32, patch=16, dim=24, depth=3, heads=3)


def pixels(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def encoder(config=SMALL, seed=0):
    """An encoder whose every parameter, biases and norms too, is far from its initial value."""
    torch.manual_seed(seed)
    model = VideoEncoder(config, 8).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def one_query(query, keys, values):
    """Softmax attention of one vector over a list of vectors, in NumPy float64."""
    scores = np.array([query @ key for key in keys]) / np.sqrt(len(query))
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    return sum(w * value for w, value in zip(weights, values, strict=True))


def slow_divided_attention(layer, x, frames):
    """Attention by definition: for each token, the list of tokens that it attends to, one head at a time."""
    weight, bias = (p.detach().double().numpy() for p in (layer.qkv.weight, layer.qkv.bias))
    out_weight, out_bias = (p.detach().double().numpy() for p in (layer.proj.weight, layer.proj.bias))
    x = x.double().numpy()
    positions = (x.shape[1] - 1) // frames
    result = np.zeros_like(x)
    for b in range(len(x)):
        qkv = x[b] @ weight.T + bias
        width = x.shape[2]
        size = width // layer.heads
        for token in range(x.shape[1]):
            if token == 0:
                group = range(x.shape[1])
            elif layer.over == "space":
                frame = (token - 1) // positions
                group = [0] + [1 + frame * positions + p for p in range(positions)]
            else:
                position = (token - 1) % positions
                group = [0] + [1 + f * positions + position for f in range(frames)]
            heads = []
            for h in range(layer.heads):
                part = [slice(kind * width + h * size, kind * width + (h + 1) * size) for kind in range(3)]
                heads.append(one_query(qkv[token, part[0]], [qkv[g, part[1]] for g in group],
                                       [qkv[g, part[2]] for g in group]))  # fmt: skip
            result[b, token] = np.concatenate(heads) @ out_weight.T + out_bias
    return result


@pytest.mark.parametrize("over", ["time", "space"])
@settings(max_examples=12, deadline=None)
@given(frames=st.integers(1, 4), positions=st.integers(1, 5), heads=st.sampled_from([1, 3]), batch=st.integers(1, 3))
def test_divided_attention_is_softmax_over_the_group_of_each_patch_and_the_class_token(
    over, frames, positions, heads, batch
):
    torch.manual_seed(frames * 100 + positions)
    layer = DividedAttention(12, heads, over)
    x = torch.randn(batch, 1 + frames * positions, 12)
    with torch.no_grad():
        fast = layer(x, frames)
        only_class = layer(x, frames, only_class=True)
    slow = slow_divided_attention(layer, x, frames)
    np.testing.assert_allclose(fast, slow, atol=1e-5)
    np.testing.assert_allclose(only_class[:, 0], slow[:, 0], atol=1e-5)


@pytest.mark.parametrize(("frames", "config_frames"), [(4, 4), (16, 16), (1, 4), (4, 16)])
def test_trunk_is_the_published_architecture(frames, config_frames):
    config = VideoConfig(frames=config_frames, image_size=48, patch=16, dim=24, depth=3, heads=3)
    model = encoder(config)
    clip = pixels(2, frames, 48, 48, 3)
    with torch.no_grad():
        ours = model.features(clip)
        expected = published.video_forward(model.trunk.state_dict(), config, clip)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("frames", [4, 16])
def test_full_size_trunk_is_the_published_architecture(frames):
    config = VideoConfig(frames=frames, image_size=224, patch=16, dim=768, depth=12, heads=12)
    torch.manual_seed(0)
    model = VideoEncoder(config, 256).eval()
    clip = pixels(1, frames, 224, 224, 3)
    with torch.no_grad():
        ours = model.features(clip)
        expected = published.video_forward(model.trunk.state_dict(), config, clip)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_the_state_dict_has_exactly_egovlps_names():
    block = [f"norm{i}" for i in (1, 2, 3)]
    block += [f"{a}.{b}" for a in ("attn", "timeattn") for b in ("qkv", "proj")] + ["mlp.fc1", "mlp.fc2"]
    layers = ["patch_embed.proj", "norm"] + [f"blocks.{i}.{name}" for i in range(3) for name in block]
    names = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    state = encoder().trunk.state_dict()
    assert state.keys() == names | {"cls_token", "pos_embed", "temporal_embed"}
    assert state["patch_embed.proj.weight"].shape == (24, 3, 16, 16)
    assert state["temporal_embed"].shape == (1, 4, 24)


def test_every_parameter_learns():
    model = encoder()
    model(pixels(2, 4, 32, 32, 3)).square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_an_embedding_does_not_depend_on_the_other_clips():
    model, clips = encoder(), pixels(3, 4, 32, 32, 3)
    with torch.no_grad():
        together = model(clips)
        alone = torch.cat([model(clip[None]) for clip in clips])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


def test_the_order_of_frames_matters():
    model, clip = encoder(), pixels(1, 4, 32, 32, 3)
    with torch.no_grad():
        assert (model(clip) - model(clip.flip(1))).abs().max() > 1e-3


def test_bytes_and_floats_of_the_same_pixels_agree_exactly():
    model, clip = encoder(), pixels(2, 4, 32, 32, 3)
    with torch.no_grad():
        assert torch.equal(model(clip), model(clip.float()))


def test_folding_the_normalisation_costs_no_precision_in_bfloat16():
    """Against float32, error of the folded product is no more than twice that of normalising first."""
    model, clip = encoder(), pixels(8, 4, 32, 32, 3)
    embed = model.trunk.patch_embed
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = ((clip.float() / 255 - mean) / std).permute(0, 1, 4, 2, 3).flatten(0, 1)
    with torch.no_grad():
        exact = embed(clip).flatten(0, 1)
        with torch.autocast("cpu", torch.bfloat16):
            folded = embed(clip).flatten(0, 1).float()
            first = embed.proj(images).flatten(2).transpose(1, 2).flatten(0, 1).float()
    exact = exact.unflatten(0, (8 * 4, -1)).flatten(0, 1)
    first = first.reshape(exact.shape)
    assert (folded - exact).square().mean() < 4 * (first - exact).square().mean()


@pytest.mark.parametrize("shape", [(40, 56), (56, 40), (33, 32), (20, 30), (32, 32), (32, 50)])
def test_other_sizes_are_resized_on_the_short_side_and_cropped_as_torchvision_does(shape):
    clip = pixels(2, 3, *shape, 3)
    ours = resize_and_crop(clip, 32).float()
    images = clip.permute(0, 1, 4, 2, 3).float()
    theirs = tv.center_crop(tv.resize(images, [32], antialias=True), [32, 32]).permute(0, 1, 3, 4, 2)
    assert ours.shape == (2, 3, 32, 32, 3)
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)


def test_a_clip_of_the_right_size_is_not_changed():
    clip = pixels(1, 2, 32, 32, 3)
    assert resize_and_crop(clip, 32) is clip


def test_more_frames_than_the_settings_allow_is_an_error_that_names_the_setting():
    with pytest.raises(ConfigError, match=r"5 frames, but model\.video\.frames is 4"):
        encoder()(pixels(1, 5, 32, 32, 3))


@pytest.mark.parametrize("fault", [{"image_size": 40}, {"dim": 25}])
def test_sizes_that_do_not_divide_are_errors(fault):
    with pytest.raises(ConfigError, match=r"model\.video\."):
        VideoEncoder(VideoConfig(**{**SMALL.__dict__, **fault}), 8)
