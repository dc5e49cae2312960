"""Against unequal class sizes: which training rows an epoch visits, and what each class weighs.

All of it sees the labels of the training split alone. Rows are drawn from a generator that is
given, so that all workers of a run draw the same.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from raysearch.errors import DataError


class EpochRows:
    """The rows of an epoch, in random order; ``len`` is how many.

    Classes of n_k images are to count as n_k^(1 - strength): as they are at 0, all alike at 1
    (the sampling exponent q = 1 - strength of Kang et al. 2020, "Decoupling Representation and
    Classifier for Long-Tailed Recognition", equation 1, which may be negative here).

    none, weighted_loss: each row once. oversample: the largest class as it is and the others in
    proportion, the images of a class being repeated equally often but for the rest, which is drawn
    without replacement. An epoch is as much longer. weighted_sampling: as many rows as there are,
    each of a class at a chance in proportion, then of an image of it.

    Args:
        labels_N: of the training split, int64 below ``len(classes)``.
        strength: from 0 to 1.5.

    Raises `DataError` where classes are to be balanced and one has no image.
    """

    def __init__(
        self, balance: str, labels_N: Tensor, classes: Sequence[str], strength: float = 1.0
    ):
        labels_N = labels_N.cpu()
        self.balance = balance
        self.counts_K = torch.bincount(labels_N, minlength=len(classes))
        self.rows_of_class = labels_N.argsort(stable=True).split(self.counts_K.tolist())
        empty = [name for name, n in zip(classes, self.counts_K, strict=True) if not n]
        if empty and balance != "none":
            raise DataError(
                f"balance: {balance} needs training images of every class, but there are none of "
                f"{', '.join(empty)}. Add some, name the other classes under classes, or set "
                "balance: none."
            )
        # Relative to the largest class, which keeps its size; exactly 1 for all at strength 1.
        self.shares_K = (self.counts_K.double() / self.counts_K.max()) ** (1 - strength)

    def __len__(self) -> int:
        counts_K = self._oversized() if self.balance == "oversample" else self.counts_K
        return int(counts_K.sum())

    def _oversized(self) -> Tensor:
        """int64 ``[K]``, images of each class in an epoch that oversamples."""
        return (self.shares_K * self.counts_K.max()).round().long()

    def draw(self, generator: torch.Generator) -> Tensor:
        """int64 ``[len(self)]`` on the CPU; ``generator`` is the CPU's."""
        if self.balance == "weighted_sampling":
            return self._sample(generator)
        rows = self._oversampled(generator) if self.balance == "oversample" else None
        order = torch.randperm(len(self), generator=generator)
        return order if rows is None else rows[order]

    def _oversampled(self, generator: torch.Generator) -> Tensor:
        parts = []
        for rows, wanted in zip(self.rows_of_class, self._oversized().tolist(), strict=True):
            times, rest = divmod(wanted, len(rows))
            drawn = torch.randperm(len(rows), generator=generator)[:rest]
            parts += [rows.repeat(times), rows[drawn]]
        return torch.cat(parts)

    def _sample(self, generator: torch.Generator) -> Tensor:
        class_N = torch.multinomial(self.shares_K, len(self), True, generator=generator)
        share_N = torch.rand(len(self), dtype=torch.float64, generator=generator)
        within_N = (share_N * self.counts_K[class_N]).long()
        starts_K = self.counts_K.cumsum(0) - self.counts_K
        return torch.cat(self.rows_of_class)[starts_K[class_N] + within_N]

    def loss_weights(self) -> Tensor | None:
        """float32 ``[K]``, of mean 1 over the training images: at strength 1 inverse to the
        classes' sizes; None where losses are not weighted."""
        if self.balance != "weighted_loss":
            return None
        weights_K = self.shares_K / self.counts_K
        return (weights_K * self.counts_K.sum() / self.shares_K.sum()).float()
