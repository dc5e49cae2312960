"""An ensemble whose members were trained again on train and validation, and what it says of it."""

import json
import shutil

import numpy as np
import pytest
from made_run import make_data, make_run, trial_folder
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from raysearch.data.dataset import channel_statistics, load_dataset, load_merged
from raysearch.data.shards import open_shards, write_shards
from raysearch.ensemble import refit
from raysearch.ensemble.artifact import load_artifact
from raysearch.ensemble.build import build_ensemble
from raysearch.ensemble.evaluation import evaluate
from raysearch.ensemble.predictor import Predictor
from raysearch.errors import RunError
from raysearch.train.curve import read_metrics


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run with its ensemble (in ``honest``) and its refit, as the command makes them."""
    folder = tmp_path_factory.mktemp("refit")
    data = make_data(folder / "data")
    run = make_run(folder / "run", data, epochs=3)
    honest = build_ensemble(run, out=folder / "honest")
    lines = []
    report = build_ensemble(run, refit=True, on_progress=lines.append)
    return run, honest, report, lines


def test_merged_data_are_train_and_then_validation(tmp_path):
    data = make_data(tmp_path / "data", train=30, validation=25)
    apart = load_dataset(data, classes=["stripes", "cross"])
    merged = load_merged(data, "cpu", classes=["stripes", "cross"])
    count = len(apart.train)
    assert len(merged.train) == count + len(apart.validation)
    for part, rows in ((apart.train, slice(count)), (apart.validation, slice(count, None))):
        np.testing.assert_array_equal(merged.train.images_NCHW[rows], part.images_NCHW)
        np.testing.assert_array_equal(merged.train.labels_N[rows], part.labels_N)
    assert merged.validation.digest == apart.validation.digest
    assert (merged.mean, merged.std) == channel_statistics(merged.train.images_NCHW)
    assert merged.mean != apart.mean


def test_the_vote_and_the_scores_are_the_selections_and_the_weights_are_new(made):
    run, honest, report, lines = made
    for name in ("members", "validation", "nested", "baselines"):
        assert getattr(report, name) == getattr(honest, name)
    assert honest.refit is None and report.refit["images"] == 240 + 150
    before, after = load_artifact(honest.path), load_artifact(run / "ensemble")
    assert after.manifest.members == before.manifest.members
    assert after.manifest.temperature == before.manifest.temperature
    for folder in after.manifest.folders:
        old, new = ((a.path / folder / "model.safetensors").read_bytes() for a in (before, after))
        assert old != new
        config = json.loads((after.path / folder / "config.json").read_text())
        assert (
            config["mean"] != json.loads((before.path / folder / "config.json").read_text())["mean"]
        )
    epochs = {}
    for member in report.members:
        trained = 3 if member["candidate"].startswith("last") else best_epoch(run, member["trial"])
        epochs[str(member["trial"])] = max(trained, epochs.get(str(member["trial"]), 0))
    assert report.refit["epochs"] == epochs
    assert any("epoch 1 done" in line for line in lines)


def best_epoch(run, trial):
    """By the trial's curve."""
    rows = read_metrics(trial_folder(run, trial).metrics)
    return min(rows, key=lambda row: row["validation_log_loss"])["epoch"]


def test_the_artifact_says_that_it_has_seen_validation(made):
    run, honest, report, _ = made
    manifest = load_artifact(run / "ensemble").manifest
    assert manifest.trained_on == ("train", "validation") and manifest.refitted
    assert load_artifact(honest.path).manifest.trained_on == ("train",)
    assert manifest.scores["nested"] == honest.nested
    assert manifest.scores["selected"]["accuracy"] == pytest.approx(honest.validation["accuracy"])
    assert manifest.scores["exported"]["largest_difference"] <= 1e-4
    card = (run / "ensemble" / "README.md").read_text()
    assert "trained again on train and validation" in card and "before the refit" in card
    assert "which it has learned: no score" in card
    confusion = manifest.scores["selected"]["confusion"]
    assert f"| {' | '.join(map(str, [manifest.classes[0], *confusion[0]]))} |" in card


def test_twins_of_validation_images_count_as_learned_after_a_refit(made, tmp_path):
    run, honest, _, _ = made
    shards = open_shards(run.parent / "data")
    parts = [shards.split(name) for name in ("train", "validation")]
    images_NCHW = np.concatenate([part.images_NCHW for part in parts])
    labels_N = np.concatenate([part.labels_N for part in parts])
    rows = {"train": np.arange(240), "validation": np.arange(240, 390), "test": np.arange(250, 280)}
    (tmp_path / "data").mkdir()
    names = [f"{row}.png" for row in range(390)]
    write_shards(tmp_path / "data", images_NCHW, labels_N, names, rows, shards.classes, {})
    tested = open_shards(tmp_path / "data")
    assert evaluate(Predictor(honest.path), tested, "test")["train_twins"] == 0
    again = evaluate(Predictor(run / "ensemble"), tested, "test")
    assert again["train_twins"] == 30 and again["accuracy_without_train_twins"] is None


def test_a_refit_that_went_wrong_leaves_the_former_ensemble(made, monkeypatch):
    run, *_ = made
    before = (run / "ensemble" / "SHA256SUMS").read_text()
    real = refit.refit_members

    def confused(*arguments):
        found = real(*arguments)
        for file in {member.weights_file for member in found.members}:
            tensors = load_file(file)
            save_file({k: -v if len(v) == 3 else v for k, v in tensors.items()}, file)
        return found

    monkeypatch.setattr(refit, "refit_members", confused)
    with pytest.raises(RunError, match="'refit'.*trained on"):
        build_ensemble(run, refit=True)
    assert (run / "ensemble" / "SHA256SUMS").read_text() == before


def test_the_command_says_that_the_scores_are_from_before(made):
    from typer import Typer

    from raysearch.cli import ensemble

    run, *_ = made
    shutil.rmtree(run / "refit")
    app = Typer()
    ensemble.register(app)
    result = CliRunner().invoke(app, [str(run), "--refit", "--max-members", "1"])
    assert result.exit_code == 0, result.output
    assert "trained again on train + validation, 390 images" in result.stdout
    assert json.loads((run / "ensemble_report.json").read_text())["refit"]["images"] == 390
