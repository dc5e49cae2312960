"""Scores of probabilities against labels, in NumPy.

Every function takes ``probs_NK`` (float, in [0, 1], rows summing to 1) and ``labels_N`` (integers
in [0, K)); a prediction is the class of largest probability, the lowest index where several tie.
Scores are fractions in [0, 1], log loss is in nats.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROBABILITY_FLOOR = 2.0**-24
"""Smallest positive float16, the type that probabilities are kept in: less counts as this much,
so that scores from the kept file and from the network itself agree."""

ECE_BINS = 15


def predictions(probs_NK: NDArray) -> NDArray[np.int64]:
    return np.asarray(probs_NK).argmax(axis=1)


def accuracy(probs_NK: NDArray, labels_N: NDArray) -> float:
    return float((predictions(probs_NK) == labels_N).mean())


def log_losses(probs_NK: NDArray, labels_N: NDArray) -> NDArray[np.float64]:
    """Minus the natural log of the true class's probability, per image."""
    true_N = np.asarray(probs_NK)[np.arange(len(labels_N)), labels_N].astype(np.float64)
    return -np.log(np.maximum(true_N, PROBABILITY_FLOOR))


def log_loss(probs_NK: NDArray, labels_N: NDArray) -> float:
    return float(log_losses(probs_NK, labels_N).mean())


def confusion_matrix(probs_NK: NDArray, labels_N: NDArray) -> NDArray[np.int64]:
    """``[K, K]`` counts: rows are true classes, columns predicted ones."""
    classes = np.shape(probs_NK)[1]
    cells_N = np.asarray(labels_N) * classes + predictions(probs_NK)
    return np.bincount(cells_N, minlength=classes * classes).reshape(classes, classes)


def per_class(confusion_KK: NDArray) -> dict[str, NDArray]:
    """``precision``, ``recall``, ``f1`` (float64 ``[K]``) and ``support`` (int64 ``[K]``).

    What would divide by zero (a class never predicted, or without images) is 0.
    """
    hits_K = np.diag(confusion_KK).astype(np.float64)
    predicted_K, support_K = confusion_KK.sum(axis=0), confusion_KK.sum(axis=1)
    return {
        "precision": _ratio(hits_K, predicted_K),
        "recall": _ratio(hits_K, support_K),
        "f1": _ratio(2 * hits_K, predicted_K + support_K),
        "support": support_K,
    }


def per_class_rows(classes: Sequence[str], confusion_KK: NDArray) -> list[dict[str, Any]]:
    """`per_class` as one mapping a class, its name under ``class``."""
    columns = {name: values.tolist() for name, values in per_class(confusion_KK).items()}
    return [
        {"class": label} | {name: values[k] for name, values in columns.items()}
        for k, label in enumerate(classes)
    ]


def _ratio(part: NDArray, whole: NDArray) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def macro_f1(probs_NK: NDArray, labels_N: NDArray) -> float:
    """Mean of F1 over all K classes."""
    return float(per_class(confusion_matrix(probs_NK, labels_N))["f1"].mean())


def balanced_accuracy(probs_NK: NDArray, labels_N: NDArray) -> float:
    """Mean recall over the classes that have images."""
    scores = per_class(confusion_matrix(probs_NK, labels_N))
    return float(scores["recall"][scores["support"] > 0].mean())


def ece(probs_NK: NDArray, labels_N: NDArray, bins: int = ECE_BINS) -> float:
    """Expected calibration error (Naeini et al. 2015; Guo et al. 2017, section 2).

    Mean gap between confidence and accuracy over equal-width bins of confidence, weighted by
    their share of the images; bins are closed on the right.
    """
    confidence_N = np.max(probs_NK, axis=1).astype(np.float64)
    right_N = predictions(probs_NK) == labels_N
    bin_N = np.clip(np.ceil(confidence_N * bins).astype(np.int64) - 1, 0, bins - 1)
    gap_B = np.bincount(bin_N, weights=confidence_N - right_N, minlength=bins)
    return float(np.abs(gap_B).sum() / len(confidence_N))


def summary(probs_NK: NDArray, labels_N: NDArray) -> dict[str, float]:
    """``accuracy``, ``log_loss``, ``macro_f1``, ``balanced_accuracy`` and ``ece``."""
    scores = (accuracy, log_loss, macro_f1, balanced_accuracy, ece)
    return {score.__name__: score(probs_NK, labels_N) for score in scores}
