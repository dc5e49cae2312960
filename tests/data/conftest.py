"""Small image sets in the layouts of FER2013."""

import numpy as np
import pytest
from image_samples import random_png, table_row

from raysearch.data.layouts import FER_CLASSES


@pytest.fixture
def fer_files(rng) -> dict[str, bytes]:
    """The image archive's layout: 7 classes of 4 training, 2 public and 1 private images."""
    files = {}
    for label, name in enumerate(FER_CLASSES):
        for folder, prefix, count in (
            ("train", "Training", 4),
            ("test", "PublicTest", 2),
            ("test", "PrivateTest", 1),
        ):
            for index in range(count):
                files[f"{folder}/{name}/{prefix}_{label}{index}.png"] = random_png(rng)
    return files


@pytest.fixture
def fer_pixels(rng) -> np.ndarray:
    """Pixels of 49 rows, labels being the row modulo 7."""
    return rng.integers(0, 256, (49, 8, 8), dtype=np.uint8)


@pytest.fixture
def fer_table(fer_pixels) -> str:
    """``fer2013.csv`` with 35 training, 7 public and 7 private rows."""
    usages = ["Training"] * 35 + ["PublicTest"] * 7 + ["PrivateTest"] * 7
    rows = [table_row(p, i % 7, u) for i, (p, u) in enumerate(zip(fer_pixels, usages, strict=True))]
    return "\n".join(["emotion,pixels,Usage", *rows]) + "\n"
