"""Compiled inner loops of greedy selection (numba, cached on disk; the first use compiles).

What is done once per library (`gather_truth`, `margin_bounds`, `gather_margins`, `class_bounds`)
runs on all threads; what is done at every step runs on one: it takes milliseconds, and a barrier
between threads would cost a scheduler's time slice where training owns the cores. Either way every
output element is computed by one thread in one order: results do not depend on their number.
"""

import functools
import threading
from collections.abc import Callable

import numba as nb
import numpy as np

from raysearch.metrics import PROBABILITY_FLOOR

UNIT = 2**24
"""Fixed-point units in a probability of 1: every float16 is a whole number of them."""

_one_at_a_time = threading.Lock()
_LANES = 128
_STREAMS = 6
_FACTORS_PER_LOG = 32
_MANTISSA, _ONE, _LOG_2 = 2**52 - 1, 1023 << 52, float(np.log(2))
_BLOCK = 64  # Lines at a time in the innermost cache.
_LONG_BLOCK = 256  # Enough in a piece that memory is read at its full speed.


def on_all_threads(function: Callable) -> Callable:
    """Compile a parallel kernel that one Python thread may run at a time: the pool that numba
    falls back to where the machine has no OpenMP ends the process when two meet in it."""
    compiled = nb.njit(parallel=True, cache=True)(function)

    @functools.wraps(function)
    def guarded(*arrays):
        with _one_at_a_time:
            return compiled(*arrays)

    return guarded


@on_all_threads
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

    Multiplies in place of adding logs: factors lie between 2**-24 (the floor) and
    ``members + 1``, so the product of 32 neither underflows nor overflows float64. Several
    candidates at a time, since memory answers several streams of reads sooner than one.
    """
    V = len(total_V)
    rows = V // _LANES
    size = members + 1
    floor = PROBABILITY_FLOOR * size
    loss_I = np.empty(len(candidates_I))
    product_SL = np.ones((_STREAMS, _LANES))
    for first in range(0, len(candidates_I), _STREAMS):
        streams_S = candidates_I[first : first + _STREAMS]
        logs_S = np.zeros(len(streams_S))
        for row in range(rows):
            total_L = total_V[row * _LANES : (row + 1) * _LANES]
            for s in range(len(streams_S)):
                truth_L = truth_NV[streams_S[s], row * _LANES : (row + 1) * _LANES]
                product_L = product_SL[s]
                for lane in range(_LANES):
                    product_L[lane] *= max(total_L[lane] + truth_L[lane], floor)
                if row % _FACTORS_PER_LOG == _FACTORS_PER_LOG - 1:
                    logs_S[s] += _take_log(product_L)
        for s in range(len(streams_S)):
            for v in range(rows * _LANES, V):
                factor = max(total_V[v] + truth_NV[streams_S[s], v], floor)
                product_SL[s, v - rows * _LANES] *= factor
            logs_S[s] += _take_log(product_SL[s])
        loss_I[first : first + _STREAMS] = np.log(size) - logs_S / V
    return loss_I


@nb.njit(cache=True, nogil=True)
def _take_log(product):
    """Log of the product over all lanes, from their exponents and mantissas apart; sets each lane
    to 1 again."""
    bits = product.view(np.int64)
    exponents, mantissas = 0, 1.0
    for lane in range(len(product)):
        exponents += (bits[lane] >> 52) - 1023
        bits[lane] = (bits[lane] & _MANTISSA) | _ONE
    for lane in range(len(product)):
        mantissas *= product[lane]
        product[lane] = 1.0
    return exponents * _LOG_2 + np.log(mantissas)


@nb.njit(cache=True, nogil=True)
def weighted_log_loss_with(truth_NV, total_V, members, candidates_I, weight_V):
    """`log_loss_with`, sample v counting ``weight_V[v]`` (float64, sum 1) times."""
    size = members + 1
    floor = PROBABILITY_FLOOR * size
    loss_I = np.empty(len(candidates_I))
    for i in range(len(candidates_I)):
        truth_V = truth_NV[candidates_I[i]]
        logs = 0.0
        for v in range(len(total_V)):
            logs += weight_V[v] * np.log(max(total_V[v] + truth_V[v], floor))
        loss_I[i] = np.log(size) - logs
    return loss_I


@on_all_threads
def margin_bounds(probs_NVK, labels_V):
    """``low_VK`` and ``high_VK`` int32: over the candidates, the least and largest lead of the true
    class over each class, in `UNIT`."""
    N, V, K = probs_NVK.shape
    low_VK = np.full((V, K), UNIT, np.int32)
    high_VK = np.full((V, K), -UNIT, np.int32)
    flat_NX, low_X, high_X = probs_NVK.reshape(N, -1), low_VK.reshape(-1), high_VK.reshape(-1)
    for block in nb.prange((V + _LONG_BLOCK - 1) // _LONG_BLOCK):
        first, last = block * _LONG_BLOCK, min(V, (block + 1) * _LONG_BLOCK)
        low_B, high_B = low_X[first * K : last * K], high_X[first * K : last * K]
        truth_B = np.empty(len(low_B), np.int32)
        for n in range(N):
            probs_B = flat_NX[n, first * K : last * K]
            for v in range(last - first):
                truth = _fixed(probs_B[v * K + labels_V[first + v]])
                truth_B[v * K : (v + 1) * K] = truth
            for i in range(len(low_B)):
                lead = np.int32(truth_B[i] - _fixed(probs_B[i]))
                low_B[i] = min(low_B[i], lead)
                high_B[i] = max(high_B[i], lead)
    return low_VK, high_VK


@on_all_threads
def gather_margins(probs_NX, truth_P, rival_P):
    """``margins_PN`` int32: each candidate's lead of the true class over a rival, in `UNIT`, from
    where the two stand among its probabilities, ``truth_P`` and ``rival_P`` unsigned.

    Transposes in tiles whose lines, read and written, stay in the inner caches: rows of many
    candidates are each a page of their own. Flat unsigned indices spare branches.
    """
    N, P = len(probs_NX), len(rival_P)
    margins_PN = np.empty((P, N), np.int32)
    blocks = (P + _BLOCK - 1) // _BLOCK
    for tile in nb.prange(blocks * ((N + _LONG_BLOCK - 1) // _LONG_BLOCK)):
        first_n, first_p = tile // blocks * _LONG_BLOCK, tile % blocks * _BLOCK
        truth_B, rival_B = truth_P[first_p : first_p + _BLOCK], rival_P[first_p : first_p + _BLOCK]
        margins_BN = margins_PN[first_p : first_p + _BLOCK]
        for n in range(first_n, min(N, first_n + _LONG_BLOCK)):
            probs_X = probs_NX[n]
            for b in range(len(rival_B)):
                margins_BN[b, n] = _fixed(probs_X[truth_B[b]]) - _fixed(probs_X[rival_B[b]])
    return margins_PN


@nb.njit(cache=True, inline="always")
def _fixed(p):
    return np.int32(np.rint(p * np.float32(UNIT)))


@nb.njit(cache=True, nogil=True)
def count_right_with(margins_PN, low_P, high_P, needed_P, first_A, weight_A):
    """``right_N`` float64: summed ``weight_A`` of the samples whose margin reaches ``needed_P``
    int64 against every rival.

    Rivals that no candidate can let win, and samples that no candidate can save, are skipped on
    their bounds alone; some 2% of the comparisons remain.
    """
    N = margins_PN.shape[1]
    right_N = np.zeros(N)
    beaten_N = np.empty(N, np.uint8)
    always = 0.0
    for a in range(len(weight_A)):
        undecided, lost = 0, False
        for p in range(first_A[a], first_A[a + 1]):
            lost |= high_P[p] < needed_P[p]
            undecided += low_P[p] < needed_P[p]
        if lost:
            continue
        if undecided == 0:
            always += weight_A[a]
            continue
        beaten_N[:] = 1
        for p in range(first_A[a], first_A[a + 1]):
            if low_P[p] < needed_P[p]:
                threshold = np.int32(needed_P[p])
                margins_N = margins_PN[p]
                for n in range(N):
                    beaten_N[n] &= margins_N[n] >= threshold
        weight = weight_A[a]
        for n in range(N):
            right_N[n] += weight * beaten_N[n]
    return right_N + always


@on_all_threads
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
def settled_samples(total_VK, low_VK, high_VK, labels_V, weight_V):
    """Which samples no candidate can flip: ``open_A`` indices of the rest, and of the settled ones
    ``hits_K`` (predicted rightly) and ``predicted_K``, weights per class."""
    V, K = total_VK.shape
    open_V = np.empty(V, np.int64)
    hits_K, predicted_K = np.zeros(K), np.zeros(K)
    n_open = 0
    for v in range(V):
        top = np.argmax(total_VK[v] + low_VK[v])
        floor = total_VK[v, top] + low_VK[v, top]
        settled = True
        for k in range(K):
            if k != top and total_VK[v, k] + high_VK[v, k] >= floor:
                settled = False
        if settled:
            predicted_K[top] += weight_V[v]
            hits_K[top] += weight_V[v] * (top == labels_V[v])
        else:
            open_V[n_open] = v
            n_open += 1
    return open_V[:n_open], hits_K, predicted_K


@nb.njit(cache=True, nogil=True)
def count_classes_with(probs_NVK, total_VK, labels_V, weight_V, open_A):
    """``hits_NK`` and ``predicted_NK``, weights, over the samples ``open_A`` when each candidate is
    added to ``total_VK`` float64; the lowest class wins a tie."""
    N, _, K = probs_NVK.shape
    hits_NK, predicted_NK = np.zeros((N, K)), np.zeros((N, K))
    for n in range(N):
        for v in open_A:
            top, largest = 0, total_VK[v, 0] + probs_NVK[n, v, 0]
            for k in range(1, K):
                value = total_VK[v, k] + probs_NVK[n, v, k]
                if value > largest:
                    top, largest = k, value
            predicted_NK[n, top] += weight_V[v]
            hits_NK[n, top] += weight_V[v] * (top == labels_V[v])
    return hits_NK, predicted_NK
