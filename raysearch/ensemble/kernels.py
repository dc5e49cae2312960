"""Compiled inner loops of greedy selection (numba, cached on disk; the first use compiles).

What is done once per library (`gather_truth`, `build_margins`, `class_bounds`) runs on all
threads; what is done at every step runs on one: it takes milliseconds, and a barrier between
threads would cost a scheduler's time slice where training owns the cores. Either way every
output element is computed by one thread in one order: results do not depend on their number.
"""

import numba as nb
import numpy as np

from raysearch.metrics import PROBABILITY_FLOOR

UNIT = 2**24
"""Fixed-point units in a probability of 1: every float16 is a whole number of them."""

_LANES = 128
_FACTORS_PER_LOG = 32
_BLOCK = 64


@nb.njit(parallel=True, cache=True)
def gather_truth(probs_NVK, labels_V, tolerance):
    """``truth_NV`` float32, the true class's probability, and ``bad_N`` int64: 1 + the first
    sample whose row is no distribution (NaN, negative, sum off 1 by ``tolerance``), or 0."""
    N, V, K = probs_NVK.shape
    truth_NV = np.empty((N, V), np.float32)
    bad_N = np.zeros(N, np.int64)
    for n in nb.prange(N):
        for v in range(V - 1, -1, -1):
            total, least = np.float32(0), np.float32(0)
            for k in range(K):
                p = probs_NVK[n, v, k]
                total += p
                least = p if p < least else least
            if not (abs(total - 1) <= tolerance and least >= 0):
                bad_N[n] = v + 1
            truth_NV[n, v] = probs_NVK[n, v, labels_V[v]]
    return truth_NV, bad_N


@nb.njit(cache=True, nogil=True)
def log_loss_with(truth_NV, total_V, members, candidates_I):
    """Log loss of the mean of ``members`` (summed up in ``total_V`` float64) and each candidate.

    One log per up to 32 samples: factors lie between 2**-24 (the floor) and ``members + 1``, so
    the product of 32 neither underflows nor overflows float64.
    """
    V = len(total_V)
    size = members + 1
    floor = PROBABILITY_FLOOR * size
    loss_I = np.empty(len(candidates_I))
    product = np.ones(_LANES)
    for i in range(len(candidates_I)):
        truth_V = truth_NV[candidates_I[i]]
        logs, factors = 0.0, 0
        for first in range(0, V, _LANES):
            for lane in range(min(_LANES, V - first)):
                value = total_V[first + lane] + truth_V[first + lane]
                product[lane] *= value if value > floor else floor
            factors += 1
            if factors == _FACTORS_PER_LOG:
                logs += _take_logs(product)
                factors = 0
        logs += _take_logs(product)
        loss_I[i] = np.log(size) - logs / V
    return loss_I


@nb.njit(cache=True, nogil=True)
def _take_logs(product):
    logs = 0.0
    for lane in range(len(product)):
        logs += np.log(product[lane])
        product[lane] = 1.0
    return logs


@nb.njit(parallel=True, cache=True)
def build_margins(probs_NVK, labels_V):
    """``margins_VRN`` int32: true class less each of the K-1 rivals, in `UNIT`; and over the
    candidates their least and largest, ``low_VR`` and ``high_VR`` int32."""
    N, V, K = probs_NVK.shape
    margins_VRN = np.empty((V, K - 1, N), np.int32)
    low_VR = np.empty((V, K - 1), np.int32)
    high_VR = np.empty((V, K - 1), np.int32)
    for block in nb.prange((V + _BLOCK - 1) // _BLOCK):
        first, last = block * _BLOCK, min(V, (block + 1) * _BLOCK)
        for n in range(N):
            for v in range(first, last):
                truth = _fixed(probs_NVK[n, v, labels_V[v]])
                for r in range(K - 1):
                    rival = r if r < labels_V[v] else r + 1
                    margins_VRN[v, r, n] = truth - _fixed(probs_NVK[n, v, rival])
        for v in range(first, last):
            for r in range(K - 1):
                low_VR[v, r] = margins_VRN[v, r].min()
                high_VR[v, r] = margins_VRN[v, r].max()
    return margins_VRN, low_VR, high_VR


@nb.njit(cache=True, inline="always")
def _fixed(p):
    return np.int32(np.float64(p) * UNIT + 0.5)


@nb.njit(cache=True, nogil=True)
def count_right_with(margins_VRN, low_VR, high_VR, needed_VR):
    """``right_N`` int64: samples whose margin reaches ``needed_VR`` int64 against every rival.

    Rivals that no candidate can let win, and samples that no candidate can save, are skipped on
    their bounds alone; some 2% of the comparisons remain.
    """
    V, R, N = margins_VRN.shape
    right_N = np.zeros(N, np.int64)
    beaten_N = np.empty(N, np.uint8)
    always = 0
    for v in range(V):
        undecided, lost = 0, False
        for r in range(R):
            lost |= high_VR[v, r] < needed_VR[v, r]
            undecided += low_VR[v, r] < needed_VR[v, r]
        if lost:
            continue
        if undecided == 0:
            always += 1
            continue
        beaten_N[:] = 1
        for r in range(R):
            if low_VR[v, r] < needed_VR[v, r]:
                threshold = np.int32(needed_VR[v, r])
                margins_N = margins_VRN[v, r]
                for n in range(N):
                    beaten_N[n] &= margins_N[n] >= threshold
        for n in range(N):
            right_N[n] += beaten_N[n]
    return right_N + always


@nb.njit(parallel=True, cache=True)
def class_bounds(probs_NVK):
    """Least and largest probability over the candidates, ``low_VK`` and ``high_VK`` float32."""
    N, V, K = probs_NVK.shape
    low_VK = np.ones((V, K), np.float32)
    high_VK = np.zeros((V, K), np.float32)
    for block in nb.prange((V + _BLOCK - 1) // _BLOCK):
        first, last = block * _BLOCK, min(V, (block + 1) * _BLOCK)
        for n in range(N):
            for v in range(first, last):
                for k in range(K):
                    p = probs_NVK[n, v, k]
                    low_VK[v, k] = p if p < low_VK[v, k] else low_VK[v, k]
                    high_VK[v, k] = p if p > high_VK[v, k] else high_VK[v, k]
    return low_VK, high_VK


@nb.njit(cache=True, nogil=True)
def settled_samples(total_VK, low_VK, high_VK, labels_V):
    """Which samples no candidate can flip: ``open_A`` indices of the rest, and of the settled ones
    ``hits_K`` (predicted rightly) and ``predicted_K``, counts per class."""
    V, K = total_VK.shape
    open_V = np.empty(V, np.int64)
    hits_K = np.zeros(K, np.int64)
    predicted_K = np.zeros(K, np.int64)
    n_open = 0
    for v in range(V):
        top = np.argmax(total_VK[v] + low_VK[v])
        floor = total_VK[v, top] + low_VK[v, top]
        settled = True
        for k in range(K):
            if k != top and total_VK[v, k] + high_VK[v, k] >= floor:
                settled = False
        if settled:
            predicted_K[top] += 1
            hits_K[top] += top == labels_V[v]
        else:
            open_V[n_open] = v
            n_open += 1
    return open_V[:n_open], hits_K, predicted_K


@nb.njit(cache=True, nogil=True)
def count_classes_with(probs_NVK, total_VK, labels_V, open_A):
    """``hits_NK`` and ``predicted_NK`` int64 over the samples ``open_A`` when each candidate is
    added to ``total_VK`` float64; the lowest class wins a tie."""
    N, _, K = probs_NVK.shape
    hits_NK = np.zeros((N, K), np.int64)
    predicted_NK = np.zeros((N, K), np.int64)
    for n in range(N):
        for v in open_A:
            top, largest = 0, total_VK[v, 0] + probs_NVK[n, v, 0]
            for k in range(1, K):
                value = total_VK[v, k] + probs_NVK[n, v, k]
                if value > largest:
                    top, largest = k, value
            predicted_NK[n, top] += 1
            hits_NK[n, top] += top == labels_V[v]
    return hits_NK, predicted_NK
