"""How an epoch ends: with what is reported of it, or because the loss is no number any more."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raysearch.errors import RunError

if TYPE_CHECKING:
    from raysearch.train.loop import Training


class Diverged(RunError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class EpochEnd:
    """What `fit` reports after each epoch.

    ``metrics``: epoch, train_loss, train_accuracy, validation_log_loss, validation_accuracy,
    validation_macro_f1, lr, images_per_second, seconds. The training loss is the cross entropy
    that is minimized, of labels as smoothed, mixed and weighted, without the l2 penalty; with a
    teacher, its part is in it.
    ``probs_VK``: float32 probabilities of the averaged weights on the validation split.
    ``training``: the run itself, for its weights.
    """

    metrics: dict[str, float]
    probs_VK: np.ndarray
    training: "Training"
