"""What a search is given as it is: imported once, and again only when it has changed."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raysearch.data.cached import import_beside, stamp
from raysearch.data.shards import open_shards
from raysearch.errors import DataError


@pytest.fixture
def faces(tmp_path):
    rng = np.random.default_rng(0)
    for label in ("happy", "sad"):
        (tmp_path / "faces" / label).mkdir(parents=True)
        for number in range(12):
            image = Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8))
            image.save(tmp_path / "faces" / label / f"{number}.png")
    return tmp_path / "faces"


def rows(folder):
    return sum(split["rows"] for split in open_shards(folder).manifest["splits"].values())


def test_images_are_imported_once_and_again_when_some_are_added(faces, capsys):
    first = import_beside(faces)
    assert (first.parent, rows(first)) == (faces.parent, 24)
    assert first.name.startswith("faces-") and f"importing {faces}" in capsys.readouterr().err
    assert import_beside(faces) == first
    assert "is as it was: using" in capsys.readouterr().err
    shutil.copy(faces / "sad" / "0.png", faces / "sad" / "more.png")
    second = import_beside(faces)
    assert second != first and (rows(first), rows(second)) == (24, 25)


def test_stamp_changes_with_files_that_come_go_move_or_are_written(faces):
    for path in (faces, *faces.rglob("*")):  # a file system's clock may be slower than we are
        os.utime(path, (0, 0))
    found = [stamp(faces)]
    (faces / "happy" / "0.png").rename(faces / "sad" / "moved.png")
    found.append(stamp(faces))
    (faces / "sad" / "moved.png").unlink()
    found.append(stamp(faces))
    os.utime(faces / "sad" / "1.png", ns=(0, 2**62))
    found.append(stamp(faces))
    assert len(set(found)) == 4 and stamp(faces) == found[-1]


def test_sources_of_one_name_are_kept_apart(faces):
    archive = shutil.make_archive(faces, "zip", faces)
    assert import_beside(faces) != import_beside(Path(archive))


def test_link_to_nothing_is_no_fault(faces):
    (faces / "sad" / "gone.png").symlink_to(faces / "nowhere")
    assert stamp(faces)


def test_source_that_is_not_there_is_said(tmp_path):
    with pytest.raises(DataError, match="There is no file or folder"):
        import_beside(tmp_path / "none")
    assert not list(tmp_path.iterdir())


def test_beside_a_folder_that_may_not_be_written_to_is_data(faces, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "read-only").mkdir()
    shutil.move(faces, tmp_path / "read-only" / "faces")
    (tmp_path / "read-only").chmod(0o555)
    assert import_beside(tmp_path / "read-only" / "faces").parent == tmp_path / "data"
