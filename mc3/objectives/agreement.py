"""Eq. 1 with clips weighted by the other modalities' agreement: this project's, not the paper's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mc3 import losses
from mc3.losses import Embeddings, at_least_float32
from mc3.methods import MODALITIES, Stage
from mc3.objectives.base import Batch, Objective
from mc3.objectives.relative import standardised


class Peers(Objective, kind="peers", takes=("trust",)):
    """Eq. 1 in which a clip's weight for the anchor and a modality is how much the other modalities agree on it.

    A consensus that selects clips instead of pulling similarities. With `trust` "retrieval" a modality counts as far as
    it finds its own clips in the batch; with "equal" all count alike.
    """

    @classmethod
    def fault(cls, stage: Stage) -> str:
        """Each pair needs a third modality."""
        return "" if len(stage.pairs) >= len(MODALITIES) else 'needs "pairs": "all"'

    def terms(self, queries: Embeddings, keys: Embeddings, offset: int, batch: Batch) -> dict[str, Tensor]:
        """Eq. 1, weighted in the pairs with the anchor."""
        anchor = self.settings.consensus.anchor
        trust = retrieval_posteriors(keys, anchor, self.temperature)
        if self.stage.settings["trust"] == "equal":
            trust = {modality: torch.ones_like(value) for modality, value in trust.items()}
        weights = peer_weights(queries, keys, anchor, trust)
        terms = {}
        for i, j in self.directed:
            own = weights[j if i == anchor else i] if anchor in (i, j) else None
            terms[f"{i}-{j}"] = losses.info_nce(queries[i], keys[j], self.temperature, offset, weights=own)
        return terms


def retrieval_posteriors(keys: Embeddings, anchor: str, temperature: float) -> dict[str, Tensor]:
    """The mean probability of the own sample in Eq. 1 between a modality and the anchor, over both directions.

    Args:
        keys: [N, D] unit vectors by modality, the whole batch.
        anchor: the modality that the others are compared with.
        temperature: tau.

    Returns:
        {modality: scalar} for all but the anchor, without gradients: from 1 / N, chance, to 1.
    """
    found = {}
    with torch.no_grad(), torch.autocast(keys[anchor].device.type, enabled=False):
        for modality in (m for m in keys if m != anchor):
            logits_NN = at_least_float32(keys[modality]) @ at_least_float32(keys[anchor]).T / temperature
            found[modality] = (logits_NN.softmax(dim=0) + logits_NN.softmax(dim=1)).diagonal().mean() / 2
    return found


def peer_weights(
    embeddings: Embeddings, keys: Embeddings, anchor: str, trust: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The weight of each sample in the contrast of the anchor with a modality, from the other modalities.

    As in co-teaching (https://arxiv.org/abs/1804.06872) the peers choose: the weight of sample t for modality m is
    proportional to exp(min trust_i z_i^t) over the modalities i other than m and the anchor, z from `standardised`,
    trust as a share of the highest.

    Args:
        embeddings: [B, D] unit vectors by modality, this process's rows.
        keys: [N, D], those of the whole batch.
        anchor: M_a.
        trust: by modality, from 0 (its similarities are ignored); only ratios matter.

    Returns:
        {modality: [B]} without gradients; over the whole batch they average 1.
    """
    with torch.no_grad():
        highest = torch.stack(list(trust.values())).max()
        mine, whole = (standardised(of, keys, anchor)[0] for of in (embeddings, keys))
        weights = {}
        for modality in mine:
            peers = [m for m in mine if m != modality]
            mine_B, whole_N = (
                torch.stack([z[m] * (trust[m] / highest) for m in peers]).amin(dim=0) for z in (mine, whole)
            )
            weights[modality] = mine_B.exp() / whole_N.exp().mean()
    return weights
