"""What an ensemble costs, and which of its prefixes are worth their cost."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysearch import metrics
from raysearch.ensemble.baselines import scores
from raysearch.ensemble.calibration import fit_temperature, sharpen
from raysearch.ensemble.library import Candidate
from raysearch.ensemble.selection import Selection


def parameters_of(candidates: Sequence[Candidate]) -> int:
    """Parameters, frozen ones too; weights that several candidates share count once."""
    return sum({c.weights_file: c.parameters for c in candidates}.values())


def forward_passes(candidates: Sequence[Candidate]) -> int:
    """Network evaluations per image: a plain view is shared with its mirrored twin's."""
    views = {(c.weights_file, view) for c in candidates for view in range(1 + c.mirror)}
    return len(views)


def pareto_front(
    selection: Selection,
    candidates: Sequence[Candidate],
    probs_NVK: NDArray[np.float32],
    labels_V: NDArray[np.int64],
) -> list[dict[str, Any]]:
    """The prefixes of ``selection`` that nothing cheaper equals, from the cheapest on.

    ``probs_NVK`` are calibrated; each prefix gets its own temperature. A point has ``params``,
    ``latency_ms`` (None: not measured), ``accuracy``, ``log_loss`` and ``members`` (their number).
    """
    points = []
    total_VK = np.zeros(probs_NVK.shape[1:])
    for size, n in enumerate(selection.order[: selection.kept], start=1):
        total_VK += probs_NVK[n]
        mean_VK = total_VK / size
        probs_VK = sharpen(mean_VK, fit_temperature(mean_VK, labels_V))
        members = [candidates[m] for m in sorted(set(selection.order[:size]))]
        point = {"params": parameters_of(members), "latency_ms": None}
        point |= scores(probs_VK, labels_V) | {"members": len(members)}
        points.append((_quality(probs_VK, labels_V, selection.objective), point))
    front: list[dict[str, Any]] = []
    best = -np.inf
    for quality, point in sorted(points, key=lambda pair: (pair[1]["params"], -pair[0])):
        if quality > best:
            best = quality
            front.append(point)
    return front


def _quality(probs_VK: NDArray, labels_V: NDArray[np.int64], objective: str) -> float:
    if objective == "log_loss":
        return -metrics.log_loss(probs_VK, labels_V)
    return getattr(metrics, objective)(probs_VK, labels_V)
