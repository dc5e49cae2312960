"""The commands evaluate, predict and export, each as a user runs it: in a process of its own."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as reference
from small_ensembles import CLASSES

import raysearch as package
from raysearch.data.shards import open_shards
from raysearch.ensemble.inputs import Input, batches_of, read_images
from raysearch.ensemble.predictor import Predictor

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
TRAINING = {
    re.match(r"[\w-]+", requirement)[0] for requirement in PROJECT["optional-dependencies"]["train"]
} - {"raysearch"}
BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
sys.meta_path.insert(0, Blocker())
from raysearch.cli import main
main()
"""


def raysearch(*arguments, cwd=None):
    """Run the command line in a new process where nothing that only training needs imports."""
    code = BLOCKED.format(modules=TRAINING)
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(package.__file__).parents[1])},
    )


@pytest.fixture
def photos(tmp_path, data_folder):
    """A folder of 6 images, one of them broken, and one that is no image."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    images = open_shards(data_folder).split("validation").images_NCHW
    for i in range(4):
        Image.fromarray(images[i, 0]).save(folder / f"{i}.png")
    Image.fromarray(np.array(images[4, 0])).resize((90, 70)).convert("RGB").save(
        folder / "more" / "[bold]4.jpg"
    )
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:60])
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_evaluate_equals_scikit_learn_without_ray_or_torch(artifact_folder, data_folder):
    done = raysearch(
        "evaluate", artifact_folder, "--data", data_folder, "--split", "validation", "--json"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    split = open_shards(data_folder).split("validation")
    labels, probs = split.labels_N, Predictor(artifact_folder).predict_probs(split.images_NCHW)
    found = probs.argmax(axis=1)
    assert report["images"] == 50 and report["split"] == "validation"
    assert report["accuracy"] == pytest.approx(reference.accuracy_score(labels, found))
    assert report["balanced_accuracy"] == pytest.approx(
        reference.balanced_accuracy_score(labels, found)
    )
    assert report["macro_f1"] == pytest.approx(reference.f1_score(labels, found, average="macro"))
    floored = np.maximum(probs.astype(np.float64), 2.0**-24)
    floored /= floored.sum(axis=1, keepdims=True)
    assert report["log_loss"] == pytest.approx(reference.log_loss(labels, floored), abs=1e-5)
    assert report["confusion"] == reference.confusion_matrix(labels, found).tolist()
    assert [row["class"] for row in report["per_class"]] == list(CLASSES)
    table = reference.precision_recall_fscore_support(labels, found, zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "support"), table, strict=True):
        assert [row[name] for row in report["per_class"]] == pytest.approx(values.tolist())
    assert report["train_twins"] == 5
    assert report["accuracy_without_train_twins"] == pytest.approx((found == labels)[5:].mean())
    assert "selected on this split" in done.stderr


def test_evaluate_prints_tables(artifact_folder, data_folder):
    done = raysearch("evaluate", artifact_folder, "--data", data_folder, "--split", "train")
    assert done.returncode == 0, done.stderr
    for part in ("train: 40 images", "balanced accuracy", "By class", "Confusion", "happy"):
        assert part in done.stdout


def test_evaluate_on_an_empty_split_names_those_with_images(artifact_folder, data_folder):
    done = raysearch("evaluate", artifact_folder, "--data", data_folder)
    assert done.returncode == 2 and done.stdout == ""
    assert "'test'" in done.stderr and "train (40), validation (50)" in done.stderr
    assert "Traceback" not in done.stderr


def test_evaluate_on_other_classes_or_shape_is_refused(artifact_folder, data_folder, tmp_path):
    from raysearch.data.shards import write_shards

    split = open_shards(data_folder).split("train")
    cases = {
        "must have them all, by the same names": (split.images_NCHW, ("happy", "angry", "glad")),
        "--image-size 20": (split.images_NCHW[:, :, :18, :18], CLASSES),
    }
    for number, (message, (images, classes)) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        rows = {"test": np.arange(len(images))}
        write_shards(folder, images, split.labels_N, split.sources, rows, classes, {})
        done = raysearch("evaluate", artifact_folder, "--data", folder)
        assert done.returncode == 2 and message in done.stderr


def test_predict_json_and_csv_agree_with_the_predictor(
    artifact_folder, data_folder, photos, tmp_path
):
    table = tmp_path / "new" / "out.csv"
    done = raysearch("predict", artifact_folder, photos, "--csv", table, "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    names = ["0.png", "1.png", "2.png", "3.png", "more/[bold]4.jpg"]
    assert [row["file"] for row in rows] == names
    images = open_shards(data_folder).split("validation").images_NCHW[:4]
    expected = Predictor(artifact_folder).predict_probs(images)
    for row, probs in zip(rows[:4], expected, strict=True):
        assert list(row["probabilities"].values()) == pytest.approx(probs.tolist(), abs=1e-6)
        assert row["label"] == CLASSES[probs.argmax()]
        assert row["probability"] == max(row["probabilities"].values())
    assert "broken.png is left out" in done.stderr and "notes.txt" not in done.stderr
    assert re.search(r"5 images in \d+\.\d+ s, \d+ a second .*; 1 left out", done.stderr)
    with open(table, newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["file", "label", "probability", *CLASSES]
    assert lines[2]["happy"] == f"{rows[2]['probabilities']['happy']:.4f}"


def test_predict_prints_a_table_with_names_as_they_are(artifact_folder, photos):
    done = raysearch("predict", artifact_folder, "0.png", "more", cwd=photos)
    assert done.returncode == 0, done.stderr
    assert "0.png " in done.stdout and "more/[bold]4.jpg " in done.stdout


def test_predict_reads_a_zip_as_its_folder(artifact_folder, photos):
    archive = shutil.make_archive(str(photos), "zip", photos)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("../escape.png", (photos / "0.png").read_bytes())
    rejected = []
    shape = Predictor(artifact_folder).shape
    by_zip = list(read_images([archive], shape, lambda *why: rejected.append(why)))
    by_folder = list(read_images([photos], shape, lambda *why: None))
    assert len(by_zip) == len(by_folder) == 5
    for zipped, plain in zip(by_zip, by_folder, strict=True):
        assert zipped.name == plain.name
        np.testing.assert_array_equal(zipped.pixels, plain.pixels)
    assert {name.split("/")[-1] for name, _ in rejected} == {"escape.png", "broken.png"}


def test_predict_with_nothing_readable_exits_with_2(artifact_folder, photos, tmp_path):
    (tmp_path / "bad.zip").write_bytes(b"PK\x05\x06 broken")
    given = (
        photos / "broken.png",
        photos / "notes.txt",
        tmp_path / "absent.png",
        tmp_path / "bad.zip",
    )
    done = raysearch("predict", artifact_folder, *given, "--json")
    assert done.returncode == 2 and done.stdout == ""
    for path in given:
        assert f"{path} is left out" in done.stderr
    assert "there is no such file" in done.stderr and "Traceback" not in done.stderr


def test_predict_warns_when_nearly_all_are_one_class(artifact_folder, photos, tmp_path):
    folder = tmp_path / "same"
    folder.mkdir()
    for i in range(10):
        shutil.copy(photos / "0.png", folder / f"{i}.png")
    done = raysearch("predict", artifact_folder, folder)
    assert done.returncode == 0
    assert "warning: 10 of 10 predictions are" in done.stderr and "In validation" in done.stderr
    assert "warning" not in raysearch("predict", artifact_folder, *[photos / "0.png"] * 9).stderr


def test_a_csv_that_cannot_be_written_leaves_the_predictions_on_stdout(artifact_folder, photos):
    target = photos / "0.png" / "out.csv"
    done = raysearch("predict", artifact_folder, photos / "0.png", "--csv", target, "--json")
    assert done.returncode == 1 and len(json.loads(done.stdout)) == 1
    assert f"{target} cannot be written" in done.stderr and "Traceback" not in done.stderr


def test_a_damaged_artifact_is_refused_by_every_command(artifact_folder, data_folder, tmp_path):
    run = tmp_path / "run"
    damaged = run / "ensemble"
    shutil.copytree(artifact_folder, damaged)
    with open(damaged / "model.onnx", "ab") as file:
        file.write(b"x")
    for arguments in (
        ("evaluate", damaged, "--data", data_folder),
        ("predict", damaged, tmp_path),
        ("export", run, "--out", tmp_path / "out"),
    ):
        done = raysearch(*arguments)
        assert done.returncode == 2 and "model.onnx was changed or damaged" in done.stderr
    assert not (tmp_path / "out").exists()


def test_export_copies_the_ensemble_of_a_run(artifact_folder, tmp_path):
    shutil.copytree(artifact_folder, tmp_path / "run" / "ensemble")
    done = raysearch("export", tmp_path / "run", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "out")
    Predictor(tmp_path / "out")
    missing = raysearch("export", tmp_path, "--out", tmp_path / "other")
    assert missing.returncode == 2 and "raysearch ensemble" in missing.stderr


def test_images_of_every_kind_come_out_in_the_shape_of_the_ensemble(tmp_path, rng):
    wide = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    picture = Image.fromarray(wide)
    picture.convert("P").save(tmp_path / "palette.png")
    picture.convert("RGBA").save(tmp_path / "alpha.png")
    picture.convert("CMYK").save(tmp_path / "print.jpg")
    picture.convert("L").save(tmp_path / "gray.bmp")
    Image.fromarray(wide[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    picture.save(tmp_path / "moving.gif", save_all=True, append_images=[picture.rotate(90)])
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=turned)
    for channels in (1, 3):
        images = read_images([tmp_path], (channels, 20, 20), pytest.fail)
        found = {image.name: image.pixels for image in images}
        assert len(found) == 7
        assert all(
            image.dtype == np.uint8 and image.shape == (channels, 20, 20)
            for image in found.values()
        )
    deep, turned = found["deep.png"], found["turned.png"]
    np.testing.assert_array_equal(deep, np.repeat(wide[None, ..., 0], 3, axis=0))
    np.testing.assert_array_equal(turned, np.rot90(wide, -1).transpose(2, 0, 1))


def test_batches_hold_every_image_once_in_order():
    images = [Input(str(i), np.full((1, 2, 2), i, np.uint8)) for i in range(7)]
    batches = list(batches_of(iter(images), 3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert [image for batch in batches for image in batch] == images


def test_a_command_whose_package_is_missing_says_what_to_install(artifact_folder, tmp_path):
    assert {"torch", "ray", "timm", "optuna", "pandas", "onnx"} <= TRAINING
    done = raysearch("train", tmp_path / "config.yaml", "--data", tmp_path)
    assert done.returncode == 1 and "pip install '.[train]'" in done.stderr
    assert "Traceback" not in done.stderr
