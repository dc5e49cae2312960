"""From an ensemble to one network: what it is taught by, its run, its artifact, its honesty."""

import json

import numpy as np
import pytest
import torch
import yaml
from made_run import make_data, make_run
from rich.console import Console
from typer import Typer
from typer.testing import CliRunner

from raysearch.cli import distill as command
from raysearch.config import parse_train_config
from raysearch.data.shards import open_shards, write_shards
from raysearch.ensemble.artifact import load_artifact
from raysearch.ensemble.build import build_ensemble
from raysearch.ensemble.distill import distill, prepare
from raysearch.ensemble.predictor import Predictor
from raysearch.errors import ArtifactError, ConfigError, InputError
from raysearch.probabilities import read_probabilities
from raysearch.report.page import write_report
from raysearch.resuming import resume

STUDENT = "model: {name: mlp, hidden: [8]}\nimage_size: 12\nepochs: 6\nlr: 0.02\nbatch_size: 32\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distill")
    data = make_data(folder / "data")
    run = make_run(folder / "run", data, epochs=3)
    build_ensemble(run)
    (folder / "student.yaml").write_text(STUDENT)
    return run


def invoke(*arguments):
    app = Typer()
    command.register(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_an_ensemble_becomes_one_network_with_scores_of_its_own(run, tmp_path):
    out, config = tmp_path / "student", run.parent / "student.yaml"
    done = invoke(run, "--config", config, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    shards, teacher = open_shards(run.parent / "data"), Predictor(run / "ensemble")
    kept = read_probabilities(out / "teacher.arrow")
    assert kept.digest == shards.split("train").digest
    expected_NK = teacher.predict_probs(np.asarray(shards.split("train").images_NCHW))
    np.testing.assert_allclose(kept.candidates["teacher"], expected_NK, atol=1e-3)

    manifest = load_artifact(out / "ensemble").manifest
    assert len(manifest.members) == 1 and len(manifest.folders) == 1
    assert manifest.members[0].params == values["cost"]["params"] < values["teacher"]["params"]
    assert manifest.trained_on == ("train",)
    assert manifest.scores["nested"] == values["nested"]
    assert manifest.teacher == values["teacher"]
    assert manifest.teacher["nested"] == teacher.artifact.manifest.scores["nested"]
    card = (out / "ensemble" / "README.md").read_text()
    assert "Distilled from an ensemble of" in card and "at temperature 2, were 50%" in card
    assert values["nested"]["accuracy"] > 0.5  # of three classes

    again = invoke(run, "--config", config, "--out", out)
    assert again.exit_code == 0 and "student" in again.stdout and "teacher" in again.stdout
    assert "asking the ensemble" not in again.output
    with pytest.raises(ArtifactError, match="made by `raysearch distill`"):
        resume(out)
    before = (out / "ensemble" / "SHA256SUMS").read_bytes()
    with pytest.raises(ConfigError, match="--refit trains without a teacher, but .*student was"):
        build_ensemble(out, refit=True)
    assert not (out / "refit").exists()
    assert (out / "ensemble" / "SHA256SUMS").read_bytes() == before
    write_report(out)


def test_without_a_configuration_the_student_is_as_the_heaviest_member(run):
    lesson = prepare(run, None, None, epochs=2)
    artifact = load_artifact(run / "ensemble")
    heaviest = max(artifact.manifest.members, key=lambda member: member.weight)
    config = json.loads((run / "ensemble" / heaviest.folder / "config.json").read_text())
    assert lesson.train.model.options["hidden"] == config["train"]["model"]["hidden"]
    assert lesson.train.epochs == 2
    assert lesson.data == (run.parent / "data").resolve()


def test_what_cannot_be_distilled_honestly_or_at_all_is_refused(run, tmp_path):
    build_ensemble(run, out=tmp_path / "seen", refit=True)
    with pytest.raises(ConfigError, match="trained on validation too"):
        prepare(tmp_path / "seen", run.parent / "data", None, None)
    with pytest.raises(ConfigError, match="--data must name"):
        prepare(run / "ensemble", None, None, None)
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "thesis.txt").write_text("mine")
    done = invoke(run, "--out", tmp_path / "student")
    assert isinstance(done.exception, InputError) and "other files" in str(done.exception)


def data_without(folder, source, lacking, split, extra=()):
    """The images of ``source`` but those of one class in one split; ``extra`` are empty classes."""
    shards = open_shards(source)
    parts = [shards.split(name) for name in ("train", "validation")]
    images_NCHW = np.concatenate([part.images_NCHW for part in parts])
    labels_N = np.concatenate([part.labels_N for part in parts])
    rows_of = {"train": np.arange(len(parts[0])), "validation": np.arange(len(parts[0]), 390)}
    of_it_N = labels_N == shards.classes.index(lacking)
    rows_of[split] = rows_of[split][~of_it_N[rows_of[split]]]
    folder.mkdir()
    names, classes = [f"{row}.png" for row in range(390)], [*shards.classes, *extra]
    write_shards(folder, images_NCHW, labels_N, names, rows_of, classes, {})
    return folder


def test_a_class_without_validation_images_is_no_dead_end(run, tmp_path):
    data = data_without(tmp_path / "data", run.parent / "data", "cross", "validation")
    config, out = run.parent / "student.yaml", tmp_path / "out"
    assert prepare(run, data, None, None).train.classes is None
    done = invoke(run, "--data", data, "--config", config, "--out", out, "--epochs", "1")
    assert done.exit_code == 0, done.output
    manifest = load_artifact(out / "ensemble").manifest
    assert manifest.class_shares["cross"] == 0 and manifest.teacher


@pytest.mark.parametrize(
    ("split", "extra", "option", "message"),
    [
        ("validation", ["wave"], "", "'cross' has no image in the split 'validation'"),
        ("train", [], "balance: oversample\n", "there are none of cross"),
        ("validation", [], "init_from: nowhere\n", "nowhere is not there"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_ensemble_is_asked(
    run, tmp_path, split, extra, option, message
):
    data = data_without(tmp_path / "data", run.parent / "data", "cross", split, extra)
    train = parse_train_config(yaml.safe_load(STUDENT + option))
    lesson = prepare(run, data, train, None)
    with pytest.raises(InputError, match=message):
        distill(lesson, tmp_path / "out", torch.device("cpu"), Console(quiet=True))
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_lesson_is_refused(run, tmp_path):
    out = tmp_path / "student"
    options = ["--config", run.parent / "student.yaml", "--out", out, "--epochs", "1"]
    assert invoke(run, *options).exit_code == 0
    done = invoke(run, *options, "--temperature", "4")
    assert isinstance(done.exception, InputError) and "temperature" in str(done.exception)
