"""GRAM (https://arxiv.org/abs/2412.11959, code ispamm/GRAM, MIT): contrast by the volume that three embeddings span."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mc3.losses import EDGE, Embeddings, at_least_float32
from mc3.methods import MODALITIES, Stage
from mc3.objectives.base import Batch, Objective


def volume(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Volume of the parallelotope of three unit vectors with the cosines x, y, z, from 0 (in one plane) to 1.

        V = sqrt(|det G|),  det G = 1 + 2 x y z - x^2 - y^2 - z^2    G: their Gram matrix

    >>> cosine = torch.tensor([0.0, 0.5])  # orthogonal vectors; edges of a regular tetrahedron
    >>> print(volume(cosine, cosine, cosine))
    tensor([1.0000, 0.7071])

    The arguments broadcast; symmetric in all three. The root's slope is infinite at 0, where equal vectors lie, so that
    det G, in which float32 leaves an error of about 1e-7, is kept at `EDGE` or more: V is at least .001, and constant
    below.
    """
    return (1 + 2 * x * y * z - x.square() - y.square() - z.square()).clamp(min=EDGE).sqrt()


class Gram(Objective, kind="gram", takes=("anchor", "smoothing")):
    """Cross-entropies that find the smallest volume, from the anchor among the two other modalities and back.

        V_ij = volume(e_a^i, e_b^j, e_c^j)
        L = 1/2 [ CE(-V / tau) + CE(-V^T / tau) ]    anchor i finds j = i in row i of V, and clip j in column j

    CE has uniform label smoothing of the weight `smoothing`, .1 in its code; the published `anchor` is text. Where b
    and c of a clip are equal, V is 0 for every anchor: the loss does not ask the two others to agree, and it is log N
    if they do in all clips. The second loss of the full method, which matches video and text in a fusion encoder, is
    not here.
    """

    size = staticmethod(volume)

    @classmethod
    def fault(cls, stage: Stage) -> str:
        """It compares all three modalities, one of them the anchor."""
        if len(stage.pairs) < len(MODALITIES):
            return 'needs "pairs": "all"'
        return "" if stage.settings["anchor"] in MODALITIES else f'needs an "anchor" among {", ".join(MODALITIES)}'

    def terms(self, queries: Embeddings, keys: Embeddings, offset: int, batch: Batch) -> dict[str, Tensor]:
        """Half of either direction: this process's anchors among all clips, and its clips among all anchors."""
        anchor, smoothing = self.stage.settings["anchor"], self.stage.settings["smoothing"]
        one, other = (m for m in MODALITIES if m != anchor)
        with torch.autocast(queries[anchor].device.type, enabled=False):
            mine, whole = ({m: at_least_float32(of[m]) for m in MODALITIES} for of in (queries, keys))
            between_B, between_N = ((of[one] * of[other]).sum(dim=1) for of in (mine, whole))
            rows_BN = self.size(mine[anchor] @ whole[one].T, mine[anchor] @ whole[other].T, between_N)
            columns_BN = self.size(mine[one] @ whole[anchor].T, mine[other] @ whole[anchor].T, between_B[:, None])
            targets_B = torch.arange(offset, offset + len(rows_BN), device=rows_BN.device)
            either = {f"{anchor}-others": rows_BN, f"others-{anchor}": columns_BN}
            return {
                name: cross_entropy(-size_BN / self.temperature, targets_B, label_smoothing=smoothing) / 2
                for name, size_BN in either.items()
            }
