"""The nested estimate: folds, honesty, and what is refitted inside."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from raysearch import metrics
from raysearch.ensemble import baselines
from raysearch.ensemble.calibration import calibrate, sharpen
from raysearch.ensemble.estimate import fit_ensemble, grouped_folds, nested_estimate
from raysearch.ensemble.selection import OBJECTIVES


def _noise_library(seed, candidates=60, samples=300, classes=4):
    """Candidates that know nothing: whatever selection finds in them is chance."""
    rng = np.random.default_rng(seed)
    probs_NVK = rng.dirichlet(np.ones(classes), (candidates, samples)).astype(np.float32)
    return probs_NVK, rng.integers(0, classes, samples)


def _skilled_library(rng, candidates=25, samples=600, classes=5):
    labels_V = rng.integers(0, classes, samples)
    logits = rng.normal(size=(candidates, samples, classes)) + rng.normal(size=(samples, classes))
    logits = 2 * (logits + 1.5 * np.eye(classes)[labels_V])
    probs_NVK = np.exp(logits)
    probs_NVK /= probs_NVK.sum(axis=2, keepdims=True)
    return probs_NVK.astype(np.float32), labels_V


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(2, 120), st.integers(1, 5), st.integers(2, 6))
def test_equal_images_share_a_fold_and_folds_are_balanced(seed, images, classes, folds):
    rng = np.random.default_rng(seed)
    groups_V = rng.integers(0, images, images)
    groups_V[:2] = 0, images  # at least two different images
    labels_V = rng.integers(0, classes, images)
    fold_V = grouped_folds(labels_V, groups_V, folds, rng)
    for group in np.unique(groups_V):
        assert len(np.unique(fold_V[groups_V == group])) == 1
    assert len(np.unique(fold_V)) == min(folds, len(np.unique(groups_V)))


def test_folds_of_distinct_images_are_stratified(rng):
    labels_V = rng.integers(0, 7, 1000)
    fold_V = grouped_folds(labels_V, np.arange(1000), 5, rng)
    for label in range(7):
        counts = np.bincount(fold_V[labels_V == label], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert np.ptp(np.bincount(fold_V)) <= 7


def test_a_split_of_equal_images_cannot_be_folded(rng):
    with pytest.raises(ValueError, match="two different images"):
        grouped_folds(np.zeros(5, np.int64), np.zeros(5, np.int64), 5, rng)


def test_estimate_on_noise_is_chance_where_the_selection_score_is_not(rng):
    gains, honest = [], []
    for seed in range(4):
        probs_NVK, labels_V = _noise_library(seed)
        options = {"objective": "accuracy", "steps": 20}
        ensemble = fit_ensemble(probs_NVK, labels_V, **options)
        gains.append(metrics.accuracy(ensemble.predict(probs_NVK), labels_V))
        nested = nested_estimate(probs_NVK, labels_V, np.arange(300), rng=rng, **options)
        honest.append(nested.accuracy)
        assert nested.accuracy_se == pytest.approx(
            np.sqrt(nested.accuracy * (1 - nested.accuracy) / 299), rel=1e-6
        )
    assert np.mean(gains) > 0.33
    assert abs(np.mean(honest) - 0.25) < 0.04


def test_copies_of_an_image_flatter_the_estimate_unless_they_share_a_fold(rng):
    probs_NVK, labels_V = _noise_library(1)
    copies_V = np.tile(np.arange(300), 3)
    library = probs_NVK[:, copies_V], labels_V[copies_V]
    options = {"objective": "accuracy", "steps": 10}
    grouped = nested_estimate(*library, copies_V, rng=rng, **options)
    split = nested_estimate(*library, np.arange(900), rng=rng, **options)
    assert split.accuracy > grouped.accuracy + 0.04
    assert abs(grouped.accuracy - 0.25) < 0.08


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_estimate_of_a_skilled_library_is_near_its_score(rng, objective):
    probs_NVK, labels_V = _skilled_library(rng)
    ensemble = fit_ensemble(probs_NVK, labels_V, objective=objective)
    selected = metrics.summary(ensemble.predict(probs_NVK), labels_V)
    nested = nested_estimate(
        probs_NVK, labels_V, np.arange(len(labels_V)), rng=rng, objective=objective
    )
    assert abs(nested.accuracy - selected["accuracy"]) < 4 * nested.accuracy_se
    assert nested.log_loss > selected["log_loss"] - nested.log_loss_se
    assert nested.stability_N.min() >= 0 and nested.stability_N.max() <= 1
    assert nested.stability_N.sum() >= 1


def test_log_loss_of_the_ensemble_is_at_most_that_of_the_best_calibrated_candidate():
    for seed in range(6):
        probs_NVK, labels_V = _skilled_library(np.random.default_rng(seed), 6, 90)
        ensemble = fit_ensemble(probs_NVK, labels_V)
        calibrated_NVK = calibrate(probs_NVK, ensemble.temperature_N)
        best = baselines.best_single(calibrated_NVK, labels_V, "log_loss")
        single = baselines.calibrated_scores(calibrated_NVK[best], labels_V)["log_loss"]
        assert metrics.log_loss(ensemble.predict(probs_NVK), labels_V) <= single


def test_the_same_generator_gives_the_same_estimate(rng):
    probs_NVK, labels_V = _skilled_library(rng, 8, 100)
    first, second = (
        nested_estimate(probs_NVK, labels_V, np.arange(100), rng=np.random.default_rng(3))
        for _ in range(2)
    )
    assert (first.accuracy, first.log_loss) == (second.accuracy, second.log_loss)


def test_baselines_equal_their_definitions(rng):
    probs_NVK, labels_V = _skilled_library(rng, 9, 200)
    found = baselines.baselines(probs_NVK, labels_V, "log_loss")
    losses = [metrics.log_loss(probs_VK, labels_V) for probs_VK in probs_NVK]
    accuracies = np.array([metrics.accuracy(probs_VK, labels_V) for probs_VK in probs_NVK])
    votes_VK = np.eye(5)[probs_NVK.argmax(axis=2)].mean(axis=0)
    weighted_VK = np.average(probs_NVK, axis=0, weights=accuracies)
    best_VK = probs_NVK[np.argsort(losses)[:5]].mean(axis=0)
    for name, probs_VK in {
        "mean": probs_NVK.mean(axis=0),
        "hard_vote": votes_VK,
        "weighted_mean": weighted_VK,
        "top_k": best_VK,
    }.items():
        assert found[name]["accuracy"] == pytest.approx(metrics.accuracy(probs_VK, labels_V))
        loss = minimize_scalar(
            lambda t, p=probs_VK: metrics.log_loss(sharpen(p, t), labels_V),
            bounds=(1 / 16, 16),
            method="bounded",
        ).fun
        # Shares of votes hold zeros, which no temperature moves but the fit takes for 2**-24.
        tolerance = 1e-3 if name == "hard_vote" else 1e-5
        assert found[name]["log_loss"] == pytest.approx(loss, rel=tolerance)
    assert baselines.best_single(probs_NVK, labels_V, "log_loss") == np.argmin(losses)


def test_candidates_that_are_never_right_still_have_a_weighted_mean():
    probs_NVK = np.tile(np.float32([0.1, 0.9]), (3, 4, 1))
    found = baselines.baselines(probs_NVK, np.zeros(4, np.int64), "accuracy")
    assert found["weighted_mean"] == found["mean"]
