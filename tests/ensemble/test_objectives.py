"""What greedy selection makes small, and which candidates it need not look at."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from raysearch.ensemble.objectives import LogLoss
from raysearch.ensemble.selection import select
from raysearch.metrics import PROBABILITY_FLOOR

TIE = 1e-12
EXTREME = [0.0, PROBABILITY_FLOOR / 3, PROBABILITY_FLOOR, 1e-6, 0.2, 0.5, 1 - 1e-6, 1.0]


def by_hand(truth_NV, chosen, weights_V):
    """Log loss of the mean of ``chosen`` and each candidate, one number at a time."""
    total_V = truth_NV[chosen].astype(np.float64).sum(axis=0)
    mean_NV = (total_V + truth_NV) / (len(chosen) + 1)
    logs_NV = np.log(np.maximum(mean_NV, PROBABILITY_FLOOR))
    return -np.average(logs_NV, axis=1, weights=weights_V)


def library(truth_NV):
    """Of two classes, all labels the first."""
    truth_NV = truth_NV.astype(np.float32)
    return np.stack([truth_NV, 1 - truth_NV], axis=2), np.zeros(truth_NV.shape[1], np.int64)


@settings(max_examples=150, deadline=None)
@given(
    truth_NV=hnp.arrays(
        np.float64,
        st.tuples(st.integers(2, 250), st.integers(1, 9)),
        elements=st.sampled_from(EXTREME) | st.floats(0, 1),
    ),
    weighted=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_bounds_hold_and_the_lowest_are_always_looked_at(truth_NV, weighted, seed):
    rng = np.random.default_rng(seed)
    probs_NVK, labels_V = library(truth_NV)
    truth_NV = probs_NVK[..., 0]
    weights_V = rng.uniform(0.1, 2, truth_NV.shape[1]) if weighted else None
    objective, chosen = LogLoss(probs_NVK, labels_V, weights_V), []
    objective.reset()
    everyone = np.arange(len(truth_NV))
    for _ in range(8):
        exact_N = by_hand(truth_NV, chosen, weights_V)
        least_N = np.log(len(chosen) + 1) - objective.most_N
        assert (least_N <= exact_N + 1e-10).all()
        asked = everyone if rng.random() < 0.5 else np.flatnonzero(rng.random(len(everyone)) < 0.5)
        if len(asked):
            found = objective.contending(asked)
            looked_at = np.isfinite(found)
            np.testing.assert_allclose(found[looked_at], exact_N[asked][looked_at], atol=1e-9)
            lowest = objective.losses(asked).min()
            assert found.min() == lowest
            assert (exact_N[asked][~looked_at] > lowest + TIE).all()
        chosen.append(int(rng.integers(len(everyone))))
        objective.add(chosen[-1])


@pytest.mark.parametrize("seed", range(6))
def test_selection_is_that_of_looking_at_every_candidate(monkeypatch, seed):
    rng = np.random.default_rng(seed)
    skill_N11 = rng.normal(1, 0.3, (400, 1, 1))
    truth_VK = np.eye(4)[rng.integers(0, 4, 600)]
    noise_NVK = rng.normal(size=(400, 600, 4)) + 2 * rng.normal(size=(600, 4))
    powers_NVK = np.exp(skill_N11 * truth_VK * 3 + noise_NVK)
    probs_NVK = (powers_NVK / powers_NVK.sum(axis=2, keepdims=True)).astype(np.float16)
    probs_NVK[100:110] = probs_NVK[:10]  # ties
    labels_V = truth_VK.argmax(axis=1)
    weights_V = rng.uniform(0, 1, 600) if seed % 2 else None
    options = {"steps": 30, "weights_V": weights_V, "sorted_start": 3 * (seed % 3)}
    looked, losses = [], LogLoss.losses

    def counted(self, candidates_I):
        looked.append(len(candidates_I))
        return losses(self, candidates_I)

    with monkeypatch.context() as patch:
        patch.setattr(LogLoss, "losses", counted)
        found = select(probs_NVK, labels_V, **options)
    monkeypatch.setattr(LogLoss, "contending", losses)
    every = select(probs_NVK, labels_V, **options)
    assert (found.order, found.trajectory) == (every.order, every.trajectory)
    assert sum(looked) < 0.9 * 400 * 30
