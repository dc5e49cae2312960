"""What candidates and ensembles of them cost, and which may join under a budget.

What costs is a set of weights: it is run once, or as often as the member that wants the most views
of an image needs, however often it votes. So a candidate that is chosen again costs nothing, a
mirrored twin costs the second pass, and averaged and raw weights of one trial are two networks.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysearch.ensemble.library import Candidate
from raysearch.ensemble.selection import Joinable
from raysearch.errors import ArtifactError, ConfigError

UNITS = ("params", "bytes", "flops", "latency_ms")


@dataclass(frozen=True)
class NetworkCost:
    """Of one network, seen once: ``params``, ``bytes`` of its weights, and ``flops`` of a forward
    pass of one image (a multiplication and an addition are two).

    ``latency_ms`` is by batch: 1, 2 and 10 (an image in so many views) and 64; None: not measured.
    """

    params: int
    bytes: int
    flops: int
    latency_ms: Mapping[int, float] | None = None

    def of(self, unit: str, views: int) -> float:
        """In one of `UNITS`, for an image that is seen in so many ``views``."""
        if unit in ("params", "bytes"):
            return getattr(self, unit)
        if unit == "flops":
            return self.flops * views
        return np.nan if self.latency_ms is None else self.latency_ms[views]


@dataclass(frozen=True)
class Budget:
    """What an ensemble may cost at most: parameters, milliseconds for one image."""

    max_params: float | None = None
    max_latency_ms: float | None = None

    @property
    def limits(self) -> dict[str, float]:
        limits = {"params": self.max_params, "latency_ms": self.max_latency_ms}
        return {unit: limit for unit, limit in limits.items() if limit is not None}


class CostTable:
    """Costs of any ensemble of ``candidates``, from those of their trials' networks."""

    def __init__(self, candidates: Sequence[Candidate], networks: Mapping[int, NetworkCost]):
        numbers: dict[Path, int] = {}
        for candidate in candidates:
            numbers.setdefault(candidate.weights_file, len(numbers))
        self.weights_N = np.array([numbers[c.weights_file] for c in candidates], np.int64)
        self.networks = len(numbers)
        self._cost_N = {
            unit: np.array([networks[c.trial].of(unit, c.views) for c in candidates], np.float64)
            for unit in UNITS
        }

    def total(self, members: Sequence[int], unit: str) -> float:
        """Of an ensemble, in one of `UNITS`; NaN where a latency was not measured."""
        return float(self._of_weights(members, unit).sum())

    def added(self, members: Sequence[int], unit: str) -> NDArray[np.float64]:
        """``[N]``: what each candidate would add to the total of ``members``."""
        now_W = self._of_weights(members, unit)
        return np.maximum(self._cost_N[unit] - now_W[self.weights_N], 0)

    def of(self, members: Sequence[int]) -> dict[str, Any]:
        """Totals by unit, whole numbers but for the latency (None: not measured)."""
        totals = {unit: self.total(members, unit) for unit in UNITS}
        latency = totals.pop("latency_ms")
        found: dict[str, Any] = {unit: int(total) for unit, total in totals.items()}
        return found | {"latency_ms": None if np.isnan(latency) else latency}

    def joinable(self, limits: Mapping[str, float]) -> Joinable:
        """What may join an ensemble without its going over ``limits`` (unit to largest total)."""

        def fitting(members: Sequence[int]) -> NDArray[np.bool_]:
            fits_N = np.ones(len(self.weights_N), bool)
            for unit, limit in limits.items():
                fits_N &= self.total(members, unit) + self.added(members, unit) <= limit
            return fits_N

        return fitting

    def _of_weights(self, members: Sequence[int], unit: str) -> NDArray[np.float64]:
        """Of each set of weights, run on the views of the member that needs the most of them."""
        chosen = np.asarray(members, np.int64)
        cost_W = np.zeros(self.networks)
        with np.errstate(invalid="ignore"):  # NaN stays NaN: not measured
            np.maximum.at(cost_W, self.weights_N[chosen], self._cost_N[unit][chosen])
        return cost_W


def unaffordable(
    candidates: Sequence[Candidate], table: CostTable, budget: Budget
) -> dict[int, str]:
    """Candidates that alone go over ``budget``, with the reason.

    Raises `ArtifactError` with the least cost there is where that is all of them.
    """
    reasons: dict[int, str] = {}
    for unit, limit in budget.limits.items():
        for n in np.flatnonzero(table.added([], unit) > limit).tolist():
            reasons.setdefault(n, f"alone over the budget of {_said(unit, limit)}")
    if len(reasons) < len(candidates):
        return reasons
    told = []
    for unit, limit in budget.limits.items():
        cost_N = table.added([], unit)
        cheapest = int(cost_N.argmin())
        told.append(
            f"the cheapest is {candidates[cheapest]} with {_said(unit, cost_N[cheapest])}, "
            f"the budget {_said(unit, limit)}"
        )
    raise ArtifactError(f"No candidate fits: {'; '.join(told)}. Give a larger budget.")


def _said(unit: str, value: float) -> str:
    return f"{value:,.0f} parameters" if unit == "params" else f"{value:.3g} ms"


def parse_count(text: str) -> int:
    """``5M`` is 5,000,000; k, M and G (or B) are known. Raises `ConfigError`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKmMgGbB]?)", text.strip())
    factor = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}
    count = int(float(match[1]) * factor[match[2].lower()]) if match else 0
    if count < 1:
        raise ConfigError(
            f"A number of parameters must be at least 1, as 800k, 5M or 5000000; got {text!r}."
        )
    return count
