"""An honest score for a selected ensemble: nested cross-validation of the whole selection.

The score that selection ends with is optimistic, for it was chosen as the best of many. Here
calibration, selection and the ensemble's temperature are repeated on four fifths of the
validation images and scored on the rest, in turn (Varma, Simon 2006, "Bias in error estimation
when using cross-validation for model selection"). Images of equal pixels stay in one fold.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from raysearch.ensemble.calibration import calibrate, fit_temperature, fit_temperatures, sharpen
from raysearch.ensemble.selection import Joinable, Selection, select
from raysearch.metrics import log_loss, log_losses, predictions

FOLDS = 5


@dataclass(frozen=True)
class Ensemble:
    """A selection with its temperatures: of each candidate (``temperature_N``) and of the mean."""

    selection: Selection
    temperature_N: NDArray[np.float64]
    temperature: float

    def predict(self, probs_NVK: NDArray[np.float32]) -> NDArray[np.float32]:
        """``probs_VK`` of the ensemble from the candidates' uncalibrated ones."""
        members = np.flatnonzero(self.selection.weights_N)
        calibrated_MVK = calibrate(probs_NVK[members], self.temperature_N[members])
        return mix(calibrated_MVK, self.selection.weights_N[members], self.temperature)

    def predict_calibrated(self, calibrated_NVK: NDArray[np.float32]) -> NDArray[np.float32]:
        """The same from what `calibrate` made of them."""
        members = np.flatnonzero(self.selection.weights_N)
        weights_M = self.selection.weights_N[members]
        return mix(calibrated_NVK[members], weights_M, self.temperature)


@dataclass(frozen=True)
class NestedEstimate:
    """Scores on held-out images with their standard errors (over images), and ``stability_N``:
    in which share of the folds each candidate was chosen."""

    accuracy: float
    accuracy_se: float
    log_loss: float
    log_loss_se: float
    stability_N: NDArray[np.float64]


def fit_ensemble(
    probs_NVK: NDArray[np.float32], labels_V: NDArray[np.int64], **options
) -> Ensemble:
    """Calibrate every candidate, select, calibrate the result, all on these samples.

    ``options`` are those of `combine`.
    """
    temperature_N = fit_temperatures(probs_NVK, labels_V)
    return combine(calibrate(probs_NVK, temperature_N), temperature_N, labels_V, **options)


def combine(
    calibrated_NVK: NDArray[np.float32],
    temperature_N: NDArray[np.float64],
    labels_V: NDArray[np.int64],
    *,
    objective: str = "log_loss",
    steps: int = 50,
    max_members: int | None = None,
    joinable: Joinable | None = None,
) -> Ensemble:
    """Select from candidates that are calibrated already, and calibrate the result.

    For the log loss the best prefix is chosen after calibration of each: a mean of calibrated
    probabilities is less sure than it may be (Ranjan, Gneiting 2010, "Combining probability
    forecasts"). So the result is at most that of the best candidate alone.
    """
    selection = select(
        calibrated_NVK,
        labels_V,
        objective=objective,
        steps=steps,
        max_members=max_members,
        joinable=joinable,
    )
    sizes = range(1, steps + 1) if objective == "log_loss" else [selection.kept]
    _, kept, temperature = min(_calibrated_prefixes(selection, calibrated_NVK, labels_V, sizes))
    selection = replace(selection, kept=kept, weights_N=selection.prefix_weights(kept))
    return Ensemble(selection, temperature_N, temperature)


def _calibrated_prefixes(
    selection: Selection,
    calibrated_NVK: NDArray[np.float32],
    labels_V: NDArray[np.int64],
    sizes: Iterable[int],
) -> Iterator[tuple[float, int, float]]:
    """Log loss, size and temperature of the prefixes of these sizes."""
    for size in sizes:
        weights_N = selection.prefix_weights(size)
        members = np.flatnonzero(weights_N)
        mean_VK = mix(calibrated_NVK[members], weights_N[members], 1.0)
        temperature = fit_temperature(mean_VK, labels_V)
        yield log_loss(sharpen(mean_VK, temperature), labels_V), size, temperature


def mix(
    probs_MVK: NDArray[np.float32], weights_M: NDArray[np.float64], temperature: float
) -> NDArray[np.float32]:
    """Weighted mean of calibrated probabilities, at the ensemble's temperature."""
    mean_VK = np.einsum("mvk,m->vk", probs_MVK, weights_M).astype(np.float32)
    return sharpen(mean_VK, temperature)


def nested_estimate(
    probs_NVK: NDArray[np.float32],
    labels_V: NDArray[np.int64],
    groups_V: NDArray[np.int64],
    *,
    rng: np.random.Generator,
    folds: int = FOLDS,
    **options,
) -> NestedEstimate:
    """Repeat `fit_ensemble` with ``options`` in every fold and pool the held-out images.

    Raises ValueError where there are fewer than two groups of images.
    """
    fold_V = grouped_folds(labels_V, groups_V, folds, rng)
    right_V, loss_V = np.zeros(len(labels_V)), np.zeros(len(labels_V))
    chosen_N = np.zeros(len(probs_NVK))
    for fold in np.unique(fold_V):
        held_V = fold_V == fold
        ensemble = fit_ensemble(probs_NVK[:, ~held_V], labels_V[~held_V], **options)
        members = ensemble.selection.members
        held_MVK = calibrate(probs_NVK[members][:, held_V], ensemble.temperature_N[members])
        weights_M = ensemble.selection.weights_N[members]
        probs_VK = mix(held_MVK, weights_M, ensemble.temperature)
        right_V[held_V] = predictions(probs_VK) == labels_V[held_V]
        loss_V[held_V] = log_losses(probs_VK, labels_V[held_V])
        chosen_N[members] += 1
    root = np.sqrt(len(labels_V))
    return NestedEstimate(
        accuracy=float(right_V.mean()),
        accuracy_se=float(right_V.std(ddof=1) / root),
        log_loss=float(loss_V.mean()),
        log_loss_se=float(loss_V.std(ddof=1) / root),
        stability_N=chosen_N / len(np.unique(fold_V)),
    )


def grouped_folds(
    labels_V: NDArray[np.int64],
    groups_V: NDArray[np.int64],
    folds: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """``fold_V``: every group whole in one fold, classes spread as evenly as groups allow.

    Groups, largest first and otherwise in random order, go where their (first) label is rarest,
    then where images are fewest.
    """
    _, first_G, group_V, size_G = np.unique(
        groups_V, return_index=True, return_inverse=True, return_counts=True
    )
    folds = min(folds, len(size_G))
    if folds < 2:
        raise ValueError("Folds need at least two different images, but all are equal.")
    order = rng.permutation(len(size_G))
    order = order[np.argsort(-size_G[order], kind="stable")]
    label_G = labels_V[first_G]
    of_label = np.zeros((folds, int(labels_V.max()) + 1), np.int64)
    fold_G = np.empty(len(size_G), np.int64)
    for group in order:
        label = label_G[group]
        fold = np.lexsort((of_label.sum(axis=1), of_label[:, label]))[0]
        of_label[fold, label] += size_G[group]
        fold_G[group] = fold
    return fold_G[group_V]
