"""Which trial goes on, on epochs, and which one a free process takes up."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from raysearch.search.population import Population
from raysearch.search.searcher import METRIC
from raysearch.space import SearchSpace


class InTurn:
    """Beside one of Tune's schedulers: a free process goes to the first trial that still waits
    for a machine.

    Tune's own would give it to the first that waits at all, and end the process that was being
    started for that one: where trials end sooner than processes start, most machines are then
    started for again and again. And they look for it among all trials of the search, many times
    a second. Trials that need a new process Tune starts in their order without being asked.
    """

    def choose_trial_to_run(self, tune_controller: Any) -> Any | None:
        controller = tune_controller._tune_controller
        if not controller._actor_cache.num_cached_objects:
            return None
        for trial in controller._pending_trials_list:
            actor = controller._trial_to_actor.get(trial)
            starts = actor is not None and controller._actor_manager.is_actor_started(actor)
            fits = controller._actor_cache.has_cached_object(trial.placement_group_factory)
            if trial in controller._pending_trials and fits and not starts:
                return trial
        return None


class All(InTurn, FIFOScheduler):
    """Every trial runs to its end."""


@dataclass(frozen=True)
class Numbered:
    """A trial as Tune's schedulers know it, by its number in the study: a trial that is gone on
    with has another id in Tune."""

    trial_id: str


class Once(InTurn):
    """Beside one of Tune's schedulers: every epoch of a trial is judged once, and counts for those
    that come after whichever process of the driver heard of it.

    ``past`` maps trials to their losses by epoch that earlier processes judged, which `learn` is
    told of. What comes again, after a loss or an interruption, changes nothing: judged then, it
    would be by other trials than it was.
    """

    def __init__(self, past: Mapping[int, Mapping[int, float]], **options: Any):
        super().__init__(**options)
        self.reached = {number: max(losses) for number, losses in past.items()}
        for number, losses in past.items():
            results = [{"epoch": epoch, METRIC: losses[epoch]} for epoch in sorted(losses)]
            self.learn(Numbered(str(number)), results)

    def learn(self, trial: Numbered, results: list[dict[str, Any]]) -> None:
        raise NotImplementedError

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, numbered(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        number, epoch = trial.config["trial"], int(result["epoch"])
        if "status" in result or epoch <= self.reached.get(number, 0):
            return TrialScheduler.CONTINUE
        self.reached[number] = epoch
        return self.judge(tune_controller, numbered(trial), result)

    def judge(self, tune_controller: Any, trial: Numbered, result: dict[str, Any]) -> str:
        return super().on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        super().on_trial_complete(tune_controller, numbered(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_remove(tune_controller, numbered(trial))


def numbered(trial: Any) -> Numbered:
    return Numbered(str(trial.config["trial"]))


class Halving(Once, ASHAScheduler):
    """Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020."""

    def learn(self, trial: Numbered, results: list[dict[str, Any]]) -> None:
        ASHAScheduler.on_trial_add(self, None, trial)
        for result in results:
            self.judge(None, trial, result)  # which enters it in its rung


class Median(Once, MedianStoppingRule):
    """Golovin et al., "Google Vizier", 2017."""

    def learn(self, trial: Numbered, results: list[dict[str, Any]]) -> None:
        for result in results:
            MedianStoppingRule.on_trial_complete(self, None, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Tune's own counts the last epoch a second time here."""


class Replacement(Once, FIFOScheduler):
    """Ends the trials that ``population`` replaces."""

    def __init__(self, past: Mapping[int, Mapping[int, float]], population: Population):
        super().__init__(past)
        self.population = population

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its schedulers, and the study is the state

    def learn(self, trial: Numbered, results: list[dict[str, Any]]) -> None:
        """The population asks the study."""

    def judge(self, tune_controller: Any, trial: Numbered, result: dict[str, Any]) -> str:
        epoch = int(result["epoch"])
        if epoch >= int(result["epochs"]):
            return self.CONTINUE
        poor = self.population.ends(int(trial.trial_id), epoch, float(result[METRIC]))
        return self.STOP if poor else self.CONTINUE


def make_scheduler(
    space: SearchSpace,
    epochs: int,
    population: Population | None = None,
    past: Mapping[int, Mapping[int, float]] = MappingProxyType({}),
) -> TrialScheduler:
    """The one that ``space`` names, for trials of ``epochs`` epochs; ``past`` is what the study has
    of earlier ones (`losses_by_trial`)."""
    if population:
        return Replacement(past, population)
    grace = min(space.search.grace_epochs, epochs)
    if space.search.scheduler == "none" or grace == epochs:
        return All()
    if space.search.scheduler == "median":
        return Median(
            past,
            time_attr="epoch",
            metric=METRIC,
            mode="min",
            grace_period=grace,
            min_samples_required=3,
            min_time_slice=math.inf,  # it would pause trials, and start them anew
            hard_stop=True,
        )
    return Halving(
        past,
        time_attr="epoch",
        metric=METRIC,
        mode="min",
        max_t=epochs,
        grace_period=grace,
        reduction_factor=space.search.reduction,
    )
