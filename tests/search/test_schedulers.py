"""Which trial a free process takes up, asked as Tune's controller asks."""

from types import SimpleNamespace

import pytest
from ray.tune.execution.tune_controller import TuneController

from raysearch.search.schedulers import make_scheduler


class Trial(str):
    """By its name, which says too if it asks for other resources than a free process has."""

    @property
    def placement_group_factory(self) -> str:
        return "half a GPU" if "half" in self else "GPU"


class Controller:
    """Of trials that are named ``new`` (no process was asked for), ``waits`` (for a machine) and
    ``starts`` (its process does), in their order; ``free`` processes wait for a trial."""

    def __init__(self, trials: list[str], free: int):
        starts = {name for name in trials if name.startswith("starts")}
        self._pending_trials_list = [Trial("ended"), *map(Trial, trials)]
        self._pending_trials = set(map(Trial, trials))
        self._trial_to_actor = {Trial(name): name for name in trials if not name.startswith("new")}
        self._actor_cache = SimpleNamespace(num_cached_objects=free, has_cached_object="GPU".__eq__)
        self._actor_manager = SimpleNamespace(is_actor_started=starts.__contains__)
        self._tune_controller = self


def chosen(space, *trials: str, free: int = 1) -> str | None:
    return make_scheduler(space, 3).choose_trial_to_run(Controller(list(trials), free))


@pytest.fixture(params=["none", "asha", "median"])
def space(request, write_space):
    return write_space(scheduler=request.param, grace_epochs=1)


def test_free_process_goes_to_the_first_trial_whose_own_is_not_being_started(space):
    assert chosen(space, "starts", "waits", "new") == "waits"
    assert chosen(space, "starts", "starts too", "new") == "new"
    assert chosen(space, "starts") is None  # which Tune itself then gives it
    assert chosen(space, "waits for half", "waits") == "waits"
    assert chosen(space, "waits for half") is None


def test_without_a_free_process_tune_is_left_to_start_trials_in_order(space):
    assert chosen(space, "new", "waits", free=0) is None


def test_tune_has_what_is_asked_of_it():
    """Names of its own, which a newer one may not have."""
    parts = {"search_alg": SimpleNamespace(), "resource_manager_factory": SimpleNamespace}
    controller = TuneController(storage=None, **parts)
    for name in ("_pending_trials_list", "_pending_trials", "_trial_to_actor", "_actor_cache"):
        assert hasattr(controller, name)
    assert controller._wrapped()._tune_controller is controller
    assert controller._actor_cache.num_cached_objects == 0
    assert callable(controller._actor_manager.is_actor_started)
