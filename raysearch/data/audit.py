"""What is wrong with a data set before anything is trained on it: twins, leaks, blanks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raysearch.data.parallel import in_order
from raysearch.data.perceptual import components, dhash, near_pairs
from raysearch.data.reading import ImageStack
from raysearch.data.shards import Shards

CORRELATION = 0.9
CHUNK = 2048


@dataclass(frozen=True)
class Row:
    """One image as a finding names it."""

    split: str
    source: str
    label: str


@dataclass(frozen=True)
class Audit:
    """Counts, and the groups behind them: each a list of rows that show the same picture.

    Duplicates have equal pixels. Near-duplicates differ in at most 3 bits of the
    dHash and their pixels correlate by at least `CORRELATION`; exact duplicates count as one
    image there and constant images are left out.
    """

    images: int
    unique_images: int
    duplicates: list[list[Row]]
    near_duplicates: list[list[Row]]
    constants: list[Row]
    class_counts: dict[str, dict[str, int]]

    @property
    def across_splits(self) -> list[list[Row]]:
        """Duplicate groups with rows in more than one split: leaks."""
        return [group for group in self.duplicates if len({row.split for row in group}) > 1]

    @property
    def conflicting(self) -> list[list[Row]]:
        """Duplicate groups whose rows carry more than one label."""
        return [group for group in self.duplicates if len({row.label for row in group}) > 1]

    def summary(self) -> dict:
        """The counts under the names of ``raysearch data check --json``."""
        return {
            "unique_images": self.unique_images,
            "duplicate_groups": len(self.duplicates),
            "duplicate_groups_across_splits": len(self.across_splits),
            "conflicting_groups": len(self.conflicting),
            "constant_images": len(self.constants),
            "near_duplicate_groups": len(self.near_duplicates),
            "class_counts": self.class_counts,
        }


def audit(shards: Shards) -> Audit:
    """Examine all splits together. Linear in the number of images but for near-equal hashes."""
    splits = [shards.split(name) for name in shards.splits]
    rows = [
        Row(split.name, source, shards.classes[label])
        for split in splits
        for source, label in zip(split.sources, split.labels_N, strict=True)
    ]
    digests_N16 = np.concatenate([split.digests_N16 for split in splits])
    _, first_U, unique_N = np.unique(
        np.ascontiguousarray(digests_N16).view("V16").reshape(-1),
        return_index=True,
        return_inverse=True,
    )
    pixels = ImageStack([split.images_NCHW for split in splits])
    constant_U = _constant(pixels, first_U)
    varied_U = np.flatnonzero(~constant_U)
    linked_U = np.arange(len(first_U))
    linked_U[varied_U] = varied_U[_near_components(pixels, first_U[varied_U])]
    several = np.bincount(linked_U, minlength=len(first_U))[linked_U] > 1
    return Audit(
        images=len(rows),
        unique_images=len(first_U),
        duplicates=_groups(unique_N, np.bincount(unique_N)[unique_N] > 1, rows),
        near_duplicates=_groups(linked_U[unique_N], several[unique_N], rows),
        constants=[rows[row] for row in np.flatnonzero(constant_U[unique_N])],
        class_counts={
            name: dict(entry["class_counts"]) for name, entry in shards.manifest["splits"].items()
        },
    )


def _mapped(pixels: ImageStack, function, rows: np.ndarray) -> np.ndarray:
    """``function`` of chunks of the images at ``rows``, joined."""
    starts = range(0, max(1, len(rows)), CHUNK)
    return np.concatenate(
        list(in_order(lambda start: function(pixels[rows[start : start + CHUNK]]), starts))
    )


def _constant(pixels: ImageStack, rows: np.ndarray) -> np.ndarray:
    def flat(images: np.ndarray) -> np.ndarray:
        values = images.reshape(*images.shape[:2], images.shape[2] * images.shape[3])
        return (values.min(axis=2, initial=255) >= values.max(axis=2, initial=0)).all(axis=1)

    return _mapped(pixels, flat, rows)


def _near_components(pixels: ImageStack, rows: np.ndarray) -> np.ndarray:
    """For each of the distinct, varied images ``rows``: the first that shows the same picture."""
    hashes = _mapped(pixels, dhash, rows)
    distinct, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    same = np.stack([np.arange(len(rows)), first[inverse]], axis=1)
    pairs = np.concatenate([same[same[:, 0] != same[:, 1]], first[near_pairs(distinct)]])
    kept = [
        chunk[_correlation(pixels[rows[chunk[:, 0]]], pixels[rows[chunk[:, 1]]])]
        for chunk in np.array_split(pairs, max(1, len(pairs) // CHUNK))
    ]
    return components(len(rows), np.concatenate(kept))


def _correlation(left_NCHW: np.ndarray, right_NCHW: np.ndarray) -> np.ndarray:
    """Boolean [N]: the two images' pixels correlate by at least `CORRELATION`."""
    left, right = (
        images.reshape(len(images), np.prod(images.shape[1:])).astype(np.float32)
        for images in (left_NCHW, right_NCHW)
    )
    left -= left.mean(axis=1, keepdims=True)
    right -= right.mean(axis=1, keepdims=True)
    norm = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    return (left * right).sum(axis=1) >= CORRELATION * norm


def _groups(keys_N: np.ndarray, chosen_N: np.ndarray, rows: Sequence[Row]) -> list[list[Row]]:
    """The chosen rows grouped by key, groups and rows in order of appearance."""
    groups: dict[int, list[Row]] = {}
    for row in np.flatnonzero(chosen_N):
        groups.setdefault(int(keys_N[row]), []).append(rows[row])
    return list(groups.values())
