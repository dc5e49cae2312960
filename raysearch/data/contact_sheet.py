"""Some images of each class in one picture, a row a class in the order of the classes."""

from pathlib import Path

import numpy as np
from PIL import Image

from raysearch.data.shards import Shards
from raysearch.errors import DataError
from raysearch.files import atomic_path

COLUMNS = 16


def write_contact_sheet(shards: Shards, split: str, path: Path, seed: int) -> None:
    """Write a PNG of up to `COLUMNS` images drawn from each class of ``split``.

    Raises `DataError` for a split without images.
    """
    rows = shards.split(split)
    if not len(rows):
        raise DataError(f"{shards.path} has no {split} images to show. Name another --split.")
    rng = np.random.default_rng(seed)
    channels, height, width = shards.shape
    sheet = np.zeros((channels, height * len(shards.classes), width * COLUMNS), np.uint8)
    for label in range(len(shards.classes)):
        members = np.flatnonzero(rows.labels_N == label)
        chosen = np.sort(rng.permutation(members)[:COLUMNS])
        for column, row in enumerate(chosen):
            top, left = label * height, column * width
            sheet[:, top : top + height, left : left + width] = rows.images_NCHW[row]
    picture = Image.fromarray(sheet[0] if channels == 1 else sheet.transpose(1, 2, 0))
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")
