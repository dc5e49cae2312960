"""FER2013's CSV: ``emotion,pixels[,Usage]`` in any column order, a row an image."""

import mmap
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from math import isqrt
from typing import IO

from raysearch.data.containers import READ_ERRORS
from raysearch.data.images import Header, resized
from raysearch.data.layouts import FER_CLASSES, USAGES
from raysearch.data.parallel import in_order, in_processes
from raysearch.data.pixels import BadRow, parse_pixels
from raysearch.data.rows import Batch
from raysearch.errors import DataError

BLOCK = 4 * 2**20
LINE = 64 * 2**20
_BLANK = b' "\t\r'


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
    """Rows of one CSV. ``open_file`` opens it for reading from the start.

    A ``plain`` file can be read from any place: it is parsed by several processes.
    """

    def __init__(
        self, title: str, open_file: Callable[[], IO[bytes]], size: int, plain: bool = False
    ) -> None:
        self.title = title
        self._open, self._plain = open_file, plain
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
        if self._plain:
            parsed = self._parsed_in_processes(shape)
        else:
            parsed = in_order(lambda block: self._parse(block, shape), self._blocks())
        number = 2
        for batch, lines in parsed:
            yield self._placed(batch, number)
            number += lines

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        try:
            with self._open() as file:
                yield file
        except READ_ERRORS as error:
            raise DataError(
                f"{self.title} cannot be read to its end ({error}). Copy or download it again."
            ) from None

    def _parsed_in_processes(self, shape: tuple[int, int, int]) -> Iterator[tuple[Batch, int]]:
        with self._opened() as file:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as table:
                places = range(0, len(table) + BLOCK, BLOCK)
                edges = [_next_line(table, place) for place in places]

            def parse(ends: tuple[int, int]) -> tuple[Batch, int]:
                # Read, not mapped: a copy costs less than the page faults.
                return self._parse(os.pread(file.fileno(), ends[1] - ends[0], ends[0]), shape)

            yield from in_processes(parse, pairwise(edges))

    def _blocks(self) -> Iterator[bytes]:
        """All lines but the first, whole, in blocks of about ``BLOCK`` bytes.

        (A line longer than ``LINE`` is cut, so that its row is refused.)
        """
        with self._opened() as file:
            file.readline(LINE)
            while block := file.read(BLOCK) + file.readline(LINE):
                yield block

    def _parse(self, text: bytes, shape: tuple[int, int, int]) -> tuple[Batch, int]:
        """The rows of ``text``, with their lines within it as sources, and how many lines end
        in it."""
        pixels, labels, splits, sources, rejected = [], [], [], [], []
        line = start = 0
        while start < len(text):
            end = text.find(b"\n", start)
            end = len(text) if end < 0 else end
            try:
                label, numbers, split = _fields(text, start, end, self._columns)
            except BadRow as error:
                if text[start : min(end, start + LINE)].strip():
                    rejected.append((line, str(error)))
            else:
                pixels.append(numbers)
                labels.append(label)
                splits.append(split)
                sources.append(line)
            line += end < len(text)
            start = end + 1
        images, bad = parse_pixels(pixels, self._side)
        if bad:
            rejected += [(sources[row], why) for row, why in bad.items()]
            kept = [row for row in range(len(pixels)) if row not in bad]
            labels, splits, sources = ([x[row] for row in kept] for x in (labels, splits, sources))
        images = resized(images[:, None], shape)
        return Batch.of(images, labels, splits, sources, rejected), line

    def _placed(self, batch: Batch, number: int) -> Batch:
        """``batch`` with the file's lines as sources; its first line is the file's ``number``."""
        sources = [f"{self.title}:{number + line}" for line in batch.sources]
        rejected = [(f"{self.title}:{number + line}", why) for line, why in batch.rejected]
        return replace(batch, sources=sources, rejected=rejected)


def _next_line(table: mmap.mmap, place: int) -> int:
    """Where the first line but the table's first begins at byte ``place`` or after."""
    end = table.find(b"\n", max(0, place - 1))
    return len(table) if end < 0 else end + 1


def _fields(text: bytes, start: int, stop: int, columns: Columns) -> tuple[str, bytes, str]:
    """Class, pixel text and split ("" without a Usage column) of one row. Raises `BadRow`."""
    if stop - start > LINE:
        raise BadRow(f"a line of {stop - start:,} bytes")
    fields = []
    while (comma := text.find(b",", start, stop)) >= 0:
        fields.append(text[start:comma])
        start = comma + 1
    fields.append(text[start:stop])
    if len(fields) != columns.count:
        raise BadRow(f"{len(fields)} columns, not {columns.count}")
    label = _class_of(fields[columns.emotion])
    split = _split_of(fields[columns.usage]) if columns.usage >= 0 else ""
    return label, fields[columns.pixels].strip(_BLANK), split


@cache
def _class_of(field: bytes) -> str:
    emotion = field.strip(_BLANK)
    if not (emotion.isdigit() and len(emotion) < 4 and int(emotion) < len(FER_CLASSES)):
        raise BadRow(f"emotion is {emotion[:20].decode('utf-8', 'replace')!r}, not 0 to 6")
    return FER_CLASSES[int(emotion)]


@cache
def _split_of(field: bytes) -> str:
    usage = field.strip(_BLANK).decode("utf-8", "replace")
    split = USAGES.get(usage.casefold(), "")
    if not split:
        raise BadRow(f"Usage is {usage[:20]!r}, not Training, PublicTest or PrivateTest")
    return split


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
