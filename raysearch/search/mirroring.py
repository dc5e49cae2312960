"""A run at a URI: the driver's working copy and the store, kept alike while the search runs.

Trials write to the store themselves (`raysearch.search.worker`). What they leave is fetched when
they end; the study and what the driver says of trials is sent there every few seconds.
"""

import time
from typing import Any

from ray import tune

from raysearch.storage.mirror import Mirror
from raysearch.storage.runs import CHECKPOINTS
from raysearch.train.trial import STATUS, trial_name

SEND_SECONDS = 5.0


class Fetch(tune.Callback):
    """Before anything else hears that a trial ended, what it left is here."""

    def __init__(self, mirror: Mirror | None):
        self.mirror = mirror

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
        self.fetch(trial.config["trial"])

    on_trial_error = on_trial_complete

    def fetch(self, number: int) -> None:
        if self.mirror:
            self.mirror.pull(trial_name(number), skip=CHECKPOINTS)


class Send(tune.Callback):
    """After everything else has done its part about a trial that ended, the store has it too."""

    def __init__(self, mirror: Mirror | None):
        self.mirror, self.sent = mirror, time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
        if self.mirror:
            self.mirror.push(f"{trial_name(trial.config['trial'])}/{STATUS}")
            self.send_study()

    on_trial_error = on_trial_complete

    def on_step_end(self, iteration: int, trials: list, **_: Any) -> None:
        if self.mirror and time.monotonic() - self.sent > SEND_SECONDS:
            self.send_study()

    def send_study(self) -> None:
        """Before a trial starts too: a search that goes on elsewhere must know of it."""
        if self.mirror:
            self.mirror.push("study.log")
            self.sent = time.monotonic()
