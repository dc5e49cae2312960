"""A run on some of the data's classes: its ensemble, its report and its scores on all the data."""

import json

import numpy as np
import pytest
from made_run import CLASSES, make_data, make_run
from PIL import Image

from raysearch import metrics
from raysearch.data.shards import open_shards, write_shards
from raysearch.ensemble.build import build_ensemble, open_data
from raysearch.ensemble.evaluation import evaluate
from raysearch.ensemble.predictor import Predictor
from raysearch.errors import ArtifactError, DataError
from raysearch.report.predictions import validation_predictions

KEPT = ["stripes", "circle"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("subset")
    make_data(folder / "data")
    run = make_run(folder / "run", folder / "data", trials=2, classes=KEPT)
    build_ensemble(run)
    return run


@pytest.fixture
def shards(run):
    return open_shards(run.parent / "data")


@pytest.fixture(scope="module")
def predictor(run):
    return Predictor(run / "ensemble")


def test_ensemble_is_of_these_classes_and_this_view(run, shards, predictor):
    assert predictor.classes == tuple(KEPT)
    view = shards.subset(KEPT)
    data = predictor.artifact.manifest.data
    assert data["fingerprint"] == view.fingerprint == open_data(run).fingerprint
    assert data["splits"] == {name: len(view.split(name)) for name in view.splits}


def test_scores_are_those_by_hand_on_the_images_of_these_classes(shards, predictor):
    whole = shards.split("validation")
    rows = np.isin(whole.labels_N, [0, 2])
    labels = np.where(whole.labels_N[rows] == 2, 0, 1)
    probs = predictor.predict_probs(whole.images_NCHW[rows])
    report = evaluate(predictor, shards, "validation")
    assert report["images"] == rows.sum() < len(whole)
    assert report["classes_left_out"] == ["cross"]
    assert report["accuracy"] == metrics.accuracy(probs, labels)
    assert report["log_loss"] == pytest.approx(metrics.log_loss(probs, labels))
    assert [row["class"] for row in report["per_class"]] == KEPT
    assert [row["support"] for row in report["per_class"]] == np.bincount(labels).tolist()
    chosen = predictor.artifact.manifest.scores["validation"]
    assert report["accuracy"] == pytest.approx(chosen["accuracy"], abs=1e-4)


def test_classes_may_stand_in_any_order(shards, predictor, tmp_path):
    turned = shards.subset(["cross", "circle", "stripes"])
    expected = evaluate(predictor, shards, "validation")
    assert evaluate(predictor, turned, "validation") == expected
    exact = evaluate(predictor, shards.subset(KEPT), "validation")
    assert exact == expected | {"classes_left_out": []}


def test_command_says_what_it_left_out_and_that_it_was_selected_here(run, run_command):
    data = run.parent / "data"
    done = run_command(
        "evaluate", run / "ensemble", "--data", data, "--split", "validation", "--json"
    )
    assert json.loads(done.stdout)["classes_left_out"] == ["cross"]
    assert "does not know the classes cross: their images are left out" in done.stderr
    assert "selected on this split" in done.stderr


def test_data_without_one_of_the_classes_is_refused(shards, predictor):
    with pytest.raises(DataError, match=r"classes are stripes, circle, but those of .* are c"):
        evaluate(predictor, shards.subset(["circle", "cross"]), "validation")


def test_split_without_these_classes_says_so(shards, predictor, tmp_path):
    split = shards.split("train")
    rows = np.flatnonzero(split.labels_N == 1)
    write_shards(
        tmp_path,
        split.images_NCHW[rows],
        split.labels_N[rows],
        [split.sources[row] for row in rows],
        {"test": np.arange(len(rows))},
        CLASSES,
        {},
    )
    with pytest.raises(DataError, match="'test' .* has no images of stripes, circle"):
        evaluate(predictor, open_shards(tmp_path), "test")


def test_prediction_has_these_classes_alone(run, shards, tmp_path, run_command):
    Image.fromarray(shards.split("validation").images_NCHW[0, 0]).save(tmp_path / "0.png")
    done = run_command("predict", run / "ensemble", tmp_path / "0.png", "--json")
    assert list(json.loads(done.stdout)[0]["probabilities"]) == KEPT


def test_report_shows_the_ensembles_predictions_of_these_classes(run, predictor):
    found = validation_predictions(run, 0)
    assert (found.of, found.classes) == ("ensemble", tuple(KEPT))
    expected = evaluate(predictor, open_data(run), "validation")["accuracy"]
    assert (found.probs_VK.argmax(1) == found.labels_V).mean() == pytest.approx(expected, abs=0.02)


def test_data_that_lost_a_class_since_is_named(run, tmp_path):
    (tmp_path / "run.yaml").write_text(f"data: {run.parent / 'data'}\nclasses: [circle, moon]\n")
    with pytest.raises(ArtifactError, match="changed since: classes: the data has no class 'moon'"):
        open_data(tmp_path)
