"""``import_data``: sources in, verified shards out, or nothing at all."""

import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from raysearch.data.layouts import SPLIT_NAMES, order_classes
from raysearch.data.rows import Reader
from raysearch.data.shards import MANIFEST, SPLITS, write_shards
from raysearch.data.sources import describe_sources, open_source
from raysearch.data.splits import SHARE, cut
from raysearch.errors import DataError
from raysearch.files import atomic_folder

REJECTED = "rejected.csv"
REJECTED_SHARE = 0.01
LARGEST_DEFAULT_SIDE = 224

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ImportReport:
    """What an import found and wrote."""

    path: Path
    found: str
    notes: tuple[str, ...]
    images: dict[str, int]
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    shards: int
    rejected: int
    seconds: float
    fingerprint: str

    @staticmethod
    def of(
        path: Path, manifest: dict, *, notes: tuple[str, ...], rejected: int, started: float
    ) -> "ImportReport":
        """The report on a folder with this ``manifest``; ``started`` is a `perf_counter`."""
        return ImportReport(
            path=path,
            found=manifest["source"]["found"],
            notes=notes,
            images={name: manifest["splits"][name]["rows"] for name in SPLITS},
            classes=tuple(manifest["classes"]),
            shape=tuple(manifest["shape"]),
            shards=sum(len(split["shards"]) for split in manifest["splits"].values()),
            rejected=rejected,
            seconds=time.perf_counter() - started,
            fingerprint=manifest["fingerprint"],
        )

    def summary(self) -> dict:
        """The values under the names of ``raysearch data import --json``."""
        return {
            "images": self.images,
            "classes": list(self.classes),
            "shape": list(self.shape),
            "shards": self.shards,
            "rejected": self.rejected,
            "seconds": round(self.seconds, 3),
            "fingerprint": self.fingerprint,
        }


def import_data(
    sources: Sequence[str],
    out: Path | str,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    allow_rejected: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> ImportReport:
    """Read ``sources`` (a path, or ``split=path`` each) into a new data folder ``out``.

    Without ``image_size`` (side in pixels) and ``channels`` (1 or 3) the images' own are taken.
    ``progress`` is called with the rows done and the rows in all. ``out`` appears whole or not
    at all. Raises `DataError` for input that cannot be used, and where more than 1 % of the rows
    are unusable unless ``allow_rejected``.
    """
    started = time.perf_counter()
    out = Path(out)
    check_free(out)
    readers = _open_readers(sources)
    classes = order_classes(set().union(*(reader.class_names() for _, reader in readers)))
    shape = _choose_shape([reader for _, reader in readers], image_size, channels)
    with atomic_folder(out) as folder:
        rows = _read_all(readers, classes, shape, folder / "rows.tmp", progress)
        _check_rejected(rows, allow_rejected)
        rows_of, notes = _choose_splits(rows, readers, seed)
        manifest = write_shards(
            folder,
            rows.images_NCHW,
            rows.labels_N,
            rows.sources,
            rows_of,
            classes,
            _provenance(readers, seed),
            digests_N16=rows.digests_N16,
        )
        if rows.rejected:
            _write_rejected(folder / REJECTED, rows.rejected)
        (folder / "rows.tmp").unlink()
    told = tuple(note for _, reader in readers for note in reader.notes)
    return ImportReport.of(
        out, manifest, notes=told + tuple(notes), rejected=len(rows.rejected), started=started
    )


@dataclass(frozen=True)
class _Rows:
    """All rows in source order; the pixels lie in a memory-mapped file."""

    images_NCHW: np.ndarray
    labels_N: np.ndarray
    digests_N16: np.ndarray
    splits_N: np.ndarray
    sources: list[str]
    rejected: list[tuple[str, str]]


def _read_all(
    readers: Sequence[tuple[str, Reader]],
    classes: Sequence[str],
    shape: tuple[int, int, int],
    spool: Path,
    progress: Progress | None,
) -> _Rows:
    number = {name.casefold(): index for index, name in enumerate(classes)}
    labels, splits, sources, rejected = [], [], [], []
    digests = [np.empty((0, 16), np.uint8)]
    total = sum(reader.rows for _, reader in readers)
    with open(spool, "wb") as file:
        for split, reader in readers:
            for batch in reader.read(shape):
                file.write(batch.images_NCHW.data)
                digests.append(batch.digests_N16)
                labels += [number[label.casefold()] for label in batch.labels]
                splits += [split] * len(batch.labels) if split else batch.splits
                sources += batch.sources
                rejected += batch.rejected
                if progress:
                    progress(len(labels) + len(rejected), total)
    if not labels:
        reasons = "; ".join(f"{where}: {why}" for where, why in rejected[:3])
        raise DataError(f"No usable image was found. {reasons}".strip())
    pixels = np.memmap(spool, np.uint8, "r", shape=(len(labels), *shape))
    return _Rows(
        pixels,
        np.array(labels, np.int64),
        np.concatenate(digests),
        np.array(splits),
        sources,
        rejected,
    )


def _choose_splits(
    rows: _Rows, readers: Sequence[tuple[str, Reader]], seed: int
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Rows of each split; what is missing is cut out of train unless the splits are complete."""
    splits_N = rows.splits_N.astype("U10")
    splits_N[splits_N == ""] = "train"
    present = set(splits_N.tolist())
    if "train" not in present:
        raise DataError(f"There are no training images: only {', '.join(sorted(present))}.")
    complete = all(reader.complete for _, reader in readers)
    rng = np.random.default_rng(seed)
    wanted = [name for name in ("test", "validation") if name not in present]
    if complete and "test" in wanted:
        wanted.remove("test")
    cut_rows = np.flatnonzero(splits_N == "train")
    notes = []
    for position, name in enumerate(wanted):
        share = SHARE / (1 - SHARE * position)
        train = cut_rows[splits_N[cut_rows] == "train"]
        moved = train[cut(rows.labels_N[train], rows.digests_N16[train], share, rng)]
        splits_N[moved] = name
        notes.append(
            f"No {name} split was found: {len(moved):,} images ({SHARE:.0%} of each class, "
            f"seed {seed}) were cut out of train."
        )
    rows_of = {name: np.flatnonzero(splits_N == name) for name in SPLITS}
    if not len(rows_of["validation"]):
        raise DataError("Too few training images to cut a validation split out of them.")
    return rows_of, notes


def _choose_shape(
    readers: Sequence[Reader], image_size: int | None, channels: int | None
) -> tuple[int, int, int]:
    """The asked-for shape, or the images' own: one size, or the median of the short sides."""
    if image_size is not None and not 1 <= image_size <= 4096:
        raise DataError(f"The image size must be from 1 to 4096 pixels, but got {image_size}.")
    if channels not in (None, 1, 3):
        raise DataError(f"Images have 1 (gray) or 3 (RGB) channels, but got {channels}.")
    headers = [header for reader in readers for header in reader.survey()]
    if channels is None:
        channels = 1 if all(header.gray for header in headers) else 3
    remedy = " (choose another size with --image-size)" if image_size is None else ""
    if image_size is None and headers:
        sides = [min(header.width, header.height) for header in headers]
        image_size = min(LARGEST_DEFAULT_SIDE, round(median(sides)))
    if note := _reshaping({header[:2] for header in headers}, image_size, remedy):
        readers[0].notes.append(note)
    return (channels, image_size or 48, image_size or 48)


def _reshaping(sizes: set[tuple[int, int]], side: int | None, remedy: str) -> str:
    """What becomes of images of these widths and heights, or "" where they stay as they are."""
    if sizes <= {(side, side)}:
        return ""
    one = next(iter(sizes))
    are = "of several sizes" if len(sizes) > 1 else f"{one[0]}x{one[1]} pixels"
    oblong = any(width != height for width, height in sizes)
    cut = "what is not square is cut about its centre, and " if oblong else ""
    return f"The images are {are}: {cut}all become {side}x{side} pixels{remedy}."


def _open_readers(sources: Sequence[str]) -> list[tuple[str, Reader]]:
    return [
        (named or told, reader)
        for named, path in _parse_sources(sources)
        for told, reader in open_source(path)
    ]


def _parse_sources(sources: Sequence[str]) -> list[tuple[str, Path]]:
    parsed = []
    for source in sources:
        name, equals, path = str(source).partition("=")
        if equals and name.casefold() in SPLIT_NAMES and not Path(source).exists():
            parsed.append((SPLIT_NAMES[name.casefold()], Path(path)))
        else:
            parsed.append(("", Path(source)))
    names = [name for name, _ in parsed]
    if not parsed:
        raise DataError("Name at least one source: an archive, a folder or a CSV file.")
    if len(parsed) > 1 and ("" in names or len(set(names)) < len(names)):
        raise DataError(
            "Several sources must be one per split, like `train=a.csv validation=b.csv test=c.csv`."
        )
    return parsed


def check_free(out: Path) -> None:
    """Raises `DataError` where ``out`` exists and is not an empty folder."""
    if (out / MANIFEST).exists():
        raise DataError(
            f"{out} already holds imported data. Delete it or name another --out: "
            "an import never merges into one."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} already exists and is not empty. Name another --out.")


def _check_rejected(rows: _Rows, allow_rejected: bool) -> None:
    bad, total = len(rows.rejected), len(rows.rejected) + len(rows.sources)
    if bad > REJECTED_SHARE * total and not allow_rejected:
        first = "; ".join(f"{where}: {why}" for where, why in rows.rejected[:3])
        raise DataError(
            f"{bad:,} of {total:,} rows cannot be used, more than {REJECTED_SHARE:.0%}: {first}"
            f"{'; ...' if bad > 3 else ''}. Mend them, or leave them out with --allow-rejected."
        )


def _write_rejected(path: Path, rejected: Sequence[tuple[str, str]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["where", "why"])
        writer.writerows(rejected)


def _provenance(readers: Sequence[tuple[str, Reader]], seed: int) -> dict:
    return {
        "found": describe_sources(readers),
        "names": [reader.title for _, reader in readers],
        "seed": seed,
    }
