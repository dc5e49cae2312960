"""The front of cheaper ensembles: no point beaten by another, none over the budget."""

import numpy as np
import pytest
from test_cost import make_candidate

from raysearch.ensemble.cost import CostTable, NetworkCost
from raysearch.ensemble.estimate import fit_ensemble
from raysearch.ensemble.front import budgeted_ensembles, pareto_front
from raysearch.ensemble.selection import OBJECTIVES


@pytest.fixture
def library(rng):
    """Twelve trials, plain and mirrored: what is larger is better, and mirrors help."""
    labels_V = rng.integers(0, 4, 400)
    candidates, networks, parts = [], {}, []
    for trial in range(12):
        skill = 0.8 + 0.05 * trial
        trial_VK = rng.normal(size=(400, 4)) + 2 * skill * np.eye(4)[labels_V]
        for name in ("ema", "ema_mirror"):
            candidates.append(make_candidate(trial, name))
            noise = 0.8 if name == "ema" else 0.5
            parts.append(np.exp(trial_VK + noise * rng.normal(size=(400, 4))))
        cost = 100 * (trial + 1)
        latency = {1: cost / 100, 2: cost / 60, 64: float(cost)}
        networks[trial] = NetworkCost(cost, 4 * cost, 1000 * cost, latency)
    probs_NVK = np.stack(parts).astype(np.float32)
    probs_NVK /= probs_NVK.sum(axis=2, keepdims=True)
    return probs_NVK, labels_V, CostTable(candidates, networks)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_point_of_the_front_is_beaten_by_another(library, objective):
    probs_NVK, labels_V, costs = library
    ensemble = fit_ensemble(probs_NVK, labels_V, objective=objective)
    found = budgeted_ensembles(ensemble, probs_NVK, labels_V, costs, {})
    front = pareto_front(found, probs_NVK, labels_V, costs)
    assert len(front) >= 3
    assert front == sorted(front, key=lambda point: (point["params"], point["flops"]))
    if objective == "macro_f1":
        return
    sign = 1 if objective == "log_loss" else -1
    for one in front:
        for other in front:
            cheaper = all(one[u] <= other[u] for u in ("params", "flops", "latency_ms"))
            if one is not other and cheaper:
                assert sign * one[objective] > sign * other[objective]
    assert min(sign * p[objective] for p in front) == pytest.approx(
        min(sign * p[objective] for p in pareto_front(found, probs_NVK, labels_V, costs))
    )
    assert {1} <= {point["members"] for point in front}, "the cheapest is one candidate"


def test_smaller_budgets_stay_within_the_one_that_was_asked_for(library):
    probs_NVK, labels_V, costs = library
    limits = {"latency_ms": 9.0}
    ensemble = fit_ensemble(probs_NVK, labels_V, joinable=costs.joinable(limits))
    found = budgeted_ensembles(ensemble, probs_NVK, labels_V, costs, limits)
    assert len(found) > 2
    assert all(costs.total(one.selection.members, "latency_ms") <= 9 for one in found)
    members = [tuple(sorted(one.selection.members)) for one in found]
    assert len(set(members)) == len(members)


def test_points_without_a_latency_are_compared_by_the_rest(library):
    probs_NVK, labels_V, _ = library
    candidates = [make_candidate(n, "ema") for n in range(24)]
    costs = CostTable(candidates, {n: NetworkCost(n + 1, 4, 9) for n in range(24)})
    ensemble = fit_ensemble(probs_NVK, labels_V)
    found = budgeted_ensembles(ensemble, probs_NVK, labels_V, costs, {})
    front = pareto_front(found, probs_NVK, labels_V, costs)
    assert front and all(point["latency_ms"] is None for point in front)
