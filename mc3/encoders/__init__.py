"""The three encoders: `video`, `audio` and `text`, each a trunk and a projection; `weights` reads those of others."""

from __future__ import annotations

import torch
from torch import nn

PUBLISHED_WIDTH = 768


@torch.no_grad()
def scale_initial(trunk: nn.Module, dim: int) -> None:
    """Give a trunk's initial linear layers the gain that the published ones have at their width.

    ViT, DeiT and BERT all begin with a standard deviation of 0.02, meant for 768 inputs. With 64 inputs the
    same number makes each layer's output 3.5 times as small and nothing reaches the end of the network: the
    mini profile then needs most of its steps to get going. At 768 this changes nothing.
    """
    for module in trunk.modules():
        if isinstance(module, nn.Linear):
            module.weight.mul_((PUBLISHED_WIDTH / dim) ** 0.5)
