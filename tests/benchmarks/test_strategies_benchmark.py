"""The comparison of strategies: its searches are valid, and its table tells what had been found
at each of four times."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from raysearch.data.dataset import load_dataset
from raysearch.data.shards import open_shards, write_shards
from raysearch.space import load_space
from raysearch.train.curve import read_metrics
from raysearch.train.runner import run_trial
from raysearch.train.trial import TrialFolder

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "strategies.py"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    spec = importlib.util.spec_from_file_location("strategies_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    labels_N = rng.integers(0, 3, 200)
    images = rng.integers(0, 160, (200, 1, 24, 24)) + 6 * labels_N[:, None, None, None]
    rows = {"train": np.arange(120), "validation": np.arange(120, 200)}
    folder = tmp_path / "shards"
    folder.mkdir()
    names = [f"{row}.png" for row in range(200)]
    write_shards(folder, images.astype(np.uint8), labels_N, names, rows, ["a", "b", "c"], {})
    return folder


def test_every_strategy_is_a_space_that_searches_the_same_dimensions(benchmark, tmp_path):
    spaces = {}
    for name, (sampler, scheduler, known) in benchmark.STRATEGIES.items():
        path = tmp_path / "space.yaml"
        values = {"epochs": 6, "sampler": sampler, "scheduler": scheduler}
        path.write_text(benchmark.SPACE.format(**values) + known)
        spaces[name] = load_space(path)
        search = spaces[name].search
        assert (search.sampler, search.scheduler, search.epochs) == (sampler, scheduler, 6)
    dimensions = {str(space.dimensions) for space in spaces.values()}
    assert len(dimensions) == 1
    assert [len(space.known_values) for space in spaces.values()] == [0, 0, 0, 0, 1]


def test_quarter_has_a_quarter_of_each_class_and_all_of_validation(benchmark, data, tmp_path):
    whole = open_shards(data)
    part = open_shards(benchmark.quarter(data, tmp_path / "quarter"))
    counts = [np.bincount(s.split("train").labels_N, minlength=3) for s in (whole, part)]
    assert counts[1].tolist() == [round(n / 4) for n in counts[0]]
    for shards in (whole, part):
        assert len(shards.split("validation")) == 80
    images = [np.asarray(s.split("validation").images_NCHW) for s in (whole, part)]
    assert np.array_equal(*images)


def test_rows_tell_the_best_trial_of_those_that_had_ended(benchmark, data, tmp_path):
    run, dataset = tmp_path / "run", load_dataset(data)
    space = tmp_path / "space.yaml"
    values = {"epochs": 2, "sampler": "random", "scheduler": "none"}
    space.write_text(benchmark.SPACE.format(**values) + benchmark.KNOWN)
    config = load_space(space).build(load_space(space).known_values[0], epochs=2, seed=0)
    losses = []
    for trial in range(3):
        folder = TrialFolder(run / "trials" / f"{trial:04d}")
        smaller = config.model_copy(update={"seed": trial, "batch_size": 16})
        run_trial(folder.path, trial, smaller, dataset, device=torch.device("cpu"))
        for file, seconds in ((folder.config, 0), (folder.status, 10 * (trial + 1))):
            os.utime(file, (1e9 + seconds, 1e9 + seconds))
        losses.append([row["validation_log_loss"] for row in read_metrics(folder.metrics)])
    rows = list(benchmark.found(run, open_shards(data)))
    # Of 30 seconds, trials end after a third, two thirds and all of them.
    assert [(row["share_of_time"], row["ended"]) for row in rows] == [(0.5, 1), (0.75, 2), (1, 3)]
    assert [row["epochs"] for row in rows] == [2, 4, 6]
    best = [min(sum(losses[:ended], [])) for ended in (1, 2, 3)]
    assert [row["best_log_loss"] for row in rows] == [round(loss, 4) for loss in best]
    assert all(0 < row["nested_log_loss"] < 3 for row in rows)
    assert rows[-1]["completed"] == 3
