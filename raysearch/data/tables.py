"""FER2013's CSV: ``emotion,pixels[,Usage]`` in any column order, a row an image.

The pixels are parsed twelve rows at a time with whole-array byte arithmetic: every byte's value
as the last digit of a number is computed, and the ones before a separator are kept. Whatever is
not plainly right is parsed again row by row, for a verdict in words.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt
from typing import IO

import numpy as np

from raysearch.data.containers import READ_ERRORS
from raysearch.data.images import Header, resized
from raysearch.data.layouts import FER_CLASSES, USAGES
from raysearch.data.rows import Batch
from raysearch.data.threads import in_order
from raysearch.errors import DataError

BLOCK = 4 * 2**20
LINE = 64 * 2**20
ROWS_AT_ONCE = 12
_BLANK = b' "\t\r'


class BadRow(Exception):
    """Why a row cannot be used, in a few words for ``rejected.csv``."""


@dataclass(frozen=True)
class Columns:
    """Positions of the columns; ``usage`` is -1 where the table has none."""

    count: int
    emotion: int
    pixels: int
    usage: int


def read_columns(line: bytes) -> Columns | None:
    """The columns named by a header line, or None where emotion and pixels are not among them."""
    names = [
        field.strip(_BLANK).decode("utf-8", "replace").casefold()
        for field in line.removeprefix(b"\xef\xbb\xbf").strip().split(b",")
    ]
    if "emotion" not in names or "pixels" not in names:
        return None
    usage = names.index("usage") if "usage" in names else -1
    return Columns(len(names), names.index("emotion"), names.index("pixels"), usage)


class TableReader:
    """Rows of one CSV. ``open_file`` opens it for reading from the start."""

    def __init__(self, title: str, open_file: Callable[[], IO[bytes]], size: int) -> None:
        self.title = title
        self._open = open_file
        with self._opened() as file:
            columns = read_columns(file.readline(LINE))
            lines = [file.readline(LINE) for _ in range(100)]
        if columns is None:
            raise DataError(
                f"{title} is no FER2013 table: its first line must name the columns "
                "emotion,pixels or emotion,pixels,Usage."
            )
        self._columns = columns
        self._side = _infer_side(lines, columns, title)
        lines = [line for line in lines if line.strip()]
        self.rows = max(1, size * len(lines) // max(1, sum(map(len, lines))))
        self.complete = columns.usage >= 0
        self.found = "FER2013 table " + (
            "(splits in the Usage column)" if self.complete else "without a Usage column"
        )
        self.notes: list[str] = []

    def class_names(self) -> set[str]:
        return set(FER_CLASSES)

    def survey(self) -> list[Header]:
        return [Header(self._side, self._side, gray=True)]

    def read(self, shape: tuple[int, int, int]) -> Iterator[Batch]:
        return in_order(lambda block: self._parse(*block, shape), self._blocks())

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        try:
            with self._open() as file:
                yield file
        except READ_ERRORS as error:
            raise DataError(
                f"{self.title} cannot be read to its end ({error}). Copy or download it again."
            ) from None

    def _blocks(self) -> Iterator[tuple[int, bytes]]:
        """Whole lines in blocks of about ``BLOCK`` bytes, each with its first line's number.

        (A line longer than ``LINE`` is cut, so that its row is refused.)
        """
        with self._opened() as file:
            file.readline(LINE)
            number = 2
            while block := file.read(BLOCK) + file.readline(LINE):
                yield number, block
                number += block.count(b"\n")

    def _parse(self, number: int, block: bytes, shape: tuple[int, int, int]) -> Batch:
        pixels, labels, splits, sources, rejected = [], [], [], [], []
        for offset, (start, stop) in enumerate(_lines(block)):
            where = f"{self.title}:{number + offset}"
            try:
                label, text, split = _fields(block, start, stop, self._columns)
            except BadRow as error:
                if block[start:stop].strip():
                    rejected.append((where, str(error)))
                continue
            pixels.append(text)
            labels.append(label)
            splits.append(split)
            sources.append(where)
        images, bad = parse_pixels(pixels, self._side)
        if bad:
            rejected += [(sources[row], why) for row, why in bad.items()]
            kept = [row for row in range(len(pixels)) if row not in bad]
            labels, splits, sources = ([x[row] for row in kept] for x in (labels, splits, sources))
        return Batch.of(resized(images[:, None], shape), labels, splits, sources, rejected)


def parse_pixels(texts: Sequence[bytes], side: int) -> tuple[np.ndarray, dict[int, str]]:
    """uint8 [N, side, side] of the good rows, and why each bad one is bad.

    A good row is exactly side * side integers from 0 to 255 between blanks.
    """
    count = side * side
    parts: list[np.ndarray] = [np.empty(0, np.uint8)]
    bad = {}
    for start in range(0, len(texts), ROWS_AT_ONCE):
        chunk = texts[start : start + ROWS_AT_ONCE]
        values = _parse_plain(chunk, count)
        if values is not None:
            parts.append(values)
            continue
        for row, text in enumerate(chunk, start):
            try:
                parts.append(_parse_carefully(text, count))
            except BadRow as error:
                bad[row] = str(error)
    return np.concatenate(parts).reshape(-1, side, side), bad


def _parse_plain(texts: Sequence[bytes], count: int) -> np.ndarray | None:
    """The numbers of rows of ``count`` each between spaces; None if anything is amiss."""
    text = np.frombuffer(b"   " + b" ".join(texts) + b" ", np.uint8)
    digit = text - np.uint8(48)
    is_digit = digit < 10
    is_space = text == 32
    if not (is_digit | is_space).all():
        return None
    one = is_digit.view(np.uint8)
    digit *= one
    last = is_digit[3:-1] & is_space[4:]
    below_hundred = digit[2:-2] * np.uint8(10)
    below_hundred += digit[3:-1]
    hundreds = digit[1:-3] * one[2:-2]
    hundreds *= one[3:-1]
    four_digits = is_digit[3:-1] & is_digit[2:-2] & is_digit[1:-3] & is_digit[:-4]
    if hundreds.max() > 2 or four_digits.any():
        return None
    hundreds *= np.uint8(100)
    hundreds += below_hundred
    if (hundreds < below_hundred).any():  # 256 to 299 wrapped around
        return None
    start = 0
    for row in texts:
        if np.count_nonzero(last[start : start + len(row)]) != count:
            return None
        start += len(row) + 1
    return np.compress(last, hundreds)


def _parse_carefully(text: bytes, count: int) -> np.ndarray:
    numbers = text.split()
    if len(numbers) != count:
        raise BadRow(f"{len(numbers):,} pixels, not {count:,}")
    for position, number in enumerate(numbers, 1):
        if not number.isdigit():
            shown = number[:20].decode("utf-8", "replace")
            raise BadRow(f"pixel {position} is {shown!r}, not an integer from 0 to 255")
        if len(number) > 9 or int(number) > 255:
            shown = number[:20].decode()
            raise BadRow(f"pixel {position} is {shown}, not from 0 to 255")
    return np.array(numbers, dtype=np.uint8)


def _lines(block: bytes) -> Iterator[tuple[int, int]]:
    """Where each line starts and stops. (Cutting lines out would copy the whole table.)"""
    start = 0
    while start < len(block):
        stop = block.find(b"\n", start)
        stop = len(block) if stop < 0 else stop
        yield start, stop
        start = stop + 1


def _fields(block: bytes, start: int, stop: int, columns: Columns) -> tuple[str, bytes, str]:
    """Class, pixel text and split ("" without a Usage column) of one row. Raises `BadRow`."""
    edges = [start - 1]
    while (comma := block.find(b",", edges[-1] + 1, stop)) >= 0:
        edges.append(comma)
    edges.append(stop)
    if len(edges) - 1 != columns.count:
        raise BadRow(f"{len(edges) - 1} columns, not {columns.count}")
    fields = [block[a + 1 : b].strip(_BLANK) for a, b in pairwise(edges)]
    emotion = fields[columns.emotion]
    if not (emotion.isdigit() and len(emotion) < 4 and int(emotion) < len(FER_CLASSES)):
        raise BadRow(f"emotion is {emotion[:20].decode('utf-8', 'replace')!r}, not 0 to 6")
    split = ""
    if columns.usage >= 0:
        usage = fields[columns.usage].decode("utf-8", "replace")
        split = USAGES.get(usage.casefold(), "")
        if not split:
            raise BadRow(f"Usage is {usage[:20]!r}, not Training, PublicTest or PrivateTest")
    return FER_CLASSES[int(emotion)], fields[columns.pixels], split


def _infer_side(lines: Sequence[bytes], columns: Columns, title: str) -> int:
    """The side of the square that most of the first rows fill."""
    counts: Counter[int] = Counter()
    for line in lines:
        fields = line.split(b",")
        if len(fields) == columns.count:
            counts[len(fields[columns.pixels].strip(_BLANK).split())] += 1
    if not counts:
        raise DataError(f"{title} has no rows of {columns.count} columns below its header.")
    count = counts.most_common(1)[0][0]
    if count == 0 or isqrt(count) ** 2 != count:
        raise DataError(
            f"{title}: the images must be square, but its rows have {count:,} pixels each."
        )
    return isqrt(count)
