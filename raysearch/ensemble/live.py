"""The ensemble of a search that still runs: trials join as they end, and a thread selects again.

It must not cost the search anything: one thread, at most a fiftieth of one core, and whatever
goes wrong in it is logged and nothing more.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

import numba
import numpy as np
from numpy.typing import NDArray

from raysearch import metrics
from raysearch.data.shards import Shards
from raysearch.ensemble.calibration import calibrate, fit_temperatures
from raysearch.ensemble.estimate import combine
from raysearch.ensemble.library import normalized, read_trial
from raysearch.train.trial import TrialFolder, trial_folders

SHARE = 0.02
"""Of one core's time, at most, goes into selecting while trials run."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LiveScore:
    """Of the ensemble of what has ended so far, on the images that it is selected on."""

    members: int
    candidates: int
    accuracy: float
    log_loss: float

    def __str__(self) -> str:
        return (
            f"ensemble of {self.members} of {self.candidates} candidates: log loss "
            f"{self.log_loss:.4f}, accuracy {100 * self.accuracy:.2f} % (optimistic)"
        )


class LiveLibrary:
    """A library that grows a trial at a time and keeps its candidates calibrated."""

    def __init__(self, shards: Shards):
        self.shards = shards
        self.labels_V = np.ascontiguousarray(shards.split("validation").labels_N, np.int64)
        self.parts: dict[Path, tuple[NDArray[np.float32], NDArray[np.float64]]] = {}

    def add(self, folder: TrialFolder) -> None:
        """Read a trial, or read it again; one without usable probabilities, or without weights,
        adds nothing."""
        if not folder.best.is_dir():
            return
        read = read_trial(folder, self.shards)
        if not read.candidates:
            return
        probs_MVK = np.stack([normalized(probs_VK) for _, probs_VK in read.candidates])
        temperature_M = fit_temperatures(probs_MVK, self.labels_V)
        self.parts[folder.path] = calibrate(probs_MVK, temperature_M), temperature_M

    def score(self, steps: int = 25) -> LiveScore | None:
        """Select from all trials so far whose weights were kept; None where there is none."""
        for path in [path for path in self.parts if not TrialFolder(path).best.is_dir()]:
            del self.parts[path]  # for good; kept, they would fill the memory in a long search
        if not self.parts:
            return None
        parts = self.parts.values()
        calibrated_NVK = np.concatenate([probs_MVK for probs_MVK, _ in parts])
        temperature_N = np.concatenate([temperature_M for _, temperature_M in parts])
        ensemble = combine(calibrated_NVK, temperature_N, self.labels_V, steps=steps)
        probs_VK = ensemble.predict_calibrated(calibrated_NVK)
        return LiveScore(
            members=len(ensemble.selection.members),
            candidates=len(calibrated_NVK),
            accuracy=metrics.accuracy(probs_VK, self.labels_V),
            log_loss=metrics.log_loss(probs_VK, self.labels_V),
        )


class LiveEnsemble:
    """Follows the run in the folder ``run`` on ``shards``, from a thread."""

    def __init__(self, run: Path, shards: Shards, on_score: Callable[[LiveScore], None]):
        self.run, self.shards, self.on_score = run, shards, on_score
        self.latest: LiveScore | None = None
        self._ended: SimpleQueue[TrialFolder | None] = SimpleQueue()
        self._thread = Thread(target=self._follow, name="live ensemble", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def trial_ended(self, folder: TrialFolder) -> None:
        self._ended.put(folder)

    def close(self) -> None:
        """Returns once nothing is being computed any more."""
        self._ended.put(None)
        self._thread.join()

    def _follow(self) -> None:
        try:
            numba.set_num_threads(1)
            _warm_up()
            library = LiveLibrary(self.shards)
            for folder in trial_folders(self.run):
                self._ended.put(folder)
            self._serve(library)
        except Exception:
            log.exception("The live ensemble ended early; the search goes on without it.")

    def _serve(self, library: LiveLibrary) -> None:
        """Add what ended; select again when the share of time allows, and at once if it does."""
        waiting, rest_until = False, 0.0
        while True:
            left = rest_until - time.monotonic()
            try:
                folder = self._ended.get(timeout=max(left, 0) if waiting else None)
            except Empty:
                rest_until = time.monotonic() + self._select(library) * (1 / SHARE - 1)
                waiting = False
                continue
            if folder is None:
                return
            library.add(folder)
            waiting = True

    def _select(self, library: LiveLibrary) -> float:
        """CPU seconds that it took."""
        begin = time.thread_time()
        score = library.score()
        if score is not None and score != self.latest:
            self.latest = score
            self.on_score(score)
        return time.thread_time() - begin


def _warm_up() -> None:
    """Compile before the clock runs, which a fresh installation does once."""
    probs_NVK = np.full((2, 4, 2), 0.5, np.float32)
    labels_V = np.arange(4) % 2
    calibrated_NVK = calibrate(probs_NVK, fit_temperatures(probs_NVK, labels_V))
    combine(calibrated_NVK, np.ones(2), labels_V, steps=1)
