"""A trial that is trained again from its record alone."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from small_runs import CLASSES, make_config, patterns

from raysearch.data.dataset import load_dataset
from raysearch.data.shards import write_shards
from raysearch.errors import ConfigError
from raysearch.files import write_json
from raysearch.train.curve import read_metrics, write_metrics
from raysearch.train.fork import begin_from
from raysearch.train.repeat import compare, repeat_trial
from raysearch.train.runner import run_trial
from raysearch.train.trial import Execution, Fork, TrialFolder

CPU = torch.device("cpu")
RANDOM = {"augment": {"mirror": 0.5, "shift": 0.1, "noise": 0.05}, "mixup": 0.2, "seed": 7}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("repeat") / "data"
    folder.mkdir()
    images, labels = patterns(120, 0, contrast=60)
    rows = {"train": range(96), "validation": range(96, 120)}
    write_shards(folder, images, labels, [f"{i}.png" for i in range(120)], rows, CLASSES, {})
    return folder


@pytest.fixture
def original(tmp_path, data) -> TrialFolder:
    folder = tmp_path / "run" / "trials" / "0007"
    run_trial(folder, 7, make_config("vgg", **RANDOM), load_dataset(data), device=CPU)
    return TrialFolder(folder)


def repeat(original: TrialFolder, data: Path, folder: Path) -> tuple[dict, str]:
    said = io.StringIO()
    return repeat_trial(original, data, folder, CPU, Console(file=said, width=200)), said.getvalue()


def test_curve_is_the_same_to_the_last_digit(tmp_path, data, original):
    result, _ = repeat(original, data, tmp_path / "again")
    assert (result["compared_epochs"], result["differences"]) == (3, [])
    assert result["status"] == "completed"


def test_trial_that_was_stopped_early_is_compared_as_far_as_it_went(tmp_path, data, original):
    write_metrics(original.metrics, read_metrics(original.metrics)[:2])
    result, _ = repeat(original, data, tmp_path / "again")
    assert (result["compared_epochs"], result["differences"]) == (2, [])
    assert len(read_metrics(tmp_path / "again" / "metrics.csv")) == 3


def test_trial_that_began_where_others_stood_is_repeated_with_their_epochs(tmp_path, data):
    dataset, trials = load_dataset(data), tmp_path / "run" / "trials"
    run = {"dataset": dataset, "device": CPU, "snapshot_every": 1}
    begun = make_config("vgg", **RANDOM | {"epochs": 4})
    run_trial(trials / "0000", 0, begun, **run)
    for number, lr in ((1, 0.02), (2, 0.08)):
        files, fork = TrialFolder(trials / f"{number:04d}"), Fork(number - 1, number)
        begin_from(files, TrialFolder(trials / f"{number - 1:04d}").snapshot(number))
        config = begun.model_copy(update={"lr": lr, "seed": number})
        run_trial(files.path, number, config, forked_from=fork, **run)
    result, said = repeat(TrialFolder(trials / "0002"), data, tmp_path / "again")
    assert "ended by" not in said
    assert (result["compared_epochs"], result["differences"]) == (4, [])
    assert "first trial 1, up to epoch 2" in said and "first trial 0, up to epoch 1" in said
    first = tmp_path / "again" / "from"
    assert [len(read_metrics(f / "metrics.csv")) for f in (first, first / "from")] == [2, 1]
    again, _ = repeat(TrialFolder(trials / "0002"), data, tmp_path / "again")
    assert again["differences"] == []


def test_batches_in_parts_are_repeated_in_parts(tmp_path, data):
    folder = tmp_path / "run" / "trials" / "0000"
    config = make_config("vgg", **RANDOM)
    run_trial(folder, 0, config, load_dataset(data), device=CPU, accumulate=2)
    result, _ = repeat(TrialFolder(folder), data, tmp_path / "again")
    assert result["differences"] == []
    assert TrialFolder(tmp_path / "again").read_record().execution.accumulate == 2


def test_other_code_or_data_would_be_seen(tmp_path, data, original):
    rows = read_metrics(original.metrics)
    rows[1]["train_loss"] += 1e-15
    write_metrics(original.metrics, rows)
    result, _ = repeat(original, data, tmp_path / "again")
    (found,) = result["differences"]
    assert (found["metric"], found["epoch"], found["was"]) == (
        "train_loss",
        2,
        rows[1]["train_loss"],
    )


def change(original: TrialFolder, **changes) -> None:
    values = original.read_record().to_json()
    write_json(original.config, values | changes)


def test_what_cannot_be_repeated_is_refused(tmp_path, data, original):
    change(original, execution=vars(Execution(workers=2)))
    with pytest.raises(ConfigError, match="trained by 2 workers"):
        repeat(original, data, tmp_path / "again")
    change(original, execution=vars(Execution()), data_fingerprint="other")
    with pytest.raises(ConfigError, match="on other data"):
        repeat(original, data, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_other_hardware_is_named(tmp_path, data, original):
    change(original, execution=vars(Execution(device="NVIDIA Abacus")))
    _, said = repeat(original, data, tmp_path / "again")
    assert "the trial was trained on NVIDIA Abacus" in said


def test_comparison_leaves_out_times_and_names_the_first_difference_of_each_metric():
    row = dict.fromkeys(
        ("train_loss", "train_accuracy", "validation_log_loss", "validation_accuracy"), 0.5
    ) | {"validation_macro_f1": 0.5, "lr": 0.1}
    before = [row | {"epoch": n, "seconds": 1.0, "images_per_second": 9.0} for n in (1, 2, 3)]
    after = [dict(r, seconds=2.0, images_per_second=4.0) for r in before]
    assert compare(before, after) == []
    after[1]["lr"] = after[2]["lr"] = 0.2
    assert compare(before, after[:2]) == compare(before, after)
    assert compare(before, after) == [{"metric": "lr", "epoch": 2, "was": 0.1, "is": 0.2}]
