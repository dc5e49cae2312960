"""Trials that are stopped in the middle, by either executor, leave nothing in a Ray that goes on:
no process, no placement group, no CPU in use. No dashboard runs that could clean up. How trials
end by themselves and fail is in `test_tuner` and `test_failures`."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import make_train_trial
from leftovers import left_over, ray_processes
from optuna.trial import TrialState
from rich.console import Console

from raysearch.search import tuner
from raysearch.search.capacity import Capacity, Machine
from raysearch.search.plan import make_plan
from raysearch.search.study import open_study
from raysearch.storage.runs import RunPlace
from raysearch.train.curve import read_metrics
from raysearch.train.trial import TrialFolder

pytestmark = pytest.mark.slow


def search(run: Path, data: Path, space, **options) -> tuner.SearchEnd:
    run.mkdir(exist_ok=True)
    plan = make_plan(space, Capacity((Machine(2, 0),), 1), **options)
    console, place = Console(stderr=True), RunPlace(run)
    return tuner.run_search(place, data, space, plan, seed=0, deadline=None, console=console)


def epochs(run: Path) -> int:
    """How many epochs of the first trial are finished."""
    return TrialFolder(run / "trials" / "0000").read_status()["epochs"]


def once(reached: Callable[[], bool], act: Callable[[], None]) -> None:
    """``act`` as soon as ``reached``, while the test goes on."""

    def watch() -> None:
        while not reached():
            time.sleep(0.1)
        act()

    threading.Thread(target=watch, daemon=True).start()


def processes(kind: str) -> set[int]:
    return {pid for pid, title in ray_processes().items() if f"::{kind}" in title}


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("executor", ["inline", pytest.param("train", marks=pytest.mark.chaos)])
def test_ctrl_c_leaves_nothing(tmp_path, ray_here, shards_folder, write_space, executor):
    run = tmp_path / "run"
    once(lambda: epochs(run) >= 1, press_ctrl_c)
    end = search(run, shards_folder, write_space(epochs=5000), trials=1, executor=executor)
    assert end.interrupted
    assert end.statuses == {"interrupted": 1}
    assert not left_over()


@pytest.mark.chaos
def test_trials_by_ray_train_that_asha_stops_leave_nothing(
    tmp_path, ray_here, shards_folder, write_space
):
    """The ones after them could not start if they did."""
    run, space = tmp_path / "run", write_space(scheduler="asha", grace_epochs=1, reduction=2)
    end = search(run, shards_folder, space, trials=4, executor="train")
    assert end.statuses.keys() == {"completed", "pruned"}
    expected = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    for trial in open_study(run / "study.log").trials:
        status = TrialFolder(run / "trials" / f"{trial.number:04d}").read_status()["status"]
        assert trial.state == expected[status]
    assert not left_over()


@pytest.mark.chaos
def test_ctrl_c_in_an_epoch_without_end_leaves_nothing_of_ray_train(
    tmp_path, ray_here, shards_folder, write_space, monkeypatch
):
    monkeypatch.setattr(tuner, "TrainTrial", make_train_trial(tuner.TrainTrial, {0: "hang"}))
    run = tmp_path / "run"
    once(lambda: epochs(run) >= 1, press_ctrl_c)
    end = search(run, shards_folder, write_space(), trials=1, workers_per_trial=2)
    assert end.statuses == {"interrupted": 1}
    assert not left_over()


@pytest.mark.chaos
def test_trial_by_ray_train_whose_own_process_is_killed_goes_on_and_leaves_nothing(
    tmp_path, ray_here, shards_folder, write_space
):
    """Both CPUs are in the group that its controller leaves behind."""

    def kill() -> None:
        # Named after the class, and after what it calls itself while it is in a step.
        (trial,) = processes("Trial") | processes("ResourceTrainable")
        workers = processes("RayTrainWorker")
        os.kill(trial, signal.SIGKILL)
        while workers & processes("RayTrainWorker"):
            time.sleep(0.1)
        before = epochs(run)
        once(lambda: epochs(run) > before, press_ctrl_c)

    run = tmp_path / "run"
    once(lambda: epochs(run) >= 1, kill)
    end = search(run, shards_folder, write_space(epochs=5000), trials=1, workers_per_trial=2)
    assert end.statuses == {"interrupted": 1}
    rows = read_metrics(TrialFolder(run / "trials" / "0000").metrics)
    assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
    assert not left_over()
