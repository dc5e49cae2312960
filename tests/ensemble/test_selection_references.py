"""Greedy selection against other programs: their recorded answers, and AutoGluon where it is."""

import json
from pathlib import Path

import numpy as np
import pytest
from autogluon_answers import LIBRARIES, STEPS, autogluon_order, make_library

from raysearch.ensemble.estimate import mix
from raysearch.ensemble.objectives import Objective
from raysearch.ensemble.selection import GreedySearch, select

RECORDED = json.loads((Path(__file__).parents[1] / "assets/autogluon_selection.json").read_text())


@pytest.mark.parametrize("objective", ["accuracy", "log_loss"])
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda shape: "x".join(map(str, shape)))
def test_additions_equal_those_that_autogluon_made(objective, library):
    probs_NVK, labels_V = make_library(*library)
    ours = select(probs_NVK, labels_V, objective=objective, steps=STEPS)
    recorded = RECORDED["orders"][objective]["x".join(map(str, library))]
    assert list(ours.order[: ours.kept]) == recorded
    assert len(set(recorded)) > 2, "an answer of one member would prove little"


def test_recorded_answers_are_still_those_of_autogluon():
    pytest.importorskip("autogluon.core", reason="wants pandas < 2.4, which is not what is pinned")
    library = make_library(*LIBRARIES[0])
    for objective, orders in RECORDED["orders"].items():
        expected = orders["x".join(map(str, LIBRARIES[0]))]
        assert autogluon_order(*library, objective) == expected


class Rmse(Objective):
    """Of the mean of constant-length vectors of predictions."""

    sign = 1

    def __init__(self, preds_NV, target_V):
        self.preds_NV, self.target_V = preds_NV, target_V

    def reset(self):
        self.total_V, self.members = np.zeros(len(self.target_V)), 0

    def add(self, n):
        self.total_V += self.preds_NV[n]
        self.members += 1

    def losses(self, candidates_I):
        mean_IV = (self.total_V + self.preds_NV[candidates_I]) / (self.members + 1)
        return np.sqrt(((mean_IV - self.target_V) ** 2).mean(axis=1))


def test_ten_steps_for_rmse_equal_those_of_auto_sklearn():
    preds_NV = np.array([np.full(100, float(i)) for i in range(1, 20)])
    for i in range(1, 20):
        preds_NV[i - 1, 5 * i : 5 * (i + 1)] = 5.5 * i
    search = GreedySearch("rmse", Rmse(preds_NV, np.full(100, 5.5)), None, 19)
    chosen = search.run(10, 0, lambda members: np.ones(19, bool))
    np.testing.assert_allclose(
        chosen.weights_N, [0.1, 0.2, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1] + [0] * 11
    )
    expected = [
        3.462296925, 2.679202307, 2.274862644, 2.065717188, 1.787456262,
        1.698344813, 1.559451106, 1.531632605, 1.380195012, 1.355498058,
    ]  # fmt: skip
    np.testing.assert_allclose(chosen.trajectory, expected, atol=1e-6)


@pytest.mark.parametrize("weights", [[0.7, 0.2, 0.1], [0.7, 0.2, 0.0, 0.1]])
def test_weighted_mean_equals_that_of_auto_sklearn(weights):
    probs_MVK = np.array(
        [[[0.9, 0.1], [0.4, 0.6]], [[0.8, 0.2], [0.3, 0.7]], [[1.0, 0.0], [0.1, 0.9]]], np.float32
    )
    if len(weights) == 4:
        probs_MVK = np.insert(probs_MVK, 2, np.float32([[0.5, 0.5], [0.5, 0.5]]), axis=0)
    mean_VK = mix(probs_MVK, np.array(weights), 1.0)
    np.testing.assert_allclose(mean_VK, [[0.89, 0.11], [0.35, 0.65]], atol=1e-6)


def test_the_better_half_of_a_hundred_models_is_chosen_as_by_deslib():
    """50 models of score 0.5 and 50 of score 1: no model of the first half may join."""
    labels_V = np.array([0, 1] * 50)
    worse_VK = np.tile(np.float32([0.49, 0.51]), (100, 1))
    better_VK = np.where(np.eye(2)[labels_V] == 1, np.float32(0.52), np.float32(0.48))
    probs_NVK = np.stack([worse_VK] * 50 + [better_VK] * 50).astype(np.float32)
    for sorted_start in (0, 50):
        chosen = select(
            probs_NVK, labels_V, objective="accuracy", steps=50, sorted_start=sorted_start
        )
        assert min(chosen.order) == 50
    assert sorted(chosen.order) == list(range(50, 100))
    mean_VK = np.tensordot(chosen.weights_N, probs_NVK, 1)
    np.testing.assert_allclose(np.sort(mean_VK, axis=1), np.tile([0.48, 0.52], (100, 1)), atol=1e-6)
