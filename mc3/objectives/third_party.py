"""Consensus as another paper's code has it (https://arxiv.org/abs/2510.02313), which builds on MC3's loss."""

from torch import Tensor

from mc3 import losses
from mc3.losses import Embeddings
from mc3.methods import MODALITIES, Stage
from mc3.objectives.base import Objective


class ThirdParty(Objective, kind="third_party"):
    """Eq. 1 and Eq. 3 with readings of its own, whatever the profile's `loss.consensus` says of them.

        x_i^st = e_a^s . e_i^t                      every anchor s with every sample t, [B, B]
        c^st = 2 min_i K_i(x_i^st) - 1              inverse "linear"; gradients pass through c
        L_consensus = sum_{i != a} || x_i - c ||_F  distance "frobenius", not divided by B
        L = 1/3 L_contrastive + 1/2 L_consensus     tau = .2

    Anchor and alpha of K are the profile's. Temperature and weights are those of the entry in `mc3.methods`; its weight
    of 1/2 is in units of `loss.consensus_weight`, 1 in both profiles. The formula is in `mc3.losses.consensus`. Its
    norm grows with B where L_contrastive grows with log B, so that the weight means more in a larger batch; it is small
    where all clips have the same similarities.

    Only the loss is theirs (mengyu-yang/clink-chop-thud, read for its formula): not their encoders, their object masks
    and their own task.
    """

    @classmethod
    def fault(cls, stage: Stage) -> str:
        """Its L_contrastive is over all three pairs, of which it takes a third."""
        return "" if len(stage.pairs) >= len(MODALITIES) else 'needs "pairs": "all"'

    def consensus(self, embeddings: Embeddings, keys: Embeddings) -> Tensor:
        """Eq. 3 of the whole batch's similarity matrices, the same on every process."""
        settings = self.settings.consensus
        return losses.consensus(
            keys, settings.anchor, settings.alpha, inverse="linear", stop_gradient=False, distance="frobenius"
        )
