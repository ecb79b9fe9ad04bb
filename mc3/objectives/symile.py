"""Symile (https://arxiv.org/abs/2411.01053, code rajesh-lab/symile, MIT): contrast by three embeddings' product."""

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mc3.data import batches
from mc3.losses import Embeddings, at_least_float32
from mc3.methods import MODALITIES, Stage
from mc3.objectives.base import Batch
from mc3.objectives.learnt_scale import LearntScale


def product(a: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """The multilinear inner product sum_d a_d v_d t_d of each row's three embeddings: [..., D] to [...].

    >>> row = torch.full((1, 4), 0.5)  # three equal vectors of D = 4 equal components: 1 / sqrt(D)
    >>> print(product(row, row, row), product(-row, row, row))
    tensor([0.5000]) tensor([-0.5000])

    Symmetric in all three, and unlike a cosine it has no fixed value for equal vectors.
    """
    return (a * v * t).sum(dim=-1)


def shuffles(clips: int, seed: int, number: int) -> Tensor:
    """Two permutations of `clips` clips, int64 [2, clips], for the anchor modality `number` in the step of `seed`."""
    generator = torch.Generator().manual_seed(batches.seed_of(seed, number))
    return torch.stack([torch.randperm(clips, generator=generator) for _ in range(2)])


class Symile(LearntScale, kind="symile", takes=LearntScale.takes):
    """For each modality, its embedding must find the two others of its clip among pairs that are shuffled apart.

        z_ij = sqrt(D) e^s product(e_a^i, e_b^p(j), e_c^q(j)),  z_ii = sqrt(D) e^s product(e_a^i, e_b^i, e_c^i)
        L = 1/3 sum_a CE(z)    p, q: permutations of the whole batch, others in each step and for each a

    These are the N - 1 negatives a query of its code's cheaper sampling, not all N^2 - 1. Products of unit vectors are
    small: 1 / sqrt(D) for an aligned triple with D equally large components, and +- 1 / D for random ones. The factor
    sqrt(D) brings them to the size of cosines, so that e^s can start at 1 / temperature and stay below `highest`, as in
    CLIP; without it the logits would begin at next to 0. The part `logit_scale` is e^s.
    """

    @classmethod
    def fault(cls, stage: Stage) -> str:
        """It multiplies all three modalities."""
        return "" if len(stage.pairs) >= len(MODALITIES) else 'needs "pairs": "all"'

    def terms(self, queries: Embeddings, keys: Embeddings, offset: int, batch: Batch) -> dict[str, Tensor]:
        """A third of the cross-entropy with each modality as the anchor."""
        anchor, found = MODALITIES[0], {}
        with torch.autocast(queries[anchor].device.type, enabled=False):
            mine, whole = ({m: at_least_float32(of[m]) for m in MODALITIES} for of in (queries, keys))
            aligned_B = product(*mine.values())
            targets_B = torch.arange(offset, offset + len(aligned_B), device=aligned_B.device)
            scale = math.sqrt(mine[anchor].shape[1]) * self.log_scale.exp()
            for number, anchor in enumerate(MODALITIES):
                one, other = (whole[m] for m in MODALITIES if m != anchor)
                first, second = shuffles(len(one), batch.seed, number).to(one.device)
                products_BN = mine[anchor] @ (one[first] * other[second]).T
                products_BN = products_BN.scatter(1, targets_B[:, None], aligned_B[:, None])
                found[f"{anchor}-others"] = cross_entropy(scale * products_BN, targets_B) / len(MODALITIES)
        return found
