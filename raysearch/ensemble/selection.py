"""Greedy forward selection with replacement from a library of candidates' probabilities.

Caruana, Niculescu-Mizil, Crew, Ksikes (2004), "Ensemble Selection from Libraries of Models":
start empty, add at each step the candidate that makes the mean of the chosen ones score best, and
keep the best prefix. Exact: every candidate is scored at every step; see `kernels` for how.

Scores that tie (exactly for accuracy and F1, within 1e-12 for log loss) are decided by: already
a member, then the lower log loss, then the lower index. No randomness but in `select_bagged`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raysearch.ensemble import kernels

OBJECTIVES = ("log_loss", "accuracy", "macro_f1")
_TIE = 1e-12
_ROW_SUM_TOLERANCE = 1e-2


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


def select(
    probs_NVK: NDArray[np.float32],
    labels_V: NDArray[np.integer],
    *,
    objective: str = "log_loss",
    steps: int = 50,
    max_members: int | None = None,
) -> Selection:
    """Greedy selection of at most ``max_members`` distinct candidates in ``steps`` additions.

    ``probs_NVK`` float32 in [0, 1], rows summing to 1, is read in place when C-contiguous.
    Raises ValueError for an empty library, rows that are no distributions, labels that do not
    fit, and options out of range. The first call in a fresh installation compiles for some
    seconds.
    """
    return _Selector(probs_NVK, labels_V, objective).run(steps, max_members)


def select_bagged(
    probs_NVK: NDArray[np.float32],
    labels_V: NDArray[np.integer],
    *,
    bags: int,
    fraction: float,
    rng: np.random.Generator,
    objective: str = "log_loss",
    steps: int = 50,
) -> Selection:
    """Mean of ``bags`` selections, each from a random ``fraction`` (0, 1] of the library
    (section 2.3 of the paper). ``order`` strings the bags' kept additions together and
    ``trajectory`` holds one score a bag. Raises as `select` does."""
    if bags < 1 or not 0 < fraction <= 1:
        raise ValueError(f"bags must be >= 1, fraction in (0, 1]; got {bags} and {fraction}.")
    selector = _Selector(probs_NVK, labels_V, objective)
    N = len(probs_NVK)
    runs = []
    for _ in range(bags):
        allowed_N = np.zeros(N, bool)
        allowed_N[rng.choice(N, max(1, round(fraction * N)), replace=False)] = True
        runs.append(selector.run(steps, None, allowed_N))
    order = tuple(n for run in runs for n in run.order[: run.kept])
    scores = tuple(run.trajectory[run.kept - 1] for run in runs)
    weights_N = np.mean([run.weights_N for run in runs], axis=0)
    return Selection(weights_N, order, scores, objective, len(order))


class _Selector:
    """A library made ready for one objective; `run` may be called many times."""

    def __init__(self, probs_NVK, labels_V, objective: str):
        probs_NVK, labels_V = _checked(probs_NVK, labels_V)
        if objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {OBJECTIVES}, but got {objective!r}.")
        self.objective = objective
        self.size = len(probs_NVK)
        self.truth_NV, bad_N = kernels.gather_truth(probs_NVK, labels_V, _ROW_SUM_TOLERANCE)
        if bad_N.any():
            n = int(np.flatnonzero(bad_N)[0])
            row = int(bad_N[n]) - 1
            raise ValueError(
                "Probabilities must be non-negative numbers that sum to 1, but candidate "
                f"{n} has {probs_NVK[n, row].tolist()} for sample {row}."
            )
        if objective == "accuracy":
            self.scorer = _Accuracy(probs_NVK, labels_V)
        elif objective == "macro_f1":
            self.scorer = _MacroF1(probs_NVK, labels_V)
        else:
            self.scorer = None

    def run(self, steps: int, max_members: int | None, allowed_N=None) -> Selection:
        if steps < 1 or (max_members is not None and max_members < 1):
            raise ValueError(f"steps and max_members must be >= 1; got {steps} and {max_members}.")
        candidates_I = np.arange(self.size) if allowed_N is None else np.flatnonzero(allowed_N)
        self.total_V = np.zeros(self.truth_NV.shape[1])
        if self.scorer:
            self.scorer.reset()
        order: list[int] = []
        losses: list[float] = []
        for _ in range(steps):
            if max_members is not None and len(set(order)) == max_members:
                candidates_I = np.unique(order)
            best, loss = self._best(candidates_I, order)
            self.total_V += self.truth_NV[best]
            if self.scorer:
                self.scorer.add(best)
            order.append(best)
            losses.append(loss)
        return self._selection(order, losses)

    def _best(self, candidates_I, order: Sequence[int]) -> tuple[int, float]:
        """The candidate to add and the loss (lower is better) that this gives."""
        if self.scorer is None:
            loss_I = kernels.log_loss_with(self.truth_NV, self.total_V, len(order), candidates_I)
        else:
            loss_I = -self.scorer.scores()[candidates_I]
        lowest = float(loss_I.min())
        tied = candidates_I[loss_I <= lowest + _TIE]
        if len(tied) > 1:
            members = np.intersect1d(tied, order)
            tied = members if len(members) else tied
        if len(tied) > 1 and self.scorer:
            log_loss_I = kernels.log_loss_with(self.truth_NV, self.total_V, len(order), tied)
            tied = tied[log_loss_I <= log_loss_I.min() + _TIE]
        return int(tied[0]), lowest

    def _selection(self, order: list[int], losses: list[float]) -> Selection:
        kept = int(np.argmax(np.array(losses) <= min(losses) + _TIE)) + 1
        sign = -1 if self.scorer else 1
        return Selection(
            weights_N=np.bincount(order[:kept], minlength=self.size) / kept,
            order=tuple(order),
            trajectory=tuple(sign * loss for loss in losses),
            objective=self.objective,
            kept=kept,
        )


class _Accuracy:
    """Right predictions from fixed-point margins over each rival class."""

    def __init__(self, probs_NVK, labels_V):
        self.margins_VRN, self.low_VR, self.high_VR = kernels.build_margins(probs_NVK, labels_V)
        rivals = np.arange(probs_NVK.shape[2] - 1)
        # A rival of lower index wins a tie, so the true class must lead it by one unit.
        self.lead_VR = (rivals < labels_V[:, None]).astype(np.int64)

    def reset(self) -> None:
        self.needed_VR = self.lead_VR.copy()

    def scores(self) -> NDArray[np.float64]:
        right_N = kernels.count_right_with(
            self.margins_VRN, self.low_VR, self.high_VR, self.needed_VR
        )
        return right_N / len(self.needed_VR)

    def add(self, n: int) -> None:
        self.needed_VR -= self.margins_VRN[:, :, n]


class _MacroF1:
    """Mean F1 over all classes from counts of the samples that are still undecided."""

    def __init__(self, probs_NVK, labels_V):
        self.probs_NVK, self.labels_V = probs_NVK, labels_V
        self.bounds = kernels.class_bounds(probs_NVK)
        self.support_K = np.bincount(labels_V, minlength=probs_NVK.shape[2])

    def reset(self) -> None:
        self.total_VK = np.zeros(self.probs_NVK.shape[1:])

    def scores(self) -> NDArray[np.float64]:
        open_A, hits_K, predicted_K = kernels.settled_samples(
            self.total_VK, *self.bounds, self.labels_V
        )
        hits_NK, predicted_NK = kernels.count_classes_with(
            self.probs_NVK, self.total_VK, self.labels_V, open_A
        )
        whole_NK = predicted_NK + predicted_K + self.support_K
        return (2 * (hits_NK + hits_K) / np.maximum(whole_NK, 1)).mean(axis=1)

    def add(self, n: int) -> None:
        self.total_VK += self.probs_NVK[n]


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
