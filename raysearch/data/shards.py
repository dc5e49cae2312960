"""Arrow shards: ``DIR/manifest.json`` and ``DIR/<split>-00000.arrow``, checked on open.

A shard is an uncompressed Arrow IPC file with the columns ``image`` (fixed-shape tensor, uint8
[C, H, W]), ``label`` (int16), ``source`` (string: file name or ``file.csv:row``) and ``digest``
(16 bytes: BLAKE2b-128 of the pixels and their shape). One record batch a shard, so that a
memory-mapped shard is one contiguous array.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from raysearch.data.batches import REMEDY, write_batch
from raysearch.data.classes import check_names
from raysearch.data.manifest import FORMAT, MANIFEST, SPLITS, VERSION, read_manifest
from raysearch.data.reading import Split
from raysearch.errors import DataError, did_you_mean
from raysearch.files import sha256_of, sync, write_json

SHARD_BYTES = 128 * 2**20


def digests_of(images_NCHW: np.ndarray) -> np.ndarray:
    """BLAKE2b-128 of each image's shape and pixels: uint8 [N, 16]."""
    shape = np.array(images_NCHW.shape[1:], dtype="<u4").tobytes()
    start = hashlib.blake2b(shape, digest_size=16)
    out = bytearray()
    for image in np.ascontiguousarray(images_NCHW):
        one = start.copy()
        one.update(image.data)
        out += one.digest()
    return np.frombuffer(bytes(out), dtype=np.uint8).reshape(-1, 16)


@dataclass(frozen=True)
class Shards:
    """An open data folder, or a view of some of its classes."""

    path: Path
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    fingerprint: str
    manifest: dict[str, Any]
    kept: tuple[int, ...] | None = None
    """Of a view: the classes' labels in the files."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in the order train, validation, test; one may have no rows."""
        return tuple(self.manifest["splits"])

    def split(self, name: str) -> Split:
        """Raises `DataError` for a split that the folder does not have."""
        if name not in self.splits:
            hint = did_you_mean(name, self.splits)
            raise DataError(f"{self.path} has no split {name!r}{hint}: {', '.join(self.splits)}.")
        entry = self.manifest["splits"][name]
        paths = tuple(self.path / shard["file"] for shard in entry["shards"])
        return Split(name, entry["digest"], paths, entry["rows"], self.shape, self.kept)

    def subset(self, classes: Sequence[str] | None) -> "Shards":
        """A view of the rows of these ``classes``, labels numbered in this order; None: all.

        It equals in everything, its digests and fingerprint too, what an import of these rows
        alone would be. Raises `ClassError` for a class that the data does not have.
        """
        if classes is None or tuple(classes) == self.classes:
            return self
        check_names(classes, self.classes)
        kept = tuple(self.classes.index(name) for name in classes)
        if self.kept is not None:
            kept = tuple(self.kept[label] for label in kept)
        splits = {}
        for name in self.splits:
            split = replace(self.split(name), kept=kept)
            shards = self.manifest["splits"][name]["shards"]
            splits[name] = _split_entry(classes, split.labels_N, split.digests_N16, shards)
        fingerprint = _fingerprint(classes, self.shape, splits)
        manifest = self.manifest | {
            "classes": list(classes),
            "fingerprint": fingerprint,
            "splits": splits,
        }
        return Shards(self.path, tuple(classes), self.shape, fingerprint, manifest, kept)


def open_shards(folder: Path | str, verify: bool = True) -> Shards:
    """Open a data folder; with ``verify`` every shard's SHA-256 is compared too.

    Raises `DataError` for another format version, a missing, truncated or changed shard, and a
    folder that holds no imported data.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    shards = Shards(
        path=folder,
        classes=tuple(manifest["classes"]),
        shape=tuple(manifest["shape"]),
        fingerprint=manifest["fingerprint"],
        manifest=manifest,
    )
    for split in manifest["splits"].values():
        for entry in split["shards"]:
            _check_shard(folder, entry, verify)
    expected = _fingerprint(manifest["classes"], manifest["shape"], manifest["splits"])
    if shards.fingerprint != expected:
        raise DataError(f"{folder / MANIFEST} was edited: its fingerprint is wrong. {REMEDY}")
    return shards


def write_shards(
    folder: Path,
    images_NCHW: np.ndarray,
    labels_N: np.ndarray,
    sources: Sequence[str],
    rows_of: Mapping[str, np.ndarray],
    classes: Sequence[str],
    source: Mapping[str, Any],
    *,
    digests_N16: np.ndarray | None = None,
    rows_per_shard: int | None = None,
) -> dict[str, Any]:
    """Write the shards and the manifest into the existing ``folder``; return the manifest.

    ``images_NCHW`` (uint8, may be memory-mapped) and ``labels_N`` hold all rows;
    ``rows_of[split]`` picks a split's rows, in order. ``source`` says in the manifest where they
    came from. Not atomic: call it inside `raysearch.files.atomic_folder`.
    """
    if digests_N16 is None:
        digests_N16 = digests_of(images_NCHW)
    shape = list(images_NCHW.shape[1:])
    size = rows_per_shard or max(1, SHARD_BYTES // int(np.prod(shape)))
    splits, synced = {}, []
    with ThreadPoolExecutor() as finishing:
        for name in SPLITS:
            rows = np.asarray(rows_of.get(name, ()), dtype=np.int64)
            shards = []
            for number, start in enumerate(range(0, len(rows), size)):
                part = rows[start : start + size]
                path = folder / f"{name}-{number:05d}.arrow"
                names = [sources[row] for row in part]
                images = images_NCHW[_slice_or_rows(part)]
                write_batch(path, images, labels_N[part], names, digests_N16[part])
                synced.append(finishing.submit(sync, path))  # while the next one is written
                shards.append(finishing.submit(_shard_entry, path, len(part)))
            splits[name] = _split_entry(classes, labels_N[rows], digests_N16[rows], shards)
    for done in synced:
        done.result()
    for entry in splits.values():
        entry["shards"] = [shard.result() for shard in entry["shards"]]
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "classes": list(classes),
        "shape": shape,
        "fingerprint": _fingerprint(classes, shape, splits),
        "source": dict(source),
        "splits": splits,
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def _shard_entry(path: Path, rows: int) -> dict[str, Any]:
    size = path.stat().st_size
    return {"file": path.name, "rows": rows, "bytes": size, "sha256": sha256_of(path)}


def _split_entry(
    classes: Sequence[str], labels_N: np.ndarray, digests_N16: np.ndarray, shards: list
) -> dict[str, Any]:
    counts = np.bincount(labels_N, minlength=len(classes)).tolist()
    return {
        "rows": len(labels_N),
        "class_counts": dict(zip(classes, counts, strict=True)),
        "digest": _split_digest(digests_N16, labels_N),
        "shards": shards,
    }


def _slice_or_rows(rows: np.ndarray) -> slice | np.ndarray:
    """A slice for consecutive rows, which picks them without a copy."""
    consecutive = rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all()
    return slice(int(rows[0]), int(rows[-1]) + 1) if consecutive else rows


def _split_digest(digests_N16: np.ndarray, labels_N: np.ndarray) -> str:
    labels = labels_N.astype("<i2").reshape(-1, 1).view(np.uint8)
    return hashlib.blake2b(np.hstack([digests_N16, labels]).tobytes(), digest_size=16).hexdigest()


def _fingerprint(classes: Sequence[str], shape: Sequence[int], splits: Mapping) -> str:
    named = [list(classes), list(shape), [[name, splits[name]["digest"]] for name in splits]]
    return hashlib.blake2b(json.dumps(named).encode(), digest_size=16).hexdigest()


def _check_shard(folder: Path, entry: Mapping[str, Any], verify: bool) -> None:
    path = folder / entry["file"]
    if not path.is_file():
        raise DataError(f"The shard {path} is missing. {REMEDY}")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise DataError(
            f"The shard {path} is truncated or changed: "
            f"{size:,} bytes, its manifest says {entry['bytes']:,}. {REMEDY}"
        )
    if verify and sha256_of(path) != entry["sha256"]:
        raise DataError(f"The shard {path} was changed: its SHA-256 is wrong. {REMEDY}")
