"""Shards to tensors, and the statistics of their channels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raysearch.data.dataset import channel_statistics, load_dataset
from raysearch.data.shards import open_shards, write_shards
from raysearch.errors import DataError

CLASSES = ("a", "b", "c")


@pytest.fixture
def made(tmp_path, rng) -> tuple[Path, np.ndarray, np.ndarray, dict]:
    """Shards of 3-channel images in mixed order, several shards a split."""
    images = rng.integers(0, 256, (50, 3, 6, 5), dtype=np.uint8)
    labels = rng.integers(0, 3, 50)
    order = rng.permutation(50)
    rows = {"train": order[:30], "validation": order[30:41], "test": order[41:]}
    names = [f"{row}.png" for row in range(50)]
    write_shards(tmp_path, images, labels, names, rows, CLASSES, {}, rows_per_shard=8)
    return tmp_path, images, labels, rows


def test_splits_are_the_stored_rows_in_order(made):
    folder, images, labels, rows = made
    dataset, shards = load_dataset(folder), open_shards(folder)
    for name in ("train", "validation"):
        split = getattr(dataset, name)
        assert (split.images_NCHW.dtype, split.labels_N.dtype) == (torch.uint8, torch.int64)
        assert np.array_equal(split.images_NCHW.numpy(), images[rows[name]])
        assert np.array_equal(split.labels_N.numpy(), labels[rows[name]])
        assert len(split) == len(rows[name])
        assert split.digest == shards.split(name).digest
    assert (dataset.classes, dataset.shape) == (CLASSES, (3, 6, 5))
    assert dataset.fingerprint == shards.fingerprint
    assert not hasattr(dataset, "test")


def test_statistics_are_those_of_training_alone(made):
    folder, images, _, rows = made
    dataset = load_dataset(folder)
    pixels = images[rows["train"]].astype(np.float64) / 255
    assert dataset.mean == pytest.approx(pixels.mean(axis=(0, 2, 3)), rel=1e-12)
    assert dataset.std == pytest.approx(pixels.std(axis=(0, 2, 3)), rel=1e-12)


def test_tensors_are_copies_that_leave_the_files_alone(made):
    folder, images, _, rows = made
    load_dataset(folder).train.images_NCHW.zero_()
    assert np.array_equal(load_dataset(folder).train.images_NCHW.numpy(), images[rows["train"]])


def test_damaged_folder_is_refused(made, tmp_path):
    folder = made[0]
    with pytest.raises(DataError, match="absent"):
        load_dataset(folder / "absent")
    (folder / "train-00001.arrow").unlink()
    with pytest.raises(DataError, match="train-00001.arrow is missing"):
        load_dataset(folder)


@given(st.integers(1, 6), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_channel_statistics_are_numpys(rows, channels, seed):
    images = np.random.default_rng(seed).integers(0, 256, (rows, channels, 4, 3), dtype=np.uint8)
    mean, std = channel_statistics(torch.from_numpy(images))
    expected = images.astype(np.float64) / 255
    assert mean == pytest.approx(expected.mean(axis=(0, 2, 3)))
    assert std == pytest.approx(np.maximum(expected.std(axis=(0, 2, 3)), 1 / 255))


@pytest.mark.parametrize("value", [0, 128, 255])
def test_constant_channel_is_never_divided_by_zero(value):
    mean, std = channel_statistics(torch.full((3, 1, 4, 4), value, dtype=torch.uint8))
    assert mean == pytest.approx([value / 255])
    assert std == (1 / 255,)


@pytest.mark.parametrize("empty", ["train", "validation"])
def test_training_without_images_in_a_split_is_refused(tmp_path, rng, empty):
    images = rng.integers(0, 256, (6, 1, 6, 6), dtype=np.uint8)
    rows = {"train": np.arange(3), "validation": np.arange(3, 6)} | {empty: np.arange(0)}
    names = [f"{row}.png" for row in range(6)]
    write_shards(tmp_path, images, np.arange(6) % 3, names, rows, CLASSES, {})
    with pytest.raises(DataError, match=f"'{empty}' .* is empty"):
        load_dataset(tmp_path)
