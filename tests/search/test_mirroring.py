"""A run at a URI, without Ray: what the driver knows of a trial that wrote to the store."""

import functools

import pytest
import torch

from raysearch.config import TrainConfig
from raysearch.data.dataset import load_dataset
from raysearch.search.mirroring import Fetch
from raysearch.search.searcher import METRIC, StudySearcher
from raysearch.search.study import open_study
from raysearch.search.tuner import outcome
from raysearch.storage.mirror import Mirror
from raysearch.train.curve import read_metrics
from raysearch.train.runner import run_trial
from raysearch.train.trial import TrialFolder


def test_two_objectives_of_a_trial_are_fetched_before_they_are_read(
    tmp_path, shards_folder, write_space, space_text
):
    """Tune tells the searcher that a trial ended, and then the callback that fetches it."""
    text = space_text.replace("sampler: tpe", "sampler: nsga2, objective: [log_loss, params]")
    there, here = Mirror(tmp_path / "machine", f"file://{tmp_path}/store"), tmp_path / "run"
    here.mkdir()
    fetch = Fetch(Mirror(here, there.uri))
    study = open_study(here / "study.log", objectives=2)
    options = {"trials": 1, "epochs": 2, "seed": 0}
    values = functools.partial(outcome, here, fetch)
    searcher = StudySearcher(study, write_space(text), outcome=values, **options)
    config = TrainConfig.model_validate(searcher.suggest("a")["train"])
    folder = TrialFolder(there.local / "trials/0000")
    run_trial(folder.path, 0, config, load_dataset(shards_folder), device=torch.device("cpu"))
    there.push()
    last = read_metrics(folder.metrics)[-1]
    searcher.on_trial_complete("a", last | {"epochs": 2})
    losses = [row[METRIC] for row in read_metrics(folder.metrics)]
    assert study.trials[0].values == [
        pytest.approx(min(losses)),
        folder.read_record().parameters,
    ]
