"""Learning rates, and when validation log loss has stood still for too long.

What depends on the course of a run depends on the validation log losses of its epochs alone: a
run that goes on from a checkpoint has them, and several workers see the same.
"""

import math
from collections.abc import Sequence

from raysearch.config import TrainConfig


def learning_rate(
    config: TrainConfig, step: int, steps: int, losses: Sequence[float] = ()
) -> float:
    """Learning rate of optimizer step ``step`` (from 0) of ``steps``.

    Cosine: Loshchilov & Hutter, "SGDR", 2017, equation 5, without restarts. One-cycle: after
    Smith & Topin, "Super-Convergence", 2018: a linear rise from 1/25 of the peak, then cosine
    decay to nothing. Plateau: the peak, lowered once for each of `plateaus` in ``losses``, the
    validation log losses of the epochs so far.
    """
    if config.schedule == "plateau":
        return config.lr * config.plateau_factor ** plateaus(losses, config.plateau_patience)
    done = step / max(steps, 1)
    rise = config.warmup if config.schedule == "one_cycle" else 0.0
    if done < rise:
        return config.lr * (1 / 25 + (1 - 1 / 25) * done / rise)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (done - rise) / (1 - rise)))


def plateaus(losses: Sequence[float], patience: int) -> int:
    """How often ``patience`` epochs in a row, counted anew after each time, had no loss below the
    lowest before them."""
    lowest, idle, count = math.inf, 0, 0
    for loss in losses:
        idle = 0 if loss < lowest else idle + 1
        lowest = min(lowest, loss)
        if idle == patience:
            idle, count = 0, count + 1
    return count


def stands_still(losses: Sequence[float], patience: int) -> bool:
    """Whether the last ``patience`` epochs had no loss below the lowest before; never for 0."""
    return patience > 0 and plateaus(losses, patience) > 0
