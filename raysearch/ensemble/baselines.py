"""What simpler ways of combining the same library score: the selection has to beat these."""

import numpy as np
from numpy.typing import NDArray

from raysearch import metrics
from raysearch.ensemble.calibration import fit_temperature, sharpen
from raysearch.ensemble.selection import select

TOP_K = 5


def best_single(probs_NVK: NDArray[np.float32], labels_V: NDArray[np.int64], objective: str) -> int:
    """Index of the candidate that scores best alone."""
    return select(probs_NVK, labels_V, objective=objective, steps=1).order[0]


def baselines(
    probs_NVK: NDArray[np.float32], labels_V: NDArray[np.int64], objective: str
) -> dict[str, dict[str, float]]:
    """``accuracy`` and ``log_loss`` of ``mean``, ``hard_vote``, ``weighted_mean`` (by accuracy on
    these same samples) and ``top_k`` (mean of the 5 best under ``objective``), each at its own
    temperature, as the ensemble is.

    Probabilities of the hard vote are the shares of the votes.
    """
    single = single_scores(probs_NVK, labels_V)
    ranking = _ranking(single, probs_NVK, labels_V, objective)
    mixtures = {
        "hard_vote": _vote_shares(probs_NVK),
        "mean": probs_NVK.mean(axis=0, dtype=np.float64),
        "weighted_mean": _weighted(probs_NVK, single["accuracy"]),
        "top_k": probs_NVK[ranking[:TOP_K]].mean(axis=0, dtype=np.float64),
    }
    return {name: calibrated_scores(probs_VK, labels_V) for name, probs_VK in mixtures.items()}


def scores(probs_VK: NDArray, labels_V: NDArray[np.int64]) -> dict[str, float]:
    return {
        "accuracy": metrics.accuracy(probs_VK, labels_V),
        "log_loss": metrics.log_loss(probs_VK, labels_V),
    }


def calibrated_scores(probs_VK: NDArray, labels_V: NDArray[np.int64]) -> dict[str, float]:
    """`scores` at the temperature of least log loss."""
    return scores(sharpen(probs_VK, fit_temperature(probs_VK, labels_V)), labels_V)


def single_scores(
    probs_NVK: NDArray[np.float32], labels_V: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """``accuracy`` and ``log_loss`` of each candidate alone, ``[N]``."""
    rows = [scores(probs_VK, labels_V) for probs_VK in probs_NVK]
    return {name: np.array([row[name] for row in rows]) for name in ("accuracy", "log_loss")}


def _ranking(single, probs_NVK, labels_V, objective) -> NDArray[np.int64]:
    """Candidates from best to worst; ties by log loss, then index."""
    if objective == "macro_f1":
        quality_N = np.array([metrics.macro_f1(probs_VK, labels_V) for probs_VK in probs_NVK])
    else:
        quality_N = single["accuracy"] if objective == "accuracy" else -single["log_loss"]
    return np.lexsort((single["log_loss"], -quality_N))


def _weighted(probs_NVK, weights_N) -> NDArray[np.float64]:
    """Weighted mean; the plain one where no candidate has any weight."""
    weights_N = weights_N if weights_N.any() else np.ones(len(weights_N))
    return np.einsum("nvk,n->vk", probs_NVK, weights_N / weights_N.sum())


def _vote_shares(probs_NVK: NDArray[np.float32]) -> NDArray[np.float64]:
    _, V, K = probs_NVK.shape
    votes_VK = np.zeros((V, K))
    for probs_VK in probs_NVK:
        votes_VK[np.arange(V), probs_VK.argmax(axis=1)] += 1
    return votes_VK / len(probs_NVK)
