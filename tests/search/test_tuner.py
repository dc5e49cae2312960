"""Real Ray, real trials: small networks on small images."""

import time
from contextlib import contextmanager

import numpy as np
import pytest
from leftovers import left_over
from optuna.trial import TrialState
from rich.console import Console

from raysearch.probabilities import read_probabilities
from raysearch.search import tuner
from raysearch.search.capacity import Capacity, Machine
from raysearch.search.plan import make_plan
from raysearch.search.study import open_study
from raysearch.storage.runs import RunPlace
from raysearch.train.curve import read_metrics
from raysearch.train.trial import TrialFolder, trial_folders

pytestmark = pytest.mark.slow


def search(run, data, space, *, cpus=2, trials=None, workers=1, executor=None):
    """With one of ``cpus``, trials come one after the other and one process is started for all."""
    run.mkdir(exist_ok=True)
    here = Capacity((Machine(cpus, 0),), 1)
    plan = make_plan(space, here, trials=trials, workers_per_trial=workers, executor=executor)
    place, console = RunPlace(run), Console(stderr=True)
    return tuner.run_search(place, data, space, plan, seed=0, deadline=None, console=console)


def curves(run):
    """Each trial's metrics without what a clock measured."""
    timed = ("seconds", "images_per_second")
    return {
        folder.path.name: [
            {k: v for k, v in row.items() if k not in timed} for row in read_metrics(folder.metrics)
        ]
        for folder in trial_folders(run)
    }


def test_search_leaves_a_whole_folder_for_every_trial(
    tmp_path, ray_here, shards_folder, write_space
):
    end = search(tmp_path / "run", shards_folder, write_space())
    assert end.statuses == {"completed": 4}
    assert not end.interrupted
    study = open_study(tmp_path / "run" / "study.log")
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 4
    for folder in trial_folders(tmp_path / "run"):
        rows = read_metrics(folder.metrics)
        assert [row["epoch"] for row in rows] == [1, 2, 3]
        best = min(row["validation_log_loss"] for row in rows)
        assert study.trials[int(folder.path.name)].value == pytest.approx(best, rel=1e-4)
        probs = read_probabilities(folder.validation).candidates["ema"]
        assert probs.shape == (60, 3)
        assert np.allclose(probs.astype(np.float32).sum(1), 1, atol=2e-3)
    assert not left_over()


def test_trials_that_asha_stops_are_pruned_in_study_and_folder(
    tmp_path, ray_here, shards_folder, write_space
):
    space = write_space(scheduler="asha", grace_epochs=1, reduction=3, trials=6)
    end = search(tmp_path / "run", shards_folder, space)
    assert end.statuses.get("pruned", 0) >= 1
    study = open_study(tmp_path / "run" / "study.log")
    for trial in study.trials:
        status = TrialFolder(tmp_path / "run" / "trials" / f"{trial.number:04d}").read_status()
        expected = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        assert trial.state == expected[status["status"]]
        assert len(trial.intermediate_values) == status["epochs"]
    assert not left_over()


@contextmanager
def deadline_at(run, epoch):
    """The deadline of the search in ``run`` comes when its first trial has had ``epoch`` epochs."""

    class EarlyEnd(tuner.EndOfSearch):
        def stop_all(self):
            if TrialFolder(run / "trials" / "0000").read_status()["epochs"] >= epoch:
                self.deadline = time.monotonic()
            return super().stop_all()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuner, "EndOfSearch", EarlyEnd)
        yield


def test_search_that_is_cut_off_and_resumed_equals_the_uninterrupted_one(
    tmp_path, ray_here, shards_folder, write_space
):
    space = write_space(epochs=12)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    search(whole, shards_folder, space, trials=2, cpus=1)
    with deadline_at(parts, epoch=3):
        first = search(parts, shards_folder, space, trials=2)
    assert not first.interrupted and first.statuses.get("completed", 0) < 2
    assert not left_over()
    assert 3 <= len(curves(parts)["0000"]) < 12
    last = search(parts, shards_folder, space, trials=2, cpus=1)
    assert last.statuses == {"completed": 2}
    assert curves(parts) == curves(whole)


def test_trial_that_diverges_fails_alone(
    tmp_path, ray_here, shards_folder, write_space, space_text
):
    text = space_text.replace(
        "lr: {float: [0.001, 0.1], log: true}", "lr: {choice: [1.0e30, 0.05]}"
    )
    text = text.replace("{lr: 0.05, ", "{lr: 1.0e30, ").replace("[16]}", "[16]}\n  - {lr: 0.05}")
    end = search(tmp_path / "run", shards_folder, write_space(text), trials=2, cpus=1)
    assert end.statuses == {"diverged": 1, "completed": 1}
    status = TrialFolder(tmp_path / "run" / "trials" / "0000").read_status()
    assert "epoch 1" in status["error"]
    study = open_study(tmp_path / "run" / "study.log")
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert not left_over()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.chaos)])
def test_trial_that_ends_early_by_itself_is_completed(
    tmp_path, ray_here, shards_folder, write_space, space_text, workers
):
    """A rate this high makes validation loss rise soon."""
    text = space_text.replace("lr: {float: [0.001, 0.1], log: true}", "lr: {choice: [2.0, 3.0]}")
    text = text.replace("{lr: 0.05, ", "{lr: 2.0, ").replace("  lr:", "  early_stopping: 1\n  lr:")
    run, space = tmp_path / "run", write_space(text, epochs=30, scheduler="asha", grace_epochs=20)
    for _ in range(2):  # and once more: nothing is left to do
        end = search(run, shards_folder, space, trials=1, workers=workers)
        assert end.statuses == {"completed": 1}
    status = TrialFolder(run / "trials" / "0000").read_status()
    losses = [row["validation_log_loss"] for row in curves(run)["0000"]]
    assert status["epochs"] == len(losses) < 20
    assert "early_stopping" in status["stopped"]
    (trial,) = open_study(run / "study.log").trials
    assert trial.state == TrialState.COMPLETE
    assert trial.value == pytest.approx(min(losses))
    assert not left_over()


def test_ray_train_with_two_workers_gives_the_curve_of_one(
    tmp_path, ray_here, shards_folder, write_space
):
    space = write_space()
    search(tmp_path / "one", shards_folder, space, trials=1)
    end = search(tmp_path / "two", shards_folder, space, trials=1, workers=2)
    assert end.statuses == {"completed": 1}
    one, two = curves(tmp_path / "one")["0000"], curves(tmp_path / "two")["0000"]
    for left, right in zip(one, two, strict=True):
        assert left["epoch"] == right["epoch"]
        for name in ("train_loss", "validation_log_loss"):
            assert right[name] == pytest.approx(left[name], rel=1e-3)
    assert not left_over()
