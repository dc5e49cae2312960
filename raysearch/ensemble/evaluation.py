"""Scores of an exported ensemble on one split of a data folder."""

from typing import Any

import numpy as np

from raysearch import metrics
from raysearch.data.classes import ClassError
from raysearch.data.shards import Shards, Split
from raysearch.ensemble.predictor import Predictor
from raysearch.errors import DataError


def evaluate(predictor: Predictor, shards: Shards, split_name: str) -> dict[str, Any]:
    """Everything that `raysearch evaluate --json` prints.

    Images of classes that the ensemble does not know (``classes_left_out``) do not take part.
    ``accuracy_without_train_twins`` leaves out the images whose pixels also occur in what the
    ensemble was trained on (train; validation too after a refit); it is None where that leaves
    none. ``accuracy_se`` is the binomial standard error.
    Raises `DataError` for an empty split and for data of another shape or without one of the
    ensemble's classes.
    """
    left_out = [name for name in shards.classes if name not in predictor.classes]
    shards = known_part(shards, predictor.classes)
    split = _checked_split(predictor, shards, split_name)
    labels_N = split.labels_N
    probs_NK = predictor.predict_probs(split.images_NCHW)
    scores = metrics.summary(probs_NK, labels_N)
    right_N = metrics.predictions(probs_NK) == labels_N
    alone_N = ~_also_in(shards, predictor.artifact.manifest.trained_on, split)
    confusion_KK = metrics.confusion_matrix(probs_NK, labels_N)
    return {
        "split": split_name,
        "images": len(split),
        "classes_left_out": left_out,
        **scores,
        "accuracy_se": (scores["accuracy"] * (1 - scores["accuracy"]) / len(split)) ** 0.5,
        "per_class": metrics.per_class_rows(shards.classes, confusion_KK),
        "confusion": confusion_KK.tolist(),
        "accuracy_without_train_twins": float(right_N[alone_N].mean()) if alone_N.any() else None,
        "train_twins": int((~alone_N).sum()),
    }


def known_part(shards: Shards, classes: tuple[str, ...]) -> Shards:
    """The images of an ensemble's ``classes``, in whatever order the data has them.

    Raises `DataError` where the data lacks one.
    """
    try:
        return shards.subset(classes)
    except ClassError:
        raise DataError(
            f"The ensemble's classes are {', '.join(classes)}, but those of {shards.path} are "
            f"{', '.join(shards.classes)}. The data must have them all, by the same names: import "
            "it with the class names that the ensemble was trained on."
        ) from None


def _checked_split(predictor: Predictor, shards: Shards, name: str) -> Split:
    if shards.shape != predictor.shape:
        raise DataError(
            f"The ensemble takes images of shape {list(predictor.shape)} (channels, height, "
            f"width), but those of {shards.path} are {list(shards.shape)}. Import them again with "
            f"`--image-size {predictor.shape[1]} --channels {predictor.shape[0]}`."
        )
    split = shards.split(name)
    if not len(split):
        rows = {other: len(shards.split(other)) for other in shards.splits}
        filled = ", ".join(f"{other} ({count:,})" for other, count in rows.items() if count)
        raise DataError(
            f"The split {name!r} of {shards.path} has no images of {', '.join(shards.classes)}. "
            f"Splits with such images: {filled or 'none'}. Name one with --split."
        )
    return split


def scores_without_twins(
    shards: Shards, split: Split, probs_NK: np.ndarray
) -> tuple[int, dict[str, float] | None]:
    """How many of the split's images have their very pixels in train too, and `metrics.summary`
    of ``probs_NK`` for the others; None where there are none."""
    alone_N = ~_also_in(shards, ("train",), split)
    if not alone_N.any():
        return len(alone_N), None
    return int((~alone_N).sum()), metrics.summary(probs_NK[alone_N], split.labels_N[alone_N])


def _also_in(shards: Shards, learned: tuple[str, ...], split: Split) -> np.ndarray:
    """Which rows of ``split`` have an image with the very same pixels in another one of the splits
    ``learned``; bool [N]."""
    known: set[bytes] = set()
    for name in set(learned) & set(shards.splits) - {split.name}:
        known |= _digests(shards.split(name))
    return np.array([digest.tobytes() in known for digest in _rows(split)], dtype=bool)


def _digests(split: Split) -> set[bytes]:
    return {digest.tobytes() for digest in _rows(split)}


def _rows(split: Split) -> np.ndarray:
    return np.ascontiguousarray(split.digests_N16).view("V16").ravel()
