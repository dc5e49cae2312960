import io
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raysearch.data.pixels import parse_pixels
from raysearch.data.tables import TableReader, read_columns
from raysearch.errors import DataError


def reference(text: bytes, count: int) -> list[int] | None:
    """The plain meaning of a row: exactly ``count`` decimal integers from 0 to 255."""
    tokens = text.decode("latin-1").split(None)
    if len(tokens) != count or not all(t.isascii() and t.isdigit() for t in tokens):
        return None
    values = [int(t) for t in tokens]
    return values if max(values) <= 255 else None


token = st.one_of(
    st.integers(0, 255).map(str),
    st.integers(0, 255).map(lambda v: f"{v:03d}"),
    st.sampled_from(["256", "299", "300", "999", "1000", "0255", "-1", "1.0", "x", "", "+5"]),
)
plain = st.lists(st.integers(0, 255).map(str), min_size=4, max_size=4).map(" ".join)
odd = st.lists(token, min_size=3, max_size=5).map(" ".join)
blanks = plain.map(lambda row: "  " + row.replace(" ", "\t ") + " ")


@settings(max_examples=300, deadline=None)
@given(rows=st.lists(st.one_of(plain, plain, odd, blanks), max_size=30))
def test_pixels_agree_with_parsing_a_number_at_a_time(rows):
    texts = [row.encode() for row in rows]
    images, bad = parse_pixels(texts, 2)
    expected = [reference(text, 4) for text in texts]
    assert images.reshape(-1, 4).tolist() == [values for values in expected if values]
    assert sorted(bad) == [row for row, values in enumerate(expected) if values is None]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("1 2 3", "3 pixels, not 4"),
        ("1 2 3 256", "pixel 4 is 256, not from 0 to 255"),
        ("1 two 3 4", "pixel 2 is 'two', not an integer"),
        ("1 -2 3 4", "pixel 2 is '-2'"),
        ("1 2 3 99999999999999999999", "pixel 4 is 9999"),
        ("", "0 pixels"),
    ],
)
def test_bad_pixels_are_told_in_words(row, why):
    images, bad = parse_pixels([b"1 2 3 4", row.encode()], 2)
    assert len(images) == 1 and why in bad[1]


def test_extra_number_is_not_hidden_by_a_missing_one_in_the_next_row():
    images, bad = parse_pixels([b"1 2 3 4 5", b"1 2 3"], 2)
    assert len(images) == 0 and sorted(bad) == [0, 1]


@pytest.mark.parametrize(
    "header",
    [b"emotion,pixels,Usage", b"emotion, Usage, pixels\r\n", b'\xef\xbb\xbf"emotion","pixels"'],
)
def test_header_is_read_whatever_its_blanks_quotes_and_order(header):
    columns = read_columns(header)
    names = [name.strip(b' "\r\n\xef\xbb\xbf') for name in header.split(b",")]
    assert names[columns.emotion] == b"emotion" and names[columns.pixels] == b"pixels"


def reader(text: str) -> TableReader:
    return TableReader("t.csv", lambda: io.BytesIO(text.encode()), len(text))


def test_rows_are_named_by_their_line():
    text = "emotion,pixels\n3,1 2 3 4\n\n9,1 2 3 4\nx\n6,4 3 2 1"
    (batch,) = reader(text).read((1, 2, 2))
    assert batch.sources == ["t.csv:2", "t.csv:6"]
    assert batch.labels == ["happy", "neutral"]
    assert batch.rejected == [
        ("t.csv:4", "emotion is '9', not 0 to 6"),
        ("t.csv:5", "1 columns, not 2"),
    ]


def test_unknown_usage_is_a_bad_row():
    (batch,) = reader("emotion,pixels,Usage\n0,1 2 3 4,Training\n0,1 2 3 4,Tset\n").read((1, 2, 2))
    assert batch.splits == ["train"]
    assert batch.rejected[0][1] == "Usage is 'Tset', not Training, PublicTest or PrivateTest"


def test_blocks_end_at_line_ends(monkeypatch, rng):
    monkeypatch.setattr("raysearch.data.tables.BLOCK", 50)
    pixels = rng.integers(0, 256, (40, 2, 2), dtype=np.uint8)
    rows = [f"{i % 7},{' '.join(map(str, p.ravel()))}" for i, p in enumerate(pixels)]
    batches = list(reader("emotion,pixels\n" + "\n".join(rows)).read((1, 2, 2)))
    assert len(batches) > 3
    np.testing.assert_array_equal(np.concatenate([b.images_NCHW for b in batches])[:, 0], pixels)
    sources = [name for batch in batches for name in batch.sources]
    assert sources == [f"t.csv:{line}" for line in range(2, 42)]


row = st.sampled_from(
    ["3,1 2 3 4", "6,4 3 2 1\r", '0,"9 8 7 255"', "9,1 2 3 4", "x", "", "1,1 2 3 256", "2,5 5 5"]
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(row, min_size=1, max_size=30), ended=st.booleans(), block=st.integers(5, 99))
def test_plain_file_gives_what_a_stream_gives(tmp_path_factory, rows, ended, block):
    text = "\n".join(["emotion,pixels", *["3,1 2 3 4"] * 31, *rows]) + "\n" * ended
    path = tmp_path_factory.mktemp("tables") / "t.csv"
    path.write_bytes(text.encode())
    plain = TableReader("t.csv", lambda: open(path, "rb"), len(text), plain=True)

    def found(batches):
        parts = [[], [], [], []]
        for batch in batches:
            images = batch.images_NCHW.reshape(-1, 4).tolist()
            values = (images, batch.labels, batch.sources, batch.rejected)
            for part, more in zip(parts, values, strict=True):
                part += more
        return [*parts[:3], sorted(parts[3])]

    with mock.patch("raysearch.data.tables.BLOCK", block):
        assert found(plain.read((1, 2, 2))) == found(reader(text).read((1, 2, 2)))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a,b\n1,2\n", "must name the columns emotion,pixels"),
        ("emotion,pixels\n", "has no rows"),
        ("emotion,pixels\n0,1 2 3\n", "must be square, but its rows have 3 pixels"),
    ],
)
def test_other_tables_are_refused(text, why):
    with pytest.raises(DataError, match=why):
        reader(text)
