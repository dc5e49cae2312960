"""One member of an ensemble: a trial's weights, a view, and its share of the vote."""

from dataclasses import dataclass
from pathlib import Path

from raysearch.config import TrainConfig

CANDIDATES = {
    "ema": ("best/model.safetensors", False),
    "ema_mirror": ("best/model.safetensors", True),
    "raw": ("best/raw.safetensors", False),
    "raw_mirror": ("best/raw.safetensors", True),
}
"""Candidate name to (weights file within its trial's folder, averaged with its mirror image)."""


@dataclass(frozen=True)
class Member:
    """``probs = softmax(logits)``, averaged over the views, then ``probs ** (1 / temperature)``
    renormalized: what ``weight`` (the weights of an ensemble sum to 1) is multiplied with."""

    trial: int
    candidate: str
    weight: float
    temperature: float
    weights_file: Path
    mirror: bool
    train: TrainConfig
    parameters: int
