"""Agreement measured against the batch, instead of Eq. 3: this project's objectives, not the paper's."""

import torch
from torch import Tensor

from mc3 import losses
from mc3.losses import EDGE, Embeddings, at_least_float32
from mc3.methods import MODALITIES, Stage
from mc3.objectives.base import Batch, Objective


class Peers(Objective, kind="peers", takes=("trust",)):
    """Eq. 1 in which a clip's weight for the anchor and a modality is how much the other modalities agree on it.

    With `trust` "retrieval" a modality counts as far as it finds its own clips in the batch; "equal": all alike.
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


def standardised(embeddings: Embeddings, keys: Embeddings, anchor: str) -> dict[str, Tensor]:
    """Similarities to the anchor in standard deviations from the whole batch's mean, {modality: [B]}.

    Cosines of two pairs of modalities are not comparable: one pair's may spread over .2 and the other's over .6.
    Standardised ones are, without an exponent. Mean and deviation carry no gradients. `embeddings` are this process's
    rows, unit [B, D] by modality, and `keys` the whole batch's, [N, D], here and below.
    """
    scores = {}
    whole = losses.similarities({m: key.detach() for m, key in keys.items()}, anchor)
    for modality, x_B in losses.similarities(embeddings, anchor).items():
        deviation, mean = torch.std_mean(whole[modality], correction=0)
        scores[modality] = (x_B - mean) / deviation.clamp(min=EDGE)
    return scores


def retrieval_posteriors(keys: Embeddings, anchor: str, temperature: float) -> dict[str, Tensor]:
    """The mean probability, from 1 / N to 1, of the own sample in both directions of Eq. 1 between m and the anchor."""
    found = {}
    with torch.no_grad(), torch.autocast(keys[anchor].device.type, enabled=False):
        for modality in (m for m in keys if m != anchor):
            logits_NN = at_least_float32(keys[modality]) @ at_least_float32(keys[anchor]).T / temperature
            found[modality] = (logits_NN.softmax(dim=0) + logits_NN.softmax(dim=1)).diagonal().mean() / 2
    return found


def peer_weights(embeddings: Embeddings, keys: Embeddings, anchor: str, trust: Embeddings) -> dict[str, Tensor]:
    """The weight of each sample in the contrast of the anchor with a modality, from the other modalities: {m: [B]}.

    As in co-teaching (https://arxiv.org/abs/1804.06872) the peers choose: the weight of sample t for modality m, 1 on
    average over the whole batch, is proportional to exp(min trust_i z_i^t) over the modalities i other than m and the
    anchor, z from `standardised`, trust as a share of the highest (0: its similarities are ignored).
    """
    with torch.no_grad():
        highest = torch.stack(list(trust.values())).max()
        mine, whole = (standardised(of, keys, anchor) for of in (embeddings, keys))
        weights = {}
        for modality in mine:
            peers = [m for m in mine if m != modality]
            mine_B, whole_N = (
                torch.stack([z[m] * (trust[m] / highest) for m in peers]).amin(dim=0) for z in (mine, whole)
            )
            weights[modality] = mine_B.exp() / whole_N.exp().mean()
    return weights
