"""TRIANGLE (https://arxiv.org/abs/2509.24734, code ispamm/TRIANGLE, MIT): contrast by the area between embeddings."""

from torch import Tensor

from mc3.losses import EDGE
from mc3.objectives.gram import Gram


def area(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Area of the triangle of three points t, v, a on the unit sphere, from 0 to 3 sqrt(3) / 4.

        A = 1/2 sqrt(|u|^2 |w|^2 - (u.w)^2),  u = t - v,  w = t - a
        |u|^2 = 2 - 2x,  |w|^2 = 2 - 2y,  u.w = 1 - x - y + z

    >>> import torch
    >>> cosine = torch.tensor([0.0, -0.5])  # orthogonal, sides of sqrt(2); on a great circle, sides of sqrt(3)
    >>> print(area(cosine, cosine, cosine))
    tensor([0.8660, 1.2990])

    x = t.v, y = t.a, z = v.a; they broadcast, and the area is symmetric in them. Unlike `volume` it is not 0 for three
    different points in one plane with the origin, but it is where two are equal. What is under the root is kept at
    `EDGE` or more for the reason given in `volume`, and so A at .0005 or more.

    The published code leaves the root out: its loss has (|u|^2 |w|^2 - (u.w)^2) / 2 in the place of A. Here it is the
    formula's A.
    """
    return ((2 - 2 * x) * (2 - 2 * y) - (1 - x - y + z).square()).clamp(min=EDGE).sqrt() / 2


class Triangle(Gram, kind="triangle", takes=Gram.takes):
    """GRAM's loss over areas in the place of volumes.

        A_ij = area(e_a^i, e_b^j, e_c^j)
        L = 1/2 [ CE(-A / tau) + CE(-A^T / tau) ]

    The published settings are GRAM's: text as `anchor` and `smoothing` .1. So is its blind spot: where two embeddings
    of a clip are equal, their area with every anchor is 0.
    """

    size = staticmethod(area)
