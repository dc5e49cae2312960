"""A trial that goes on from where another one stood: its first epochs are the other's.

A trial's files are replaced and never changed, so what it was after an epoch is kept as links to
them, which cost nothing until they are replaced.
"""

import os
import shutil
from pathlib import Path

from raysearch.files import atomic_folder
from raysearch.train.trial import TrialFolder


def take_snapshot(files: TrialFolder, epoch: int) -> None:
    """Keep what the trial is now, which has just finished ``epoch``."""
    with atomic_folder(files.snapshot(epoch), replace=True) as partial:
        _link(files.path, partial)


def begin_from(files: TrialFolder, snapshot: Path) -> None:
    """Make ``files`` what another trial was, unless it has begun already. Raises
    `FileNotFoundError` where there is no ``snapshot``."""
    if not (files.checkpoint / "state.pt").exists():
        _link(snapshot, files.path)


def _link(source: Path, target: Path) -> None:
    """The checkpoint last: what has one is whole."""
    kept, copy = TrialFolder(source), TrialFolder(target)
    for folder, other in ((kept.best, copy.best), (kept.checkpoint, copy.checkpoint)):
        if folder is kept.checkpoint:
            for name in ("metrics", "validation"):
                _link_file(getattr(kept, name), getattr(copy, name))
        other.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.iterdir()):
            _link_file(path, other / path.name)


def _link_file(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # not every file system has links
        shutil.copyfile(source, target)
