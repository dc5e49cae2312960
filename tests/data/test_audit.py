import time
from collections import defaultdict

import numpy as np
import pytest
from PIL import Image, ImageFilter

from raysearch.data.audit import audit
from raysearch.data.importing import import_data
from raysearch.data.shards import open_shards, write_shards
from raysearch.data.synthetic import synthesize


@pytest.fixture
def faces(tmp_path_factory):
    synthesize(tmp_path_factory.mktemp("faces") / "out", images=60)
    folder = next(tmp_path_factory.getbasetemp().glob("faces*/out"))
    return np.array(open_shards(folder).split("train").images_NCHW)[:20]


def examined(folder, images, labels, splits):
    rows_of = {name: np.flatnonzero(np.array(splits) == name) for name in set(splits)}
    names = [f"{i}.png" for i in range(len(images))]
    write_shards(
        folder, images, np.array(labels), names, rows_of, ("a", "b"), {"found": "", "names": []}
    )
    return audit(open_shards(folder))


def named(groups):
    return [sorted(int(row.source.split(".")[0]) for row in group) for group in groups]


def test_twins_leaks_and_conflicts_are_told_apart(tmp_path, faces):
    images = np.concatenate([faces[:6], faces[[0, 1, 2, 0]]])
    labels = [0, 0, 0, 1, 1, 0, 0, 1, 0, 0]
    splits = ["train"] * 6 + ["validation", "train", "train", "test"]
    found = examined(tmp_path, images, labels, splits)
    assert found.unique_images == 6
    assert sorted(named(found.duplicates)) == [[0, 6, 9], [1, 7], [2, 8]]
    assert named(found.across_splits) == [[0, 6, 9]]
    assert named(found.conflicting) == [[1, 7]]
    assert found.near_duplicates == [] and found.constants == []


def test_blurred_and_brightened_copies_are_near_duplicates(tmp_path, faces):
    blurred = np.asarray(Image.fromarray(faces[3, 0]).filter(ImageFilter.GaussianBlur(0.5)))
    brighter = (faces[5].astype(np.int64) * 9 // 10 + 12).astype(np.uint8)
    images = np.concatenate([faces, blurred[None, None], brighter[None]])
    found = examined(tmp_path, images, [0] * 22, ["train"] * 21 + ["validation"])
    assert sorted(named(found.near_duplicates)) == [[3, 20], [5, 21]]
    assert found.duplicates == []


def test_constant_images_are_counted_and_are_no_near_duplicates(tmp_path, faces):
    images = faces.copy()
    images[2], images[3], images[4] = 0, 200, 200
    found = examined(tmp_path, images, [0] * 20, ["train"] * 20)
    assert named([found.constants]) == [[2, 3, 4]]
    assert named(found.duplicates) == [[3, 4]] and found.near_duplicates == []


def test_rgb_image_of_one_colour_is_constant(tmp_path, rng):
    images = rng.integers(0, 256, (4, 3, 8, 8), dtype=np.uint8)
    images[1] = np.array([10, 20, 30], np.uint8)[:, None, None]
    found = examined(tmp_path, images, [0, 1, 0, 1], ["train"] * 4)
    assert named([found.constants]) == [[1]]


@pytest.mark.real_data
def test_real_duplicates_agree_with_grouping_the_pixels(tmp_path, fer2013_zip):
    import_data([str(fer2013_zip)], tmp_path / "fer")
    shards = open_shards(tmp_path / "fer")
    groups = defaultdict(list)
    for name in shards.splits:
        split = shards.split(name)
        for pixels, label in zip(split.images_NCHW, split.labels_N, strict=True):
            groups[pixels.tobytes()].append((name, int(label)))
    twins = [group for group in groups.values() if len(group) > 1]
    started = time.perf_counter()
    found = audit(shards)
    assert time.perf_counter() - started < 20
    assert found.unique_images == len(groups)
    assert len(found.duplicates) == len(twins)
    assert len(found.across_splits) == sum(len({split for split, _ in g}) > 1 for g in twins)
    assert len(found.conflicting) == sum(len({label for _, label in g}) > 1 for g in twins)
    assert len(found.constants) == 12
    assert len(found.near_duplicates) > 100
