import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from raysearch.errors import ArtifactError
from raysearch.probabilities import Probabilities, read_probabilities, write_probabilities


def make(rows: int = 5, classes: int = 3, candidates: tuple[str, ...] = ("ema", "raw")):
    rng = np.random.default_rng(0)
    return Probabilities(
        candidates={
            name: rng.dirichlet(np.ones(classes), rows).astype(np.float16) for name in candidates
        },
        split="validation",
        digest="0123abcd",
        classes=tuple(f"class {i}" for i in range(classes)),
        epoch=7,
        precision=dict.fromkeys(candidates, "fp32"),
    )


def assert_same(found: Probabilities, written: Probabilities) -> None:
    assert list(found.candidates) == list(written.candidates)
    for name, probs_VK in written.candidates.items():
        assert found.candidates[name].dtype == np.float16
        np.testing.assert_array_equal(found.candidates[name], probs_VK)
    assert (found.split, found.digest, found.classes, found.epoch, found.precision) == (
        written.split,
        written.digest,
        written.classes,
        written.epoch,
        written.precision,
    )


@given(
    st.integers(0, 9).flatmap(
        lambda rows: arrays(np.float16, (2, rows, 4), elements=st.floats(0, 1, width=16))
    )
)
def test_every_file_is_read_back_bit_for_bit(tmp_path_factory, probs_MVK):
    path = tmp_path_factory.mktemp("round") / "validation.arrow"
    empty = make(classes=4)
    candidates = dict(zip(empty.candidates, probs_MVK, strict=True))
    written = Probabilities(**{**vars(empty), "candidates": candidates})
    write_probabilities(path, written)
    assert_same(read_probabilities(path), written)


def test_a_file_torn_anywhere_is_named_with_the_remedy(tmp_path):
    path = tmp_path / "validation.arrow"
    write_probabilities(path, make())
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ArtifactError, match=r"validation\.arrow is not a whole.*resume"):
            read_probabilities(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ArtifactError, match="absent.arrow"):
        read_probabilities(tmp_path / "absent.arrow")


def write_table(path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


GOOD = {
    "split": "validation",
    "digest": "d",
    "classes": ["a", "b"],
    "epoch": 1,
    "precision": {"ema": "fp32"},
}


@pytest.mark.parametrize(
    "meta",
    [
        None,
        "not json",
        json.dumps({**GOOD, "classes": 2}),
        json.dumps({**GOOD, "classes": ["a", "b", "c"]}),
        json.dumps({key: value for key, value in GOOD.items() if key != "digest"}),
    ],
)
def test_an_arrow_file_of_another_kind_is_refused(tmp_path, meta):
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(4, np.float16)), 2)
    table = pa.table({"ema": column})
    if meta is not None:
        table = table.replace_schema_metadata({b"raysearch": meta})
    write_table(tmp_path / "other.arrow", table)
    with pytest.raises(ArtifactError, match="other.arrow is not a whole probability file"):
        read_probabilities(tmp_path / "other.arrow")


def test_a_column_without_lists_is_refused(tmp_path):
    table = pa.table({"ema": [1, 2]}).replace_schema_metadata({b"raysearch": json.dumps(GOOD)})
    write_table(tmp_path / "flat.arrow", table)
    with pytest.raises(ArtifactError):
        read_probabilities(tmp_path / "flat.arrow")


def test_failing_to_write_keeps_the_file_that_was_there(tmp_path):
    path = tmp_path / "validation.arrow"
    written = make()
    write_probabilities(path, written)
    broken = make(candidates=("ema",))
    broken.candidates["raw"] = np.ones((2, 3), np.float16)
    with pytest.raises(pa.ArrowInvalid):
        write_probabilities(path, broken)
    assert_same(read_probabilities(path), written)
    assert [entry.name for entry in tmp_path.iterdir()] == ["validation.arrow"]
