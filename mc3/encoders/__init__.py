"""The encoders `video`, `audio` and `text`, each a trunk and a projection."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn


class Encoder(nn.Module, ABC):
    """Inputs to embeddings: a trunk with a published architecture, of width `config.dim`, and a projection."""

    trunk: Any

    def __init__(self, config: Any, trunk: nn.Module, projection: nn.Module) -> None:
        super().__init__()
        self.config, self.trunk, self.projection = config, trunk, projection
        # ViT, DeiT and BERT start with a standard deviation of 0.02, chosen for 768 inputs. With 64 it makes each
        # layer's output 3.5 times smaller, and the mini profile spends most of its steps on a plateau.
        with torch.no_grad():
            for module in trunk.modules():
                if isinstance(module, nn.Linear):
                    module.weight.mul_((768 / config.dim) ** 0.5)

    @abstractmethod
    def features(self, inputs: Tensor) -> Tensor:
        """A batch of inputs -> trunk output [B, D]."""

    def forward(self, inputs: Tensor) -> Tensor:
        """What `features` takes -> embedding [B, E], not normalised."""
        return self.projection(self.features(inputs))
