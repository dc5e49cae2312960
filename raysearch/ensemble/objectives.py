"""What greedy selection makes small: an objective holds the running sum of the members.

`reset` empties it, `add` adds a candidate, `losses` says what adding each one would give, lower is
better; ``sign`` times that is the score in its own direction. `contending` says the same of those
that could be the lowest, and infinity of others that it need not look at. Samples count the same,
or by ``weights_V`` (at least 0). Without weights, right predictions are counted in whole numbers,
so that ties are exact.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from raysearch.ensemble import kernels
from raysearch.metrics import PROBABILITY_FLOOR

_ROW_SUM_TOLERANCE = 1e-2
_ROUNDING = 1e-9
"""Far more than log losses are rounded by, or count as equal within."""
_AT_ONCE = 96


class Objective(Protocol):
    sign: int

    def reset(self) -> None: ...

    def add(self, n: int) -> None: ...

    def losses(self, candidates_I: NDArray[np.int64]) -> NDArray[np.float64]: ...

    def contending(self, candidates_I: NDArray[np.int64]) -> NDArray[np.float64]:
        return self.losses(candidates_I)


class LogLoss(Objective):
    """Of the mean, which needs the true class's probabilities alone.

    Most candidates need not be looked at in most steps. What adding a candidate gives, as the mean
    log of a sum, grows with each member that joins, and by no more than it would for a candidate
    that had the least probability of all for every sample, which is the same for all candidates.
    So from when it was last looked at, each has an upper bound (`most_N`).
    """

    sign = 1

    def __init__(
        self,
        probs_NVK: NDArray[np.float32],
        labels_V: NDArray[np.int64],
        weights_V: NDArray[np.float64] | None = None,
    ):
        """Raises ValueError where a row is no distribution."""
        self.weights_V = None if weights_V is None else weights_V / weights_V.sum()
        self.truth_NV, bad_N = kernels.gather_truth(probs_NVK, labels_V, _ROW_SUM_TOLERANCE)
        self.least_V = self.truth_NV.min(axis=0).astype(np.float64)
        if bad_N.any():
            n = int(np.flatnonzero(bad_N)[0])
            row = int(bad_N[n]) - 1
            raise ValueError(
                "Probabilities must be non-negative numbers that sum to 1, but candidate "
                f"{n} has {probs_NVK[n, row].tolist()} for sample {row}."
            )

    def reset(self) -> None:
        self.total_V = np.zeros(self.truth_NV.shape[1])
        self.members = 0
        self.most_N = np.full(len(self.truth_NV), np.inf)

    def add(self, n: int) -> None:
        now, then = PROBABILITY_FLOOR * (self.members + 1), PROBABILITY_FLOOR * (self.members + 2)
        # A sum below the floor does not count less: the growth is largest where it just reaches it.
        before_V = self.total_V + np.maximum(self.least_V, now - self.total_V)
        after_V = np.maximum(before_V + self.truth_NV[n], then)
        self.most_N += np.average(np.log(after_V / before_V), weights=self.weights_V)
        self.total_V += self.truth_NV[n]
        self.members += 1

    def contending(self, candidates_I: NDArray[np.int64]) -> NDArray[np.float64]:
        loss_I = np.full(len(candidates_I), np.inf)
        logs_of_size, lowest = np.log(self.members + 1), np.inf
        order_I = np.argsort(-self.most_N[candidates_I], kind="stable")
        least_I = logs_of_size - self.most_N[candidates_I[order_I]]
        for first in range(0, len(order_I), _AT_ONCE):
            if least_I[first] > lowest + _ROUNDING:
                break
            part = order_I[first : first + _AT_ONCE]
            loss_I[part] = self.losses(candidates_I[part])
            self.most_N[candidates_I[part]] = logs_of_size - loss_I[part]
            lowest = min(lowest, loss_I[part].min())
        return loss_I

    def losses(self, candidates_I: NDArray[np.int64]) -> NDArray[np.float64]:
        library = (self.truth_NV, self.total_V, self.members, candidates_I)
        if self.weights_V is None:
            return kernels.log_loss_with(*library)
        return kernels.weighted_log_loss_with(*library, self.weights_V)


class Accuracy(Objective):
    """Share of right predictions, from the true class's margin over each rival in fixed point.

    Only margins that can ever decide are kept: a rival that leads in every candidate leads in
    every mean of them, and so does a true class.
    """

    sign = -1

    def __init__(
        self,
        probs_NVK: NDArray[np.float32],
        labels_V: NDArray[np.int64],
        weights_V: NDArray[np.float64] | None = None,
    ):
        counts_V = _counts(weights_V, len(labels_V))
        low_VK, high_VK = kernels.margin_bounds(probs_NVK, labels_V)
        classes = np.arange(probs_NVK.shape[2])
        # A rival of lower index wins a tie, so the true class must lead it by one unit.
        needed_VK = (classes < labels_V[:, None]).astype(np.int64)
        rival_VK = classes != labels_V[:, None]
        lost_V = (rival_VK & (high_VK < needed_VK)).any(axis=1)
        open_VK = rival_VK & (low_VK < needed_VK) & ~lost_V[:, None]
        open_V = open_VK.any(axis=1)
        self.first_A = np.concatenate([[0], np.cumsum(open_VK[open_V].sum(axis=1))])
        self.low_P, self.high_P = low_VK[open_VK], high_VK[open_VK]
        self.start_P = needed_VK[open_VK]
        self.counts_A = counts_V[open_V]
        self.settled, self.total = counts_V[~lost_V & ~open_V].sum(), counts_V.sum()
        rival_P = np.flatnonzero(open_VK)
        truth_P = rival_P + np.broadcast_to(labels_V[:, None] - classes, open_VK.shape)[open_VK]
        self.margins_PN = kernels.gather_margins(
            probs_NVK.reshape(len(probs_NVK), -1),
            truth_P.astype(np.uintp),
            rival_P.astype(np.uintp),
        )

    def reset(self) -> None:
        self.needed_P = self.start_P.copy()

    def losses(self, candidates_I: NDArray[np.int64]) -> NDArray[np.float64]:
        right_N = kernels.count_right_with(
            self.margins_PN, self.low_P, self.high_P, self.needed_P, self.first_A, self.counts_A
        )
        return -(right_N[candidates_I] + self.settled) / self.total

    def add(self, n: int) -> None:
        self.needed_P -= self.margins_PN[:, n]


class MacroF1(Objective):
    """Mean F1 over all classes from counts of the samples that are still undecided."""

    sign = -1

    def __init__(
        self,
        probs_NVK: NDArray[np.float32],
        labels_V: NDArray[np.int64],
        weights_V: NDArray[np.float64] | None = None,
    ):
        self.probs_NVK, self.labels_V = probs_NVK, labels_V
        self.counts_V = _counts(weights_V, len(labels_V))
        self.bounds = kernels.class_bounds(probs_NVK)
        self.support_K = np.bincount(labels_V, self.counts_V, minlength=probs_NVK.shape[2])

    def reset(self) -> None:
        self.total_VK = np.zeros(self.probs_NVK.shape[1:])

    def losses(self, candidates_I: NDArray[np.int64]) -> NDArray[np.float64]:
        open_A, hits_K, predicted_K = kernels.settled_samples(
            self.total_VK, *self.bounds, self.labels_V, self.counts_V
        )
        hits_NK, predicted_NK = kernels.count_classes_with(
            self.probs_NVK, self.total_VK, self.labels_V, self.counts_V, open_A
        )
        whole_NK = predicted_NK + predicted_K + self.support_K
        f1_NK = np.zeros(whole_NK.shape)
        np.divide(2 * (hits_NK + hits_K), whole_NK, out=f1_NK, where=whole_NK > 0)
        return -f1_NK.mean(axis=1)[candidates_I]

    def add(self, n: int) -> None:
        self.total_VK += self.probs_NVK[n]


def _counts(weights_V: NDArray[np.float64] | None, samples: int) -> NDArray[np.float64]:
    """How often each sample counts: 1 on average, and 1 exactly where there are no weights."""
    return np.ones(samples) if weights_V is None else weights_V / weights_V.mean()
