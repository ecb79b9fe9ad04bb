"""A consensus over similarities measured against the batch, in place of Eq. 3: this project's, not the paper's."""

import math

import torch
from torch import Tensor

from mc3 import losses
from mc3.losses import EDGE, Embeddings
from mc3.methods import Stage
from mc3.objectives.base import Objective


class Relative(Objective, kind="relative", takes=("softness",)):
    """Eq. 1 and `relative_consensus`, which has no exponents to choose."""

    @classmethod
    def fault(cls, stage: Stage) -> str:
        """It replaces Eq. 3, so there has to be one."""
        return "" if stage.consensus else 'is nothing without "consensus"'

    def consensus(self, embeddings: Embeddings, keys: Embeddings) -> Tensor:
        """`relative_consensus` of this process's rows."""
        return relative_consensus(embeddings, keys, self.settings.consensus.anchor, self.stage.settings["softness"])


def relative_consensus(embeddings: Embeddings, keys: Embeddings, anchor: str, softness: float) -> Tensor:
    """Eq. 3 with similarities in the units of `standardised` instead of K.

    The consensus of a sample is the minimum of its standardised similarities, or their soft minimum, and a constant
    target. The distance to it is converted back to cosines, so that the weight means what it does for Eq. 3. All
    similarities falling together, which changes no ranking, costs and gains nothing.

    Args:
        embeddings: [B, D] unit vectors by modality, this process's rows.
        keys: [N, D], those of the whole batch.
        anchor: M_a.
        softness: 0 for the minimum; otherwise -s log(mean(exp(-z / s))), which is the mean for a large s.

    Returns:
        A scalar, the mean over these rows of the sum over modalities.
    """
    scores, deviations = standardised(embeddings, keys, anchor)
    z_BM, deviation_M = torch.stack(list(scores.values()), dim=1), torch.stack(list(deviations.values()))
    if softness:
        target_B1 = -softness * ((-z_BM / softness).logsumexp(dim=1, keepdim=True) - math.log(z_BM.shape[1]))
    else:
        target_B1 = z_BM.amin(dim=1, keepdim=True)
    return ((z_BM - target_B1.detach()).abs() * deviation_M).sum(dim=1).mean()


def standardised(embeddings: Embeddings, keys: Embeddings, anchor: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Similarities to the anchor in standard deviations from the mean of the whole batch.

    Cosines of two pairs of modalities are not comparable: one pair's may spread over .2 and the other's over .6.
    Standardised ones are, without an exponent.

    Args:
        embeddings: [B, D] unit vectors by modality, this process's rows.
        keys: [N, D], those of the whole batch.
        anchor: the modality that the others are compared with.

    Returns:
        ({modality: [B]}, {modality: standard deviation}); mean and deviation carry no gradients.
    """
    scores, deviations = {}, {}
    whole = losses.similarities({m: key.detach() for m, key in keys.items()}, anchor)
    for modality, x_B in losses.similarities(embeddings, anchor).items():
        deviations[modality], mean = torch.std_mean(whole[modality], correction=0)
        scores[modality] = (x_B - mean) / deviations[modality].clamp(min=EDGE)
    return scores, deviations
