"""What a user wants predicted: image files, folders and zips, as uint8 images of one shape."""

import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from raysearch.data.containers import Container, Folder, Unreadable, Zip, read
from raysearch.data.images import FILE_BYTES, SUFFIXES, BadImage, load_picture, pixels_of
from raysearch.ensemble.faces import Box
from raysearch.errors import DataError


@dataclass(frozen=True)
class Input:
    """One image to predict: ``pixels`` uint8 ``[C, H, W]``, and where in the file it was found,
    or None where it is the whole file."""

    name: str
    pixels: np.ndarray
    face: Box | None = None


def read_images(
    paths: Sequence[Path | str],
    shape: tuple[int, int, int],
    on_reject: Callable[[str, str], None],
    find_faces: Callable[[Image.Image], list[Box]] | None = None,
) -> Iterator[Input]:
    """Yield each image, decoded as an import of training data decodes it; with ``find_faces``
    each face of each image instead.

    Folders are read with all below them. Images in a folder or zip are named by their path in
    it; where several things are given, ``photos.zip/inside.png``.
    What cannot be read, or has no face, goes to ``on_reject(name, reason)`` and the rest goes on.
    """
    channels, size = shape[0], shape[1:]
    for name, load in _sources(paths, on_reject):
        try:
            picture = load_picture(load(), channels)
        except (BadImage, Unreadable, OSError) as error:
            on_reject(name, getattr(error, "strerror", None) or str(error))
            continue
        if find_faces is None:
            yield Input(name, pixels_of(picture, size))
            continue
        boxes = find_faces(picture)
        if not boxes:
            on_reject(name, "no face was found in it")
        for box in boxes:
            x, y, width, height = box
            cut = picture.crop((x, y, x + width, y + height))
            yield Input(name, pixels_of(cut, size), box)


def batches_of(inputs: Iterable[Input], size: int) -> Iterator[list[Input]]:
    """``inputs`` in order, in lists of at most ``size``."""
    inputs = iter(inputs)
    while batch := list(islice(inputs, size)):
        yield batch


def _sources(
    paths: Sequence[Path | str], on_reject: Callable[[str, str], None]
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """(name, how to read its bytes) of everything that looks like an image."""
    for path in map(Path, paths):
        prefix = "" if len(paths) == 1 else f"{path}/"
        if path.is_dir():
            yield from _contained(path, prefix, Folder(path), on_reject)
        elif path.is_file() and zipfile.is_zipfile(path):
            yield from _zipped(path, prefix, on_reject)
        else:
            yield str(path), lambda path=path: _read_file(path)


def _zipped(
    path: Path, prefix: str, on_reject: Callable[[str, str], None]
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    try:
        archive = Zip(path)
    except DataError as error:
        on_reject(str(path), str(error))
        return
    try:
        yield from _contained(path, prefix, archive, on_reject)
    finally:
        archive.close()


def _contained(
    path: Path, prefix: str, container: Container, on_reject: Callable[[str, str], None]
) -> Iterator[tuple[str, Callable[[], bytes]]]:
    for name, reason in container.refused:
        on_reject(f"{prefix}{name}", reason)
    names = [name for name in container.names if Path(name).suffix.lower() in SUFFIXES]
    if not names:
        on_reject(str(path), "holds no file with an image's suffix")
    for name in names:
        yield f"{prefix}{name}", lambda name=name: read(container, name, FILE_BYTES)


def _read_file(path: Path) -> bytes:
    if not path.exists():
        raise Unreadable("there is no such file")
    if not path.is_file():
        raise Unreadable("not a regular file")
    with open(path, "rb") as file:
        return file.read(FILE_BYTES + 1)
