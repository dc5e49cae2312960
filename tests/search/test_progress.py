"""What a person reads while the search runs, from a finished trial and a console of text."""

import io
import threading
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from raysearch.config import parse_train_config
from raysearch.data.dataset import load_dataset
from raysearch.data.shards import open_shards
from raysearch.search.failures import Failures
from raysearch.search.progress import Progress
from raysearch.train.runner import run_trial


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
