"""Which trial goes on, on epochs, and which one a free process takes up."""

import math
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


class Halving(InTurn, ASHAScheduler):
    """Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020."""


class Median(InTurn, MedianStoppingRule):
    """Golovin et al., "Google Vizier", 2017."""


class Replacement(InTurn, FIFOScheduler):
    """Ends the trials that ``population`` replaces."""

    def __init__(self, population: Population):
        super().__init__()
        self.population = population

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its schedulers, and the study is the state

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        epoch = int(result["epoch"])
        if "status" in result or epoch >= int(result["epochs"]):
            return self.CONTINUE
        poor = self.population.ends(int(result["trial"]), epoch, float(result[METRIC]))
        return self.STOP if poor else self.CONTINUE


def make_scheduler(
    space: SearchSpace, epochs: int, population: Population | None = None
) -> TrialScheduler:
    """The one that ``space`` names, for trials of ``epochs`` epochs."""
    if population:
        return Replacement(population)
    grace = min(space.search.grace_epochs, epochs)
    if space.search.scheduler == "none" or grace == epochs:
        return All()
    if space.search.scheduler == "median":
        return Median(
            time_attr="epoch",
            metric=METRIC,
            mode="min",
            grace_period=grace,
            min_samples_required=3,
            min_time_slice=math.inf,  # it would pause trials, and start them anew
            hard_stop=True,
        )
    return Halving(
        time_attr="epoch",
        metric=METRIC,
        mode="min",
        max_t=epochs,
        grace_period=grace,
        reduction_factor=space.search.reduction,
    )
