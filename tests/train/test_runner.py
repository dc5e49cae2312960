"""`run_trial`: what is on disk when, how trials end, and that nothing costs more than an epoch."""

import dataclasses
import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from killed_trials import CONFIG as KILLED
from safetensors.torch import load_file
from small_runs import (
    Stopped,
    assert_bitwise_equal,
    make_config,
    make_dataset,
    timeless,
)

from raysearch.errors import ConfigError
from raysearch.files import remove_stale
from raysearch.probabilities import read_probabilities
from raysearch.train.checkpoint import load_state
from raysearch.train.curve import METRICS, read_metrics, write_metrics
from raysearch.train.evaluate import predict_probs
from raysearch.train.loop import Training
from raysearch.train.runner import run_trial
from raysearch.train.trial import TrialFolder

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
SHIFTED = {"mirror": 0.5, "shift": 0.1}


def run(folder: Path, config=None, dataset=None, **options) -> str:
    dataset = dataset or make_dataset()
    return run_trial(folder, 7, config or make_config(), dataset, device=CPU, **options)


def stop_at(epoch: int):
    def report(metrics: dict) -> None:
        if metrics["epoch"] == epoch:
            raise Stopped(f"asked to in epoch {epoch}")

    return report


def written(reported: list[dict]) -> list[dict]:
    """What of the metrics that were reported is in metrics.csv."""
    return [{name: metrics[name] for name in METRICS} for metrics in reported]


def score(monkeypatch, losses: list[float]) -> None:
    """Let the validation log losses of the epochs be ``losses``."""
    run_epoch = Training.run_epoch

    def scored(self):
        end = run_epoch(self)
        loss = self.losses[-1] = losses[end.metrics["epoch"] - 1]
        return dataclasses.replace(end, metrics=end.metrics | {"validation_log_loss": loss})

    monkeypatch.setattr(Training, "run_epoch", scored)


def assert_same_results(folder: Path, expected: Path) -> None:
    """Equal but for the times."""
    mine, theirs = TrialFolder(folder), TrialFolder(expected)
    rows = [timeless(row) for row in read_metrics(mine.metrics)]
    assert rows == [timeless(row) for row in read_metrics(theirs.metrics)]
    assert mine.read_status() == theirs.read_status()
    assert mine.config.read_text() == theirs.config.read_text()
    assert mine.validation.read_bytes() == theirs.validation.read_bytes()
    for file in sorted(theirs.best.iterdir()):
        assert_bitwise_equal(load_file(mine.best / file.name), load_file(file))
    states = [load_state(files.checkpoint) for files in (mine, theirs)]
    assert_bitwise_equal(states[0]["network"], states[1]["network"])
    assert_bitwise_equal(states[0]["average"], states[1]["average"])


def test_epoch_is_on_disk_before_it_is_reported(tmp_path):
    files, reported = TrialFolder(tmp_path / "0007"), []

    def report(metrics: dict) -> None:
        reported.append(metrics)
        epoch = metrics["epoch"]
        assert epoch == len(reported)
        assert files.read_status() == {"status": "running", "epochs": epoch, "error": ""}
        assert load_state(files.checkpoint)["epoch"] == epoch
        assert read_metrics(files.metrics) == written(reported)
        assert metrics["epochs"] == 3
        assert files.validation.exists() and (files.best / "model.safetensors").exists()

    assert run(files.path, report=report) == "completed"
    assert files.read_status() == {"status": "completed", "epochs": 3, "error": ""}
    assert read_metrics(files.metrics) == written(reported) and len(reported) == 3
    assert not list(files.path.rglob("*.tmp"))


def test_record_builds_the_trained_network_again(tmp_path):
    dataset = make_dataset()
    run(tmp_path, make_config("vgg", epochs=1), dataset)
    record = TrialFolder(tmp_path).read_record()
    assert (record.trial, record.classes, record.shape) == (7, dataset.classes, dataset.shape)
    assert (record.mean, record.std) == (dataset.mean, dataset.std)
    assert record.data_fingerprint == dataset.fingerprint
    _, network = record.build()
    assert record.parameters == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("precision", "label"), [("fp32", "fp32"), ("bf16", "bf16")])
def test_kept_probabilities_are_those_of_the_kept_weights(tmp_path, precision, label):
    dataset, files = make_dataset(), TrialFolder(tmp_path)
    run(tmp_path, make_config("vgg", epochs=2, precision=precision), dataset)
    kept = read_probabilities(files.validation)
    assert (kept.split, kept.digest) == ("validation", dataset.validation.digest)
    assert kept.classes == dataset.classes
    assert set(kept.precision.values()) == {label}
    preprocess, network = files.read_record().build()
    files_of = {"ema": "model", "raw": "raw", "last": "last"}
    names = {name: (file, 1) for name, file in files_of.items()}
    names |= {f"{name}_mirror": (file, 2) for name, file in files_of.items()}
    assert kept.candidates.keys() <= names.keys()
    for name, probs_VK in kept.candidates.items():
        weights, views = names[name]
        network.load_state_dict(load_file(files.best / f"{weights}.safetensors"))
        images = dataset.validation.images_NCHW
        dtype = torch.bfloat16 if precision == "bf16" else None
        expected = predict_probs(network, preprocess, images, views=views, dtype=dtype)
        np.testing.assert_allclose(probs_VK, expected, atol=1e-3 if dtype is None else 0.02)


@pytest.mark.parametrize(
    ("losses", "best", "raw"),
    [([3, 2, 1], 3, True), ([1, 2, 3], 1, False), ([3, 1, 2], 2, False), ([2, 1, 1], 2, False)],
)
def test_best_epoch_is_kept_with_raw_weights_where_it_is_the_last_and_the_last_where_not(
    tmp_path, monkeypatch, losses, best, raw
):
    score(monkeypatch, losses)
    averages = []
    monkeypatch.setattr(
        "raysearch.train.recorder.save_state",
        lambda folder, state: averages.append({k: v.clone() for k, v in state["average"].items()}),
    )
    run(tmp_path)
    files = TrialFolder(tmp_path)
    kept = read_probabilities(files.validation)
    other = "raw" if raw else "last"
    names = {"ema", "ema_mirror", other, f"{other}_mirror"}
    assert (kept.epoch, set(kept.candidates)) == (best, names)
    kept_files = {path.stem for path in files.best.iterdir()}
    assert kept_files == {"model", other}
    assert_bitwise_equal(load_file(files.best / "model.safetensors"), averages[best - 1])
    if not raw:
        assert_bitwise_equal(load_file(files.best / "last.safetensors"), averages[-1])


def test_divergence_keeps_the_epochs_before_it_and_says_where(tmp_path, monkeypatch):
    train = Training._train

    def diverge(self, epoch):
        return (float("nan"), 0.0, 1) if epoch == 3 else train(self, epoch)

    monkeypatch.setattr(Training, "_train", diverge)
    assert run(tmp_path) == "diverged"
    files = TrialFolder(tmp_path)
    status = files.read_status()
    assert (status["status"], status["epochs"]) == ("diverged", 2)
    assert "nan in epoch 3; try a lower lr" in status["error"]
    assert [row["epoch"] for row in read_metrics(files.metrics)] == [1, 2]
    assert read_probabilities(files.validation).epoch <= 2


def test_learning_rate_far_too_high_diverges(tmp_path):
    assert run(tmp_path, make_config(lr=1e6, batch_size=8)) == "diverged"
    status = TrialFolder(tmp_path).read_status()
    assert status["epochs"] == 0 and "epoch 1" in status["error"]


def exhaust(monkeypatch, *exhausted: int) -> None:
    """Let memory run out in these steps, counted from 1; an epoch has three."""
    step, steps = Training._step, itertools.count(1)

    def run_step(self, *arguments):
        if next(steps) in exhausted:
            raise torch.OutOfMemoryError("tried to allocate 9 GiB")
        return step(self, *arguments)

    monkeypatch.setattr(Training, "_step", run_step)


def test_trial_that_runs_out_of_memory_goes_on_with_batches_in_two_parts(tmp_path, monkeypatch):
    config = make_config(model={"name": "mlp", "hidden": [16], "dropout": 0.0})
    run(tmp_path / "whole", config)
    exhaust(monkeypatch, 5)  # in the second epoch
    assert run(tmp_path / "split", config) == "completed"
    split = TrialFolder(tmp_path / "split")
    assert split.read_status() == {"status": "completed", "epochs": 3, "error": ""}
    assert split.read_record().execution.accumulate == 2
    assert split.read_record().train == config
    rows = read_metrics(split.metrics)
    for row, whole in zip(rows, read_metrics(tmp_path / "whole" / "metrics.csv"), strict=True):
        assert timeless(row) == pytest.approx(timeless(whole), abs=1e-5)


def test_process_that_goes_on_with_split_batches_splits_them_too(tmp_path, monkeypatch):
    exhaust(monkeypatch, 2)
    with pytest.raises(Stopped):
        run(tmp_path, report=stop_at(1))
    parts = []
    backward = Training._backward
    monkeypatch.setattr(
        Training,
        "_backward",
        lambda self, *arguments: parts.append(self.accumulate) or backward(self, *arguments),
    )
    assert run(tmp_path) == "completed"
    assert set(parts) == {2}


def test_running_out_of_memory_twice_is_a_status_that_names_the_batch_size(tmp_path, monkeypatch):
    exhaust(monkeypatch, 5, 7)
    assert run(tmp_path) == "out_of_memory"
    status = TrialFolder(tmp_path).read_status()
    assert (status["status"], status["epochs"]) == ("out_of_memory", 1)
    told = "batch_size 32 does not fit on cpu, not even in 2 parts. Try batch_size 16. ("
    assert status["error"].startswith(told)
    assert "tried to allocate 9 GiB" in status["error"]


def test_array_too_large_for_the_machine_is_out_of_memory_too(tmp_path, monkeypatch):
    monkeypatch.setattr(Training, "_step", lambda *_: torch.empty(2**60, dtype=torch.uint8))
    assert run(tmp_path) == "out_of_memory"
    assert TrialFolder(tmp_path).read_status()["status"] == "out_of_memory"


def test_early_end_is_completed_and_says_why(tmp_path, monkeypatch):
    score(monkeypatch, [3, 1, 2, 2, 0])
    reported, config = [], make_config(epochs=5, early_stopping=2)
    assert run(tmp_path, config, report=reported.append) == "completed"
    assert [(m["epoch"], m["epochs"]) for m in reported] == [(1, 5), (2, 5), (3, 5), (4, 4)]
    files = TrialFolder(tmp_path)
    why = "early_stopping 2: validation log loss was lowest after epoch 2; 5 epochs were planned"
    expected = {"status": "completed", "epochs": 4, "error": "", "stopped": why}
    assert files.read_status() == expected
    kept = read_probabilities(files.validation)
    names = {"ema", "ema_mirror", "last", "last_mirror"}
    assert (kept.epoch, set(kept.candidates)) == (2, names)
    assert run(tmp_path, config, report=stop_at(5)) == "completed"  # and it stays ended
    assert files.read_status() == expected


@pytest.mark.parametrize("patience", [0, 2])
def test_run_that_was_to_stand_after_an_epoch_was_not_ended_early(tmp_path, patience):
    config = make_config(early_stopping=patience)
    assert run(tmp_path, config, until=1) == "completed"
    assert TrialFolder(tmp_path).read_status() == {"status": "completed", "epochs": 1, "error": ""}


@pytest.mark.parametrize("stopped_after", [1, 3])
def test_early_end_comes_in_the_same_epoch_after_a_restart(tmp_path, monkeypatch, stopped_after):
    score(monkeypatch, [3, 1, 2, 2, 0])
    config = make_config(epochs=5, early_stopping=2)
    with pytest.raises(Stopped):
        run(tmp_path, config, report=stop_at(stopped_after))
    assert run(tmp_path, config) == "completed"
    assert TrialFolder(tmp_path).read_status()["epochs"] == 4


def test_other_exceptions_pass_through_and_are_written_down(tmp_path):
    with pytest.raises(Stopped):
        run(tmp_path, report=stop_at(2))
    expected = {"status": "failed", "epochs": 2, "error": "Stopped: asked to in epoch 2"}
    assert TrialFolder(tmp_path).read_status() == expected


def test_network_that_cannot_be_built_is_a_failed_trial(tmp_path):
    config = make_config(model={"name": "vgg", "depth": 99})
    with pytest.raises(ConfigError, match="depth"):
        run(tmp_path, config)
    status = TrialFolder(tmp_path).read_status()
    assert status["status"] == "failed" and "depth must be from 4 to 13" in status["error"]


def test_global_generators_are_left_as_they_were(tmp_path):
    before = torch.get_rng_state()
    run(tmp_path, make_config(epochs=1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An uninterrupted trial, dropout and augmentation on."""
    folder = tmp_path_factory.mktemp("whole")
    torch.set_num_threads(1)
    assert run(folder, make_config("vgg", augment=SHIFTED)) == "completed"
    return folder


def test_interrupted_trial_goes_on_and_ends_the_same(tmp_path, whole):
    config, reported = make_config("vgg", augment=SHIFTED), []
    with pytest.raises(Stopped):
        run(tmp_path, config, report=stop_at(2))
    assert run(tmp_path, config, report=reported.append) == "completed"
    assert [metrics["epoch"] for metrics in reported] == [3]
    assert_same_results(tmp_path, whole)


@pytest.mark.parametrize("left", [0, 1, 100, 0.5, 0.99])
def test_truncated_checkpoint_costs_epochs_not_the_trial(tmp_path, whole, left):
    config, reported = make_config("vgg", augment=SHIFTED), []
    with pytest.raises(Stopped):
        run(tmp_path, config, report=stop_at(2))
    state = tmp_path / "checkpoint" / "state.pt"
    size = state.stat().st_size
    os.truncate(state, left if isinstance(left, int) else int(left * size))
    assert run(tmp_path, config, report=reported.append) == "completed"
    assert [metrics["epoch"] for metrics in reported] == [1, 2, 3]
    assert_same_results(tmp_path, whole)


def test_finished_trial_is_left_as_it_is(tmp_path):
    run(tmp_path)
    files = TrialFolder(tmp_path)
    kept = [files.metrics, files.validation, files.best / "model.safetensors"]
    before = [path.read_bytes() for path in kept]
    assert run(tmp_path, report=stop_at(1)) == "completed"
    assert [path.read_bytes() for path in kept] == before
    assert files.read_status() == {"status": "completed", "epochs": 3, "error": ""}


def test_near_tie_is_decided_the_same_after_a_restart(tmp_path, monkeypatch):
    """0.1 + 0.2 and 0.3 differ in the last of 17 digits."""
    score(monkeypatch, [0.3, 0.1 + 0.2, 1])
    with pytest.raises(Stopped):
        run(tmp_path, report=stop_at(1))
    assert run(tmp_path) == "completed"
    assert read_probabilities(TrialFolder(tmp_path).validation).epoch == 1


def test_trial_killed_at_any_write_goes_on_and_ends_the_same(tmp_path):
    process = subprocess.run(
        [sys.executable, Path(__file__).with_name("killed_trials.py"), tmp_path],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr
    *killed, whole = sorted(path for path in tmp_path.iterdir())
    assert TrialFolder(whole).read_status()["status"] == "completed"
    # "running" and config.json; weights, probabilities, metrics, state and status in each of two
    # epochs, and raw weights in the last; "completed".
    assert len(killed) == 14
    assert len(list(tmp_path.rglob(".*.tmp"))) == 14
    assert len(remove_stale(tmp_path)) == 14
    assert not list(tmp_path.rglob(".*.tmp"))
    for folder in killed:
        assert TrialFolder(folder).read_status()["status"] in ("pending", "running"), folder
        status = run_trial(folder, 0, KILLED, make_dataset(), device=CPU)
        assert status == "completed", folder
        assert_same_results(folder, whole)


def test_metrics_come_back_exactly(tmp_path):
    assert read_metrics(tmp_path / "absent.csv") == []
    rows = [dict.fromkeys(METRICS, 1 / 3) | {"epoch": epoch} for epoch in (1, 2)]
    write_metrics(tmp_path / "metrics.csv", rows)
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == ",".join(METRICS)
    read = read_metrics(tmp_path / "metrics.csv")
    assert read == rows and all(isinstance(row["epoch"], int) for row in read)
