"""One member of an ensemble: a trial's weights, a view, and its share of the vote."""

from dataclasses import dataclass
from pathlib import Path

from raysearch.config import TrainConfig
from raysearch.models.views import MIRRORED, PLAIN, SHIFTED

_WEIGHTS = {
    "ema": "best/model.safetensors",
    "raw": "best/raw.safetensors",
    "last": "best/last.safetensors",
}
_VIEWS = {"": PLAIN, "_mirror": MIRRORED, "_shifts": SHIFTED}
CANDIDATES = {
    weights + view: (file, count)
    for weights, file in _WEIGHTS.items()
    for view, count in _VIEWS.items()
}
"""Candidate name to (weights file within its trial's folder, how many views it is averaged over).

ema: averaged weights of the best epoch. raw: unaveraged ones, where that was the last epoch. last:
averaged ones of the last epoch, where that was not the best.
"""


def weights_of(candidate: str) -> str:
    """``ema``, ``raw`` or ``last``."""
    return candidate.partition("_")[0]


@dataclass(frozen=True)
class Member:
    """``probs = softmax(logits)``, averaged over the views, then ``probs ** (1 / temperature)``
    renormalized: what ``weight`` (the weights of an ensemble sum to 1) is multiplied with."""

    trial: int
    candidate: str
    weight: float
    temperature: float
    weights_file: Path
    views: int
    train: TrainConfig
    parameters: int
