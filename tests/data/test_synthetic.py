import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from raysearch.data.layouts import FER_CLASSES
from raysearch.data.shards import open_shards
from raysearch.data.synthetic import synthesize
from raysearch.errors import DataError


def test_faces_have_all_classes_in_all_splits(tmp_path):
    report = synthesize(tmp_path / "out", images=105)
    assert report.images == {"train": 63, "validation": 21, "test": 21}
    assert report.classes == FER_CLASSES and report.shape == (1, 48, 48)
    shards = open_shards(tmp_path / "out")
    assert shards.manifest["source"]["found"] == "synthetic"
    for name in shards.splits:
        assert set(np.bincount(shards.split(name).labels_N, minlength=7)) == {
            len(shards.split(name)) // 7
        }


def test_equal_seeds_draw_equal_faces(tmp_path):
    prints = [
        synthesize(tmp_path / str(i), images=35, image_size=24, seed=seed).fingerprint
        for i, seed in enumerate((3, 3, 4))
    ]
    assert prints[0] == prints[1] != prints[2]


def test_expressions_can_be_learnt_but_not_by_a_line_alone(tmp_path):
    synthesize(tmp_path / "out", images=1400, image_size=24)
    shards = open_shards(tmp_path / "out")
    (x, y), (x_val, y_val) = (
        (split.images_NCHW.reshape(len(split), -1) / 255, split.labels_N)
        for split in (shards.split("train"), shards.split("validation"))
    )
    accuracy = LogisticRegression(C=0.01, max_iter=200).fit(x, y).score(x_val, y_val)
    assert 0.3 < accuracy < 0.9


@pytest.mark.parametrize("arguments", [{"images": 6}, {"image_size": 4}])
def test_out_of_range_arguments_are_refused(tmp_path, arguments):
    with pytest.raises(DataError, match="Synthetic data has 35 to 1,000,000 images of 16 to 512"):
        synthesize(tmp_path / "out", **arguments)
