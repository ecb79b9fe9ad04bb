"""Section 4's losses against the equations written as loops, against closed forms, and in several processes."""

import doctest
import math
from decimal import Decimal, localcontext
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from small_training import processes

from mc3 import losses
from mc3.errors import ConfigError

PAIRS = [("audio", "video"), ("audio", "text"), ("video", "text")]
ALPHA = {"audio": 0.7, "video": 0.5, "text": 1.0, "touch": 2.0}
READINGS = [(inverse, stop) for inverse in losses.INVERSES for stop in (True, False)]


def unit(rows: int, modalities=("audio", "video", "text"), width: int = 5, seed: int = 0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    drawn = {m: torch.randn(rows, width, generator=generator, dtype=dtype) for m in modalities}
    return {m: torch.nn.functional.normalize(x, dim=1) for m, x in drawn.items()}


def eq_1(queries, keys, temperature):
    total = 0.0
    for t in range(len(queries)):
        scores = [math.exp(float(queries[t] @ keys[n]) / temperature) for n in range(len(keys))]
        total -= math.log(scores[t] / sum(scores))
    return total / len(queries)


def eq_2_and_3(embeddings, anchor, alpha, inverse, power=1):
    total, rows = 0.0, len(embeddings[anchor])
    for t in range(rows):
        x = {m: float(e[t] @ embeddings[anchor][t]) for m, e in embeddings.items() if m != anchor}
        scaled = {m: ((v + 1) / 2) ** alpha[m] for m, v in x.items()}
        least = min(scaled, key=scaled.get)
        for m in x:
            exponent = {"own": alpha[m], "minimum": alpha[least], "linear": 1.0}[inverse]
            c = 2 * scaled[least] ** (1 / exponent) - 1
            total += math.sqrt((x[m] - c) ** 2) ** power
    return total / rows


def test_every_equation_cites_the_paper_and_its_example_runs():
    assert doctest.testmod(losses).failed == 0
    for loss in (losses.info_nce, losses.contrastive, losses.consensus_score, losses.consensus):
        assert "arXiv 2404.05206" in loss.__doc__
        assert ">>> " in loss.__doc__


@given(rows=st.integers(1, 7), temperature=st.floats(0.05, 2.0), seed=st.integers(0, 999))
@settings(max_examples=30)
def test_info_nce_is_equation_1_written_out(rows, temperature, seed):
    e = unit(rows, seed=seed)
    found = float(losses.info_nce(e["audio"], e["video"], temperature))
    assert found == pytest.approx(eq_1(e["audio"], e["video"], temperature), rel=1e-9, abs=1e-12)


@given(rows=st.integers(1, 6), seed=st.integers(0, 999), inverse=st.sampled_from(losses.INVERSES),
       anchor=st.sampled_from(["audio", "video", "text", "touch"]), others=st.integers(1, 3))  # fmt: skip
@settings(max_examples=60)
def test_consensus_is_equations_2_and_3_written_out(rows, seed, inverse, anchor, others):
    modalities = [anchor, *[m for m in ALPHA if m != anchor][:others]]
    e = unit(rows, modalities, seed=seed)
    for stop, (distance, power) in product((True, False), (("absolute", 1), ("squared", 2))):
        value = float(losses.consensus(e, anchor, ALPHA, inverse, stop, distance))
        assert value == pytest.approx(eq_2_and_3(e, anchor, ALPHA, inverse, power), rel=1e-9, abs=1e-9)


def test_contrastive_sums_six_terms_for_three_modalities():
    e = unit(6)
    expected = {f"{i}-{j}": eq_1(e[i], e[j], 0.1) for i, j in permutations(e, 2)}
    assert losses.pairwise(e, PAIRS, 0.1) == pytest.approx(expected)
    assert float(losses.contrastive(e, PAIRS, 0.1)) == pytest.approx(sum(expected.values()))


def test_info_nce_has_its_closed_forms():
    for rows in (1, 2, 9):  # all logits are equal
        same = torch.ones(rows, 4).div(2)
        assert float(losses.info_nce(same, same, 0.05)) == pytest.approx(math.log(rows), abs=1e-6)
    identity, tau = torch.eye(6), 0.5
    expected = math.log(1 + 5 * math.exp(-1 / tau))
    assert float(losses.info_nce(identity, identity, tau)) == pytest.approx(expected, rel=1e-6)


def test_losses_do_not_depend_on_the_order_of_samples_or_of_a_pair():
    e = unit(8)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    shuffled = {m: x[order] for m, x in e.items()}
    torch.testing.assert_close(losses.contrastive(e, PAIRS, 0.05), losses.contrastive(shuffled, PAIRS, 0.05))
    backwards = [pair[::-1] for pair in PAIRS]
    torch.testing.assert_close(losses.contrastive(e, PAIRS, 0.05), losses.contrastive(e, backwards, 0.05))
    for inverse in losses.INVERSES:
        one, other = (losses.consensus(embeddings, "audio", ALPHA, inverse) for embeddings in (e, shuffled))
        torch.testing.assert_close(one, other)


@given(x=st.floats(-0.999, 1.0), more=st.floats(0.001, 0.5), alpha=st.floats(0.1, 4.0))
def test_k_rises_with_similarity_from_0_to_1_and_cancels_with_its_inverse(x, more, alpha):
    y = [losses.scale(torch.tensor(v, dtype=torch.float64), alpha) for v in (-1.0, x, min(x + more, 1.0), 1.0)]
    assert 0 < y[0] <= y[1] <= y[2] <= y[3] == 1.0
    assert float(y[0]) == pytest.approx(losses.EDGE**alpha)
    assert float(losses.unscale(y[1], alpha)) == pytest.approx(x, abs=1e-9)
    assert float(losses.scale(losses.unscale(y[1], alpha), alpha)) == pytest.approx(float(y[1]), rel=1e-9)


@pytest.mark.parametrize("distance", losses.DISTANCES)
@pytest.mark.parametrize("inverse", losses.INVERSES)
def test_gradients_of_a_moving_target_agree_with_finite_differences(inverse, distance):
    names, raw = zip(*((m, x.requires_grad_()) for m, x in unit(3, seed=4).items()), strict=True)

    def loss(*raw):
        vectors = {m: torch.nn.functional.normalize(r, dim=1) for m, r in zip(names, raw, strict=True)}
        consensus = losses.consensus(vectors, "audio", ALPHA, inverse, False, distance)
        return losses.contrastive(vectors, PAIRS, 0.5) + consensus

    assert torch.autograd.gradcheck(loss, raw)


def in_a_plane(x):
    """Embeddings with these similarities of video and text to the audio, [B, 2], to the last bit."""
    video, text = (torch.stack([one, (1 - one * one).sqrt()], dim=1) for one in x.unbind(dim=1))
    return {"audio": torch.eye(2, dtype=x.dtype)[:1].expand_as(video), "video": video, "text": text}


def exact_differences(x, alpha, inverse):
    """x - c of every similarity with fifty digits; below 1e-40 it is the rounding of the way through K and back."""
    with localcontext(prec=50):
        exponents, rows = [Decimal(a) for a in alpha.values()], []
        for sample in x.tolist():
            cosines = [Decimal(value) for value in sample]
            scaled = [((value + 1) / 2) ** exponent for value, exponent in zip(cosines, exponents, strict=True)]
            least = scaled.index(min(scaled))
            of_inverse = {"own": exponents, "minimum": [exponents[least]] * 2, "linear": [Decimal(1)] * 2}[inverse]
            targets = [2 * scaled[least] ** (1 / exponent) - 1 for exponent in of_inverse]
            apart = [value - target for value, target in zip(cosines, targets, strict=True)]
            rows.append([0.0 if abs(value) < Decimal("1e-40") else float(value) for value in apart])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(("dtype", "step"), [(torch.float32, 2.0**-11), (torch.float64, 2.0**-20)])
@pytest.mark.parametrize("inverse", losses.INVERSES)
@pytest.mark.parametrize("exponents", [(v, t) for v in (0.25, 0.5, 1.0, 2.0) for t in (0.5, 1.0, 2.0)])
def test_a_constant_target_has_the_slope_of_exact_arithmetic(exponents, inverse, dtype, step):
    """Rounding on the way through K and back would give the modality with the minimum slope 1 or -1."""
    alpha = dict(zip(("video", "text"), exponents, strict=True))
    x = (torch.rand(64, 2, generator=torch.Generator().manual_seed(1), dtype=dtype) * 1.9 - 0.95).requires_grad_()
    apart = exact_differences(x, alpha, inverse)
    losses.consensus(in_a_plane(x), "audio", alpha, inverse).backward()
    assert torch.equal((x.grad * len(x)).double(), apart.sign())
    around = [((x.detach().double() + sign * step) - (x.detach().double() - apart)).abs() for sign in (1, -1)]
    smooth = (apart == 0) | (apart.abs() > step)
    assert smooth.double().mean() > 0.98
    differences = (around[0] - around[1]) / (2 * step)
    torch.testing.assert_close(differences[smooth], (x.grad * len(x)).double()[smooth], rtol=1e-6, atol=1e-6)
    x.grad = None
    losses.consensus(in_a_plane(x), "audio", alpha, inverse, distance="squared").backward()
    torch.testing.assert_close((x.grad * len(x)).double(), 2 * apart, rtol=1e-4, atol=1e-5)
    least = torch.stack([losses.scale(x[:, k], a) for k, a in enumerate(exponents)]).argmin(dim=0)
    for k, exponent in enumerate(exponents):  # closed form: 2y - 1 is above x where K lifts, below it where K lowers
        expected = torch.tensor(exponent - 1).sign() if inverse == "linear" else 0.0
        assert (apart.sign()[least == k, k] == expected).all()


def test_the_whole_batch_distance_is_the_sum_of_frobenius_norms_written_out():
    e, total = unit(5), 0.0
    for m in ("video", "text"):
        squares = 0.0
        for t, n in product(range(5), repeat=2):
            x = {k: float(e["audio"][t] @ e[k][n]) for k in ("video", "text")}
            c = 2 * min(((value + 1) / 2) ** ALPHA[k] for k, value in x.items()) - 1
            squares += (x[m] - c) ** 2
        total += math.sqrt(squares)
    for stop in (True, False):
        assert float(losses.consensus(e, "audio", ALPHA, "linear", stop, "frobenius")) == pytest.approx(total, rel=1e-9)


def test_the_gradient_of_the_whole_batch_distance_is_its_differences_over_their_norm():
    """d|X|/dx = x/|X|, through constant targets: closed form, also for similarities of different samples."""
    e = unit(6)
    x = {m: v.clone().requires_grad_() for m, v in e.items()}
    losses.consensus(x, "audio", ALPHA, "own", True, "frobenius").backward()
    cosines = torch.stack([e["audio"] @ e[m].T for m in ("video", "text")], dim=-1)
    apart = exact_differences(cosines.reshape(-1, 2), {m: ALPHA[m] for m in ("video", "text")}, "own").reshape(6, 6, 2)
    for k, m in enumerate(("video", "text")):
        expected = (apart[..., k] / apart[..., k].square().sum().sqrt()).T @ e["audio"]
        torch.testing.assert_close(x[m].grad, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("distance", losses.DISTANCES)
@pytest.mark.parametrize("inverse", ["own", "minimum"])
def test_a_single_other_modality_and_two_that_agree_on_every_sample_cost_nothing(inverse, distance):
    e = {m: v.requires_grad_() for m, v in unit(20, ("audio", "video"), dtype=torch.float32).items()}
    loss = losses.consensus(e, "audio", ALPHA, inverse, stop_gradient=False, distance=distance)
    loss.backward()
    assert loss.item() == 0.0
    assert float(e["video"].grad.abs().max()) == 0.0
    if distance != "frobenius":  # which compares different samples too
        e, equal = unit(10, ("audio", "video")), {"video": 0.5, "text": 0.5}
        assert float(losses.consensus({**e, "text": e["video"]}, "audio", equal, inverse, distance=distance)) == 0.0


@pytest.mark.parametrize(("inverse", "stop"), READINGS)
@pytest.mark.parametrize("beyond", [0.0, 1e-6])
@pytest.mark.parametrize("distance", losses.DISTANCES)
def test_gradients_stay_finite_at_opposite_and_equal_vectors(inverse, stop, beyond, distance):
    audio = torch.nn.functional.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    ends = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]) * (1 + beyond)
    e = {"audio": audio, "video": audio * ends[:, :1], "text": audio * ends[:, 1:]}
    e = {m: v.clone().requires_grad_() for m, v in e.items()}
    loss = losses.consensus(e, "audio", ALPHA, inverse, stop, distance)
    loss.backward()
    assert math.isfinite(loss.item())
    for m, v in e.items():
        assert torch.isfinite(v.grad).all(), m


def test_losses_under_autocast_are_those_of_float32():
    e = unit(32, width=64, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = losses.contrastive(e, PAIRS, 0.05), losses.consensus(e, "audio", ALPHA)
    assert inside[0].dtype == torch.float32
    assert float(inside[0]) == float(losses.contrastive(e, PAIRS, 0.05))
    assert float(inside[1]) == float(losses.consensus(e, "audio", ALPHA))


def test_a_wrong_reading_anchor_or_missing_exponent_is_named():
    e = unit(3)
    for message, *arguments in (
        (r"inverse is 'median'.*minimum, own, linear", "audio", ALPHA, "median"),
        (r"distance is 'cubic'.*absolute, squared, frobenius", "audio", ALPHA, "own", True, "cubic"),
        (r"'smell'", "smell", ALPHA), (r"exponent for 'audio'", "video", {"video": 0.5, "text": 1.0}),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            losses.consensus(e, *arguments)


# Many processes ------------------------------------------------------------------------------------------------------


def whole_loss(weights, x, rows=None):
    e = {m: torch.nn.functional.normalize(x[m] @ w, dim=1) for m, w in weights.items()}
    keys, offset, share = losses.gather(e, rows)
    consensus = 3 * losses.consensus(e, "audio", ALPHA, "own", False)
    whole = 2 * losses.consensus(keys, "audio", ALPHA, "linear", False, "frobenius")
    return share * (losses.contrastive(e, PAIRS, 0.1, keys, offset) + consensus + whole)


def problem():
    generator = torch.Generator().manual_seed(7)
    weights = {m: torch.randn(6, 5, generator=generator, dtype=torch.float64) for m in ("audio", "video", "text")}
    x = {m: torch.randn(12, 6, generator=generator, dtype=torch.float64) for m in weights}
    return {m: w.requires_grad_() for m, w in weights.items()}, x


def write_mean_gradient(rows: list[int], path: Path):
    """As one of `len(rows)` processes, with its rows of the batch: loss and gradient, averaged over the processes."""
    dist.init_process_group("gloo")
    rank, (weights, x) = dist.get_rank(), problem()
    mine = {m: v.split(rows)[rank] for m, v in x.items()}
    loss = whole_loss(weights, mine, None if len(set(rows)) == 1 else rows)
    loss.backward()
    found = {m: w.grad for m, w in weights.items()} | {"loss": loss.detach()}
    for value in found.values():  # what DistributedDataParallel does with gradients
        dist.all_reduce(value)
        value /= len(rows)
    if rank == 0:
        torch.save(found, path)


@pytest.mark.parametrize("rows", [[6, 6], [4, 4, 4], [5, 5, 2]])
def test_several_processes_compute_the_loss_and_gradient_of_one(rows, tmp_path):
    processes(len(rows), write_mean_gradient, rows, tmp_path / "found.pt")
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    weights, x = problem()
    loss = whole_loss(weights, x)
    loss.backward()
    torch.testing.assert_close(found["loss"], loss.detach(), rtol=1e-9, atol=0)
    for m, w in weights.items():
        torch.testing.assert_close(found[m], w.grad, rtol=1e-9, atol=1e-12)


def test_info_nce_gradient_is_softmax_minus_one_hot_times_the_keys():
    e = unit(5)
    queries = e["audio"].clone().requires_grad_()
    losses.info_nce(queries, e["video"], 0.2).backward()
    softmax = torch.softmax(e["audio"] @ e["video"].T / 0.2, dim=1)
    expected = (softmax - torch.eye(5, dtype=torch.float64)) @ e["video"] / (5 * 0.2)
    torch.testing.assert_close(queries.grad, expected)


def test_the_own_reading_lowers_the_other_similarities_and_without_stop_gradient_raises_the_smallest():
    e = unit(200, width=16)
    x = {m: (e[m] * e["audio"]).sum(dim=1) for m in ("video", "text")}
    video_least = losses.scale(x["video"], ALPHA["video"]) < losses.scale(x["text"], ALPHA["text"])
    assert 5 < int(video_least.sum()) < 195
    for stop in (True, False):
        leaves = {m: v.clone().requires_grad_() for m, v in e.items()}
        losses.consensus(leaves, "audio", ALPHA, "own", stop).backward()
        # the gradient on modality i is dL/dx_i times the anchor; a positive slope: descent lowers the similarity
        slope = {m: (leaves[m].grad * e["audio"]).sum(dim=1) for m in ("video", "text")}
        for m, least in (("video", video_least), ("text", ~video_least)):
            assert torch.all(slope[m][~least] > 0)
            assert torch.all(slope[m][least] == 0 if stop else slope[m][least] < 0)


@pytest.mark.parametrize("weights", [[1.0] * 5, [2.0, 1.0, 0.0, 1.0, 1.0]])
def test_a_query_of_weight_two_counts_twice_and_of_none_never(weights):
    e = unit(5)
    each = [eq_1(e["audio"][t : t + 1], e["video"].roll(-t, dims=0), 0.2) for t in range(5)]
    expected = np.average(each, weights=weights)
    found = losses.info_nce(e["audio"], e["video"], 0.2, weights=torch.tensor(weights, dtype=torch.float64))
    assert float(found) == pytest.approx(expected)
