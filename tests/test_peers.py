"""Agreement measured against the batch: the weights of Peers against their definition."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from test_losses import unit

from mc3.objectives.peers import peer_weights, retrieval_posteriors


def z_scores(e, anchor):
    scores = {}
    for m in (m for m in e if m != anchor):
        x = [float(a @ b) for a, b in zip(e[m], e[anchor], strict=True)]
        mean = sum(x) / len(x)
        spread = math.sqrt(sum((v - mean) ** 2 for v in x) / len(x))
        scores[m] = [(v - mean) / spread for v in x]
    return scores


@given(rows=st.integers(2, 8), seed=st.integers(0, 999), trusts=st.tuples(*[st.just(0.0) | st.floats(0.01, 1.0)] * 3))
def test_peer_weights_equal_their_definition_and_average_one(rows, seed, trusts):
    """A modality without trust has no influence."""
    assume(any(trusts))
    e = unit(rows, ("audio", "video", "text", "touch"), seed=seed)
    trust = dict(zip(("video", "text", "touch"), map(torch.tensor, trusts), strict=True))
    z, found = z_scores(e, "audio"), peer_weights(e, e, "audio", trust)
    for m in z:
        peers = [p for p in z if p != m]
        raw = [math.exp(min(float(trust[p]) / max(trusts) * z[p][t] for p in peers)) for t in range(rows)]
        expected = torch.tensor([w / (sum(raw) / rows) for w in raw], dtype=torch.float64)
        torch.testing.assert_close(found[m], expected, rtol=1e-6, atol=1e-9)
        assert float(found[m].mean()) == pytest.approx(1.0)


def test_trust_is_the_mean_probability_of_the_own_sample():
    eye = torch.eye(6, dtype=torch.float64)
    keys = {"audio": eye, "text": eye, "video": eye[:1].expand(6, 6)}
    found = retrieval_posteriors(keys, "audio", 0.05)
    assert float(found["text"]) == pytest.approx(1.0, abs=1e-6)
    assert float(found["video"]) == pytest.approx(1 / 6)
    e = unit(7)
    found = retrieval_posteriors(e, "audio", 0.3)
    for m in ("video", "text"):
        p = [math.exp(float(e[m][t] @ e["audio"][t]) / 0.3) for t in range(7)]
        rows = [sum(math.exp(float(e[m][t] @ e["audio"][n]) / 0.3) for n in range(7)) for t in range(7)]
        columns = [sum(math.exp(float(e[m][n] @ e["audio"][t]) / 0.3) for n in range(7)) for t in range(7)]
        both = [p[t] / rows[t] / 2 + p[t] / columns[t] / 2 for t in range(7)]
        assert float(found[m]) == pytest.approx(sum(both) / 7)
