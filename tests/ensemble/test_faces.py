"""`raysearch predict --faces`: faces are found, framed like the training images, and named."""

import csv
import io
import json
import shutil
import zipfile

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage import data
from test_artifact_commands import raysearch
from yunet_model import SIDE, write_model

from raysearch.ensemble.faces import Box, FaceFinder, square
from raysearch.ensemble.inputs import read_images
from raysearch.errors import ConfigError, RunError

SPOTS = [(96, 40), (200, 104)]
"""Left upper corners of what the made model takes for the middles of faces."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("yunet") / "yunet.onnx")


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 200, (304, 416, 3), dtype=np.uint8)
    for x, y in SPOTS:
        pixels[y : y + 8, x : x + 8] = 255
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


@given(
    st.tuples(*[st.floats(-50, 500)] * 2, *[st.floats(0.1, 600)] * 2),
    st.tuples(*[st.integers(1, 400)] * 2),
)
def test_a_square_lies_inside_the_picture_and_as_near_to_the_box_as_it_can(box, size):
    found = square(*box, size)
    assert found.width == found.height == max(1, min(round(max(box[2:])), *size))
    for start, length, begin, side, whole in zip(
        found[:2], found[2:], box[:2], box[2:], size, strict=True
    ):
        assert 0 <= start <= whole - length
        wanted = begin + (side - length) / 2
        assert abs(start - min(max(wanted, 0), whole - length)) <= 0.5 + 1e-6


def test_faces_are_found_where_they_are_from_left_to_right(model, photo):
    expected = [Box(x + 4 - SIDE // 2, y + 4 - SIDE // 2, SIDE, SIDE) for x, y in SPOTS]
    assert FaceFinder(model)(Image.open(photo)) == expected


def test_boxes_of_a_large_picture_are_in_its_own_pixels(model):
    pixels = np.zeros((1280, 1600), np.uint8)  # searched at half of that
    pixels[312:344, 632:664] = 255
    assert FaceFinder(model)(Image.fromarray(pixels)) == [Box(648 - SIDE, 328 - SIDE, 96, 96)]


def test_each_face_is_cut_out_of_the_upright_picture(model, photo, tmp_path):
    """A photograph that is stored on its side gives the same faces."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = tmp_path / "turned.png"
    Image.open(photo).rotate(90, expand=True).save(turned, exif=exif)
    found = list(read_images([photo, turned], (3, SIDE, SIDE), pytest.fail, FaceFinder(model)))
    pixels = np.asarray(Image.open(photo)).transpose(2, 0, 1)
    assert [item.name for item in found] == [str(photo)] * 2 + [str(turned)] * 2
    for item in found:
        x, y, width, height = item.face
        np.testing.assert_array_equal(item.pixels, pixels[:, y : y + height, x : x + width])


def test_predict_gives_a_row_for_each_face_and_names_images_without(
    artifact_folder, model, photo, tmp_path
):
    (tmp_path / "photos").mkdir()
    shutil.copy(photo, tmp_path / "photos")
    Image.new("L", (300, 300), 90).save(tmp_path / "photos" / "wall.png")
    table = tmp_path / "faces.csv"
    options = ("--faces", "--face-model", model, "--csv", table, "--json")
    done = raysearch("predict", artifact_folder, tmp_path / "photos", *options)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["file"] for row in rows] == ["photo.png"] * 2
    assert [row["face"][:2] for row in rows] == [[x - 20, y - 20] for x, y in SPOTS]
    assert "wall.png is left out: no face was found in it" in done.stderr
    assert "2 faces in" in done.stderr and "1 left out" in done.stderr
    with open(table, newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["face_x"] for line in lines] == [str(row["face"][0]) for row in rows]
    shown = raysearch("predict", artifact_folder, photo, *options[:3]).stdout
    assert "76 20 48 48" in shown


def test_predict_without_any_face_exits_with_2(artifact_folder, tmp_path):
    Image.new("L", (300, 300), 90).save(tmp_path / "wall.png")
    done = raysearch("predict", artifact_folder, tmp_path / "wall.png", "--faces", "--json")
    assert done.returncode == 2 and done.stdout == ""
    assert "No face was found in what was given" in done.stderr


def test_a_file_that_is_no_face_model_is_named(artifact_folder, photo, tmp_path):
    with pytest.raises(ConfigError, match="There is no file .*absent.onnx for --face-model"):
        FaceFinder(tmp_path / "absent.onnx")
    with pytest.raises(ConfigError, match="photo.png is no YuNet model that OpenCV"):
        FaceFinder(photo)
    with pytest.raises(ConfigError, match="model.onnx is no YuNet model that OpenCV"):
        FaceFinder(artifact_folder / "model.onnx")
    done = raysearch("predict", artifact_folder, photo, "--face-model", photo)
    assert done.returncode == 2 and "give --faces too" in done.stderr


def test_an_opencv_without_the_cascade_is_named_with_the_remedy(monkeypatch):
    monkeypatch.delattr(cv2, "CascadeClassifier")
    with pytest.raises(RunError, match=r"pip install '\.\[faces\]'.*--face-model"):
        FaceFinder()


def test_a_face_in_a_photograph_is_found_without_a_model_file():
    """The astronaut Eileen Collins, whose face is about 95 pixels wide, about (224, 113)."""
    photo = Image.fromarray(data.astronaut())
    (box,) = FaceFinder()(photo)
    assert abs(box.x + box.width / 2 - 224) < 10 and abs(box.y + box.height / 2 - 113) < 10
    assert 85 < box.width < 110
    assert FaceFinder()(photo.rotate(180)) == []


@pytest.mark.real_data
def test_the_frame_of_real_faces_in_a_larger_scene_is_found(fer2013_zip):
    """The cascade's box is the data set's own frame, so that no margin is added."""
    find, offsets = FaceFinder(), []
    faces = read_faces(fer2013_zip, 60)
    for face in faces:
        large = cv2.resize(face, (150, 150), interpolation=cv2.INTER_CUBIC)
        wide = cv2.copyMakeBorder(large, 100, 100, 100, 100, cv2.BORDER_REPLICATE)
        scene = cv2.GaussianBlur(wide, (0, 0), 12)
        scene[100:250, 100:250] = large
        for x, y, side, _ in find(Image.fromarray(scene))[:1]:
            offsets.append((x + side / 2 - 175, y + side / 2 - 175, side - 150))
    assert len(offsets) >= 0.65 * len(faces)
    assert np.abs(np.median(offsets, axis=0)).max() < 6
    assert np.median(np.abs(offsets), axis=0).max() < 15


def read_faces(archive, count: int) -> list[np.ndarray]:
    """Some of the archive's images, evenly over its list."""
    with zipfile.ZipFile(archive) as file:
        names = sorted(name for name in file.namelist() if name.endswith(".jpg"))
        chosen = names[:: len(names) // count][:count]
        return [np.asarray(Image.open(io.BytesIO(file.read(name))).convert("L")) for name in chosen]
