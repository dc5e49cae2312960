"""``raysearch data ...`` through its command line."""

import json
import subprocess
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

from raysearch.cli.data import app
from raysearch.data.importing import import_data
from raysearch.data.synthetic import synthesize


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "faces"
    synthesize(folder, images=70, image_size=24)
    return folder


@pytest.fixture(scope="module")
def folders(faces):
    """The faces as class folders of PNG files."""
    from raysearch.data.shards import open_shards

    shards = open_shards(faces)
    split = shards.split("train")
    root = faces.parent / "tree"
    for row, (image, label) in enumerate(zip(split.images_NCHW, split.labels_N, strict=True)):
        (root / shards.classes[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(root / shards.classes[label] / f"{row}.png")
    return root


def test_import_prints_one_json_object(folders, tmp_path):
    result = invoke("import", folders, "--out", tmp_path / "out", "--json")
    values = json.loads(result.stdout)
    assert list(values) == [
        "images", "classes", "shape", "shards", "rejected", "seconds", "fingerprint",
    ]  # fmt: skip
    assert sum(values["images"].values()) == 42 and values["shape"] == [1, 24, 24]
    assert values["shards"] == 3 and values["rejected"] == 0
    assert "No test split was found" in result.stderr


def test_import_tells_what_it_found(folders, tmp_path):
    output = invoke("import", folders, "--out", tmp_path / "out", "--channels", 3).stdout
    assert "Found: class folders" in output and "24x24 RGB" in output


def test_check_prints_the_agreed_keys(faces):
    values = json.loads(invoke("check", faces, "--json").stdout)
    assert list(values) == [
        "unique_images", "duplicate_groups", "duplicate_groups_across_splits",
        "conflicting_groups", "constant_images", "near_duplicate_groups", "class_counts",
    ]  # fmt: skip
    assert values["unique_images"] == 70
    assert values["class_counts"]["validation"]["happy"] == 2


def test_check_names_an_example_of_each_finding(folders, tmp_path):
    for name in ("happy", "sad"):
        Image.new("L", (24, 24), 77).save(folders / name / "blank.png")
    import_data([str(folders)], tmp_path / "out")
    output = invoke("check", tmp_path / "out").stdout
    assert "exact duplicates with conflicting labels: happy/blank.png" in output
    assert "constant images" in output


def test_show_writes_a_contact_sheet(faces, tmp_path):
    result = invoke("show", faces, "--out", tmp_path / "sheet.png")
    assert "24x24 pixels, gray" in result.stdout and "surprise" in result.stdout
    assert Image.open(tmp_path / "sheet.png").size == (16 * 24, 7 * 24)


def test_synth_is_reproducible(tmp_path):
    prints = [
        json.loads(invoke("synth", tmp_path / n, "--images", 35, "--json").stdout)["fingerprint"]
        for n in "ab"
    ]
    assert prints[0] == prints[1]


def test_bad_input_ends_with_code_2_and_one_line(tmp_path):
    source, out = tmp_path / "none.zip", tmp_path / "x"
    command = [sys.executable, "-m", "raysearch", "data", "import", str(source), "--out", str(out)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr == (
        f"error: There is no file or folder '{source}'. Give an image archive, a CSV, or a folder "
        "of class folders.\n"
    )
    assert not out.exists()
