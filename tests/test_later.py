"""Losses published after the paper: GRAM, TRIANGLE, Symile and another code's consensus, against loops."""

import dataclasses
import doctest
import itertools
import json
import math
import statistics

import numpy as np
import pandas as pd
import pytest
import small_work
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from small_work import ROOT
from test_losses import unit
from torch import Tensor

from mc3 import config, losses, methods, objectives, store
from mc3.data import batches
from mc3.errors import ConfigError
from mc3.methods import MODALITIES
from mc3.objectives import gram, symile, third_party, triangle
from mc3.objectives.gram import volume
from mc3.objectives.symile import product, shuffles
from mc3.objectives.triangle import area
from mc3.paper import bootstrap, later, tables

KINDS = ("gram", "triangle", "symile")
MINI = config.load(ROOT / "profiles" / "mini.yaml")
SEED = 7


def made(name: str, of: config.Config = MINI, **loss: object) -> objectives.Objective:
    """The objective of a method, in float64, with other settings of its kind of loss."""
    stage = methods.get(name).stages[0]
    stage = dataclasses.replace(stage, settings={**stage.settings, **loss})
    return objectives.make(of, stage, torch.nn.Linear(1, 1, dtype=torch.float64), 28, SEED)


def batch_of(clips: int) -> objectives.Batch:
    return objectives.Batch({}, [slice(clips)], torch.arange(clips), [clips], SEED)


def loss_of(objective: objectives.Objective, embeddings: dict[str, Tensor]) -> Tensor:
    return objective(embeddings, batch_of(len(embeddings["audio"])))[0]


def cosines(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return a @ b, a @ c, b @ c


def triple(seed: int, width: int) -> list[Tensor]:
    return [e[0] for e in unit(1, width=width, seed=seed).values()]


def volume_by_determinant(a: Tensor, b: Tensor, c: Tensor) -> float:
    rows = torch.stack([a, b, c]).numpy()
    return math.sqrt(abs(np.linalg.det(rows @ rows.T)))


def area_by_heron(a: Tensor, b: Tensor, c: Tensor) -> float:
    sides = [math.dist(p.tolist(), q.tolist()) for p, q in ((a, b), (b, c), (c, a))]
    half = sum(sides) / 2
    return math.sqrt(half * math.prod(half - side for side in sides))


def cross_entropy(logits: list[list[float]], smoothing: float = 0.0) -> float:
    """The mean over rows, of which row i should be at its column i, by loops."""
    total = 0.0
    for i, row in enumerate(logits):
        log_p = [z - math.log(sum(math.exp(other) for other in row)) for z in row]
        total -= (1 - smoothing) * log_p[i] + smoothing * sum(log_p) / len(row)
    return total / len(logits)


# Sizes ----------------------------------------------------------------------------------------------------------------


def test_every_example_runs_and_every_loss_names_its_source():
    for module in (gram, triangle, symile, third_party):
        assert doctest.testmod(module).failed == 0
        assert "https://arxiv.org/abs/" in module.__doc__


@given(seed=st.integers(0, 9999), width=st.integers(3, 9))
def test_the_volume_is_the_root_of_the_gram_determinant(seed, width):
    vectors = triple(seed, width)
    assert float(volume(*cosines(*vectors))) == pytest.approx(max(volume_by_determinant(*vectors), 1e-3), abs=1e-9)


@given(seed=st.integers(0, 9999), width=st.integers(2, 9))
def test_the_area_is_herons_of_the_three_points(seed, width):
    points = triple(seed, width)
    assert float(area(*cosines(*points))) == pytest.approx(max(area_by_heron(*points), 5e-4), abs=1e-9)


@pytest.mark.parametrize("size", [volume, area])
@given(seed=st.integers(0, 9999))
def test_a_size_does_not_depend_on_the_order_of_the_modalities(size, seed):
    found = [float(size(*cosines(*order))) for order in itertools.permutations(triple(seed, 5))]
    assert found == pytest.approx([found[0]] * 6, rel=1e-9)


@given(seed=st.integers(0, 9999))
def test_the_volume_ignores_a_vectors_sign_and_neither_size_changes_with_a_rotation(seed):
    a, b, c = triple(seed, 5)
    assert float(volume(*cosines(-a, b, c))) == pytest.approx(float(volume(*cosines(a, b, c))))
    turn = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))[0]
    for size in (volume, area):
        assert float(size(*cosines(a @ turn, b @ turn, c @ turn))) == pytest.approx(float(size(*cosines(a, b, c))))


def test_sizes_of_orthonormal_equal_and_evenly_spread_vectors():
    orthonormal, equal = torch.eye(3).unbind(), torch.eye(3)[[0, 0, 0]].unbind()
    assert float(volume(*cosines(*orthonormal))) == 1
    assert float(area(*cosines(*orthonormal))) == pytest.approx(math.sqrt(3) / 2)  # three sides of sqrt(2)
    assert float(volume(*cosines(*equal))) == pytest.approx(1e-3)  # the root of `EDGE`, in the place of 0
    assert float(area(*cosines(*equal))) == pytest.approx(5e-4)
    even = torch.tensor(-0.5)  # three vectors at 120 degrees in one plane: no volume, the largest triangle
    assert float(volume(even, even, even)) == pytest.approx(1e-3)
    assert float(area(even, even, even)) == pytest.approx(3 * math.sqrt(3) / 4)


def test_the_product_is_the_sum_over_dimensions_in_any_order():
    a, v, t = unit(6).values()
    expected = [sum(float(a[i, d] * v[i, d] * t[i, d]) for d in range(5)) for i in range(6)]
    for order in itertools.permutations((a, v, t)):
        assert product(*order).tolist() == pytest.approx(expected)


# Losses ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anchor", MODALITIES)
@pytest.mark.parametrize(("name", "size"), [("gram", volume_by_determinant), ("triangle", area_by_heron)])
@given(rows=st.integers(1, 6), smoothing=st.floats(0, 0.9), seed=st.integers(0, 999))
@settings(max_examples=10)
def test_gram_and_triangle_equal_loops_over_sizes(name, size, anchor, rows, smoothing, seed):
    e = unit(rows, seed=seed)
    b, c = (m for m in MODALITIES if m != anchor)
    logits = [[-size(e[anchor][i], e[b][j], e[c][j]) / 0.07 for j in range(rows)] for i in range(rows)]
    backwards = [list(column) for column in zip(*logits, strict=True)]
    expected = (cross_entropy(logits, smoothing) + cross_entropy(backwards, smoothing)) / 2
    found = loss_of(made(name, anchor=anchor, smoothing=smoothing), e)
    assert float(found) == pytest.approx(expected, rel=1e-6)


@given(rows=st.integers(1, 6), seed=st.integers(0, 999))
@settings(max_examples=20)
def test_symile_equals_loops_over_the_same_shuffles(rows, seed):
    e, expected = unit(rows, seed=seed), 0.0
    for number, anchor in enumerate(MODALITIES):
        b, c = (m for m in MODALITIES if m != anchor)
        p, q = shuffles(rows, SEED, number).tolist()
        logits = []
        for i in range(rows):
            others = [(i, i) if j == i else (p[j], q[j]) for j in range(rows)]
            products = [sum(float(e[anchor][i, d] * e[b][k, d] * e[c][n, d]) for d in range(5)) for k, n in others]
            logits.append([math.sqrt(5) / 0.07 * value for value in products])
        expected += cross_entropy(logits) / 3
    assert float(loss_of(made("symile"), e).detach()) == pytest.approx(expected)


@pytest.mark.parametrize("name", KINDS)
def test_a_batch_of_equal_clips_has_the_loss_log_n(name):
    same = {m: e.expand(9, 5) for m, e in unit(1).items()}
    assert float(loss_of(made(name), same).detach()) == pytest.approx(math.log(9))


@pytest.mark.parametrize("name", ["gram", "triangle"])
def test_where_the_two_other_modalities_are_equal_no_anchor_can_tell_clips_apart(name):
    """Two equal vectors span no volume and no area with a third, wherever it is."""
    e = unit(9)
    assert float(loss_of(made(name), e | {"audio": e["video"]})) == pytest.approx(math.log(9))
    assert float(loss_of(made(name), dict.fromkeys(MODALITIES, torch.eye(9).double()))) == pytest.approx(math.log(9))
    assert float(loss_of(made(name, anchor="audio"), e | {"audio": e["video"]})) < math.log(9) - 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*KINDS, "third_party"])
def test_gradients_are_finite_where_modalities_or_clips_are_equal(name, dtype):
    for rows in (unit(9)["audio"], unit(1)["audio"].expand(9, 5)):
        e = {m: rows.to(dtype).clone().requires_grad_() for m in MODALITIES}
        loss_of(made(name).to(dtype), e).backward()
        assert all(x.grad.isfinite().all() for x in e.values())


@pytest.mark.parametrize("name", KINDS)
def test_the_terms_of_every_process_average_to_those_of_the_whole_batch(name):
    objective, e, rows = made(name), unit(9), (4, 2, 3)
    whole = objective.terms(e, e, 0, batch_of(9))
    parts, offset = [], 0
    for count in rows:
        parts.append(objective.terms({m: x[offset:][:count] for m, x in e.items()}, e, offset, batch_of(9)))
        offset += count
    for term, value in whole.items():
        average = statistics.fmean((float(part[term].detach()) for part in parts), weights=rows)
        assert average == pytest.approx(float(value.detach()))


# Symile's shuffles and scale ------------------------------------------------------------------------------------------


def test_shuffles_are_permutations_given_by_the_seed_of_the_step_and_the_anchor():
    first = shuffles(64, SEED, 0)
    assert torch.equal(first, shuffles(64, SEED, 0))
    assert torch.equal(first.sort(dim=1).values, torch.arange(64).expand(2, 64))
    assert not torch.equal(*first)


def test_no_step_and_no_anchor_repeats_a_shuffle():
    steps = [batches.seed_of(0, 0, step) for step in range(200)]
    drawn = torch.cat([shuffles(64, seed, number) for seed in steps for number in range(3)])
    assert len({tuple(order) for order in drawn.tolist()}) == len(drawn) == 1200


def test_symiles_scale_starts_at_one_over_the_temperature_is_learnt_and_stays_below_its_bound():
    objective = made("symile")
    loss, parts = objective(unit(9), batch_of(9))
    loss.backward()
    assert float(parts["logit_scale"]) == pytest.approx(1 / MINI.loss.temperature)
    assert float(objective.log_scale.grad) != 0
    with torch.no_grad():
        objective.log_scale.fill_(9.0)
    objective.after_step(None)
    assert float(objective.log_scale.detach().exp()) == pytest.approx(100)


@pytest.mark.parametrize("width", [16, 64, 256])
def test_the_root_of_the_width_gives_aligned_triples_of_even_components_the_product_one(width):
    signs = torch.ones(3, width).bernoulli_(generator=torch.Generator().manual_seed(0)) * 2 - 1
    signs[2] = signs[0] * signs[1]
    assert math.sqrt(width) * float(product(*(signs / math.sqrt(width)))) == pytest.approx(1)


# The third party's consensus ------------------------------------------------------------------------------------------


def test_the_third_party_has_its_own_readings_and_weights_whatever_the_profile_says():
    readings = {"inverse": "own", "stop_gradient": True, "distance": "squared", "anchor": "text",
                "alpha": {"video": 0.5, "audio": 0.25}}  # fmt: skip
    e = unit(9)
    for changes in ({}, {f"loss.consensus.{name}": value for name, value in readings.items()}):
        of = config.override(MINI, changes)
        anchor, alpha = of.loss.consensus.anchor, of.loss.consensus.alpha
        leaves = [{m: x.clone().requires_grad_() for m, x in e.items()} for _ in range(2)]
        expected = losses.contrastive(leaves[0], methods.get("mc3").stages[0].pairs, 0.2) / 3
        expected = expected + losses.consensus(leaves[0], anchor, alpha, "linear", False, "frobenius") / 2
        found = loss_of(made("third_party", of), leaves[1])
        assert float(found.detach()) == pytest.approx(float(expected.detach()))
        for loss in (expected, found):
            loss.backward()
        for m in MODALITIES:
            torch.testing.assert_close(leaves[1][m].grad, leaves[0][m].grad)


# Recipes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*KINDS, "third_party"])
def test_a_stage_without_all_pairs_is_refused(name, monkeypatch):
    entry = methods.METHODS[name]
    pairs = {**entry, "stages": [{**entry["stages"][0], "pairs": ["audio-video", "audio-text"]}]}
    monkeypatch.setitem(methods.METHODS, name, pairs)
    with pytest.raises(ConfigError, match=f'"{name}", which needs "pairs": "all"'):
        objectives.check(methods.get(name))


@pytest.mark.parametrize("name", ["gram", "triangle"])
def test_an_unknown_anchor_is_refused(name, monkeypatch):
    entry = methods.METHODS[name]
    loss = {**entry["stages"][0]["loss"], "anchor": "smell"}
    monkeypatch.setitem(methods.METHODS, name, {**entry, "stages": [{**entry["stages"][0], "loss": loss}]})
    with pytest.raises(ConfigError, match='needs an "anchor" among audio, video, text'):
        objectives.check(methods.get(name))


def test_later_rows_share_mc3s_start_and_length_and_are_no_row_of_the_paper():
    later = {name: methods.get(name) for name, entry in methods.METHODS.items() if entry.get("role") == "later"}
    assert set(later) == {*KINDS, "third_party"}
    for method in later.values():
        assert (method.paper, method.start, [stage.epochs for stage in method.stages]) == ("", "align", ["refine"])
        assert method.stages[0].pairs == methods.get("mc3").stages[0].pairs
    assert later["third_party"].stages[0].contrastive == 1 / 3


# The page that compares them ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> config.Config:
    return config.load(small_work.make(tmp_path_factory.mktemp("later")))


@pytest.fixture(scope="module")
def measured(work: config.Config) -> dict[str, bootstrap.Measured]:
    return bootstrap.embedded(work, later.rows(), draws=40)


def test_the_page_compares_all_rows_that_refine_the_align_stage_for_as_many_steps():
    recipes = [methods.get(name) for name in later.rows()]
    assert {(r.start, tuple(s.epochs for s in r.stages)) for r in recipes} == {("align", ("refine",))}
    assert {"wo_consensus", "mc3", "peers", "gram", "triangle", "symile", "third_party"} <= set(later.rows())


def test_joint_scores_of_a_clip_are_the_losses_own_sizes(work):
    found = store.embeddings(work, "cmc", 0)
    scores = later.joint(found)
    for i in (0, 17, 50):
        a, v, t = (torch.from_numpy(found[m][i].astype(np.float64)) for m in MODALITIES)
        assert scores["volume"][i] == pytest.approx(-volume_by_determinant(a, v, t), abs=1e-6)
        assert scores["area"][i] == pytest.approx(-area_by_heron(a, v, t), abs=1e-6)
        assert scores["product"][i] == pytest.approx(sum(float(x * y * z) for x, y, z in zip(a, v, t, strict=True)))


def test_the_table_of_joint_scores_has_their_areas_beside_the_better_cosine(work, measured):
    table = later.joint_scores(work, measured, draws=40).set_index(["method", "score"])
    clips = store.labelled(work)
    score = later.joint(store.embeddings(work, "mc3", 0))["area"][clips["row"]]
    row = table.loc[("mc3", "- area")]
    assert row["roc"] == pytest.approx(roc_auc_score(clips["positive"], score))
    own = tables.table2(work).set_index("method").loc["mc3", ["av_roc", "al_roc"]].astype(float)
    assert row["difference"] == pytest.approx(row["roc"] - own.max())
    assert row["cosine"] == f"{'AV' if own.idxmax() == 'av_roc' else 'AL'}, {own.max():.3f}"
    assert row["difference_low"] < row["difference"] < row["difference_high"]


def test_differences_are_row_minus_other_and_words_count_what_the_intervals_say(work, measured):
    found = later.differences(measured)
    table = tables.table2(work).set_index("method")
    row = found.query("method == 'gram' and metric == 'av_roc'").set_index("against").loc["w/o consensus"]
    assert row["difference"] == pytest.approx(table.loc["gram", "av_roc"] - table.loc["wo_consensus", "av_roc"])
    assert len(found) == 3 * (len(later.rows()) - 1) * (4 + 8)
    counts = later.verdicts(found)
    assert (
        counts[["above", "below", "inconclusive"]].sum(axis=1) == counts["part"].map({"discovery": 4, "retrieval": 8})
    ).all()
    quiet = found.assign(low=-1.0, high=1.0)
    assert later.sentences(quiet)[1] == "Retrieval against w/o consensus: above is no row; below is no row."
    one = quiet.copy()
    place = one.query("against == 'w/o consensus' and method == 'gram' and metric == 'v2a_r5'").index
    one.loc[place, "low"] = 0.5
    one.loc[one.query("against == 'w/o consensus' and method == 'symile' and part == 'retrieval'").index, "high"] = -0.5
    assert later.sentences(one)[1] == (
        "Retrieval against w/o consensus: above is GRAM (1 of 8 columns); below is Symile (8 of 8 columns)."
    )
    assert set(later.forest(found)["label"]) == {methods.get(name).label.split(" (")[0] for name in later.rows()}


def test_tuned_rows_are_shown_only_if_the_sweep_had_the_present_settings(work, tmp_path):
    folder = tmp_path / "tuning"
    folder.mkdir()
    scores = dict.fromkeys(("seeds", "validation_av_roc", "validation_al_roc", "av_roc", "al_roc"), 1)
    rows = [("1", "mc3", True), ("2", "mc3", False), ("1", "clap", True)]
    trials = pd.DataFrame(rows, columns=["setting", "method", "chosen"]).assign(label="a row", **scores)
    trials.to_csv(folder / "trials.csv", index=False)
    assert "not run with these settings" in later.tuned(work, tmp_path)["note"].item()
    (folder / "origin.json").write_text(json.dumps({"settings": config.as_dict(work)}))
    assert later.tuned(work, tmp_path)[["setting", "label"]].to_numpy().tolist() == [["1", "a row"]]
