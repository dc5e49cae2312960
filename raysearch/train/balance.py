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

    none, weighted_loss: each once. oversample: each class has as many as the largest, its images
    being repeated equally often but for the rest, which is drawn without replacement. An epoch is
    as much longer. weighted_sampling: as many rows as there are, each of a class at equal chance,
    then of an image of it.

    Args:
        labels_N: of the training split, int64 below ``len(classes)``.

    Raises `DataError` where classes are to be balanced and one has no image.
    """

    def __init__(self, balance: str, labels_N: Tensor, classes: Sequence[str]):
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

    def __len__(self) -> int:
        if self.balance == "oversample":
            return len(self.counts_K) * int(self.counts_K.max())
        return int(self.counts_K.sum())

    def draw(self, generator: torch.Generator) -> Tensor:
        """int64 ``[len(self)]`` on the CPU; ``generator`` is the CPU's."""
        if self.balance == "weighted_sampling":
            return self._sample(generator)
        rows = self._oversampled(generator) if self.balance == "oversample" else None
        order = torch.randperm(len(self), generator=generator)
        return order if rows is None else rows[order]

    def _oversampled(self, generator: torch.Generator) -> Tensor:
        most, parts = int(self.counts_K.max()), []
        for rows in self.rows_of_class:
            times, rest = divmod(most, len(rows))
            drawn = torch.randperm(len(rows), generator=generator)[:rest]
            parts += [rows.repeat(times), rows[drawn]]
        return torch.cat(parts)

    def _sample(self, generator: torch.Generator) -> Tensor:
        class_N = torch.randint(len(self.counts_K), (len(self),), generator=generator)
        share_N = torch.rand(len(self), dtype=torch.float64, generator=generator)
        within_N = (share_N * self.counts_K[class_N]).long()
        starts_K = self.counts_K.cumsum(0) - self.counts_K
        return torch.cat(self.rows_of_class)[starts_K[class_N] + within_N]

    def loss_weights(self) -> Tensor | None:
        """float32 ``[K]``, inverse to the classes' sizes, of mean 1 over the training images; None
        where losses are not weighted."""
        if self.balance != "weighted_loss":
            return None
        return (self.counts_K.sum() / (len(self.counts_K) * self.counts_K)).float()
