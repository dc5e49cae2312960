"""What cheaper ensembles would score: a selection under each of several budgets."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysearch import metrics
from raysearch.ensemble.baselines import scores
from raysearch.ensemble.cost import UNITS, CostTable
from raysearch.ensemble.estimate import Ensemble, combine

_MEMBERS = (1, 2, 3, 5, 8, 12)
_BUDGETS = 6
_STEPS = 25


def budgeted_ensembles(
    ensemble: Ensemble,
    calibrated_NVK: NDArray[np.float32],
    labels_V: NDArray[np.int64],
    costs: CostTable,
    limits: Mapping[str, float],
) -> list[Ensemble]:
    """``ensemble`` and those that are selected within less: fewer members, fewer parameters, fewer
    operations, each within ``limits`` too. No two of them have equal members."""
    found = {tuple(sorted(ensemble.selection.members)): ensemble}
    for max_members, smaller in _budgets(ensemble, costs):
        within = {u: min(v, limits.get(u, np.inf)) for u, v in smaller.items()}
        joinable = costs.joinable({**limits, **within})
        if not joinable([]).any():
            continue
        other = combine(
            calibrated_NVK,
            ensemble.temperature_N,
            labels_V,
            objective=ensemble.selection.objective,
            steps=_STEPS,
            max_members=max_members,
            joinable=joinable,
        )
        found.setdefault(tuple(sorted(other.selection.members)), other)
    return list(found.values())


def _budgets(ensemble: Ensemble, costs: CostTable) -> Iterator[tuple[int | None, dict[str, float]]]:
    """Numbers of members; then parameters and operations from the cheapest candidate's to the
    ensemble's, in equal ratios."""
    members = ensemble.selection.members
    yield from ((count, {}) for count in _MEMBERS if count < len(members))
    for unit in ("params", "flops"):
        least, most = costs.added([], unit).min(), costs.total(members, unit)
        if 0 < least < most:
            yield from ((None, {unit: limit}) for limit in np.geomspace(least, most, _BUDGETS)[:-1])


def pareto_front(
    ensembles: Sequence[Ensemble],
    calibrated_NVK: NDArray[np.float32],
    labels_V: NDArray[np.int64],
    costs: CostTable,
) -> list[dict[str, Any]]:
    """Those that no other one equals at no more parameters, operations and milliseconds; from the
    fewest parameters on.

    A point has the totals of `CostTable.of`, ``accuracy``, ``log_loss`` and ``members`` (their
    number).
    """
    points = []
    for ensemble in ensembles:
        members = ensemble.selection.members
        probs_VK = ensemble.predict_calibrated(calibrated_NVK)
        point = costs.of(members) | scores(probs_VK, labels_V) | {"members": len(members)}
        points.append((_quality(probs_VK, labels_V, ensemble.selection.objective), point))
    points.sort(key=lambda pair: (-pair[0], pair[1]["params"], pair[1]["flops"]))
    front: list[dict[str, Any]] = []
    for _, point in points:
        if not any(_no_dearer(better, point) for better in front):
            front.append(point)
    return sorted(front, key=lambda point: (point["params"], point["flops"]))


def _no_dearer(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """In every unit that both were measured in."""
    known = [u for u in UNITS if one[u] is not None and other[u] is not None]
    return all(one[unit] <= other[unit] for unit in known)


def _quality(probs_VK: NDArray, labels_V: NDArray[np.int64], objective: str) -> float:
    if objective == "log_loss":
        return -metrics.log_loss(probs_VK, labels_V)
    return getattr(metrics, objective)(probs_VK, labels_V)
