"""Temperature scaling of probabilities (Guo et al. 2017, "On Calibration of Modern Neural
Networks", section 4.2), for a whole library at once.

Works from probabilities: ``probs ** (1 / temperature)``, renormalized, is the softmax of the
logits over the temperature. In ``b = 1 / temperature`` the log loss is convex, so Newton's steps
inside a bracket find its one minimum. One candidate alone is done on one thread (see `kernels`).
"""

import numba as nb
import numpy as np
from numpy.typing import NDArray

from raysearch.ensemble.kernels import on_all_threads
from raysearch.metrics import PROBABILITY_FLOOR, log_loss

LOWEST, HIGHEST = 1 / 16, 16.0
"""Bounds of a temperature. Wide, since candidates that all sat at a bound would be compared by
how sure they are: averaged weights of few epochs have temperatures near 0.1."""

_NEWTON_STEPS = 40
_LAST_STEP = 1e-3  # Newton's next one would be about its square.


def fit_temperatures(
    probs_NVK: NDArray[np.float32], labels_V: NDArray[np.int64]
) -> NDArray[np.float64]:
    """``temperature_N`` in [1/16, 16], each of least log loss for its candidate on these samples.

    Probabilities below 2**-24 are taken for that, so that one sure mistake stays finite.
    """
    return 1 / _fit_all(np.ascontiguousarray(probs_NVK, np.float32), np.asarray(labels_V))


def fit_temperature(probs_VK: NDArray, labels_V: NDArray[np.int64]) -> float:
    """As `fit_temperatures` for one candidate, and 1 where that would not lower the log loss."""
    probs_VK = np.ascontiguousarray(probs_VK, np.float32)
    temperature = float(1 / _fit_inverse(probs_VK, np.asarray(labels_V)))
    better = log_loss(sharpen(probs_VK, temperature), labels_V) < log_loss(probs_VK, labels_V)
    return temperature if better else 1.0


def calibrate(
    probs_NVK: NDArray[np.float32], temperature_N: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Each candidate's probabilities at its temperature; rows sum to 1 within float32."""
    return _power_all(np.ascontiguousarray(probs_NVK, np.float32), 1 / np.asarray(temperature_N))


def sharpen(probs_VK: NDArray, temperature: float) -> NDArray[np.float32]:
    """`calibrate` for one candidate."""
    probs_VK = np.ascontiguousarray(probs_VK, np.float32)
    out_VK = np.empty_like(probs_VK)
    _power(probs_VK, 1 / temperature, out_VK)
    return out_VK


@on_all_threads
def _fit_all(probs_NVK, labels_V):
    inverse_N = np.empty(len(probs_NVK))
    for n in nb.prange(len(probs_NVK)):
        inverse_N[n] = _fit_inverse(probs_NVK[n], labels_V)
    return inverse_N


@nb.njit(cache=True, nogil=True)
def _fit_inverse(probs_VK, labels_V):
    leads_VK = _log_leads(probs_VK, labels_V)
    low, high, b = 1 / HIGHEST, 1 / LOWEST, 1.0
    for _ in range(_NEWTON_STEPS):
        slope, curvature = _derivatives(leads_VK, b)
        if slope > 0:
            high = b
        else:
            low = b
        following = b - slope / curvature if curvature > 0 else low
        if not low < following < high:
            following = (low + high) / 2
        step = abs(following - b)
        b = following
        if step < _LAST_STEP:
            break
    return b


@nb.njit(cache=True)
def _log_leads(probs_VK, labels_V):
    """Log probability of each class less that of the true class."""
    V, K = probs_VK.shape
    leads_VK = np.empty((V, K))
    for v in range(V):
        truth = np.log(max(np.float64(probs_VK[v, labels_V[v]]), PROBABILITY_FLOOR))
        for k in range(K):
            leads_VK[v, k] = np.log(max(np.float64(probs_VK[v, k]), PROBABILITY_FLOOR)) - truth
    return leads_VK


@nb.njit(cache=True)
def _derivatives(leads_VK, b):
    """First and second derivative of the summed log loss in ``b``: per sample the mean and the
    variance of the leads. Leads are under 17 and ``b`` at most 16, so exp stays finite."""
    V, K = leads_VK.shape
    slope = curvature = 0.0
    for v in range(V):
        total = first = second = 0.0
        for k in range(K):
            lead = leads_VK[v, k]
            weight = np.exp(b * lead)
            total += weight
            first += weight * lead
            second += weight * lead * lead
        mean = first / total
        slope += mean
        curvature += second / total - mean * mean
    return slope, curvature


@on_all_threads
def _power_all(probs_NVK, inverse_N):
    out_NVK = np.empty(probs_NVK.shape, np.float32)
    for n in nb.prange(len(probs_NVK)):
        _power(probs_NVK[n], inverse_N[n], out_NVK[n])
    return out_NVK


@nb.njit(cache=True, nogil=True)
def _power(probs_VK, inverse, out_VK):
    V, K = probs_VK.shape
    powered_K = np.empty(K)
    for v in range(V):
        total = 0.0
        for k in range(K):
            powered_K[k] = np.exp(inverse * np.log(np.float64(probs_VK[v, k])))
            total += powered_K[k]
        for k in range(K):
            out_VK[v, k] = powered_K[k] / total
