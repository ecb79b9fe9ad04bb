"""SSAST's pretraining (https://arxiv.org/abs/2110.09784): masked patches of a log-mel, predicted from the others."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pad, unfold

from mc3.encoders.audio import AudioEncoder, patch_grid
from mc3.errors import ConfigError
from mc3.losses import Embeddings, at_least_float32
from mc3.methods import Stage
from mc3.model import MC3
from mc3.objectives.base import Batch, Objective

SIDES = (3, 4, 5)  # of the squares of patches that are masked together; each clip has one
GENERATIVE = 10  # weight of the mean squared error


class MaskedPatches(Objective, kind="masked_patches", takes=("share",)):
    """InfoNCE and reconstruction of the patches that a learnt token replaces, a `share` of each clip's.

    At a masked patch of the normalised log-mel, one head's output has to find the true patch among the clip's masked
    ones by inner product, and the other's to equal it.
    """

    @classmethod
    def fault(cls, stage: Stage) -> str:
        """It has no pairs, and needs the audio encoder alone."""
        return "" if (stage.modalities, stage.pairs) == (("audio",), ()) else 'needs "pairs": [], "train": ["audio"]'

    def prepare(self, model: MC3, clips: int, seed: int) -> None:
        """Create the token and the heads."""
        audio = model.config.audio
        if audio.stride < audio.patch:
            overlap = f"patches overlap, since model.audio.stride is {audio.stride} and patch is {audio.patch}"
            raise ConfigError(f"a masked patch is seen in its neighbours where {overlap}; set both to the same number")
        torch.manual_seed(seed)
        self.token = nn.Parameter(torch.zeros(audio.dim))
        layers = [(nn.Linear(audio.dim, audio.dim), nn.ReLU(), nn.Linear(audio.dim, audio.patch**2)) for _ in range(2)]
        self.heads = nn.ModuleList(nn.Sequential(*head) for head in layers)

    def module(self, model: MC3) -> nn.Module:
        """The losses of a batch's clips as a module of the trunk's parameters."""
        return ClipLosses(model.encoders["audio"], self.clip_losses)  # type: ignore[arg-type]

    def terms(self, queries: Embeddings, keys: Embeddings, offset: int, batch: Batch) -> dict[str, Tensor]:
        """Both losses as they enter the sum, from `clip_losses` of this process's clips."""
        discriminative, generative = queries["audio"].mean(dim=0)
        return {"discriminative": discriminative, "generative": GENERATIVE * generative}

    def clip_losses(self, encoder: AudioEncoder, batch: Mapping[str, Any]) -> Tensor:
        """InfoNCE and mean squared error over the masked patches of each clip, [B, 2]."""
        audio, trunk, image = encoder.config, encoder.trunk, encoder.image(batch["audio"])
        grid = patch_grid((audio.mel_bins, audio.length), audio.patch, audio.stride)
        masked = draw(self.batch_size, grid, self.stage.settings["share"], batch["seed"])
        masked, clip = masked[batch["rows"]].to(image.device), torch.arange(len(image), device=image.device)[:, None]
        patches = trunk.patch_embed(image)
        hidden = torch.zeros_like(patches[:, :, 0], dtype=torch.bool).scatter(1, masked, True)
        x = trunk.blocks(trunk._pos_embed(torch.where(hidden[:, :, None], self.token.to(patches.dtype), patches)))
        x = trunk.norm(x)[:, 2:][clip, masked]
        truth = unfold(image, audio.patch, stride=audio.stride).mT[clip, masked]  # [B, masked, patch ** 2]
        found, made = (at_least_float32(head(x)) for head in self.heads)
        with torch.autocast(image.device.type, enabled=False):
            nce = -(found @ at_least_float32(truth).mT).log_softmax(dim=2).diagonal(dim1=1, dim2=2).mean(dim=1)
            return torch.stack([nce, (made - truth).square().mean(dim=(1, 2))], dim=1)


class ClipLosses(nn.Module):
    """`MaskedPatches.clip_losses` in the place of the model, with the parameters that get a gradient from it."""

    def __init__(self, encoder: AudioEncoder, losses: Callable[[AudioEncoder, Mapping[str, Any]], Tensor]) -> None:
        super().__init__()
        self.trunk, self.losses = encoder.trunk, partial(losses, encoder)

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The losses of each clip, [B, 2], in the place of its embedding."""
        return {"audio": self.losses(batch)}


def draw(clips: int, grid: tuple[int, int], share: float, seed: int) -> Tensor:
    """The numbers of the masked patches of each clip, int64 [clips, share * rows * columns].

    Squares with random corners, of one random side a clip, are masked until there are enough, the last one in part.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(clips, 1, *grid, generator=generator, dtype=torch.float64)  # in which patches become corners
    side = torch.randint(len(SIDES), (clips,), generator=generator)
    first = torch.stack([-max_pool2d(-pad(order, (s - 1, 0, s - 1, 0), value=1.0), s, 1) for s in SIDES])
    ranked = first[side, torch.arange(clips)].flatten(1).argsort(dim=1, stable=True)
    return ranked[:, : round(share * grid[0] * grid[1])]
