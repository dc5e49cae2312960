"""`Workers`: its laws with a stand-in for the network, and two real processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from small_runs import make_config, make_dataset, run_fit, timeless
from torch import distributed as dist
from torch import nn
from two_workers import EARLY, TRIAL, deterministic, normalized

from raysearch import metrics
from raysearch.models.freeze import frozen_tensors
from raysearch.probabilities import read_probabilities
from raysearch.train.curve import read_metrics
from raysearch.train.distributed import Workers
from raysearch.train.evaluate import predict_probs
from raysearch.train.loop import Training
from raysearch.train.trial import TrialFolder

ROOT = Path(__file__).parents[2]
COUNTS = st.integers(1, 7)


@given(st.integers(0, 50), COUNTS)
def test_shares_part_the_rows_evenly(rows, count):
    shares = [Workers(rank, count).share(torch.arange(rows)) for rank in range(count)]
    assert sorted(torch.cat(shares).tolist()) == list(range(rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.integers(1, 50), COUNTS, st.data())
def test_gathering_undoes_sharing_on_every_worker(rows, count, data):
    values_VK = torch.rand(rows, 3)
    shares = [Workers(rank, count).share(values_VK) for rank in range(count)]

    def all_gather(parts: list[torch.Tensor], mine: torch.Tensor) -> None:
        assert len({part.shape for part in [*parts, mine]}) == 1  # what the real one demands
        for part, share in zip(parts, shares, strict=True):
            part[: len(share)] = share

    rank = data.draw(st.integers(0, count - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_gather", all_gather)
        patch.setattr(dist, "get_backend", lambda: "gloo")
        gathered = Workers(rank, count).gather_rows(shares[rank], rows)
    assert torch.equal(gathered, values_VK)


def test_one_worker_needs_no_process_group():
    workers, rows, network = Workers(), torch.arange(5), nn.BatchNorm1d(3)
    assert workers.leads
    assert torch.equal(workers.share(rows), rows)
    assert torch.equal(workers.gather_rows(rows, 5), rows)
    assert torch.equal(workers.sum(rows), rows)
    assert workers.wrap(network, torch.device("cpu")) is network
    workers.align_buffers(network)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What two workers left."""
    folder = tmp_path_factory.mktemp("workers")
    here = Path(__file__).parent
    process = subprocess.run(
        [sys.executable, here / "two_workers.py", folder],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr
    return folder


@pytest.fixture(scope="module")
def seen(folder) -> list[dict]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_workers_see_the_same_numbers(seen):
    assert seen[0] == seen[1]


def test_two_workers_train_as_one_does_on_the_same_batches(seen):
    alone = run_fit(deterministic(), make_dataset())
    for end, together in zip(alone, seen[0]["plain"], strict=True):
        assert together == pytest.approx(timeless(end.metrics), abs=1e-4)
    np.testing.assert_allclose(seen[0]["probs_VK"], alone[-1].probs_VK, atol=1e-4)


def test_two_workers_stop_early_in_the_epoch_in_which_one_does(seen):
    alone = run_fit(deterministic(**EARLY), make_dataset())
    assert 1 < len(alone) == len(seen[0]["early"]) < EARLY["epochs"]
    for end, together in zip(alone, seen[0]["early"], strict=True):
        assert together == pytest.approx(timeless(end.metrics), abs=1e-3)


def test_batchnorm_augmentation_and_uneven_shares_do_not_depend_on_the_number_of_workers(seen):
    alone = run_fit(normalized(), make_dataset())
    for end, together in zip(alone, seen[0]["uneven"], strict=True):
        assert together == pytest.approx(timeless(end.metrics), abs=2e-3)


def test_two_workers_that_split_their_batches_train_as_one_that_does_not(seen):
    alone = run_fit(deterministic(), make_dataset())
    for end, together in zip(alone, seen[0]["parts"], strict=True):
        assert together == pytest.approx(timeless(end.metrics), abs=1e-4)


def test_validation_scores_are_those_of_all_rows_in_order(seen):
    labels_V = make_dataset().validation.labels_N.numpy()
    last, probs_VK = seen[0]["plain"][-1], np.array(seen[0]["probs_VK"], np.float32)
    assert len(probs_VK) == len(labels_V) == 45  # which two workers cannot share evenly
    assert last["validation_log_loss"] == metrics.log_loss(probs_VK, labels_V)
    assert last["validation_accuracy"] == metrics.accuracy(probs_VK, labels_V)
    assert last["validation_macro_f1"] == metrics.macro_f1(probs_VK, labels_V)


def test_frozen_layers_stand_still_under_two_workers(seen):
    config = make_config("vgg", epochs=1, freeze_depth=2)
    start = Training(config, make_dataset(), torch.device("cpu"), Workers())
    frozen, before = frozen_tensors(start.network), start.network.state_dict()
    after = {name: torch.tensor(values) for name, values in seen[0]["frozen"].items()}
    assert len(frozen) == 2 * 6
    for name, values in after.items():
        assert torch.equal(values, before[name]) == (name in frozen), name


def test_only_the_leader_writes(folder):
    assert (folder / "whole-0" / "status.json").exists()
    assert not (folder / "whole-1").exists()


def test_kept_probabilities_are_those_of_the_kept_weights(folder):
    """Both halves of validation."""
    files, dataset = TrialFolder(folder / "whole-0"), make_dataset()
    preprocess, network = files.read_record().build()
    kept = read_probabilities(files.validation)
    assert kept.epoch == TRIAL.epochs
    for name, file in (("ema", "model.safetensors"), ("raw", "raw.safetensors")):
        network.load_state_dict(load_file(files.best / file))
        probs_VK = predict_probs(network, preprocess, dataset.validation.images_NCHW)
        np.testing.assert_allclose(kept.candidates[name], probs_VK, atol=1e-3)  # float16


def test_resumed_workers_repeat_the_uninterrupted_ones(folder, seen):
    assert [row["epoch"] for row in seen[0]["resumed"]] == [3]
    assert seen[0]["resumed"] == seen[0]["whole"][2:]
    rows = {name: read_metrics(folder / name / "metrics.csv") for name in ("whole-0", "resumed")}
    assert [timeless(r) for r in rows["resumed"]] == [timeless(r) for r in rows["whole-0"]]
