"""Imports of what a search is given as it is, kept beside it and used again."""

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from raysearch.data.importing import import_data
from raysearch.data.manifest import MANIFEST


def import_beside(source: Path) -> Path:
    """The folder of shards that ``source`` is imported into, ``NAME-STAMP.shards`` beside it, or
    in ``data/`` where that folder may not be written to.

    The stamp is of its files' number, sizes and times, so that one that changed is imported anew
    and earlier runs keep what they were trained on. Raises `DataError` as `import_data` does.
    """
    source = source.resolve() if source.exists() else source
    beside = source.parent if is_writable(source.parent) else Path("data")
    cached = beside / f"{source.name.split('.')[0]}-{stamp(source)}.shards"
    if (cached / MANIFEST).exists():
        print(f"{source} is as it was: using {cached}", file=sys.stderr)
    else:
        if source.exists():
            print(f"importing {source} into {cached}", file=sys.stderr)
        import_data([str(source)], cached)
    return cached.resolve()


def stamp(source: Path) -> str:
    """Eight digits that change with ``source``, a file or a folder with all that is in it."""
    stats = [path.stat() for path in _parts(source) if path.exists()]  # a link may lead nowhere
    newest = max((stat.st_mtime_ns for stat in stats), default=0)
    known = source.name, len(stats), sum(stat.st_size for stat in stats), newest
    return hashlib.sha256(repr(known).encode()).hexdigest()[:8]


def _parts(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
    for folder, _, names in os.walk(source):
        yield Path(folder)  # its time tells of files that were moved
        yield from (Path(folder, name) for name in names)


def is_writable(folder: Path) -> bool:
    """Root may write to a folder that is marked read-only, and still should not."""
    return os.access(folder, os.W_OK) and bool(folder.stat().st_mode & 0o222)
