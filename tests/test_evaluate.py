"""Evaluation against brute force, closed forms, simulation and the paper's own Random rows."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from mc3 import evaluate
from mc3.errors import DataError


def scored(seed, n=200, ties=False):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    labels[:2] = 0, 1
    scores = rng.normal(size=n) + 0.5 * labels
    return (np.round(scores, 1) if ties else scores), labels


def retrieval_case(seed, queries=23, pool=31, groups=5, dim=4, decimals=None):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(queries, dim)), rng.normal(size=(pool, dim))
    if decimals is not None:  # few distinct vectors, so that many similarities are equal
        first, second = np.round(first, decimals) + 0.25, np.round(second, decimals) + 0.25
    pool_groups = np.r_[np.arange(groups), rng.integers(0, groups, pool - groups)].astype(str)
    return first, second, rng.integers(0, groups, queries).astype(str), pool_groups


# Discovery


@given(st.integers(0, 10_000), st.booleans())
def test_roc_is_the_chance_that_a_positive_scores_above_a_negative(seed, ties):
    scores, labels = scored(seed, n=60, ties=ties)
    above = scores[labels == 1][:, None] - scores[labels == 0]
    assert evaluate.discovery(scores, labels)["roc"] == pytest.approx(np.mean((above > 0) + 0.5 * (above == 0)))


def test_pr_is_the_mean_precision_at_each_positive_and_the_area_under_the_curves_steps():
    scores, labels = scored(1)
    ranked = labels[np.argsort(-scores)]
    precision = np.cumsum(ranked) / np.arange(1, len(ranked) + 1)
    result = evaluate.discovery(scores, labels)
    assert result["pr"] == pytest.approx(precision[ranked == 1].mean())
    curve = evaluate.pr_curve(scores, labels)
    assert np.sum(np.diff(curve.recall, prepend=0) * curve.precision) == pytest.approx(result["pr"])
    assert curve.recall.is_monotonic_increasing


def test_constant_scores_give_the_random_row():
    _, labels = scored(2)
    assert evaluate.discovery(np.zeros(len(labels)), labels) == evaluate.random_discovery(labels)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [([0.1, 0.2, 0.3], [1, 1, 1], "0 and 1, both present"), ([0.1, 0.2, 0.3], [0, 0, 0], "0 and 1, both present"),
     ([0.1, 0.2, 0.3], [0, 1, 2], "0 and 1, both present"), ([0.1, np.nan, 0.3], [0, 1, 1], "clip 1 is not finite")],
)  # fmt: skip
def test_labels_without_two_classes_or_a_score_that_is_not_a_number_are_named(scores, labels, message):
    with pytest.raises(DataError, match=message):
        evaluate.discovery(scores, labels)


def test_similarity_is_the_cosine_of_matching_rows():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 7, 5))
    expected = [x @ y / np.sqrt(x @ x) / np.sqrt(y @ y) for x, y in zip(a, b, strict=True)]
    assert evaluate.similarity(a, b) == pytest.approx(expected)


def test_bootstrap_interval_has_the_width_that_theory_gives_for_a_random_score():
    # Mann-Whitney under the null: variance (p + q + 1) / (12 p q).
    rng, labels = np.random.default_rng(0), np.r_[np.ones(400), np.zeros(300)]
    counts = rng.multinomial(700, np.full(700, 1 / 700), size=1000)
    low, high = evaluate.interval(evaluate.resampled_discovery(rng.normal(size=700), labels, counts)["roc"])
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(701 / (12 * 400 * 300)), rel=0.1)


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=25)
def test_discovery_of_a_resample_is_that_of_the_clips_repeated(seed, ties):
    scores, labels = scored(seed, n=30, ties=ties)
    counts = np.random.default_rng(seed).integers(0, 4, size=(5, 30))
    found = evaluate.resampled_discovery(scores, labels, counts, recalls=(0.3, 1.0))
    for k, count in enumerate(counts):
        rows = np.repeat(np.arange(30), count)
        if len(set(labels[rows])) == 2:
            curve = evaluate.pr_curve(scores[rows], labels[rows])
            expected = evaluate.discovery(scores[rows], labels[rows])
            for area in ("roc", "pr"):
                assert found[area][k] == pytest.approx(expected[area])
            for percent in (30, 100):
                reached = curve.loc[curve["recall"] >= percent / 100 - 1e-9, "precision"].iloc[0]
                assert found[f"p{percent}"][k] == pytest.approx(reached)


def test_a_resample_of_one_class_is_nan_in_both():
    draws = evaluate.resampled_discovery([0.1, 0.2, 0.3], [0, 0, 1], np.array([[1, 1, 1], [2, 1, 0], [0, 0, 3]]))
    for area in ("roc", "pr"):
        assert np.isnan(draws[area]).tolist() == [False, True, True]


# Retrieval


@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([None, 0]))
def test_nearest_is_a_full_sort_by_similarity_then_row_whatever_the_chunk(seed, chunk, decimals):
    queries, pool, _, _ = retrieval_case(seed, decimals=decimals)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, pool)]
    cosine = np.round(np.sum(unit[0][:, None] * unit[1], axis=-1), 9)
    expected = np.argsort(-cosine, axis=1, kind="stable")
    np.testing.assert_array_equal(evaluate.nearest(queries, pool, 7, chunk), expected[:, :7])
    np.testing.assert_array_equal(evaluate.nearest(queries, pool, 99, chunk), expected)


@given(st.integers(0, 10_000), st.integers(1, 40))
@settings(max_examples=30)
def test_retrieval_equals_counting_by_hand_and_its_metrics_are_ordered(seed, chunk):
    queries, pool, query_groups, pool_groups = retrieval_case(seed)
    metrics = evaluate.retrieval(queries, pool, query_groups, pool_groups, ks=(1, 3, 31), chunk=chunk)
    for k in (1, 3, 31):
        hits, shares = [], []
        for query, group in zip(queries, query_groups, strict=True):
            order = np.argsort(-(pool @ query) / np.linalg.norm(pool, axis=1))
            found = sum(pool_groups[i] == group for i in order[:k])
            hits.append(found > 0)
            shares.append(found / sum(pool_groups == group))
        assert metrics[f"hit@{k}"] == pytest.approx(np.mean(hits))
        assert metrics[f"recall@{k}"] == pytest.approx(np.mean(shares))
        assert metrics[f"hit@{k}"] >= metrics[f"recall@{k}"]
    assert metrics["recall@1"] <= metrics["recall@3"] <= metrics["recall@31"] == 1


def test_the_numbers_of_each_query_average_to_retrieval_also_where_k_exceeds_the_pool():
    case = retrieval_case(0, queries=60, pool=33)
    found = evaluate.retrieval_by_query(*case, ks=(1, 5, 50), chunk=7)
    assert {name: values.mean() for name, values in found.items()} == evaluate.retrieval(*case, ks=(1, 5, 50))
    assert (found["recall@50"] == 1).all()


@pytest.mark.parametrize("decimals", [None, 0])
def test_the_first_correct_item_has_the_best_rank_of_its_group_also_among_equals(decimals):
    queries, pool, query_groups, pool_groups = retrieval_case(3, dim=2, decimals=decimals)
    ranks = evaluate.first_correct(queries, pool, query_groups, pool_groups, chunk=5)
    order = evaluate.nearest(queries, pool, len(pool))
    for i, group in enumerate(query_groups):
        assert ranks[i] == next(n for n, row in enumerate(order[i], 1) if pool_groups[row] == group)


def test_a_query_without_its_group_in_the_pool_or_an_embedding_without_direction_is_named():
    with pytest.raises(DataError, match="'stir pot'"):
        evaluate.retrieval(np.eye(2), np.eye(2), ["cut onion", "stir pot"], ["cut onion", "cut onion"])
    for bad in (np.nan, 0.0):
        with pytest.raises(DataError, match="embedding 2 of 3"):
            evaluate.nearest(np.eye(3), np.diag([1.0, 1.0, bad]), 1)


def test_directions_are_the_papers_columns_for_the_modalities_at_hand():
    rng = np.random.default_rng(0)
    groups = np.repeat(["a", "b", "c"], 4)
    split = evaluate.split_groups(groups, seed=0)
    same = rng.normal(size=(12, 8)).astype(np.float32)
    cases = dict(evaluate.retrieval_directions({"audio": same, "video": same, "text": -same}, groups, split))
    assert list(cases) == ["v2a", "a2v", "l2a", "a2l"]
    assert all(evaluate.retrieval(*case, ks=(6,))["recall@6"] == 1 for case in cases.values())
    assert list(dict(evaluate.retrieval_directions({"audio": same, "text": same}, groups, split))) == ["l2a", "a2l"]
    queries, pool = split
    for array, expected in zip(cases["l2a"], (-same[queries], same[pool], groups[queries], groups[pool]), strict=True):
        np.testing.assert_array_equal(array, expected)


@given(st.lists(st.sampled_from(["", "cut onion", "wash pan", "stir pot", "lift box"]), min_size=20, max_size=60))
def test_groups_of_more_than_two_are_halved_with_the_odd_one_to_the_queries(groups):
    counts = pd.Series(groups).value_counts().drop("", errors="ignore")
    if not (counts > 2).any():
        with pytest.raises(DataError, match="more than two"):
            evaluate.split_groups(groups)
        return
    query_rows, pool_rows = evaluate.split_groups(groups, seed=1)
    rows = np.r_[query_rows, pool_rows]
    assert len(set(rows)) == len(rows) == counts[counts > 2].sum()
    for group, count in counts[counts > 2].items():
        assert sum(groups[i] == group for i in query_rows) == (count + 1) // 2
        assert sum(groups[i] == group for i in pool_rows) == count // 2
    assert np.array_equal(query_rows, evaluate.split_groups(groups, seed=1)[0])


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_the_bound_is_reached_by_the_ranking_that_knows_the_groups_and_exceeded_by_none(seed):
    queries, pool, query_groups, pool_groups = retrieval_case(seed, queries=60, pool=47)
    ks = (1, 3, 10, 100)
    bound = evaluate.retrieval_bounds(query_groups, pool_groups, ks)
    oracle = [(groups[:, None] == np.unique(pool_groups)).astype(float) for groups in (query_groups, pool_groups)]
    assert evaluate.retrieval(*oracle, query_groups, pool_groups, ks) == pytest.approx(bound)
    found = evaluate.retrieval(queries, pool, query_groups, pool_groups, ks)
    assert all(found[name] <= bound[name] + 1e-12 for name in bound)
    by_hand = [min(10, sum(pool_groups == group)) / sum(pool_groups == group) for group in query_groups]
    assert bound["recall@10"] == pytest.approx(np.mean(by_hand))


def zipf_groups(exponent: float) -> np.ndarray:
    """The paper's 17,693 sounding clips in 2,388 groups (Sec. 5) whose sizes fall as rank ** -exponent."""
    shares, low, high = np.arange(1, 2389) ** -exponent, 1.0, 1e7
    for _ in range(100):
        middle = np.sqrt(low * high)
        enough = np.maximum(1, np.rint(middle * shares)).sum() >= 17_693
        low, high = (low, middle) if enough else (middle, high)
    return np.repeat(np.arange(2388), np.maximum(1, np.rint(high * shares)).astype(int)).astype(str)


def test_neither_set_recall_nor_hit_rate_fits_all_rows_of_the_papers_table_3():
    """The numbers in the text of notebooks/retrieval.ipynb."""
    bounds, hits = [], []
    for exponent in (0.85, 1.0):
        groups = zipf_groups(exponent)
        queries, pool = evaluate.split_groups(groups)
        assert len(queries) == pytest.approx(7559, rel=0.1)
        assert len(pool) == pytest.approx(7032, rel=0.1)
        bounds.append(evaluate.retrieval_bounds(groups[queries], groups[pool])["recall@10"])
        hits.append(evaluate.random_retrieval(groups[queries], groups[pool])["hit@10"])
    assert [round(100 * value) for value in bounds] == [62, 44]
    assert [round(100 * value) for value in hits] == [9, 20]
    # MC3's 88.5 would need this many of the pool's clips among the first ten of their group
    assert round(0.885 * 7032) == 6223
    # A group of g has g queries or more, each with a hit by chance h(g) = 1 - (1 - g / 7,032) ** 10. As g h(g) is
    # convex (up to 1,278, beyond which h exceeds .87), equal sizes of all 2,388 groups have the fewest hits.
    g = 7032 / 2388
    assert round(100 * 7032 / 7559 * (1 - (1 - g / 7032) ** 10), 1) == 0.4
    text = (ROOT / "notebooks" / "retrieval.ipynb").read_text()
    for number in ("44 to 62 %", "9 to 20 %", "6,223", "88.5", "0.4 or more", "0.07 and 0.14"):
        assert number in text


def test_random_retrieval_is_what_shuffled_pools_give_on_average_and_of_the_papers_pool_what_it_prints():
    _, _, query_groups, pool_groups = retrieval_case(5)
    expected = evaluate.random_retrieval(query_groups, pool_groups, ks=(1, 5))
    rng = np.random.default_rng(0)
    order = rng.permuted(np.tile(np.arange(31), (23 * 4000, 1)), axis=1)[:, :5].reshape(4000, 23, 5)
    correct = pool_groups[order] == query_groups[:, None]
    sizes = np.array([sum(pool_groups == g) for g in query_groups])
    for k in (1, 5):
        found = correct[:, :, :k].sum(axis=2)
        assert expected[f"hit@{k}"] == pytest.approx((found > 0).mean(), abs=0.005)
        assert expected[f"recall@{k}"] == pytest.approx((found / sizes).mean(), abs=0.005)
    papers = evaluate.random_retrieval(["a"], ["a"] * 7032, ks=(5, 10))
    assert [round(100 * papers[f"recall@{k}"], 1) for k in (5, 10)] == [0.1, 0.1]  # as its Table 3 prints it


def test_retrieval_among_thirty_thousand_needs_less_than_one_gigabyte():
    points = np.random.default_rng(0).normal(size=(30_000, 16)).astype(np.float32)
    groups = np.arange(30_000) % 3_000
    tracemalloc.start()  # NumPy reports its arrays to it
    # The pool is full-size and the peak is one block's, so three blocks of queries show it.
    evaluate.retrieval(points[:3_072], points, groups[:3_072], groups, ks=(1, 10), chunk=1024)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    block = 1024 * 30_000 * 8
    assert block < peak < 1e9


# Clusters


def blobs(seed=0, sizes=(5, 30, 12)):
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    order = rng.permutation(len(truth))
    return (np.eye(8)[truth] + 0.05 * rng.normal(size=(len(truth), 8)))[order], truth[order]


@pytest.mark.parametrize("at_most", [10_000, 40])
def test_separate_blobs_are_found_and_numbered_by_size_even_from_a_sample(at_most):
    points, truth = blobs()
    labels = evaluate.clusters(points, 3, at_most=at_most)
    np.testing.assert_array_equal(labels, np.array([2, 0, 1])[truth])


@pytest.mark.parametrize("count", [1, 7])
def test_clusters_equal_scipys_ward_linkage_of_all_rows(count):
    points = np.random.default_rng(3).normal(size=(400, 6))
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    expected = fcluster(linkage(unit, "ward"), count, "maxclust")
    found = evaluate.clusters(points, count)
    assert len(set(zip(found, expected, strict=True))) == count  # the same groups under other numbers
    assert np.bincount(found).tolist() == sorted(np.bincount(found).tolist(), reverse=True)


def test_members_are_ordered_by_distance_from_the_centroid():
    points, truth = blobs(2)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    rows = evaluate.members(points, truth, 1, k=8)
    inside = np.flatnonzero(truth == 1)
    distance = {row: np.linalg.norm(unit[row] - unit[inside].mean(axis=0)) for row in inside}
    assert rows.tolist() == sorted(inside, key=distance.get)[:8]


# Classification


def test_classification_equals_counting_by_hand_with_an_absent_class():
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 4, 5, 6, 7], 300)  # of eight classes the fourth never occurs
    scores = rng.normal(size=(300, 8)) + 1.5 * np.eye(8)[labels]
    ranked = [sorted(range(8), key=lambda c: -row[c]) for row in scores]
    result = evaluate.classification(scores, labels)
    for k in (1, 5):
        assert result[f"top{k}"] == pytest.approx(np.mean([y in r[:k] for r, y in zip(ranked, labels, strict=True)]))
    recalls = [np.mean([ranked[i][0] == c for i in np.flatnonzero(labels == c)]) for c in np.unique(labels)]
    assert result["mca"] == pytest.approx(np.mean(recalls))


def test_equal_scores_are_ranked_by_class_number():
    assert evaluate.classification(np.zeros((7, 7)), np.arange(7))["top5"] == pytest.approx(5 / 7)


def test_labels_outside_the_scores_are_refused():
    with pytest.raises(DataError, match=r"in 0\.\.1"):
        evaluate.classification(np.zeros((2, 2)), [0, 2])


def test_random_classification_is_what_frequency_guesses_give():
    rng = np.random.default_rng(0)
    labels = rng.choice(6, 20_000, p=[0.5, 0.2, 0.1, 0.1, 0.06, 0.04])
    guesses = rng.choice(labels, (20_000, 5))
    expected = evaluate.random_classification(labels)
    right = guesses == labels[:, None]
    assert expected["top1"] == pytest.approx(right[:, 0].mean(), abs=0.01)
    assert expected["top5"] == pytest.approx(right.any(axis=1).mean(), abs=0.01)
    assert expected["mca"] == pytest.approx(np.mean([right[labels == c, 0].mean() for c in range(6)]), abs=0.01)
    noise = evaluate.classification(rng.normal(size=(20_000, 6)), labels)
    assert expected["map"] == pytest.approx(noise["map"], abs=0.01)
    assert expected["mauc"] == pytest.approx(noise["mauc"], abs=0.02)


def test_the_papers_random_row_of_table_4_follows_from_the_real_validation_split(shared_data):
    labels = pd.read_csv(shared_data / "annotations/epic_sounds/EPIC_Sounds_validation.csv").class_id
    random = evaluate.random_classification(labels)
    assert (len(labels), labels.nunique()) == (8035, 44)
    expected = {"top1": 7.71, "top5": 31.09, "mca": 2.27, "map": 2.27, "mauc": 50.0}
    assert {name: round(100 * value, 2) for name, value in random.items()} == expected
    paper = pd.read_csv(ROOT / "data/paper/table4_epic_sounds.csv").iloc[0]
    assert 100 * random["top1"] == pytest.approx(paper.top1, abs=0.005)
    assert 100 * random["top5"] == pytest.approx(paper.top5, abs=0.2)  # the paper's is a simulation


@given(st.integers(0, 2**31))
@settings(max_examples=10)
def test_results_by_class_are_those_of_each_class_against_the_rest_and_rows_of_confusion_their_recall(seed):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([[0, 1, 2], rng.integers(0, 5, 40)])
    labels[labels == 3] = 4  # a class without events
    scores = rng.random((len(labels), 6))
    table, shares = evaluate.by_class(scores, labels), evaluate.confusion(scores, labels)
    assert table["n"].tolist() == [int((labels == c).sum()) for c in range(6)]
    for number, row in table.iterrows():
        own, rest = scores[labels == number, number], scores[labels != number, number]
        if row["n"] == 0:
            assert row[["recall", "ap", "auc"]].isna().all()
            assert np.isnan(shares[number]).all()
            continue
        assert row["auc"] == pytest.approx((own[:, None] > rest).mean())
        ranks = np.sort([(scores[:, number] >= value).sum() for value in own])
        assert row["ap"] == pytest.approx(np.mean(np.arange(1, len(own) + 1) / ranks))
        assert row["recall"] == shares[number, number]
        assert shares[number].sum() == pytest.approx(1)
    whole = evaluate.classification(scores, labels)
    assert table[["recall", "ap", "auc"]].mean().tolist() == pytest.approx([whole[m] for m in ("mca", "map", "mauc")])
