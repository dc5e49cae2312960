"""Scores against scikit-learn's and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysearch import metrics

sklearn_metrics = pytest.importorskip("sklearn.metrics")


def _case(seed: int, images: int, classes: int):
    rng = np.random.default_rng(seed)
    probs_NK = rng.dirichlet(np.full(classes, 0.4), images)
    return np.maximum(probs_NK, 1e-6), rng.integers(0, classes, images)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(2, 8))
def test_scores_equal_those_of_scikit_learn(seed, images, classes):
    probs_NK, labels_N = _case(seed, images, classes)
    predicted_N = probs_NK.argmax(axis=1)
    known = range(classes)
    confusion_KK = sklearn_metrics.confusion_matrix(labels_N, predicted_N, labels=known)
    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
        labels_N, predicted_N, labels=known, zero_division=0
    )
    ours = metrics.per_class(metrics.confusion_matrix(probs_NK, labels_N))
    assert (metrics.confusion_matrix(probs_NK, labels_N) == confusion_KK).all()
    np.testing.assert_allclose(ours["precision"], precision)
    np.testing.assert_allclose(ours["recall"], recall)
    np.testing.assert_allclose(ours["f1"], f1)
    assert (ours["support"] == support).all()
    assert metrics.macro_f1(probs_NK, labels_N) == pytest.approx(f1.mean())
    expected = sklearn_metrics.accuracy_score(labels_N, predicted_N)
    assert metrics.accuracy(probs_NK, labels_N) == pytest.approx(expected)
    assert metrics.balanced_accuracy(probs_NK, labels_N) == pytest.approx(
        recall[support > 0].mean()
    )


def test_log_loss_equals_that_of_scikit_learn(rng):
    probs_NK, labels_N = rng.dirichlet(np.ones(7), 500), rng.integers(0, 7, 500)
    expected = sklearn_metrics.log_loss(labels_N, probs_NK, labels=range(7))
    assert metrics.log_loss(probs_NK, labels_N) == pytest.approx(expected, rel=1e-12)


def test_an_impossible_true_class_costs_a_finite_amount():
    assert metrics.log_loss(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(24 * np.log(2))


def test_ece_is_the_weighted_gap_of_confidence_and_accuracy():
    # Two bins are used: confidence 0.9 is right 2 of 4 times, confidence 0.6 is right always.
    probs_NK = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]] * 6)
    labels_N = np.array([0, 0, 1, 1] + [1] * 6)
    assert metrics.ece(probs_NK, labels_N) == pytest.approx(0.4 * 0.4 + 0.6 * 0.4)


def test_a_sure_and_right_model_has_no_calibration_error():
    assert metrics.ece(np.eye(3), np.arange(3)) == 0


def test_the_lowest_class_wins_a_tie():
    assert metrics.accuracy(np.array([[0.5, 0.5]]), np.array([0])) == 1
