"""Colour pictures of mixed sizes, from files to predictions: import, train, select, predict."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from photographs import EXPRESSIONS
from PIL import Image

from raysearch.data.importing import import_data
from raysearch.data.shards import open_shards

CONFIG = """model: {name: vgg, width: 4, depth: 4}
image_size: 48
epochs: 1
batch_size: 64
lr: 0.02
precision: fp32
"""


@pytest.fixture(scope="module")
def shards_folder(photographs: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rgb") / "shards"
    import_data([str(photographs)], folder, image_size=100)
    return folder


def test_pictures_are_of_both_kinds_and_every_shape(photographs):
    files = list(photographs.rglob("*.*"))
    sizes = {Image.open(file).size for file in files}
    assert len(files) == 1000 and {file.suffix for file in files} == {".jpg", ".png"}
    assert len(sizes) > 100
    assert any(width > height for width, height in sizes)
    assert any(width < height for width, height in sizes)


def test_every_picture_is_imported_in_colour_at_the_size_asked_for(shards_folder):
    shards = open_shards(shards_folder)
    assert (shards.classes, shards.shape) == (tuple(sorted(EXPRESSIONS)), (3, 100, 100))
    assert sum(len(shards.split(name)) for name in shards.splits) == 1000
    for name in shards.splits:
        counts = np.bincount(shards.split(name).labels_N, minlength=6)
        assert counts.max() - counts.min() <= 2
    pixels = np.asarray(shards.split("validation").images_NCHW[:50], np.int64)
    assert (np.ptp(pixels, axis=1).mean(axis=(1, 2)) > 10).all()  # no gray one among them


@pytest.mark.slow
def test_pictures_train_a_colour_network_that_predicts_files(
    tmp_path, photographs, shards_folder, run_command
):
    (tmp_path / "config.yaml").write_text(CONFIG)
    run = tmp_path / "run"
    trained = run_command("train", tmp_path / "config.yaml", "--data", shards_folder,
                        "--out", run / "trials" / "0000", "--json")  # fmt: skip
    assert np.isfinite(json.loads(trained.stdout)["validation_log_loss"])
    (run / "run.yaml").write_text(yaml.safe_dump({"data": str(shards_folder)}))
    run_command("ensemble", run)

    files = [next((photographs / name).iterdir()) for name in EXPRESSIONS]
    said = json.loads(run_command("predict", run / "ensemble", *files, "--json").stdout)
    assert [row["file"] for row in said] == [str(file) for file in files]
    assert all(list(row["probabilities"]) == sorted(EXPRESSIONS) for row in said)
    scores = json.loads(
        run_command("evaluate", run / "ensemble", "--data", shards_folder, "--json").stdout
    )
    assert (scores["split"], scores["classes_left_out"]) == ("test", [])
    assert sum(map(sum, scores["confusion"])) == scores["images"] > 90
