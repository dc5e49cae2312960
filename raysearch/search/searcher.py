"""Optuna behind Tune's Searcher: ask and tell on a journal that outlives the process.

Tune's own OptunaSearch tells stopped trials as finished scores, leaves diverged ones running
for ever, and cannot resume a journal that is ahead of Tune's snapshot. Here the study is the one
ledger: a trial that the scheduler stops is PRUNED with its last value, one that failed is FAIL,
and one that is RUNNING when a search starts was interrupted and is handed out again.
"""

import copy
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from raysearch.config import TrainConfig
from raysearch.errors import ConfigError
from raysearch.search.packing import Packing
from raysearch.search.population import Population
from raysearch.search.study import PRUNED_AFTER, make_sampler, suggest_value
from raysearch.space import SearchSpace
from raysearch.train.memory import MemoryUse
from raysearch.train.seeding import seed_of_32_bits

METRIC = "validation_log_loss"
_OF_PROPOSALS, _OF_TRAINING = 0, 1
log = logging.getLogger(__name__)


class StudySearcher(Searcher):
    """Hands out ``{"trial": number, "train": TrainConfig as JSON, "told": epochs}`` until
    ``trials`` were made; of a trial that is gone on with, epochs after ``told`` are to be reported.
    One that begins where another stood has ``fork``, the fields of that `Fork`.

    Args:
        deadline: `time.monotonic` after which no epoch should run, or None. A trial that would
            end later is started with as many epochs as fit (its learning rate schedule with
            them), and not at all where fewer than half of them would.
        outcome: the values of a finished trial by its number, for a study of several objectives,
            which takes no values epoch by epoch.
        saved: called when the study has a new trial, before that one is handed out.
        population: of population-based training, where that decides which trials there are.
        packing: of trials on GPUs, where it decides how much of one a trial takes; its share is
            then handed out too, as ``gpus``.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: SearchSpace,
        *,
        trials: int,
        epochs: int,
        seed: int,
        deadline: float | None = None,
        outcome: Callable[[int], list[float]] | None = None,
        saved: Callable[[], None] = lambda: None,
        packing: Packing | None = None,
        population: Population | None = None,
    ):
        super().__init__(metric=METRIC, mode="min")
        self.study, self.space = study, space
        self.trials, self.epochs, self.seed, self.deadline = trials, epochs, seed, deadline
        self.outcome, self.saved = outcome, saved
        self.packing, self.population = packing, population
        existing = study.get_trials(deepcopy=False)
        if all(t.state == TrialState.WAITING for t in existing):  # none, or killed at this point
            for known in space.known_values[len(existing) :]:
                study.enqueue_trial(known)
        self.interrupted = deque(t for t in existing if t.state == TrialState.RUNNING)
        self.made = sum(t.state != TrialState.WAITING for t in existing)
        self.running: dict[str, optuna.Trial] = {}
        self.epoch_seconds: dict[str, float] = {}
        for trial in existing:
            self._learn(trial.user_attrs)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.packing and self.packing.is_full:
            return None  # what ends until one can start is worth knowing first
        while self.interrupted:
            frozen = self.interrupted.popleft()
            if "train" in frozen.user_attrs:
                self.running[trial_id] = optuna.Trial(self.study, frozen._trial_id)
                config = TrainConfig.model_validate(frozen.user_attrs["train"])
                # The last one is told once more: that it was the last may not be written.
                first = frozen.user_attrs.get("fork", {"epoch": 0})["epoch"] + 1
                told = max(frozen.intermediate_values, default=first) - 1
                return self._payload(trial_id, frozen, config, told)
            self._take_sampler(frozen.number)
            epochs = max(1, self._epochs_that_fit())
            payload = self._propose(trial_id, _anew(self.study, frozen), epochs)
            if payload:
                return payload
        epochs = self._epochs_that_fit()
        if self.made >= self.trials or epochs < max(1, self.epochs / 2):
            return Searcher.FINISHED
        if self.population and not self._next_of_population():
            return None if self.running else Searcher.FINISHED
        for _ in range(100):
            self._take_sampler(self.made)
            trial = self.study.ask()
            self.made += 1
            payload = self._propose(trial_id, trial, epochs)
            if payload:
                return payload
        log.error("100 proposals in a row were not valid configurations: the search ends here")
        return Searcher.FINISHED

    def _next_of_population(self) -> bool:
        """Whether there is a trial to begin: a successor, which the study then hands out next, or
        one that begins anew."""
        successor = self.population.successor()
        if successor:
            successor.enqueue(self.study)
        return not self.population.is_complete

    def _take_sampler(self, number: int) -> None:
        """A sampler of its own for each trial: a search that was interrupted and goes on proposes
        what the uninterrupted one would have."""
        seed = seed_of_32_bits(self.seed, number, _OF_PROPOSALS)
        self.study.sampler = make_sampler(self.space.search.sampler, seed)

    def _propose(self, trial_id: str, trial: optuna.Trial, epochs: int) -> dict[str, Any] | None:
        """The payload of ``trial``; None, and the trial failed, where its values do not fit
        together."""
        fork = trial.user_attrs.get("fork")
        # Where another trial stood, its schedule goes on.
        epochs = self.epochs if fork else epochs
        values = self.space.propose(lambda dimension: suggest_value(trial, dimension))
        try:
            seed = seed_of_32_bits(self.seed, trial.number, _OF_TRAINING)
            config = self.space.build(values, epochs=epochs, seed=seed)
        except ConfigError as error:
            trial.set_user_attr("error", str(error))
            self.study.tell(trial, state=TrialState.FAIL)
            return None
        trial.set_user_attr("train", config.model_dump(mode="json"))
        self.running[trial_id] = trial
        self.saved()
        return self._payload(trial_id, trial, config, told=fork["epoch"] if fork else 0)

    def _payload(
        self, trial_id: str, trial: optuna.Trial | FrozenTrial, config: TrainConfig, told: int
    ) -> dict[str, Any]:
        payload = {"trial": trial.number, "train": config.model_dump(mode="json"), "told": told}
        if "fork" in trial.user_attrs:
            payload["fork"] = trial.user_attrs["fork"]
        if self.packing:
            payload["gpus"] = self.packing.take(trial_id, config)
        return payload

    @property
    def is_done(self) -> bool:
        """No trial is under way, and none is to come."""
        if self.running or self.interrupted:
            return False
        complete = self.population is not None and self.population.is_complete
        return self.made >= self.trials or complete

    def _epochs_that_fit(self) -> float:
        """Epochs of a whole trial that end before the deadline, at the median pace so far."""
        if self.deadline is None:
            return self.epochs
        left = self.deadline - time.monotonic()
        if left <= 0:
            return 0
        if not self.epoch_seconds:
            return self.epochs
        paces = sorted(self.epoch_seconds.values())
        return min(self.epochs, int(left / paces[len(paces) // 2]))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if "status" not in result and result["seconds"] > 0:  # else no epoch was trained
            self.epoch_seconds[trial_id] = result["seconds"]
        self._report(self.running[trial_id], result)

    def _learn(self, attributes: dict[str, Any]) -> None:
        """How much of a GPU a trial took, if that was measured."""
        if self.packing and "memory" in attributes:
            config = TrainConfig.model_validate(attributes["train"])
            self.packing.learn(config, MemoryUse(*attributes["memory"]))

    def _report(self, trial: optuna.Trial, result: dict[str, Any]) -> None:
        if "memory" in result and "memory" not in trial.user_attrs:
            trial.set_user_attr("memory", result["memory"])
            self._learn(trial.user_attrs)
        if self.outcome:
            return
        known = self.study._storage.get_trial(trial._trial_id).intermediate_values
        value, epoch = float(result[METRIC]), int(result["epoch"])
        if math.isfinite(value) and epoch not in known:
            trial.report(value, epoch)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Called by Tune for trials that ended or that the scheduler stopped, never for those
        that the end of the search cuts off: they stay RUNNING, for resume, as does one that a full
        disk interrupted."""
        trial = self.running.pop(trial_id, None)
        if self.packing:
            self.packing.give_back(trial_id)
        if trial is None or (result or {}).get("status") == "interrupted":
            return
        if error or not result or "status" in result:
            self.study.tell(trial, state=TrialState.FAIL)
            return
        epoch, finished = int(result["epoch"]), int(result["epoch"]) >= int(result["epochs"])
        if not finished:
            # Before its last value: a trial whose last value stands alone was to go on.
            trial.set_user_attr(PRUNED_AFTER, [epoch, float(result[METRIC])])
        self._report(trial, result)
        if self.outcome:
            self.study.tell(trial, self.outcome(trial.number))
        elif finished:
            values = self.study._storage.get_trial(trial._trial_id).intermediate_values
            self.study.tell(trial, min(values.values()))
        else:
            self.study.tell(trial, state=TrialState.PRUNED)

    def save(self, checkpoint_path: str) -> None:
        """The journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """The journal is the state."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _anew(study: optuna.Study, frozen: FrozenTrial) -> optuna.Trial:
    """A trial whose proposal a kill cut short, to be proposed again from its first value on: what
    a sampler draws depends on what it has drawn before."""
    trial = optuna.Trial(study, frozen._trial_id)
    empty = copy.deepcopy(frozen)
    empty.params, empty.distributions = {}, {}
    trial._cached_frozen_trial = empty
    return trial
