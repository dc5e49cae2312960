"""Several trials on a GPU, by the memory that those before them were measured to take.

What a trial's step keeps can be counted without a device (`foreseen_bytes`), up to a factor that
precision, kernels and the allocator decide. Every trial measures its own in its first epoch; the
largest seen so far foresees the next one's memory, and so the share of a GPU that it asks Ray for.
"""

from raysearch.config import TrainConfig
from raysearch.train.memory import CONTEXT_BYTES, MemoryUse, foreseen_bytes

MOST = 8
"""Trials on a GPU: more of them hardly gain, where each keeps some of it busy."""
HEADROOM = 0.85
"""Part of a share that a trial is foreseen to fill at most."""


class Packing:
    """Shares of ``gpus`` GPUs, none below ``least``. Until one was measured, a trial has a GPU to
    itself."""

    def __init__(self, gpus: int, least: float, channels: int, classes: int):
        self.gpus, self.least, self.channels, self.classes = gpus, least, channels, classes
        self.fixed = self.factor = 0.0
        self.device_bytes: int | None = None
        self.taken: dict[str, float] = {}

    @property
    def is_full(self) -> bool:
        """Not even the smallest trial could start now."""
        return self.gpus - sum(self.taken.values()) < self.least

    def take(self, trial_id: str, config: TrainConfig) -> float:
        """The share of a GPU, in (0, 1], for a trial of ``config``."""
        self.taken[trial_id] = share = self.share(config)
        return share

    def give_back(self, trial_id: str) -> None:
        self.taken.pop(trial_id, None)

    def share(self, config: TrainConfig) -> float:
        if self.device_bytes is None:
            return 1.0
        foreseen = CONTEXT_BYTES + self.fixed + self.factor * self._foreseen(config)
        fit = int(HEADROOM * self.device_bytes / foreseen)
        return max(share_of(max(fit, 1)), self.least)

    def learn(self, config: TrainConfig, use: MemoryUse) -> None:
        """From what a trial of ``config`` took in its first epoch."""
        self.fixed = max(self.fixed, use.fixed)
        step = max(use.peak - use.fixed, 0)
        self.factor = max(self.factor, step / max(self._foreseen(config), 1))
        self.device_bytes = min(self.device_bytes or use.device, use.device)

    def _foreseen(self, config: TrainConfig) -> int:
        return foreseen_bytes(config, self.channels, self.classes)


def share_of(trials: int) -> float:
    """Of each of so many trials on one GPU; Ray counts in ten thousandths, and rounds."""
    return int(10_000 / trials) / 10_000
