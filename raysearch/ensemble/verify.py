"""Whether an exported ensemble reproduces what was selected, and its graphs what PyTorch says."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from raysearch import metrics
from raysearch.ensemble.manifest import MODEL, PROGRAM, Manifest
from raysearch.ensemble.network import EnsembleNetwork
from raysearch.ensemble.onnx import open_session, run_session
from raysearch.ensemble.program import load_program
from raysearch.errors import RunError

if TYPE_CHECKING:
    from raysearch.data.shards import Split

SELECTED_TOLERANCE = 1e-3
"""Of probabilities, against the selection's."""
SCORE_TOLERANCE = 1e-4
EXPORT_TOLERANCE = 1e-4
_REFIT_ERRORS = 5
"""Standard errors by which a refit may be worse on what it has learned."""
BATCH_SIZE = 64
"""Small enough that a layer's activations stay in the CPU's cache."""


def check_selection(
    network: EnsembleNetwork,
    manifest: Manifest,
    validation: "Split",
    probs_VK: np.ndarray | None,
    folder: Path,
) -> np.ndarray:
    """Compare ``network`` with the selection on the validation split; return its probabilities.

    Raises `RunError` naming the check that failed, the largest difference and where; ``folder``
    is what the export was meant to be called.
    """
    torch_VK, rounded_VK = predict_network(network, validation.images_NCHW)
    failed = _Failure(manifest.classes, folder)
    if probs_VK is not None:
        failed.unless_close(
            "PyTorch against the selection", rounded_VK, probs_VK, SELECTED_TOLERANCE
        )
    _check_scores(failed, rounded_VK, validation.labels_N, manifest.scores["validation"])
    return torch_VK


def check_graphs(
    partial: Path, torch_VK: np.ndarray, manifest: Manifest, validation: "Split", folder: Path
) -> dict[str, Any]:
    """Compare the files that were just exported to ``partial`` with PyTorch's ``torch_VK``, on
    every validation image; raises as `check_selection` does.

    Returns what the ONNX graph scores there (`class_scores`), and its ``largest_difference`` of a
    probability.
    """
    failed = _Failure(manifest.classes, folder)
    program_VK = run_program(load_program(partial / PROGRAM), validation.images_NCHW)
    _check_same(failed, PROGRAM, program_VK, torch_VK, validation.labels_N)
    session = open_session(partial / MODEL, manifest.input.shape, len(manifest.classes))
    onnx_VK = run_session(session, validation.images_NCHW, BATCH_SIZE)
    _check_same(failed, MODEL, onnx_VK, torch_VK, validation.labels_N)
    scores = class_scores(onnx_VK, validation.labels_N, manifest.classes)
    return scores | {"largest_difference": float(np.abs(onnx_VK - torch_VK).max())}


def class_scores(
    probs_VK: np.ndarray, labels_V: np.ndarray, classes: tuple[str, ...]
) -> dict[str, Any]:
    """`metrics.summary`, ``per_class``, ``confusion``, ``mean_probability`` of the predicted
    class."""
    confusion_KK = metrics.confusion_matrix(probs_VK, labels_V)
    return {
        **metrics.summary(probs_VK, labels_V),
        "mean_probability": float(probs_VK.max(axis=1).mean()),
        "per_class": metrics.per_class_rows(classes, confusion_KK),
        "confusion": confusion_KK.tolist(),
    }


def check_refit(manifest: Manifest, found: dict[str, Any], folder: Path) -> None:
    """Raises `RunError` where a refitted ensemble is clearly worse on images that it has learned
    than the selected one was on images that it had not: its training went wrong."""
    nested = manifest.scores["nested"]
    least = nested["accuracy"] - _REFIT_ERRORS * nested["accuracy_se"]
    if not found["accuracy"] >= least:
        _Failure(manifest.classes, folder).report(
            "refit",
            f"accuracy {found['accuracy']:.4f} on validation images that it was trained on, where "
            f"the selected ensemble, which was not, has {nested['accuracy']:.4f} ± "
            f"{nested['accuracy_se']:.4f}",
        )


def run_program(program: Callable[[Tensor], Tensor], images_NCHW: np.ndarray) -> np.ndarray:
    """``probs_NK`` float32 of uint8 images."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(images_NCHW), BATCH_SIZE):
            images = torch.from_numpy(np.array(images_NCHW[start : start + BATCH_SIZE]))
            found.append(program(images).numpy())
    return np.concatenate(found)


def predict_network(
    network: EnsembleNetwork, images_NCHW: np.ndarray, batch_size: int = BATCH_SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """``probs_NK`` float32 twice: as they are, and from members' rounded to float16.

    The second is what the selection saw, whose library keeps float16: with a high temperature
    the rounding of tiny probabilities alone can move the result by more than any tolerance.
    """
    exact, rounded = [], []
    with torch.inference_mode():
        for start in range(0, len(images_NCHW), batch_size):
            images = torch.from_numpy(np.array(images_NCHW[start : start + batch_size]))
            probs_MNK = network.member_probs(images)
            exact.append(network.combine(probs_MNK).numpy())
            rounded.append(network.combine(probs_MNK.half().float()).numpy())
    return np.concatenate(exact), np.concatenate(rounded)


def _check_same(
    failed: "_Failure", file: str, found_VK: np.ndarray, torch_VK: np.ndarray, labels_V: np.ndarray
) -> None:
    """The same probabilities, labels and log loss: one near 0 may differ by little and yet move
    the log loss."""
    check = f"{file} against PyTorch"
    failed.unless_close(check, found_VK, torch_VK, EXPORT_TOLERANCE)
    failed.unless_same_label(check, found_VK, torch_VK, 2 * EXPORT_TOLERANCE)
    found, expected = metrics.log_loss(found_VK, labels_V), metrics.log_loss(torch_VK, labels_V)
    if not abs(found - expected) <= SCORE_TOLERANCE:
        failed.report(
            check,
            f"validation log loss {found:.6f} against {expected:.6f}, where a difference of "
            f"{SCORE_TOLERANCE:g} is allowed",
        )


def _check_scores(
    failed: "_Failure", probs_VK: np.ndarray, labels_V: np.ndarray, selected: dict[str, float]
) -> None:
    ties = int((margins(probs_VK) < 2 * SELECTED_TOLERANCE).sum())
    found = {
        "accuracy": (metrics.accuracy(probs_VK, labels_V), ties / len(labels_V)),
        "log_loss": (metrics.log_loss(probs_VK, labels_V), 0.0),
    }
    for name, (value, excused) in found.items():
        difference = abs(value - selected[name])
        if not difference <= SCORE_TOLERANCE + excused:
            failed.report(
                f"validation {name}",
                f"recomputed {value:.6f}, selected {selected[name]:.6f}, a difference of "
                f"{difference:.6f} where {SCORE_TOLERANCE + excused:.6f} is allowed",
            )


def margins(probs_NK: np.ndarray) -> np.ndarray:
    """How far each image's most probable class leads the second."""
    top_N2 = np.partition(probs_NK, -2, axis=1)[:, -2:]
    return top_N2[:, 1] - top_N2[:, 0]


class _Failure:
    """Raises `RunError`s that say which check failed, by how much and where."""

    def __init__(self, classes: tuple[str, ...], folder: Path):
        self.classes = classes
        self.folder = folder

    def report(self, check: str, what: str) -> None:
        raise RunError(
            f"The exported ensemble fails the check '{check}': {what}. "
            f"Nothing was written to {self.folder}."
        )

    def unless_close(
        self, check: str, found_VK: np.ndarray, expected_VK: np.ndarray, tolerance: float
    ) -> None:
        if found_VK.shape != expected_VK.shape:
            self.report(check, f"shapes {found_VK.shape} and {expected_VK.shape} differ")
        difference_VK = np.abs(found_VK - expected_VK.astype(np.float32))
        image, label = np.unravel_index(difference_VK.argmax(), difference_VK.shape)
        if not difference_VK[image, label] <= tolerance:
            self.report(
                check,
                f"probabilities differ by up to {difference_VK[image, label]:.2g}, at validation "
                f"image {image}, class {self.classes[label]!r} ({found_VK[image, label]:.6f} "
                f"against {expected_VK[image, label]:.6f}), where {tolerance:g} is allowed",
            )

    def unless_same_label(
        self, check: str, found_VK: np.ndarray, torch_VK: np.ndarray, tie: float
    ) -> None:
        differ_V = (found_VK.argmax(1) != torch_VK.argmax(1)) & (margins(torch_VK) >= tie)
        if differ_V.any():
            self.report(
                check,
                f"the labels of {int(differ_V.sum())} images differ, the first is validation "
                f"image {int(differ_V.argmax())}",
            )
