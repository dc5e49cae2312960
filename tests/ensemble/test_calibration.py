"""Temperatures against a grid search and the laws of scaling."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysearch import metrics
from raysearch.ensemble.calibration import calibrate, fit_temperature, fit_temperatures, sharpen


def _calibrated(rng, samples=4000, classes=5):
    """Probabilities that tell the truth about labels drawn from them."""
    probs_VK = rng.dirichlet(np.full(classes, 0.7), samples).clip(1e-6)
    probs_VK /= probs_VK.sum(axis=1, keepdims=True)
    labels_V = np.array([rng.choice(classes, p=row) for row in probs_VK])
    return probs_VK.astype(np.float32), labels_V


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.3, 3.5))
def test_fitted_temperature_beats_a_grid(seed, distortion):
    probs_VK, labels_V = _calibrated(np.random.default_rng(seed), samples=300)
    probs_VK = sharpen(probs_VK, 1 / distortion)
    fitted = float(fit_temperatures(probs_VK[None], labels_V)[0])
    assert 1 / 16 <= fitted <= 16
    floored_VK = np.maximum(probs_VK, metrics.PROBABILITY_FLOOR)

    def loss(temperature):
        return metrics.log_loss(sharpen(floored_VK, temperature), labels_V)

    assert loss(fitted) <= min(loss(t) for t in np.geomspace(1 / 16, 16, 200)) + 1e-6


@pytest.mark.parametrize("distortion", [0.5, 1.0, 2.0])
def test_fitting_finds_the_distortion_of_a_truthful_model(rng, distortion):
    probs_VK, labels_V = _calibrated(rng)
    distorted_VK = sharpen(probs_VK, 1 / distortion)
    assert fit_temperatures(distorted_VK[None], labels_V)[0] == pytest.approx(distortion, rel=0.08)


def test_candidates_are_fitted_independently(rng):
    probs_VK, labels_V = _calibrated(rng, samples=500)
    several_NVK = np.stack([sharpen(probs_VK, t) for t in (0.5, 1.0, 2.0)])
    together_N = fit_temperatures(several_NVK, labels_V)
    alone = [fit_temperatures(p[None], labels_V)[0] for p in several_NVK]
    np.testing.assert_array_equal(together_N, alone)


def test_scaling_keeps_the_ranking_of_classes_and_sums_to_one(rng):
    probs_NVK = rng.dirichlet(np.ones(6), (4, 50)).astype(np.float32)
    scaled_NVK = calibrate(probs_NVK, np.array([0.25, 0.7, 1.0, 4.0]))
    np.testing.assert_array_equal(scaled_NVK.argsort(axis=2), probs_NVK.argsort(axis=2))
    np.testing.assert_allclose(scaled_NVK.sum(axis=2), 1, rtol=1e-6)
    np.testing.assert_allclose(scaled_NVK[2], probs_NVK[2], rtol=1e-5)


def test_scaling_equals_powers_renormalized(rng):
    probs_VK = rng.dirichlet(np.ones(4), 30).astype(np.float32)
    expected_VK = probs_VK.astype(np.float64) ** (1 / 1.7)
    expected_VK /= expected_VK.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(sharpen(probs_VK, 1.7), expected_VK, rtol=1e-6)


def test_impossible_classes_stay_impossible():
    assert sharpen(np.array([[0.0, 0.25, 0.75]], np.float32), 4.0)[0, 0] == 0


def test_perfect_and_hopeless_models_get_a_bound():
    labels_V = np.zeros(50, np.int64)
    right_VK = np.tile(np.float32([0.9, 0.1]), (50, 1))
    temperatures = fit_temperatures(np.stack([right_VK, right_VK[:, ::-1]]), labels_V)
    assert temperatures == pytest.approx([1 / 16, 16], rel=0.02)


def test_one_temperature_never_makes_the_log_loss_worse(rng):
    probs_VK, labels_V = _calibrated(rng, samples=60)
    probs_VK[:5] = np.eye(5, dtype=np.float32)[(labels_V[:5] + 1) % 5]
    scaled_VK = sharpen(probs_VK, fit_temperature(probs_VK, labels_V))
    assert metrics.log_loss(scaled_VK, labels_V) <= metrics.log_loss(probs_VK, labels_V)
