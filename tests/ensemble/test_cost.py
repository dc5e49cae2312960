"""Costs of ensembles and what fits a budget, against a count by hand and by brute force."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysearch.config import parse_train_config
from raysearch.ensemble.cost import (
    UNITS,
    Budget,
    CostTable,
    NetworkCost,
    parse_count,
    unaffordable,
)
from raysearch.ensemble.library import Candidate
from raysearch.ensemble.member import CANDIDATES
from raysearch.ensemble.selection import select
from raysearch.errors import ArtifactError, ConfigError

TRAIN = parse_train_config({"model": "mlp"})
NETWORKS = {
    0: NetworkCost(10, 40, 100, {1: 1.0, 2: 1.5, 10: 5.0, 64: 20.0}),
    1: NetworkCost(7, 28, 900, {1: 4.0, 2: 6.0, 10: 20.0, 64: 90.0}),
    2: NetworkCost(500, 2000, 50, {1: 0.5, 2: 0.5, 10: 1.5, 64: 9.0}),
}


def make_candidate(trial, name):
    file, views = CANDIDATES[name]
    path = Path(f"{trial:04d}") / file
    return Candidate(trial, name, path, views, 10, TRAIN, 1, "fp32")


NAMES = ("ema", "ema_mirror", "raw", "raw_mirror")
CANDIDATES_HERE = [make_candidate(trial, name) for trial in NETWORKS for name in NAMES]


def cost_by_hand(members, unit):
    """Run every set of weights once, or on all the views that one of its members wants."""
    total = 0.0
    chosen = [CANDIDATES_HERE[n] for n in members]
    for file in {c.weights_file for c in chosen}:
        views = max(c.views for c in chosen if c.weights_file == file)
        network = NETWORKS[int(file.parts[0])]
        total += {
            "params": network.params,
            "bytes": network.bytes,
            "flops": network.flops * views,
            "latency_ms": network.latency_ms[views],
        }[unit]
    return total


@given(st.lists(st.integers(0, 11), max_size=8))
def test_totals_equal_the_count_by_hand_and_additions_lead_from_one_to_the_next(members):
    table = CostTable(CANDIDATES_HERE, NETWORKS)
    for unit in UNITS:
        total = table.total(members, unit)
        assert total == pytest.approx(cost_by_hand(members, unit))
        for n, added in enumerate(table.added(members, unit)):
            assert total + added == pytest.approx(cost_by_hand([*members, n], unit))


def test_a_member_again_is_free_a_mirror_is_a_pass_and_raw_weights_are_another_network():
    table = CostTable(CANDIDATES_HERE, NETWORKS)
    assert table.of([0]) == {"params": 10, "bytes": 40, "flops": 100, "latency_ms": 1.0}
    assert table.of([0, 0]) == table.of([0])
    assert table.of([0, 1]) == {"params": 10, "bytes": 40, "flops": 200, "latency_ms": 1.5}
    assert table.of([0, 2]) == {"params": 20, "bytes": 80, "flops": 200, "latency_ms": 2.0}


def test_shifted_views_cost_ten_passes_and_hold_the_mirrored_ones():
    shifted = [make_candidate(0, name) for name in ("ema_mirror", "ema_shifts", "last_shifts")]
    table = CostTable(shifted, NETWORKS)
    expected = {"params": 10, "bytes": 40, "flops": 1000, "latency_ms": 5.0}
    assert table.of([1]) == table.of([0, 1]) == expected
    assert table.of([1, 2]) == {unit: 2 * value for unit, value in expected.items()}


def test_latency_of_what_was_not_measured_is_unknown():
    table = CostTable(CANDIDATES_HERE, NETWORKS | {1: NetworkCost(7, 28, 900)})
    assert table.of([0, 4])["latency_ms"] is None
    assert table.of([0, 8])["latency_ms"] == 1.5


@pytest.mark.parametrize("limits", [{"params": 20}, {"latency_ms": 2.0}, {"flops": 250}])
def test_selection_under_a_budget_never_goes_over_it(rng, limits):
    labels_V = rng.integers(0, 4, 300)
    logits = rng.normal(size=(12, 300, 4)) + np.eye(4)[labels_V]
    probs_NVK = np.exp(logits).astype(np.float32)
    probs_NVK /= probs_NVK.sum(axis=2, keepdims=True)
    table = CostTable(CANDIDATES_HERE, NETWORKS)
    chosen = select(probs_NVK, labels_V, steps=30, joinable=table.joinable(limits))
    ((unit, limit),) = limits.items()
    assert table.total(chosen.order, unit) <= limit
    singles = [n for n in range(12) if cost_by_hand([n], unit) <= limit]
    losses = [-np.log(probs_NVK[n][np.arange(300), labels_V]).mean() for n in singles]
    assert chosen.order[0] == singles[int(np.argmin(losses))]
    free = set(np.flatnonzero(table.added(chosen.order, unit) <= limit - table.total([], unit)))
    assert set(chosen.order) <= free


def test_what_fits_no_budget_alone_is_named_and_the_cheapest_where_nothing_fits():
    table = CostTable(CANDIDATES_HERE, NETWORKS)
    reasons = unaffordable(CANDIDATES_HERE, table, Budget(max_params=400))
    assert {CANDIDATES_HERE[n].trial for n in reasons} == {2}
    assert set(reasons.values()) == {"alone over the budget of 400 parameters"}
    assert unaffordable(CANDIDATES_HERE, table, Budget()) == {}
    with pytest.raises(ArtifactError, match="cheapest is 0001/ema with 7 parameters, the budget 5"):
        unaffordable(CANDIDATES_HERE, table, Budget(max_params=5))
    with pytest.raises(ArtifactError, match="cheapest is 0002/ema with 0.5 ms, the budget 0.1 ms"):
        unaffordable(CANDIDATES_HERE, table, Budget(max_latency_ms=0.1))


def test_two_limits_are_both_kept():
    table = CostTable(CANDIDATES_HERE, NETWORKS)
    joinable = table.joinable(Budget(max_params=20, max_latency_ms=2.0).limits)
    fitting = [
        pair
        for pair in combinations(range(12), 2)
        if joinable([pair[0]])[pair[1]] and joinable([])[pair[0]]
    ]
    expected = [
        pair
        for pair in combinations(range(12), 2)
        if cost_by_hand(pair, "params") <= 20 and cost_by_hand(pair, "latency_ms") <= 2
    ]
    assert fitting == expected != []


@pytest.mark.parametrize(
    ("text", "count"),
    [("5M", 5_000_000), ("800k", 800_000), ("1.5 m", 1_500_000), ("2G", 2 * 10**9), ("12", 12)],
)
def test_counts_take_a_suffix(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "M", "-5M", "five", "0", "5T"])
def test_counts_that_are_none_are_refused(text):
    with pytest.raises(ConfigError, match="800k, 5M or 5000000"):
        parse_count(text)
