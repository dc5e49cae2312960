"""What a person reads while the search runs, from a finished trial and a console of text."""

import io
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from optuna.trial import TrialState
from ray import cloudpickle
from ray.exceptions import RayActorError
from rich.console import Console

from raysearch.config import parse_train_config
from raysearch.data.dataset import load_dataset
from raysearch.data.shards import open_shards
from raysearch.search import failures as failures_module
from raysearch.search.failures import RESTARTS, Failures
from raysearch.search.forgetting import Forget
from raysearch.search.mirroring import Fetch, Send
from raysearch.search.progress import Progress
from raysearch.search.retention import Retention
from raysearch.search.searcher import StudySearcher
from raysearch.search.study import open_study
from raysearch.storage.mirror import Mirror
from raysearch.storage.runs import RunPlace
from raysearch.train.runner import run_trial
from raysearch.train.trial import TrialFolder


@pytest.fixture
def run(tmp_path, shards_folder):
    config = parse_train_config(
        {
            "model": {"name": "mlp", "hidden": [8]},
            "image_size": 16,
            "epochs": 1,
            "precision": "fp32",
            "seed": 0,
        }
    )
    dataset = load_dataset(shards_folder)
    run_trial(tmp_path / "run/trials/0000", 0, config, dataset, device=torch.device("cpu"))
    return tmp_path / "run"


@pytest.mark.parametrize("terminal", [False, True])
def test_score_of_the_ensemble_so_far_is_shown(run, shards_folder, terminal):
    text, told = io.StringIO(), threading.Event()
    console = Console(file=text, force_terminal=terminal, width=120)
    progress = Progress(run, open_shards(shards_folder), 4, console, None, Failures(None))
    show = progress.ensemble.on_score

    def on_score(score):
        show(score)
        told.set()

    progress.ensemble.on_score = on_score
    with progress:
        assert told.wait(120)
    assert "of 4 candidates: log loss" in text.getvalue()
    assert "(optimistic)" in text.getvalue()


def test_time_spent_training_is_that_of_every_epoch_once(run, shards_folder):
    """Epochs that are reported again after a loss, and ends with a status, are none."""
    console = Console(file=io.StringIO())
    progress = Progress(run, open_shards(shards_folder), 4, console, None, Failures(None))
    trial = SimpleNamespace(config={"trial": 0, "train": {"model": {"name": "mlp"}, "epochs": 3}})
    progress.on_trial_start(0, [], trial)
    scores = {"validation_log_loss": 1.0, "validation_accuracy": 0.5, "images_per_second": 1.0}
    for epoch, seconds in ((1, 2.0), (2, 3.0), (1, 2.0), (2, 3.0), (3, 4.0)):
        row = scores | {"trial": 0, "epoch": epoch, "seconds": seconds}
        progress.on_trial_result(0, [], trial, row)
    progress.on_trial_result(0, [], trial, row | {"status": "failed"})
    assert progress.trained == 9


def lost_trial(folder: Path, trial_id: str, payload: dict) -> SimpleNamespace:
    """As Tune has one whose process was gone before it could report."""
    error = folder / f"{trial_id}.pkl"
    reason = "The actor died because of an error raised in its creation task."
    error.write_bytes(cloudpickle.dumps(RayActorError(error_msg=reason)))
    metadata = SimpleNamespace(last_result={})
    about = {"trial_id": trial_id, "config": payload, "status": "RUNNING"}
    return SimpleNamespace(**about, pickled_error_file=error, run_metadata=metadata)


def test_trial_whose_process_never_started_is_lost_and_the_rest_goes_on(
    tmp_path, shards_folder, write_space, monkeypatch
):
    """Told of as Tune tells its callbacks: without a start, an error for each of them."""
    monkeypatch.setattr(failures_module, "free", lambda trial_id: None)
    uri = f"file://{tmp_path}/store"
    run, shards, text = tmp_path / "run", open_shards(shards_folder), io.StringIO()
    run.mkdir()
    place, failures = RunPlace(run, Mirror(run, uri)), Failures(60.0)
    progress = Progress(run, shards, 2, Console(file=text), None, failures)
    callbacks = [Fetch(place.mirror), failures, progress]
    callbacks += [Retention(place, shards, 20, None), Send(place.mirror), Forget()]
    searcher = StudySearcher(
        open_study(run / "study.log"), write_space(), trials=2, epochs=3, seed=0
    )
    trials = [lost_trial(tmp_path, trial_id, searcher.suggest(trial_id)) for trial_id in "ab"]
    for trial in trials:
        for _ in range(RESTARTS):
            for callback in callbacks:
                callback.on_trial_recover(0, trials, trial)
        searcher.on_trial_complete(trial.trial_id, error=True)
        for callback in callbacks:
            callback.on_trial_error(0, trials, trial)
            callback.on_step_end(0, trials)
    progress.close()
    for number in (0, 1):
        status = TrialFolder(tmp_path / f"store/trials/{number:04d}").read_status()
        assert status["status"] == "worker_lost" and "creation task" in status["error"]
    assert "worker_lost after 0 epochs: its process died" in text.getvalue()
    assert [t.state for t in searcher.study.trials] == [TrialState.FAIL] * 2
    assert searcher.is_done and not progress.running and not failures.verdict()
