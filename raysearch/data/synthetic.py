"""The embedded data set: drawn faces with expressions, so that everything runs without a file."""

import time
from pathlib import Path

import numpy as np

from raysearch.data.faces import draw_face
from raysearch.data.importing import ImportReport, check_free
from raysearch.data.layouts import FER_CLASSES
from raysearch.data.shards import SPLITS, write_shards
from raysearch.errors import DataError
from raysearch.files import atomic_folder

SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}
NOTE = "Synthetic faces, drawn by a program: scores on them are toys."


def synthesize(
    out: Path | str, *, images: int = 3500, image_size: int = 48, seed: int = 0
) -> ImportReport:
    """Draw ``images`` gray faces of FER2013's seven classes into a new data folder ``out``.

    60 % are for training, 20 % each for validation and test, with equal shares of each class.
    Equal arguments give equal pixels. Raises `DataError` where ``out`` is taken or an argument
    is out of range.
    """
    started = time.perf_counter()
    out = Path(out)
    least = 5 * len(FER_CLASSES)
    if not least <= images <= 1_000_000 or not 16 <= image_size <= 512:
        raise DataError(
            f"Synthetic data has {least} to 1,000,000 images of 16 to 512 pixels, "
            f"but {images:,} of {image_size} were asked for."
        )
    check_free(out)
    rng = np.random.default_rng(seed)
    counts = {name: int(images * share) for name, share in SHARES.items()}
    counts["train"] += images - sum(counts.values())
    labels_N = np.concatenate(
        [rng.permutation(np.arange(count) % len(FER_CLASSES)) for count in counts.values()]
    )
    pixels_NHW = np.stack([draw_face(FER_CLASSES[label], image_size, rng) for label in labels_N])
    edges = np.cumsum([0, *counts.values()])
    rows_of = {name: np.arange(*edges[i : i + 2]) for i, name in enumerate(SPLITS)}
    with atomic_folder(out) as folder:
        manifest = write_shards(
            folder,
            pixels_NHW[:, None],
            labels_N,
            [f"synthetic:{row}" for row in range(images)],
            rows_of,
            FER_CLASSES,
            {"found": "synthetic", "names": ["synthetic"], "seed": seed},
        )
    return ImportReport.of(out, manifest, notes=(NOTE,), rejected=0, started=started)
