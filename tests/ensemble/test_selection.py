"""Greedy selection against a brute force, another library, and its laws."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysearch import metrics
from raysearch.ensemble.selection import OBJECTIVES, select, select_bagged

SCORES = {
    "log_loss": lambda probs, labels: -metrics.log_loss(probs, labels),
    "accuracy": metrics.accuracy,
    "macro_f1": metrics.macro_f1,
}


def make_library(rng, candidates=20, samples=200, classes=5, skill=1.0):
    """Random candidates that share some of their errors, float32 rows that sum to 1."""
    labels_V = rng.integers(0, classes, samples)
    logits = rng.normal(size=(candidates, samples, classes)) + rng.normal(size=(samples, classes))
    logits += 2 * skill * np.eye(classes)[labels_V]
    probs_NVK = np.exp(logits)
    probs_NVK /= probs_NVK.sum(axis=2, keepdims=True)
    return probs_NVK.astype(np.float32), labels_V


def dyadic_library(seed, candidates, samples, classes):
    """Probabilities that are multiples of 1/64: sums are exact and ties are many."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(64, rng.dirichlet(np.ones(classes)), (candidates, samples))
    return (counts / 64).astype(np.float32), rng.integers(0, classes, samples)


def brute_force(probs_NVK, labels_V, objective, steps, max_members=None):
    """The rules of the module's docstring, one candidate at a time, in float64."""
    order, trajectory = [], []
    total_VK = np.zeros(probs_NVK.shape[1:])
    for step in range(1, steps + 1):
        keys = []
        for n, probs_VK in enumerate(probs_NVK):
            if max_members and len(set(order)) == max_members and n not in order:
                continue
            mean_VK = (total_VK + probs_VK) / step
            score = round(SCORES[objective](mean_VK, labels_V), 11)
            loss = round(metrics.log_loss(mean_VK, labels_V), 11)
            keys.append((-score, n not in order, loss, n))
        best = min(keys)
        order.append(best[3])
        total_VK += probs_NVK[best[3]]
        trajectory.append(SCORES[objective](total_VK / step, labels_V))
    kept = int(np.argmax(np.round(trajectory, 11))) + 1
    return order, trajectory, kept


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 100_000),
    st.integers(1, 8),
    st.integers(1, 40),
    st.integers(2, 5),
    st.sampled_from(OBJECTIVES),
    st.sampled_from([None, 1, 2, 3]),
)
def test_selection_equals_brute_force(seed, candidates, samples, classes, objective, cap):
    probs_NVK, labels_V = dyadic_library(seed, candidates, samples, classes)
    ours = select(probs_NVK, labels_V, objective=objective, steps=8, max_members=cap)
    order, trajectory, kept = brute_force(probs_NVK, labels_V, objective, 8, cap)
    assert ours.order == tuple(order)
    assert ours.kept == kept
    sign = -1 if objective == "log_loss" else 1
    np.testing.assert_allclose(ours.trajectory, sign * np.array(trajectory), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_reported_score_is_that_of_the_weighted_mean(rng, objective):
    probs_NVK, labels_V = make_library(rng, candidates=40, samples=700, classes=7)
    chosen = select(probs_NVK, labels_V, objective=objective)
    mean_VK = np.tensordot(chosen.weights_N, probs_NVK.astype(np.float64), 1)
    score = abs(SCORES[objective](mean_VK, labels_V))
    assert score == pytest.approx(chosen.trajectory[chosen.kept - 1], rel=1e-6)
    assert chosen.weights_N.sum() == pytest.approx(1)
    np.testing.assert_array_equal(chosen.weights_N, chosen.prefix_weights(chosen.kept))


libraries = st.builds(
    lambda seed, candidates, samples, classes: make_library(
        np.random.default_rng(seed), candidates, samples, classes
    ),
    st.integers(0, 100_000),
    st.integers(1, 12),
    st.integers(20, 120),
    st.integers(2, 6),
)
objectives = st.sampled_from(OBJECTIVES)
LAWS = settings(max_examples=25)


@LAWS
@given(libraries, objectives, st.integers(0, 3))
def test_weights_sum_to_one_and_beat_the_best_candidate_alone(library, objective, sorted_start):
    probs_NVK, labels_V = library
    chosen = select(probs_NVK, labels_V, objective=objective, steps=12, sorted_start=sorted_start)
    assert chosen.weights_N.sum() == pytest.approx(1) and chosen.weights_N.min() >= 0
    mean_VK = np.tensordot(chosen.weights_N, probs_NVK.astype(np.float64), 1)
    best = max(SCORES[objective](probs_VK, labels_V) for probs_VK in probs_NVK)
    assert SCORES[objective](mean_VK, labels_V) >= best - 1e-7


@LAWS
@given(libraries, objectives, st.randoms(use_true_random=False))
def test_order_of_samples_and_candidates_does_not_matter(library, objective, random):
    probs_NVK, labels_V = library
    N, V, _ = probs_NVK.shape
    candidates, samples = random.sample(range(N), N), random.sample(range(V), V)
    expected = select(probs_NVK, labels_V, objective=objective, steps=12)
    shuffled_NVK, shuffled_V = probs_NVK[candidates][:, samples], labels_V[samples]
    shuffled = select(shuffled_NVK, shuffled_V, objective=objective, steps=12)
    assert [candidates[n] for n in shuffled.order] == list(expected.order)
    np.testing.assert_allclose(shuffled.trajectory, expected.trajectory, rtol=1e-11)


@LAWS
@given(libraries, objectives)
def test_duplicates_of_candidates_change_nothing(library, objective):
    probs_NVK, labels_V = library
    once = select(probs_NVK, labels_V, objective=objective, steps=12)
    twice = select(np.concatenate([probs_NVK] * 2), labels_V, objective=objective, steps=12)
    assert twice.order == once.order
    assert twice.trajectory == once.trajectory


@LAWS
@given(libraries, objectives, st.data())
def test_a_weight_of_two_equals_a_sample_seen_twice(library, objective, data):
    probs_NVK, labels_V = library
    V = len(labels_V)
    counts_V = np.array(data.draw(st.lists(st.integers(0, 3), min_size=V, max_size=V)))
    counts_V[0] += 1
    rows = np.repeat(np.arange(V), counts_V)
    options = {"objective": objective, "steps": 8}
    weighted = select(probs_NVK, labels_V, weights_V=counts_V * 0.37, **options)
    repeated = select(probs_NVK[:, rows], labels_V[rows], **options)
    assert weighted.order == repeated.order
    np.testing.assert_allclose(weighted.trajectory, repeated.trajectory, rtol=1e-9)


def test_equal_weights_are_no_weights(rng):
    probs_NVK, labels_V = make_library(rng)
    for objective in OBJECTIVES:
        plain = select(probs_NVK, labels_V, objective=objective, steps=10)
        weights_V = np.full(len(labels_V), 7.0)
        assert select(
            probs_NVK, labels_V, objective=objective, steps=10, weights_V=weights_V
        ).order == (plain.order)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_sorted_start_adds_the_best_candidates_alone_first(rng, objective):
    probs_NVK, labels_V = make_library(rng, candidates=30)
    chosen = select(probs_NVK, labels_V, objective=objective, steps=12, sorted_start=4)
    keys = [
        (-SCORES[objective](p, labels_V), metrics.log_loss(p, labels_V), n)
        for n, p in enumerate(probs_NVK)
    ]
    assert chosen.order[:4] == tuple(key[2] for key in sorted(keys)[:4])
    total_VK = probs_NVK[list(chosen.order[:4])].astype(np.float64).sum(axis=0)
    fifth = [SCORES[objective]((total_VK + p) / 5, labels_V) for p in probs_NVK]
    assert abs(chosen.trajectory[4]) == pytest.approx(abs(max(fifth)))


def test_only_what_is_joinable_is_added(rng):
    probs_NVK, labels_V = make_library(rng, candidates=30)
    price_N = rng.integers(1, 10, 30)

    def joinable(members):
        return price_N[list(members)].sum() + price_N <= 12

    chosen = select(probs_NVK, labels_V, steps=30, joinable=joinable)
    assert price_N[list(set(chosen.order))].sum() <= 12
    assert len(chosen.order) == 30, "members are added again at no price"
    with pytest.raises(ValueError, match="nothing is joinable"):
        select(probs_NVK, labels_V, joinable=lambda members: np.zeros(30, bool))


def test_cap_on_members_counts_distinct_candidates(rng):
    probs_NVK, labels_V = make_library(rng, candidates=30)
    chosen = select(probs_NVK, labels_V, max_members=3)
    assert len(set(chosen.order)) == 3
    assert len(chosen.members) <= 3
    assert len(select(probs_NVK, labels_V).members) > 3


def test_members_are_listed_heaviest_first(rng):
    chosen = select(*make_library(rng, candidates=30))
    weights = [chosen.weights_N[n] for n in chosen.members]
    assert weights == sorted(weights, reverse=True) and min(weights) > 0


def test_impossible_true_classes_do_not_underflow():
    probs_NVK = np.zeros((2, 5000, 2), np.float32)
    probs_NVK[0, :, 1] = probs_NVK[1, :, 0] = 1
    labels_V = np.zeros(5000, int)
    chosen = select(probs_NVK[:1], labels_V, steps=3)
    assert chosen.trajectory == pytest.approx([24 * np.log(2)] * 3)
    assert select(probs_NVK, labels_V, steps=400).trajectory[-1] == pytest.approx(0, abs=1e-12)


def test_library_is_read_in_place(rng):
    probs_NVK, labels_V = make_library(rng)
    before = probs_NVK.copy()
    probs_NVK.flags.writeable = False
    select(probs_NVK, labels_V, objective="macro_f1", steps=3)
    np.testing.assert_array_equal(probs_NVK, before)


def test_bags_average_selections_from_parts_of_the_library(rng):
    probs_NVK, labels_V = make_library(rng, candidates=30)
    bagged = select_bagged(probs_NVK, labels_V, bags=4, fraction=0.5, rng=rng, steps=10)
    assert bagged.weights_N.sum() == pytest.approx(1)
    assert len(bagged.trajectory) == 4
    whole = select_bagged(probs_NVK, labels_V, bags=2, fraction=1.0, rng=rng, steps=10)
    expected = select(probs_NVK, labels_V, steps=10)
    np.testing.assert_allclose(whole.weights_N, expected.weights_N)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, y: (p[:0], y), "at least one"),
        (lambda p, y: (p[0], y), "shape"),
        (lambda p, y: (p, y[1:]), "one label a sample"),
        (lambda p, y: (p, y + 5), r"in \[0, 5\)"),
        (lambda p, y: (p * np.float32(2), y), "sum to 1"),
    ],
)
def test_unusable_library_is_refused(rng, change, message):
    with pytest.raises(ValueError, match=message):
        select(*change(*make_library(rng)))


def test_nan_is_refused_and_located(rng):
    probs_NVK, labels_V = make_library(rng)
    probs_NVK[3, 17, 0] = np.nan
    with pytest.raises(ValueError, match="candidate 3 .* sample 17"):
        select(probs_NVK, labels_V)


@pytest.mark.parametrize("change", [-1, np.nan, None, 0])
def test_unusable_weights_are_refused(rng, change):
    probs_NVK, labels_V = make_library(rng)
    weights_V = np.ones(200) if change is not None else np.ones(199)
    weights_V[: 200 if change == 0 else 1] = change if change is not None else 1
    with pytest.raises(ValueError, match="weights_V must be 200 numbers"):
        select(probs_NVK, labels_V, weights_V=weights_V)


@pytest.mark.parametrize(
    "options", [{"objective": "loss"}, {"steps": 0}, {"max_members": 0}, {"sorted_start": 51}]
)
def test_options_out_of_range_are_refused(rng, options):
    with pytest.raises(ValueError, match="must be|at most"):
        select(*make_library(rng), **options)


THREADS_PROGRAM = """
import numpy as np
from raysearch.ensemble.selection import OBJECTIVES, select
rng = np.random.default_rng(5)
probs = rng.dirichlet(np.ones(4), (25, 400)).astype(np.float32)
labels = rng.integers(0, 4, 400)
for objective in OBJECTIVES:
    chosen = select(probs, labels, objective=objective, steps=20)
    print(chosen.order, [score.hex() for score in chosen.trajectory])
"""


def test_any_number_of_threads_gives_the_same_bits():
    outputs = [
        subprocess.run(
            [sys.executable, "-c", THREADS_PROGRAM],
            env={**os.environ, "NUMBA_NUM_THREADS": str(threads)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in (1, 2)
    ]
    assert outputs[0] == outputs[1] != ""
