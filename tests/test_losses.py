"""Section 4's losses against the equations written as loops, against closed forms, and in several processes."""

import doctest
import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from mc3 import losses
from mc3.errors import ConfigError

PAIRS = [("audio", "video"), ("audio", "text"), ("video", "text")]
ALPHA = {"audio": 0.7, "video": 0.5, "text": 1.0, "touch": 2.0}
READINGS = [(inverse, stop) for inverse in losses.INVERSES for stop in (True, False)]


def unit(rows: int, modalities=("audio", "video", "text"), width: int = 5, seed: int = 0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return {
        m: torch.nn.functional.normalize(torch.randn(rows, width, generator=generator, dtype=dtype), dim=1)
        for m in modalities
    }


def eq_1(queries, keys, temperature):
    total = 0.0
    for t in range(len(queries)):
        scores = [math.exp(float(queries[t] @ keys[n]) / temperature) for n in range(len(keys))]
        total -= math.log(scores[t] / sum(scores))
    return total / len(queries)


def eq_2_and_3(embeddings, anchor, alpha, inverse):
    total, rows = 0.0, len(embeddings[anchor])
    for t in range(rows):
        x = {m: float(e[t] @ embeddings[anchor][t]) for m, e in embeddings.items() if m != anchor}
        scaled = {m: ((v + 1) / 2) ** alpha[m] for m, v in x.items()}
        least = min(scaled, key=scaled.get)
        for m in x:
            exponent = {"own": alpha[m], "minimum": alpha[least], "linear": 1.0}[inverse]
            c = 2 * scaled[least] ** (1 / exponent) - 1
            total += math.sqrt((x[m] - c) ** 2)
    return total / rows


def test_every_equation_cites_the_paper_and_its_example_runs():
    assert doctest.testmod(losses).failed == 0
    for loss in (losses.info_nce, losses.contrastive, losses.consensus):
        assert "arXiv 2404.05206" in loss.__doc__
        assert ">>> " in loss.__doc__


@given(rows=st.integers(1, 7), temperature=st.floats(0.05, 2.0), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=30)
def test_info_nce_is_equation_1_written_out(rows, temperature, seed):
    e = unit(rows, seed=seed)
    assert float(losses.info_nce(e["audio"], e["video"], temperature)) == pytest.approx(
        eq_1(e["audio"], e["video"], temperature), rel=1e-9, abs=1e-12
    )


@given(
    rows=st.integers(1, 6), seed=st.integers(0, 999), inverse=st.sampled_from(losses.INVERSES),
    anchor=st.sampled_from(["audio", "video", "text", "touch"]), others=st.integers(1, 3),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_consensus_is_equations_2_and_3_written_out(rows, seed, inverse, anchor, others):
    modalities = [anchor, *[m for m in ALPHA if m != anchor][:others]]
    e = unit(rows, modalities, seed=seed)
    for stop in (True, False):
        value = float(losses.consensus(e, anchor, ALPHA, inverse, stop))
        assert value == pytest.approx(eq_2_and_3(e, anchor, ALPHA, inverse), rel=1e-9, abs=1e-9)


def test_contrastive_sums_six_terms_for_three_modalities():
    e = unit(6)
    terms = losses.pairwise(e, PAIRS, 0.1)
    assert set(terms) == {"audio-video", "video-audio", "audio-text", "text-audio", "video-text", "text-video"}
    for name, term in terms.items():
        i, j = name.split("-")
        assert float(term) == pytest.approx(eq_1(e[i], e[j], 0.1))
    assert float(losses.contrastive(e, PAIRS, 0.1)) == pytest.approx(sum(float(t) for t in terms.values()))


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_equal_logits_cost_log_of_the_number_of_keys(rows):
    same = torch.ones(rows, 4).div(2)
    assert float(losses.info_nce(same, same, 0.05)) == pytest.approx(math.log(rows), abs=1e-6)
    orthogonal = torch.eye(8)[: 2 * rows if rows < 5 else 4]  # every query orthogonal to every key
    half = len(orthogonal) // 2
    assert float(losses.info_nce(orthogonal[:half], orthogonal[half:], 0.05)) == pytest.approx(math.log(half), abs=1e-6)


def test_orthonormal_samples_have_a_closed_form():
    identity, tau = torch.eye(6), 0.5
    expected = math.log(1 + 5 * math.exp(-1 / tau))
    assert float(losses.info_nce(identity, identity, tau)) == pytest.approx(expected, rel=1e-6)


def test_a_batch_of_one_has_no_negatives_and_no_contrastive_loss():
    assert float(losses.contrastive(unit(1), PAIRS, 0.05)) == 0.0


def test_info_nce_gradient_is_softmax_minus_one_hot_times_the_keys():
    e = unit(5)
    queries = e["audio"].clone().requires_grad_()
    losses.info_nce(queries, e["video"], 0.2).backward()
    softmax = torch.softmax(e["audio"] @ e["video"].T / 0.2, dim=1)
    expected = (softmax - torch.eye(5, dtype=torch.float64)) @ e["video"] / (5 * 0.2)
    torch.testing.assert_close(queries.grad, expected)


def test_losses_do_not_depend_on_the_order_of_samples_or_of_a_pair():
    e = unit(8)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    shuffled = {m: x[order] for m, x in e.items()}
    torch.testing.assert_close(losses.contrastive(e, PAIRS, 0.05), losses.contrastive(shuffled, PAIRS, 0.05))
    backwards = [pair[::-1] for pair in PAIRS]
    torch.testing.assert_close(losses.contrastive(e, PAIRS, 0.05), losses.contrastive(e, backwards, 0.05))
    for inverse in losses.INVERSES:
        torch.testing.assert_close(
            losses.consensus(e, "audio", ALPHA, inverse), losses.consensus(shuffled, "audio", ALPHA, inverse)
        )


def test_gradients_follow_their_samples_when_the_batch_is_permuted():
    order = torch.tensor([3, 0, 2, 1])

    def gradient(e):
        e = {m: x.clone().requires_grad_() for m, x in e.items()}
        (losses.contrastive(e, PAIRS, 0.1) + losses.consensus(e, "audio", ALPHA, "own", False)).backward()
        return e["video"].grad

    e = unit(4)
    torch.testing.assert_close(gradient({m: x[order] for m, x in e.items()}), gradient(e)[order])


@given(x=st.floats(-0.999, 1.0), alpha=st.floats(0.1, 4.0))
def test_k_and_its_inverse_cancel(x, alpha):
    x = torch.tensor(x, dtype=torch.float64)
    y = losses.scale(x, alpha)
    assert 0 <= float(y) <= 1
    assert float(losses.unscale(y, alpha)) == pytest.approx(float(x), abs=1e-9)
    assert float(losses.scale(losses.unscale(y, alpha), alpha)) == pytest.approx(float(y), rel=1e-9)


@given(x=st.floats(-1.0, 1.0), more=st.floats(0.001, 0.5), alpha=st.floats(0.1, 4.0))
def test_k_rises_with_similarity_from_0_to_1(x, more, alpha):
    at = [losses.scale(torch.tensor(v, dtype=torch.float64), alpha) for v in (-1.0, x, min(x + more, 1.0), 1.0)]
    assert at[0] <= at[1] <= at[2] <= at[3] == 1.0
    assert float(at[0]) == pytest.approx(losses.EDGE**alpha)


@pytest.mark.parametrize(("inverse", "stop"), READINGS)
def test_gradients_agree_with_finite_differences(inverse, stop):
    e = unit(3, seed=4)
    names = list(e)

    def loss(*raw):
        vectors = {m: torch.nn.functional.normalize(r, dim=1) for m, r in zip(names, raw, strict=True)}
        if stop:  # the target is a constant
            return losses.contrastive(vectors, PAIRS, 0.5)
        return losses.contrastive(vectors, PAIRS, 0.5) + losses.consensus(vectors, "audio", ALPHA, inverse, False)

    raw = [x.clone().requires_grad_() for x in e.values()]
    assert torch.autograd.gradcheck(loss, raw)
    if stop:
        x = {m: v.clone().requires_grad_() for m, v in e.items()}
        losses.consensus(x, "audio", ALPHA, inverse, True).backward()
        eps = 1e-6
        for m in ("video", "text"):  # finite differences of |x_i - c| with constant c, one coordinate at a time
            for t, d in [(0, 0), (1, 3), (2, 4)]:
                fixed = {k: v.clone() for k, v in e.items()}
                target = target_of(fixed, "audio", inverse)[m][t]
                at = []
                for sign in (1, -1):
                    fixed[m][t, d] = e[m][t, d] + sign * eps
                    at.append(abs(float(fixed[m][t] @ e["audio"][t]) - target) / 3)
                if abs(float(e[m][t] @ e["audio"][t]) - target) > 1e-4:
                    assert float(x[m].grad[t, d]) == pytest.approx((at[0] - at[1]) / (2 * eps), abs=1e-6)


def target_of(e, anchor, inverse):
    targets = {}
    for m in e:
        if m == anchor:
            continue
        targets[m] = []
        for t in range(len(e[anchor])):
            scaled = {k: ((float(v[t] @ e[anchor][t]) + 1) / 2) ** ALPHA[k] for k, v in e.items() if k != anchor}
            least = min(scaled, key=scaled.get)
            exponent = {"own": ALPHA[m], "minimum": ALPHA[least], "linear": 1.0}[inverse]
            targets[m].append(2 * scaled[least] ** (1 / exponent) - 1)
    return targets


def pulls(e, inverse, stop):
    """dL/dx_i of each sample, from the gradient on modality i, which is dL/dx_i times the anchor."""
    x = {m: v.clone().requires_grad_() for m, v in e.items()}
    losses.consensus(x, "audio", ALPHA, inverse, stop).backward()
    return {m: (x[m].grad * e["audio"]).sum(dim=1) * len(e["audio"]) for m in ("video", "text")}


@pytest.mark.parametrize("inverse", ["own", "minimum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_smallest_similarity_gets_no_gradient(inverse, dtype):
    e = unit(200, width=16, dtype=dtype)
    x = {m: (e[m] * e["audio"]).sum(dim=1) for m in ("video", "text")}
    video_least = ((x["video"] + 1) / 2) ** ALPHA["video"] < ((x["text"] + 1) / 2) ** ALPHA["text"]
    assert 5 < int(video_least.sum()) < 195
    pull = pulls(e, inverse, stop=True)
    assert torch.all(pull["video"][video_least] == 0)
    assert torch.all(pull["text"][~video_least] == 0)
    assert torch.all(pull["text"][video_least] != 0)
    assert torch.all(pull["video"][~video_least] != 0)


def test_the_own_reading_only_lowers_the_other_similarities():
    pull = pulls(unit(200, width=16), "own", stop=True)
    for gradient in pull.values():  # a positive slope: descent lowers the similarity
        assert torch.all(gradient > -1e-12)


def test_without_stop_gradient_the_minimum_is_pulled_towards_the_others():
    e = unit(100, width=16)
    x = {m: (e[m] * e["audio"]).sum(dim=1) for m in ("video", "text")}
    video_least = ((x["video"] + 1) / 2) ** ALPHA["video"] < ((x["text"] + 1) / 2) ** ALPHA["text"]
    pull = pulls(e, "own", stop=False)
    assert torch.all(pull["video"][video_least] < 0)
    assert torch.all(pull["text"][~video_least] < 0)


@pytest.mark.parametrize("inverse", ["own", "minimum"])
def test_the_consensus_loss_of_a_single_other_modality_is_zero(inverse):
    e = {m: v.requires_grad_() for m, v in unit(20, ("audio", "video"), dtype=torch.float32).items()}
    loss = losses.consensus(e, "audio", ALPHA, inverse, stop_gradient=False)
    loss.backward()
    assert loss.item() == 0.0
    assert float(e["video"].grad.abs().max()) == 0.0


def test_modalities_that_agree_on_every_sample_cost_nothing():
    e = unit(10)
    e["text"] = e["video"].clone()
    equal = {"video": 0.5, "text": 0.5}
    assert float(losses.consensus(e, "audio", equal, "own")) == pytest.approx(0.0, abs=1e-12)
    assert float(losses.consensus(e, "audio", equal, "minimum")) == 0.0


@pytest.mark.parametrize(("inverse", "stop"), READINGS)
@pytest.mark.parametrize("beyond", [0.0, 1e-6])
def test_gradients_stay_finite_at_opposite_and_equal_vectors(inverse, stop, beyond):
    audio = torch.nn.functional.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    ends = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]) * (1 + beyond)
    e = {"audio": audio, "video": audio * ends[:, :1], "text": audio * ends[:, 1:]}
    e = {m: v.clone().requires_grad_() for m, v in e.items()}
    loss = losses.consensus(e, "audio", ALPHA, inverse, stop)
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
    with pytest.raises(ConfigError, match=r"'median'.*own, minimum, linear"):
        losses.consensus(e, "audio", ALPHA, "median")
    with pytest.raises(ConfigError, match="'smell'"):
        losses.consensus(e, "smell", ALPHA)
    with pytest.raises(ConfigError, match="exponent for 'audio'"):
        losses.consensus(e, "video", {"video": 0.5, "text": 1.0})


# Many processes ------------------------------------------------------------------------------------------------------


WORLDS = {"two": [6, 6], "three": [4, 4, 4], "three, uneven": [5, 5, 2]}


def whole_loss(weights, x, rows=None):
    e = {m: torch.nn.functional.normalize(x[m] @ w, dim=1) for m, w in weights.items()}
    keys, offset, share = losses.gather(e, rows)
    return share * (
        losses.contrastive(e, PAIRS, 0.1, keys, offset) + 3 * losses.consensus(e, "audio", ALPHA, "own", False)
    )


def problem():
    generator = torch.Generator().manual_seed(7)
    weights = {m: torch.randn(6, 5, generator=generator, dtype=torch.float64) for m in ("audio", "video", "text")}
    x = {m: torch.randn(12, 6, generator=generator, dtype=torch.float64) for m in weights}
    return {m: w.requires_grad_() for m, w in weights.items()}, x


def one_of_three_processes(rank: int, folder: str):
    torch.set_num_threads(1)
    results = {}
    for name, rows in WORLDS.items():
        if rank >= len(rows):
            continue
        store = f"file://{folder}/{name.replace(' ', '')}"
        dist.init_process_group("gloo", store, rank=rank, world_size=len(rows))
        weights, x = problem()
        start = sum(rows[:rank])
        mine = {m: v[start : start + rows[rank]] for m, v in x.items()}
        loss = whole_loss(weights, mine, None if len(set(rows)) == 1 else rows)
        loss.backward()
        results[name] = {m: w.grad for m, w in weights.items()} | {"loss": loss.detach()}
        for value in results[name].values():  # what DistributedDataParallel does with gradients
            dist.all_reduce(value)
            value /= len(rows)
        dist.destroy_process_group()
    if rank == 0:
        torch.save(results, Path(folder) / "results.pt")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(one_of_three_processes, args=(str(folder),), nprocs=3)
    return torch.load(folder / "results.pt", weights_only=True)


@pytest.mark.parametrize("world", WORLDS)
def test_several_processes_compute_the_loss_and_gradient_of_one(world, many):
    weights, x = problem()
    loss = whole_loss(weights, x)
    loss.backward()
    torch.testing.assert_close(many[world]["loss"], loss.detach(), rtol=1e-9, atol=0)
    for m, w in weights.items():
        torch.testing.assert_close(many[world][m], w.grad, rtol=1e-9, atol=1e-12)


def test_a_query_of_weight_two_counts_twice():
    e, weights = unit(5), torch.tensor([2.0, 1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    single = [eq_1(e["audio"], e["video"], 0.2)]
    assert float(losses.info_nce(e["audio"], e["video"], 0.2, weights=torch.ones(5))) == pytest.approx(single[0])
    each = torch.stack([losses.info_nce(e["audio"][t : t + 1], e["video"], 0.2, offset=t) for t in range(5)])
    twice = torch.cat([each[:2], each[:1], each[3:]]).sum() / 5
    assert float(losses.info_nce(e["audio"], e["video"], 0.2, weights=weights)) == pytest.approx(float(twice))
