"""A view of some classes against an import of their rows alone, and what a folder it is refused."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysearch.data.audit import audit
from raysearch.data.classes import ClassError
from raysearch.data.dataset import load_dataset
from raysearch.data.shards import open_shards, write_shards

CLASSES = ("angry", "happy", "neutral", "sad")
SPLITS = ("train", "validation", "test")


def make(folder: Path, labels_N, seed: int = 0, rows_per_shard: int | None = None) -> Path:
    """Images in random order over the splits; every third one is a copy of the one before."""
    rng = np.random.default_rng(seed)
    count = len(labels_N)
    images = rng.integers(0, 256, (count, 1, 5, 4), dtype=np.uint8)
    images[2::3] = images[1::3][: len(images[2::3])]
    order = rng.permutation(count)
    thirds = np.array_split(order, 3)
    write_shards(
        folder,
        images,
        np.asarray(labels_N),
        [f"{row}.png" for row in range(count)],
        dict(zip(SPLITS, thirds, strict=True)),
        CLASSES,
        {},
        rows_per_shard=rows_per_shard,
    )
    return folder


def imported(whole, classes: list[str], folder: Path):
    """Shards of the rows of ``classes`` alone, chosen one by one."""
    images, labels, sources, rows_of = [], [], [], {}
    for name in SPLITS:
        split, start = whole.split(name), len(labels)
        pixels = np.asarray(split.images_NCHW)
        for row, label in enumerate(split.labels_N):
            if whole.classes[label] in classes:
                images.append(pixels[row])
                labels.append(classes.index(whole.classes[label]))
                sources.append(split.sources[row])
        rows_of[name] = np.arange(start, len(labels))
    images = np.array(images, np.uint8).reshape(-1, *whole.shape)
    labels = np.array(labels, np.int64)
    write_shards(folder, images, labels, sources, rows_of, classes, {}, rows_per_shard=7)
    return open_shards(folder)


cases = given(
    labels=st.lists(st.integers(0, 3), min_size=3, max_size=40),
    classes=st.permutations(CLASSES).flatmap(
        lambda names: st.integers(2, 4).map(lambda count: names[:count])
    ),
    rows_per_shard=st.integers(1, 20),
    seed=st.integers(0, 9),
)


@settings(max_examples=60)
@cases
def test_view_is_the_import_of_these_rows_alone(labels, classes, rows_per_shard, seed):
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        whole = open_shards(make(Path(one), labels, seed, rows_per_shard))
        view, alone = whole.subset(classes), imported(whole, classes, Path(other))
        assert (view.classes, view.shape) == (tuple(classes), whole.shape)
        assert (view.fingerprint, view.splits) == (alone.fingerprint, alone.splits)
        for name in SPLITS:
            found, expected = view.split(name), alone.split(name)
            assert (len(found), found.digest) == (len(expected), expected.digest)
            np.testing.assert_array_equal(found.images_NCHW, np.asarray(expected.images_NCHW))
            np.testing.assert_array_equal(found.labels_N, expected.labels_N)
            np.testing.assert_array_equal(found.digests_N16, expected.digests_N16)
            assert found.sources == expected.sources
            counts = [view.manifest["splits"][name], alone.manifest["splits"][name]]
            assert counts[0]["class_counts"] == counts[1]["class_counts"]


@settings(max_examples=30)
@cases
def test_groups_of_duplicates_are_the_wholes_without_the_other_classes(
    labels, classes, rows_per_shard, seed
):
    with TemporaryDirectory() as folder:
        whole = open_shards(make(Path(folder), labels, seed, rows_per_shard))
        kept = [[row for row in g if row.label in classes] for g in audit(whole).duplicates]
        expected = [group for group in kept if len(group) > 1]
        view = whole.subset(classes)
        assert sum(len(view.split(name)) for name in SPLITS) == sum(
            CLASSES[label] in classes for label in labels
        )
        if any(CLASSES[label] in classes for label in labels):
            assert sorted(audit(view).duplicates, key=str) == sorted(expected, key=str)


@settings(max_examples=20)
@cases
def test_view_of_a_view_is_the_view(labels, classes, rows_per_shard, seed):
    with TemporaryDirectory() as folder:
        whole = open_shards(make(Path(folder), labels, seed, rows_per_shard))
        twice = whole.subset(["sad", "neutral", "happy", "angry"]).subset(classes)
        assert twice.fingerprint == whole.subset(classes).fingerprint
        for name in SPLITS:
            once = whole.subset(classes).split(name)
            np.testing.assert_array_equal(twice.split(name).labels_N, once.labels_N)
            assert twice.split(name).sources == once.sources


def test_all_classes_in_their_order_are_the_whole_and_in_another_are_not(tmp_path):
    whole = open_shards(make(tmp_path, [0, 1, 2, 3] * 5))
    assert whole.subset(CLASSES) is whole and whole.subset(None) is whole
    turned = whole.subset(CLASSES[::-1])
    assert turned.fingerprint != whole.fingerprint
    assert len(turned.split("train")) == len(whole.split("train"))


def test_unknown_class_gets_the_nearest_name_the_list_and_its_position(tmp_path):
    whole = open_shards(make(tmp_path, [0, 1, 2, 3] * 5))
    message = r"no class 'hapy' \(did you mean 'happy'\?\)\. It has: angry, happy, neutral, sad"
    with pytest.raises(ClassError, match=message) as caught:
        whole.subset(["sad", "hapy"])
    assert caught.value.position == 1


def test_class_named_twice_is_refused(tmp_path):
    whole = open_shards(make(tmp_path, [0, 1, 2, 3] * 5))
    with pytest.raises(ClassError, match="'sad' is named twice"):
        whole.subset(["sad", "happy", "sad"])


@pytest.mark.parametrize(("empty", "rows"), [("train", [0, 3]), ("validation", [6, 9])])
def test_class_without_images_to_train_or_validate_on_is_named(tmp_path, empty, rows):
    labels_N = np.arange(20) % 2
    rows_of = {"train": np.arange(6), "validation": np.arange(6, 12), "test": np.arange(12, 20)}
    labels_N[rows_of[empty]] = 0
    labels_N[rows] = 2
    images = np.zeros((20, 1, 4, 4), np.uint8)
    names = [f"{row}.png" for row in range(20)]
    write_shards(tmp_path, images, labels_N, names, rows_of, CLASSES[:3], {})
    with pytest.raises(ClassError, match=f"'happy' has no image in the split '{empty}'") as caught:
        load_dataset(tmp_path, classes=["angry", "happy"])
    assert caught.value.position == 1
    assert load_dataset(tmp_path).classes == CLASSES[:3]  # as it always was


def test_training_sees_the_view_alone(tmp_path):
    folder = make(tmp_path, [0, 1, 2, 3] * 15)
    view = open_shards(folder).subset(["sad", "angry"])
    dataset = load_dataset(folder, classes=["sad", "angry"])
    assert (dataset.classes, dataset.fingerprint) == (view.classes, view.fingerprint)
    pixels = np.asarray(view.split("train").images_NCHW) / 255
    assert dataset.mean == pytest.approx([pixels.mean()])
    for name in ("train", "validation"):
        split = getattr(dataset, name)
        np.testing.assert_array_equal(split.images_NCHW, np.asarray(view.split(name).images_NCHW))
        np.testing.assert_array_equal(split.labels_N, view.split(name).labels_N)
        assert split.digest == view.split(name).digest
