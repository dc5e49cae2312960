"""`train_one`: one configuration in a folder, gone on with, or refused."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from small_runs import CLASSES, make_config, patterns

from raysearch.data.shards import write_shards
from raysearch.errors import ConfigError, DataError, RunError
from raysearch.train import recorder
from raysearch.train.curve import read_metrics
from raysearch.train.loop import Training
from raysearch.train.single import train_one
from raysearch.train.trial import TrialFolder

CPU = torch.device("cpu")


def make_shards(folder: Path, seed: int = 0) -> Path:
    folder.mkdir()
    images, labels = patterns(120, seed, contrast=60)
    rows = {"train": range(96), "validation": range(96, 120)}
    write_shards(folder, images, labels, [f"{i}.png" for i in range(120)], rows, CLASSES, {})
    return folder


@pytest.fixture
def data(tmp_path) -> Path:
    return make_shards(tmp_path / "data")


def train(config, data: Path, folder: Path) -> tuple[dict, list[str]]:
    """The result and the lines shown, the first of which says where the images are."""
    shown = io.StringIO()
    result = train_one(config, data, folder, CPU, Console(file=shown, width=200))
    images, *lines = shown.getvalue().splitlines()
    assert "images (" in images
    return result, lines


def test_best_epoch_is_returned_and_every_epoch_shown(tmp_path, data):
    result, lines = train(make_config(), data, tmp_path / "out")
    rows = read_metrics(tmp_path / "out" / "metrics.csv")
    best = min(rows, key=lambda row: row["validation_log_loss"])
    about = {"status": "completed", "folder": str(tmp_path / "out")}
    about["parameters"] = 256 * 16 + 16 + 16 * 3 + 3
    assert result == best | about
    assert [line.split()[:2] for line in lines] == [["epoch", f"{n}/3"] for n in (1, 2, 3)]


@pytest.mark.parametrize(("side", "said"), [(16, ""), (24, ", resized to 24 x 24 pixels")])
def test_size_that_images_are_resized_to_is_said(tmp_path, data, side, said):
    shown = io.StringIO()
    config = make_config(image_size=side, epochs=1)
    train_one(config, data, tmp_path / "out", CPU, Console(file=shown, width=200))
    first = shown.getvalue().splitlines()[0]
    assert first == f"96 + 24 images (0 MB) on cpu{said}"


def test_finished_run_gives_its_result_again(tmp_path, data):
    first, _ = train(make_config(), data, tmp_path / "out")
    again, lines = train(make_config(), data, tmp_path / "out")
    assert (again, lines) == (first, [])


def test_interrupted_run_goes_on(tmp_path, data, monkeypatch):
    whole, _ = train(make_config(), data, tmp_path / "whole")

    def interrupt(self, end):
        record(self, end)
        if end.metrics["epoch"] == 2:
            raise KeyboardInterrupt

    record = recorder.Recorder.record
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(recorder.Recorder, "record", interrupt)
        train(make_config(), data, tmp_path / "out")
    result, lines = train(make_config(), data, tmp_path / "out")
    assert len(lines) == 1
    for name in ("epoch", "validation_log_loss", "validation_accuracy", "train_loss"):
        assert result[name] == whole[name]


def test_other_configuration_or_data_is_refused_and_nothing_changed(tmp_path, data):
    train(make_config(), data, tmp_path / "out")
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match="another configuration; choose another --out"):
        train(make_config(lr=0.01), data, tmp_path / "out")
    with pytest.raises(ConfigError, match="on other data; choose another --out"):
        train(make_config(), make_shards(tmp_path / "more", seed=1), tmp_path / "out")
    after = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert after == before


def test_divergence_is_failed_work(tmp_path, data):
    with pytest.raises(RunError, match=r"^diverged: .* in epoch 1; try a lower lr") as caught:
        train(make_config(lr=1e6, batch_size=8), data, tmp_path / "out")
    assert caught.value.exit_code == 1


def test_running_out_of_memory_is_failed_work(tmp_path, data, monkeypatch):
    def exhaust(self, *arguments):
        raise torch.OutOfMemoryError("tried to allocate 9 GiB")

    monkeypatch.setattr(Training, "_step", exhaust)
    with pytest.raises(RunError, match="^out_of_memory: batch_size 32 does not fit on cpu"):
        train(make_config(), data, tmp_path / "out")


def test_folder_without_data_is_named_before_anything_is_written(tmp_path):
    with pytest.raises(DataError, match="absent"):
        train(make_config(), tmp_path / "absent", tmp_path / "out")
    assert not TrialFolder(tmp_path / "out").path.exists()
