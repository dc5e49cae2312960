"""Trials that fail: which status each gets, when one hangs, and when too many have failed.

What a trial's process can tell by itself (divergence, memory, an exception) it reports; this
watches from outside for what it cannot: that it is lost, or that nothing comes from it any more.
"""

import time
from collections import Counter
from typing import Any

import ray
from ray import tune

from raysearch.search.groups import free

RESTARTS = 2
"""How often a trial whose process was lost is started anew without an epoch in between."""
START_SECONDS = 600.0
"""What a process may take to start, before the clock of its first epoch does."""
ENDED_BEFORE_VERDICT = 5
"""Trials that must have ended before a search is given up for failures."""


class Failures(tune.Callback):
    """Ends trials of which no epoch came for ``timeout`` seconds (None: never), and counts.

    ``ends`` maps the number of every trial that ended since this search started to its status and
    error, the latter "" for a trial that did not fail.
    """

    def __init__(self, timeout: float | None):
        self.timeout = timeout
        self.started: dict[str, Any] = {}
        self.heard: dict[str, float] = {}
        self.reached: dict[str, int] = {}
        self.hung: set[str] = set()
        self.ends: dict[int, tuple[str, str]] = {}
        self.failed: list[tuple[str, str]] = []
        self.disk_full = ""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
        self.started[trial.trial_id] = trial
        self.heard[trial.trial_id] = time.monotonic() + START_SECONDS

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **_: Any):
        self.heard[trial.trial_id] = time.monotonic()
        epoch = result.get("epoch", 0)
        if epoch > self.reached.get(trial.trial_id, 0):
            # Only losses in a row count: a long trial on machines that come and go must end.
            self.reached[trial.trial_id] = epoch
            trial.run_metadata.num_failures = 0

    def on_step_end(self, iteration: int, trials: list, **_: Any) -> None:
        if self.timeout is None:
            return
        late = time.monotonic() - self.timeout
        for trial in self.started.values():  # asked many times a second: not of those that ended
            running = trial.status == "RUNNING" and trial.trial_id not in self.hung
            if running and self.heard[trial.trial_id] < late:
                self._kill(trial)

    def _kill(self, trial: Any) -> None:
        """End the trial's process, whatever it is doing; Tune then sees that it is gone, and
        starts others."""
        self.hung.add(trial.trial_id)
        trial.max_failures = 0  # what hung would hang again
        ray.kill(trial.temporary_state.ray_actor)

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
        free(trial.trial_id)  # which its own process, now lost, cannot do any more

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
        result = trial.last_result
        finished = "completed" if result["epoch"] >= result["epochs"] else "pruned"
        self._end(trial, (result.get("status", finished), result.get("error", "")))

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
        free(trial.trial_id)
        if trial.trial_id in self.hung:
            end = "timeout", timeout_words(self.timeout)
        else:
            end = describe(last_error(trial))
        self._end(trial, end)

    def _end(self, trial: Any, end: tuple[str, str]) -> None:
        for of_running in (self.started, self.heard, self.reached):
            of_running.pop(trial.trial_id, None)
        self.record(trial.config["trial"], end)

    def record(self, number: int, end: tuple[str, str]) -> None:
        """Status and error that the trial ``number`` ended with."""
        self.ends[number] = end
        if end[0] == "interrupted":
            self.disk_full = end[1]
        elif end[0] not in ("completed", "pruned"):
            self.failed.append(end)

    def verdict(self) -> str:
        """Why the search should be given up, or "": a full disk, or too many failures."""
        if self.disk_full:
            return self.disk_full
        failed = self.failed
        if len(self.ends) < ENDED_BEFORE_VERDICT or 2 * len(failed) <= len(self.ends):
            return ""
        statuses = Counter(status for status, _ in failed)
        status, count = statuses.most_common(1)[0]
        errors = Counter(error.split("\n")[0] for s, error in failed if s == status)
        return (
            f"{len(failed)} of the {len(self.ends)} trials that ended have failed, {count} of "
            f"them {status}, most often with: {errors.most_common(1)[0][0]}"
        )


def timeout_words(timeout: float) -> str:
    return (
        f"no epoch ended within {timeout:g} s, and its process was killed; "
        "--trial-timeout allows more"
    )


def last_error(trial: Any) -> BaseException | None:
    """What Tune ended ``trial`` with, from the driver's disk: `get_pickled_error` looks in the
    storage, where Tune copies it with a snapshot."""
    path = trial.pickled_error_file
    if path is None:
        return None
    with open(path, "rb") as file:
        return ray.cloudpickle.load(file)


def describe(error: BaseException | None) -> tuple[str, str]:
    """Status and words for the exception that Tune ended a trial with."""
    if isinstance(error, ray.exceptions.RayActorError):
        return "worker_lost", lost_words(error)
    cause = getattr(error, "cause", None) or error
    return "failed", f"{type(cause).__name__}: {cause}"


def lost_words(error: BaseException) -> str:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return (
        "its process died, and did so again each time that it was started anew; where nobody "
        f"killed it, the machine may have run out of memory ({reason})"
    )
