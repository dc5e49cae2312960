"""Greedy forward selection with replacement from a library of candidates' probabilities.

Caruana, Niculescu-Mizil, Crew, Ksikes (2004), "Ensemble Selection from Libraries of Models":
start empty, add at each step the candidate that makes the mean of the chosen ones score best, and
keep the best prefix. Exact: the chosen are those that scoring every candidate at every step would
choose; `objectives` and `kernels` say how that is done sooner.

Scores that tie (exactly for accuracy and F1, within 1e-12 for log loss) are decided by: already
a member, then the lower log loss, then the lower index. No randomness but in `select_bagged`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raysearch.ensemble.objectives import Accuracy, LogLoss, MacroF1, Objective

OBJECTIVES = ("log_loss", "accuracy", "macro_f1")
_TIE = 1e-12


@dataclass(frozen=True)
class Selection:
    """What was chosen, in which order, and how well each prefix scored.

    ``weights_N`` (float64, sum 1) are each candidate's share of the first ``kept`` additions;
    ``order`` holds the candidate added at each step and ``trajectory`` the score after it, in the
    objective's own units and direction, for all steps, those after the best prefix too.
    """

    weights_N: NDArray[np.float64]
    order: tuple[int, ...]
    trajectory: tuple[float, ...]
    objective: str
    kept: int

    @property
    def members(self) -> list[int]:
        """Candidates of nonzero weight, heaviest first."""
        chosen = np.flatnonzero(self.weights_N)
        return chosen[np.argsort(-self.weights_N[chosen], kind="stable")].tolist()

    def prefix_weights(self, size: int) -> NDArray[np.float64]:
        """Weights of the first ``size`` additions."""
        return np.bincount(self.order[:size], minlength=len(self.weights_N)) / size


Joinable = Callable[[Sequence[int]], NDArray[np.bool_]]
"""From the distinct members so far to ``[N]``: which candidates may join them (a budget)."""


def select(
    probs_NVK: NDArray[np.float32],
    labels_V: NDArray[np.integer],
    *,
    objective: str = "log_loss",
    steps: int = 50,
    sorted_start: int = 0,
    max_members: int | None = None,
    joinable: Joinable | None = None,
    weights_V: NDArray[np.floating] | None = None,
) -> Selection:
    """Greedy selection of at most ``max_members`` distinct candidates in ``steps`` additions.

    Args:
        probs_NVK: float32 in [0, 1], rows summing to 1; read in place when C-contiguous.
        sorted_start: the first additions are this many candidates that score best alone, best
            first (section 2.2 of the paper).
        joinable: called whenever the members change; those may always be added again.
        weights_V: how much each sample counts, at least 0; all the same unless told.

    Raises ValueError for an empty library, rows that are no distributions, labels or weights that
    do not fit, options out of range, and where nothing is joinable at first. The first call in a
    fresh installation compiles for some seconds.
    """
    search = _search(probs_NVK, labels_V, objective, weights_V)
    return search.run(steps, sorted_start, _limits(max_members, joinable, search.size))


def select_bagged(
    probs_NVK: NDArray[np.float32],
    labels_V: NDArray[np.integer],
    *,
    bags: int,
    fraction: float,
    rng: np.random.Generator,
    objective: str = "log_loss",
    steps: int = 50,
    sorted_start: int = 0,
    weights_V: NDArray[np.floating] | None = None,
) -> Selection:
    """Mean of ``bags`` selections, each from a random ``fraction`` (0, 1] of the library
    (section 2.3 of the paper). ``order`` strings the bags' kept additions together and
    ``trajectory`` holds one score a bag. Raises as `select` does."""
    if bags < 1 or not 0 < fraction <= 1:
        raise ValueError(f"bags must be >= 1, fraction in (0, 1]; got {bags} and {fraction}.")
    search = _search(probs_NVK, labels_V, objective, weights_V)
    N = search.size
    runs = []
    for _ in range(bags):
        bag_N = np.zeros(N, bool)
        bag_N[rng.choice(N, max(1, round(fraction * N)), replace=False)] = True
        runs.append(search.run(steps, sorted_start, lambda members, bag_N=bag_N: bag_N))
    order = tuple(n for run in runs for n in run.order[: run.kept])
    scores = tuple(run.trajectory[run.kept - 1] for run in runs)
    weights_N = np.mean([run.weights_N for run in runs], axis=0)
    return Selection(weights_N, order, scores, objective, len(order))


def _limits(max_members: int | None, joinable: Joinable | None, size: int) -> Joinable:
    if max_members is not None and max_members < 1:
        raise ValueError(f"max_members must be >= 1; got {max_members}.")

    def allowed(members: Sequence[int]) -> NDArray[np.bool_]:
        if max_members is not None and len(members) >= max_members:
            return np.zeros(size, bool)
        return np.ones(size, bool) if joinable is None else joinable(members)

    return allowed


def _search(probs_NVK, labels_V, objective: str, weights_V) -> "GreedySearch":
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {OBJECTIVES}, but got {objective!r}.")
    probs_NVK, labels_V = _checked(probs_NVK, labels_V)
    weights_V = _checked_weights(weights_V, len(labels_V))
    log_loss = LogLoss(probs_NVK, labels_V, weights_V)
    if objective == "log_loss":
        return GreedySearch(objective, log_loss, None, len(probs_NVK))
    counting = Accuracy if objective == "accuracy" else MacroF1
    score = counting(probs_NVK, labels_V, weights_V)
    return GreedySearch(objective, score, log_loss, len(probs_NVK))


@dataclass(frozen=True)
class GreedySearch:
    """A library of ``size`` candidates made ready for one objective; `run` it as often as wanted.

    ``tie_breaker`` decides between equal losses; None: the lower index does.
    """

    name: str
    objective: Objective
    tie_breaker: Objective | None
    size: int

    def run(self, steps: int, sorted_start: int, joinable: Joinable) -> Selection:
        if steps < 1 or not 0 <= sorted_start <= steps:
            raise ValueError(
                "steps must be >= 1 and sorted_start at most steps; "
                f"got {steps} and {sorted_start}."
            )
        parts = [part for part in (self.objective, self.tie_breaker) if part]
        for part in parts:
            part.reset()
        order: list[int] = []
        losses: list[float] = []
        candidates_I = self._allowed([], joinable)
        if not len(candidates_I):
            raise ValueError("No candidate may be selected: nothing is joinable at first.")
        ranking = self._ranking(candidates_I)[:sorted_start] if sorted_start else []
        while len(order) < steps:
            ranking = [n for n in ranking if n in candidates_I]
            best, loss = self._best(np.array(ranking[:1]) if ranking else candidates_I, order)
            ranking = ranking[1:]
            for part in parts:
                part.add(best)
            order.append(best)
            losses.append(loss)
            if best not in order[:-1]:
                candidates_I = self._allowed(order, joinable)
        return self._selection(order, losses)

    def _allowed(self, order: list[int], joinable: Joinable) -> NDArray[np.int64]:
        """Indices of the members and of what may join them."""
        members = list(dict.fromkeys(order))
        allowed_N = joinable(members).copy()
        allowed_N[members] = True
        return np.flatnonzero(allowed_N)

    def _ranking(self, candidates_I: NDArray[np.int64]) -> list[int]:
        """Candidates from the best alone to the worst; ties by the tie-breaker, then index."""
        keys = [part.losses(candidates_I) for part in (self.tie_breaker, self.objective) if part]
        return candidates_I[np.lexsort((candidates_I, *keys))].tolist()

    def _best(self, candidates_I, order: Sequence[int]) -> tuple[int, float]:
        """The candidate to add and the loss that this gives."""
        loss_I = self.objective.contending(candidates_I)
        lowest = float(loss_I.min())
        tied = candidates_I[loss_I <= lowest + _TIE]
        if len(tied) > 1:
            members = np.intersect1d(tied, order)
            tied = members if len(members) else tied
        if len(tied) > 1 and self.tie_breaker:
            loss_I = self.tie_breaker.losses(tied)
            tied = tied[loss_I <= loss_I.min() + _TIE]
        return int(tied[0]), lowest

    def _selection(self, order: list[int], losses: list[float]) -> Selection:
        kept = int(np.argmax(np.array(losses) <= min(losses) + _TIE)) + 1
        return Selection(
            weights_N=np.bincount(order[:kept], minlength=self.size) / kept,
            order=tuple(order),
            trajectory=tuple(self.objective.sign * loss for loss in losses),
            objective=self.name,
            kept=kept,
        )


def _checked(probs_NVK, labels_V) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    probs_NVK = np.ascontiguousarray(probs_NVK, dtype=np.float32)
    labels_V = np.ascontiguousarray(labels_V, dtype=np.int64)
    if probs_NVK.ndim != 3 or 0 in probs_NVK.shape:
        raise ValueError(
            "The library must be [candidates, samples, classes] with at least one of each, "
            f"but its shape is {probs_NVK.shape}."
        )
    if labels_V.shape != probs_NVK.shape[1:2]:
        raise ValueError(
            f"There must be one label a sample: {probs_NVK.shape[1]} samples, "
            f"labels of shape {labels_V.shape}."
        )
    if labels_V.min() < 0 or labels_V.max() >= probs_NVK.shape[2]:
        raise ValueError(
            f"Labels must be in [0, {probs_NVK.shape[2]}), but they span "
            f"[{labels_V.min()}, {labels_V.max()}]."
        )
    return probs_NVK, labels_V


def _checked_weights(weights_V, samples: int) -> NDArray[np.float64] | None:
    if weights_V is None:
        return None
    weights_V = np.asarray(weights_V, np.float64)
    usable = weights_V.shape == (samples,) and np.isfinite(weights_V).all()
    if not usable or weights_V.min() < 0 or not weights_V.any():
        raise ValueError(
            f"weights_V must be {samples} numbers of at least 0, not all of them 0, but got "
            f"{weights_V!r}."
        )
    return weights_V
