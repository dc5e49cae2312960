"""A small real data set and one Ray for all tests of the search."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raysearch.data.shards import write_shards
from raysearch.space import load_space

SPACE = """
description: for tests
search: {trials: 4, epochs: 3, sampler: tpe, scheduler: none}
train:
  batch_size: 32
  image_size: 16
  precision: fp32
  model:
    name: {choice: [mlp]}
    hidden: {choice: [[16], [32]]}
    dropout: 0.0
  lr: {float: [0.001, 0.1], log: true}
  augment: {mirror: 0.0}
known:
  - {lr: 0.05, model.hidden: [16]}
"""


def make_shards(folder: Path, train: int = 192, validation: int = 60) -> Path:
    """Three classes of 16x16 images that differ in where they are bright, under noise."""
    rng = np.random.default_rng(0)
    total = train + validation
    labels_N = rng.integers(0, 3, total)
    images = rng.integers(0, 120, (total, 1, 16, 16))
    for row, label in enumerate(labels_N):
        images[row, :, 5 * label : 5 * label + 5] += 70
    rows = {"train": np.arange(train), "validation": np.arange(train, total)}
    names = [f"{row}.png" for row in range(total)]
    folder.mkdir(parents=True)
    write_shards(
        folder, images.astype(np.uint8), labels_N, names, rows, ["a", "b", "c"], {"layout": "test"}
    )
    return folder


@pytest.fixture(scope="session")
def shards_folder(tmp_path_factory) -> Path:
    return make_shards(tmp_path_factory.mktemp("search") / "shards")


@pytest.fixture(scope="session")
def space_text() -> str:
    return SPACE


@pytest.fixture
def write_space(tmp_path):
    """A space from its YAML, with ``search:`` fields replaced."""

    def write(text: str = SPACE, **search):
        path = tmp_path / "space.yaml"
        path.write_text(text)
        space = load_space(path)
        if not search:
            return space
        return replace(space, search=space.search.replaced(**search))

    return write


@pytest.fixture(scope="session")
def ray_here():
    """Ray on two CPUs of this machine, for the whole session."""
    os.environ.pop("RAY_ADDRESS", None)
    from raysearch.search.cluster import ray_cluster

    with ray_cluster(1) as resources:
        yield resources
