"""Which command goes on with a run: the one that began it."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from raysearch.data.cached import import_beside
from raysearch.data.shards import open_shards
from raysearch.data.synthetic import synthesize
from raysearch.errors import DataError
from raysearch.pipeline import Limits
from raysearch.resuming import same_again
from raysearch.space import SearchSpace, load_space

SPACE = "search: {trials: 2, epochs: 1}\ntrain:\n  model: {name: mlp, hidden: [8]}\n  lr: 0.1\n"


@pytest.fixture
def space(tmp_path) -> SearchSpace:
    (tmp_path / "space.yaml").write_text(SPACE)
    return load_space(tmp_path / "space.yaml")


@pytest.fixture
def shards(tmp_path) -> Path:
    """Faces that are drawn, but named by ``--data`` as any images are."""
    synthesize(tmp_path / "faces", images=40)
    return tmp_path / "faces"


def begin(folder: Path, space: SearchSpace, data: Path, source: str) -> Path:
    """A run as it is written when it begins."""
    folder.mkdir()
    (folder / "space.yaml").write_text(space.source_text)
    description = {
        "space": space.path.name,
        "space_folder": str(space.folder),
        "data": str(data.resolve()),
        "data_source": source,
        "data_fingerprint": open_shards(data, verify=False).fingerprint,
        "seed": space.search.seed,
        "limits": vars(Limits(trials=2)),
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(description))
    return folder


def again(run: Path, space: SearchSpace, data: Path | None, **changes) -> str:
    limits = Limits(**{"trials": 2, **changes.pop("limits", {})})
    return same_again(
        run, space, None if data is None else str(data), limits, changes.pop("seed", None)
    )


@pytest.mark.parametrize("source", ["given", "synthetic"])
def test_the_same_command_is_the_same_search(tmp_path, space, shards, source):
    run = begin(tmp_path / "run", space, shards, source)
    assert again(run, space, shards) == ""
    assert again(run, space, shards, limits={"time_budget": 60.0}) == ""


def test_without_data_only_a_synthetic_run_is_the_same(tmp_path, space, shards):
    assert again(begin(tmp_path / "a", space, shards, "synthetic"), space, None) == ""
    assert "its data is" in again(begin(tmp_path / "b", space, shards, "given"), space, None)


def test_what_differs_is_said(tmp_path, space, shards):
    run = begin(tmp_path / "run", space, shards, "given")
    synthesize(tmp_path / "others", images=60)
    (tmp_path / "wider.yaml").write_text(SPACE.replace("0.1", "{float: [0.1, 0.2]}"))
    said = again(run, space, tmp_path / "others")
    assert said == f"its data is {shards}, and {tmp_path / 'others'} holds other images"
    assert again(run, space, shards, seed=5) == "its seed is 0, not 5"
    said = again(run, space, shards, limits={"trials": 3})
    assert said == "it runs with --trials 2, not with --trials 3"
    said = again(run, space, shards, limits={"trial_timeout": 9.0})
    assert said == "it runs without --trial-timeout, not with --trial-timeout 9.0"
    assert again(run, load_space(tmp_path / "wider.yaml"), shards) == "it has another search space"


@pytest.fixture
def photos(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for label in ("happy", "sad"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(12):
            image = Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8))
            image.save(tmp_path / "photos" / label / f"{number}.png")
    return tmp_path / "photos"


def test_images_that_were_only_touched_or_moved_are_the_same(tmp_path, space, photos):
    run = begin(tmp_path / "run", space, import_beside(photos), "given")
    os.utime(photos / "sad" / "1.png", ns=(0, 2**62))
    assert again(run, space, photos) == ""
    shutil.copytree(import_beside(photos), tmp_path / "elsewhere")
    assert again(run, space, tmp_path / "elsewhere") == ""


@pytest.mark.parametrize("label", ["sad", "angry"])
def test_images_that_were_added_make_it_another_search(tmp_path, space, photos, label):
    run = begin(tmp_path / "run", space, import_beside(photos), "given")
    shutil.copytree(photos / "happy", photos / label, dirs_exist_ok=True)
    assert f"{photos} holds other images" in again(run, space, photos)


def test_source_that_was_deleted_after_its_import_is_said(tmp_path, space, photos):
    shards = import_beside(photos)
    run = begin(tmp_path / "run", space, shards, "given")
    shutil.rmtree(photos)
    assert again(run, space, photos) == f"there is no {photos} to compare with its data, {shards}"
    shutil.rmtree(shards)
    with pytest.raises(DataError, match="There is no file or folder"):
        again(run, space, photos)
