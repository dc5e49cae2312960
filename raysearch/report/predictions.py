"""What the ensemble, or the best single trial, says about the validation images of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raysearch.data.shards import Split, open_shards
from raysearch.errors import InputError
from raysearch.probabilities import read_probabilities
from raysearch.report.runfiles import MANIFEST, read_description, read_object
from raysearch.train.trial import TrialFolder, trial_folders


@dataclass(frozen=True)
class Predictions:
    """``probs_VK`` float64, rows summing to 1; ``labels_V`` int64; ``of`` names whose they are."""

    of: str
    classes: tuple[str, ...]
    labels_V: np.ndarray
    probs_VK: np.ndarray


def validation_predictions(run: Path, best_trial: int | None) -> Predictions | None:
    """Of the exported ensemble, else of ``best_trial``'s averaged weights.

    None where the data or the probability files are no longer there, or do not belong together.
    """
    folders = {int(folder.path.name): folder for folder in trial_folders(run)}
    manifest = read_object(run / MANIFEST)
    try:
        description = read_description(run)
        shards = open_shards(str(description["data"]), verify=False)
        shards = shards.subset(description.get("classes"))
        split = shards.split("validation")
        if manifest:
            of, probs_VK = "ensemble", _mix(manifest, folders, split)
        else:
            of = f"trial {best_trial}"
            probs_VK = _candidate(folders[best_trial], "ema", split)
    except (InputError, OSError, KeyError, TypeError):
        return None
    return Predictions(of, shards.classes, split.labels_N, probs_VK)


def _mix(manifest: dict[str, Any], folders: dict[int, TrialFolder], split: Split) -> np.ndarray:
    """The members' weighted mean, each at its own temperature, then the ensemble's."""
    total = 0.0
    for member in manifest["members"]:
        probs_VK = _candidate(folders[member["trial"]], member["candidate"], split)
        total = total + member["weight"] * tempered(probs_VK, member["temperature"])
    return tempered(np.asarray(total), manifest["temperature"])


def _candidate(folder: TrialFolder, name: str, split: Split) -> np.ndarray:
    found = read_probabilities(folder.validation)
    if found.digest != split.digest:
        raise KeyError(f"{folder.validation} belongs to other data")
    return tempered(found.candidates[name].astype(np.float64), 1.0)


def tempered(probs_VK: np.ndarray, temperature: float) -> np.ndarray:
    """``probs ** (1 / temperature)``, rows summing to 1."""
    powered = probs_VK ** (1 / temperature)
    return powered / powered.sum(axis=1, keepdims=True)


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """``counts_KK``: row is the label, column the most probable class."""
    classes = len(predictions.classes)
    guesses_V = predictions.probs_VK.argmax(axis=1)
    flat = np.bincount(predictions.labels_V * classes + guesses_V, minlength=classes**2)
    return flat.reshape(classes, classes)


@dataclass(frozen=True)
class Reliability:
    """Of each bin of equal width that holds images: their count, mean confidence, accuracy."""

    images: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: mean gap between confidence and accuracy (Guo et al., "On
        Calibration of Modern Neural Networks", 2017, section 2)."""
        gap = np.abs(self.confidence - self.accuracy)
        return float((gap * self.images).sum() / self.images.sum())


def reliability(predictions: Predictions, bins: int = 15) -> Reliability:
    """Bin the images by the probability of their most probable class."""
    confidence_V = predictions.probs_VK.max(axis=1)
    right_V = predictions.probs_VK.argmax(axis=1) == predictions.labels_V
    index_V = np.minimum((confidence_V * bins).astype(int), bins - 1)
    images = np.bincount(index_V, minlength=bins)
    held = images > 0
    return Reliability(
        images=images[held],
        confidence=np.bincount(index_V, confidence_V, bins)[held] / images[held],
        accuracy=np.bincount(index_V, right_V, bins)[held] / images[held],
    )


def class_scores(counts_KK: np.ndarray) -> list[dict[str, float]]:
    """Precision, recall, F1 (0 where undefined) and support of each class."""
    right = np.diag(counts_KK).astype(float)
    guessed, support = counts_KK.sum(axis=0), counts_KK.sum(axis=1)
    precision = right / np.maximum(guessed, 1)
    recall = right / np.maximum(support, 1)
    f1 = 2 * right / np.maximum(guessed + support, 1)
    names = ("precision", "recall", "f1", "support")
    rows = zip(precision, recall, f1, support, strict=True)
    return [dict(zip(names, map(float, row), strict=True)) for row in rows]
