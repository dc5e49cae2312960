"""A data folder, a selection on it and its artifact, made once."""

from pathlib import Path

import numpy as np
import pytest
from small_ensembles import (
    CLASSES,
    TRIALS,
    VOTES,
    Selection,
    combine_reference,
    make_member,
    make_record,
    random_images,
)

from raysearch import metrics
from raysearch.data.shards import open_shards, write_shards


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory) -> Path:
    """90 images: train 40 (of which the first 5 are validation's too), validation 50, test 0."""
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("data")
    images = random_images(rng, 90)
    images[:5] = images[40:45]
    rows = {"train": np.arange(40), "validation": np.arange(40, 90)}
    labels = rng.integers(0, len(CLASSES), 90)
    write_shards(folder, images, labels, [f"{i}.png" for i in range(90)], rows, CLASSES, {})
    return folder


@pytest.fixture(scope="session")
def selection(tmp_path_factory, data_folder) -> Selection:
    shards = open_shards(data_folder)
    validation = shards.split("validation")
    folder = tmp_path_factory.mktemp("trials")
    records = {trial: make_record(trial, shards) for trial in TRIALS}
    members = [make_member(folder, records[vote[0]], *vote) for vote in VOTES]
    probs_VK = combine_reference(members, records, validation.images_NCHW)
    data = {"fingerprint": shards.fingerprint, "name": "noise", "splits": {"validation": 50}}
    scores = {"validation": metrics.summary(probs_VK, validation.labels_N)}
    return Selection(members, records, validation, probs_VK, scores, data)


@pytest.fixture(scope="session")
def artifact_folder(tmp_path_factory, selection) -> Path:
    """A whole artifact; a test that changes it works on a copy."""
    return selection.write(tmp_path_factory.mktemp("exported") / "ensemble")
