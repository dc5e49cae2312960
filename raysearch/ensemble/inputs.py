"""What a user wants predicted: image files, folders and zips, as uint8 images of one shape."""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from raysearch.data.containers import Container, Folder, Unreadable, Zip, read
from raysearch.data.images import FILE_BYTES, SUFFIXES, BadImage, decode
from raysearch.errors import DataError


def read_images(
    paths: Sequence[Path | str],
    shape: tuple[int, int, int],
    on_reject: Callable[[str, str], None],
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, uint8 ``[C, H, W]``) for each image, as an import of training data decodes it.

    Folders are read with all below them. Images in a folder or zip are named by their path in
    it; where several things are given, ``photos.zip/inside.png``.
    What cannot be read goes to ``on_reject(name, reason)`` and the rest goes on.
    """
    for name, load in _sources(paths, on_reject):
        try:
            yield name, decode(load(), shape[1:], shape[0])
        except (BadImage, Unreadable, OSError) as error:
            on_reject(name, getattr(error, "strerror", None) or str(error))


def read_batches(
    images: Iterator[tuple[str, np.ndarray]], size: int
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Group ``images`` into (names, ``images_NCHW``) of at most ``size``."""
    names, pixels = [], []
    for name, image in images:
        names.append(name)
        pixels.append(image)
        if len(names) == size:
            yield names, np.stack(pixels)
            names, pixels = [], []
    if names:
        yield names, np.stack(pixels)


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
