import json
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysearch.data.shards import digests_of, open_shards, write_shards
from raysearch.errors import DataError


def make(folder: Path, rows=(6, 3, 0), shape=(1, 4, 4), rows_per_shard=None, seed=0) -> Path:
    rng = np.random.default_rng(seed)
    count = sum(rows)
    images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    labels = rng.integers(0, 3, count)
    edges = np.cumsum([0, *rows])
    rows_of = {
        name: np.arange(edges[i], edges[i + 1])
        for i, name in enumerate(("train", "validation", "test"))
    }
    folder.mkdir(exist_ok=True)
    names = [f"é{i}.png" for i in range(count)]
    write_shards(
        folder,
        images,
        labels,
        names,
        rows_of,
        ("a", "b", "c"),
        {"found": "test", "names": []},
        rows_per_shard=rows_per_shard,
    )
    return folder


@settings(max_examples=40, deadline=None)
@given(
    rows=st.tuples(st.integers(1, 20), st.integers(1, 9), st.integers(0, 9)),
    shape=st.tuples(st.sampled_from([1, 3]), st.integers(1, 7), st.integers(1, 7)),
    rows_per_shard=st.integers(1, 25),
    seed=st.integers(0, 99),
)
def test_shards_give_back_what_was_written(rows, shape, rows_per_shard, seed):
    with TemporaryDirectory() as folder:
        shards = open_shards(make(Path(folder), rows, shape, rows_per_shard, seed))
        rng = np.random.default_rng(seed)
        images = rng.integers(0, 256, (sum(rows), *shape), dtype=np.uint8)
        labels = rng.integers(0, 3, sum(rows))
        start = 0
        for name, count in zip(("train", "validation", "test"), rows, strict=True):
            split = shards.split(name)
            stop = start + count
            assert len(split) == count
            assert len(split.paths) == -(-count // rows_per_shard)
            np.testing.assert_array_equal(split.images_NCHW, images[start:stop])
            np.testing.assert_array_equal(split.labels_N, labels[start:stop])
            np.testing.assert_array_equal(split.digests_N16, digests_of(images[start:stop]))
            assert split.sources == [f"é{i}.png" for i in range(start, stop)]
            assert split.labels_N.dtype == np.int64 and split.images_NCHW.dtype == np.uint8
            start = stop


@settings(max_examples=20, deadline=None)
@given(rows_per_shard=st.integers(1, 12), seed=st.integers(0, 9))
def test_fingerprint_does_not_depend_on_the_shard_size(rows_per_shard, seed):
    with TemporaryDirectory() as one, TemporaryDirectory() as many:
        whole = open_shards(make(Path(one), seed=seed))
        parts = open_shards(make(Path(many), rows_per_shard=rows_per_shard, seed=seed))
        assert whole.fingerprint == parts.fingerprint
        assert whole.split("train").digest == parts.split("train").digest


def test_fingerprint_tells_other_pixels_apart(tmp_path):
    first = open_shards(make(tmp_path / "a", seed=0))
    second = open_shards(make(tmp_path / "b", seed=1))
    assert first.fingerprint != second.fingerprint
    assert first.split("train").digest != second.split("train").digest


def test_digest_tells_shapes_of_equal_bytes_apart():
    flat = np.zeros((1, 1, 2, 8), np.uint8)
    assert (digests_of(flat) != digests_of(flat.reshape(1, 1, 4, 4))).any()


def test_one_shard_is_read_without_a_copy(tmp_path):
    images = open_shards(make(tmp_path)).split("train").images_NCHW
    assert not images.flags.owndata and not images.flags.writeable


def test_truncated_shard_is_named_with_the_remedy(tmp_path):
    shard = make(tmp_path) / "train-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"train-00000.arrow is truncated.*raysearch data import"):
        open_shards(tmp_path, verify=False)


def test_changed_shard_is_found_by_its_checksum(tmp_path):
    shard = make(tmp_path) / "validation-00000.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"validation-00000.arrow was changed.*Delete"):
        open_shards(tmp_path)


def test_missing_shard_is_named(tmp_path):
    (make(tmp_path) / "train-00000.arrow").unlink()
    with pytest.raises(DataError, match="train-00000.arrow is missing"):
        open_shards(tmp_path)


def edit_manifest(folder: Path, **changes) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_other_format_version_says_which_are_read(tmp_path):
    edit_manifest(make(tmp_path), version=2)
    with pytest.raises(DataError, match=r"format version 2; .* reads version 1\. Import"):
        open_shards(tmp_path)


def test_edited_classes_are_found(tmp_path):
    edit_manifest(make(tmp_path), classes=["b", "a", "c"])
    with pytest.raises(DataError, match="fingerprint is wrong"):
        open_shards(tmp_path)


def test_manifest_without_an_entry_names_it(tmp_path):
    edit_manifest(make(tmp_path), splits={"train": {}})
    with pytest.raises(DataError, match="lacks the entry 'splits.train.rows'"):
        open_shards(tmp_path)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"shape": [1, 4, 2**40]}, "shape.2: Input should be less than 65536"),
        ({"shape": [1, 4]}, "shape: List should have at least 3 items"),
        ({"classes": ["a", 7]}, "classes.1: Input should be a valid string"),
        ({"splits": {"../train": {}}}, "splits.../train"),
    ],
)
def test_manifest_with_a_wrong_value_names_it(tmp_path, changes, why):
    edit_manifest(make(tmp_path), **changes)
    with pytest.raises(DataError, match=f"manifest.json: {re.escape(why)}.*import"):
        open_shards(tmp_path)


def test_shard_whose_offsets_lead_out_of_the_file_is_refused_not_followed(tmp_path):
    """Its size is right; a wrong offset of a name would be read from wherever it points."""
    make(tmp_path)
    path = tmp_path / "train-00000.arrow"
    split = open_shards(tmp_path).split("train")
    ends = np.cumsum([0, *(len(name.encode()) for name in split.sources)]).astype("<i4").tobytes()
    data = path.read_bytes()
    assert data.count(ends) == 1
    at = data.index(ends) + 4
    path.write_bytes(data[:at] + b"\xff\xff\xff\x7f" + data[at + 4 :])
    split = open_shards(tmp_path, verify=False).split("train")
    with pytest.raises(DataError, match="train-00000.arrow is not a whole shard.*import"):
        split.sources  # noqa: B018


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "else"}'])
def test_foreign_manifest_is_refused_in_one_sentence(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match="manifest.json"):
        open_shards(tmp_path)


def test_folder_of_images_asks_whether_to_import_it(tmp_path):
    with pytest.raises(DataError, match=r"Did you mean to run `raysearch data import"):
        open_shards(tmp_path)


def test_unknown_split_suggests_the_near_one(tmp_path):
    with pytest.raises(DataError, match=r"no split 'valdation' \(did you mean 'validation'\?\)"):
        open_shards(make(tmp_path)).split("valdation")


def test_reading_shards_needs_no_pandas(tmp_path):
    """pandas takes most of a second to import, in every command."""
    import subprocess

    make(tmp_path)
    code = (
        "import sys; from raysearch.data.shards import open_shards; "
        f"s = open_shards({str(tmp_path)!r}).split('train'); "
        "s.images_NCHW, s.labels_N, s.digests_N16, s.sources; "
        "assert 'pandas' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
