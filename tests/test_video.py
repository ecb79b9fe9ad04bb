import dataclasses

import numpy as np
import published
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from mc3.config import VideoConfig
from mc3.encoders.video import VideoEncoder, resize_and_crop
from mc3.errors import ConfigError

SMALL = VideoConfig(frames=4, image_size=32, patch=16, dim=24, depth=3, heads=3)
LARGE = {"image_size": 224, "dim": 768, "depth": 12, "heads": 12}


def pixels(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def encoder(config=SMALL, noise=0.2):
    torch.manual_seed(0)
    return published.noisy(VideoEncoder(config, 8), noise)


@pytest.mark.parametrize(
    ("frames", "sizes", "noise"),
    [(4, {}, 0.2), (16, {"frames": 16}, 0.2), (1, {}, 0.2), (4, {"frames": 16}, 0.2),
     (3, {"image_size": 32, "heads": 1}, 0.2), (2, {"image_size": 16, "heads": 4, "depth": 1}, 0.2),
     *(pytest.param(n, LARGE | {"frames": n}, 0.0, marks=pytest.mark.slow) for n in (4, 16))],
)  # fmt: skip
def test_trunk_is_the_published_architecture(frames, sizes, noise):
    config = dataclasses.replace(SMALL, **{"image_size": 48} | sizes)
    model = encoder(config, noise)
    clip = pixels(2, frames, config.image_size, config.image_size, 3)
    with torch.no_grad():
        ours = model.features(clip)
        expected = published.video_forward(model.trunk.state_dict(), config, clip)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


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
    assert (folded - exact).square().mean() < 4 * (first - exact).square().mean()


@pytest.mark.parametrize("shape", [(40, 56), (56, 40), (33, 32), (20, 30), (32, 32), (32, 50)])
def test_other_sizes_are_resized_on_the_short_side_and_cropped_as_torchvision_does(shape):
    clip = pixels(2, 3, *shape, 3)
    ours = resize_and_crop(clip, 32).float()
    images = clip.permute(0, 1, 4, 2, 3).float()
    theirs = tv.center_crop(tv.resize(images, [32], antialias=True), [32, 32]).permute(0, 1, 3, 4, 2)
    assert ours.shape == (2, 3, 32, 32, 3)
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)
    assert (resize_and_crop(clip, 32) is clip) == (shape == (32, 32))


def test_more_frames_than_the_settings_allow_is_an_error_that_names_the_setting():
    with pytest.raises(ConfigError, match=r"5 frames, but model\.video\.frames is 4"):
        encoder()(pixels(1, 5, 32, 32, 3))
