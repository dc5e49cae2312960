"""The place of one run, whatever kind it is."""

import itertools
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from raysearch.errors import ArtifactError
from raysearch.storage.folderlock import held_if_free
from raysearch.storage.locations import cache_folder, is_uri, join, working_copy
from raysearch.storage.mirror import Mirror

CHECKPOINTS = ("checkpoint", "snapshots")
"""Folders that only trials need: they stay where the run is."""
LARGE = ("best", "ensemble", "tensorboard")
"""Folders that a look at how far a run is does not need."""


@dataclass(frozen=True)
class RunPlace:
    """``path`` is the run's folder on this machine; where it is the working copy of a URI,
    ``mirror`` keeps the two alike."""

    path: Path
    mirror: Mirror | None = None

    def __str__(self) -> str:
        return self.mirror.uri if self.mirror else str(self.path)

    def exists(self) -> bool:
        if self.mirror:
            return self.mirror.exists("run.yaml")
        return (self.path / "run.yaml").exists()

    def pull(self, skip: Sequence[str] = ()) -> None:
        if self.mirror:
            self.mirror.pull(skip=[*CHECKPOINTS, *skip], exact=True)

    def push(self) -> None:
        """Also takes away there what an earlier ensemble left."""
        if self.mirror:
            self.mirror.push()
            self.mirror.remove_gone("ensemble")

    def remove(self, folder: Path) -> None:
        """Remove ``folder``, a part of the run's on this machine, wherever the run is."""
        if self.mirror:
            self.mirror.remove(folder.relative_to(self.path).as_posix())
        else:
            shutil.rmtree(folder, ignore_errors=True)

    def write_file(self, name: str, text: str) -> None:
        """A file for other machines to read, which is no part of the run."""
        if self.mirror:
            self.mirror.write(name, text.encode())
        else:
            (self.path / name).write_text(text, encoding="utf-8")

    def remove_file(self, name: str) -> None:
        if self.mirror:
            self.mirror.delete(name)
        else:
            (self.path / name).unlink(missing_ok=True)


def new_place(storage: str, name: str) -> RunPlace:
    """Of the run ``name`` under ``storage``, a folder or a URI; nothing is made."""
    if not is_uri(storage):
        return RunPlace(Path(storage).resolve() / name)
    return _place(join(storage, name))


def scratch_folder(storage: str, name: str) -> Path:
    """For what is drawn or computed once for all runs under ``storage``."""
    return (cache_folder() if is_uri(storage) else Path(storage).resolve()) / name


def find_place(run: str) -> RunPlace:
    """Of a run that exists, for one that goes on to lock it: nothing is read yet but that.

    Raises `ArtifactError` where there is no run.
    """
    place = _place(run)
    if not place.exists():
        raise ArtifactError(f"{run} is not a run of `raysearch tune`: it holds no run.yaml.")
    return place


def open_place(run: str, skip: Sequence[str] = ()) -> RunPlace:
    """Of a run that exists, with a URI's working copy brought up to date, folders called one of
    ``skip`` left out.

    Raises `ArtifactError` where there is no run at a URI.
    """
    if not is_uri(run):
        return _place(run)
    with _free_copy(run, skip) as place:
        return place


@contextmanager
def changed_place(run: str) -> Iterator[Path]:
    """The folder of a run; what the block changes in it is written back where the run is."""
    if not is_uri(run):
        yield _place(run).path
        return
    with _free_copy(run, works=True) as place:
        yield place.path
        place.push()


def _place(run: str, copy: int = 0) -> RunPlace:
    if not is_uri(run):
        return RunPlace(Path(run).resolve())
    folder = working_copy(run, copy)
    return RunPlace(folder, Mirror(folder, run))


@contextmanager
def _free_copy(uri: str, skip: Sequence[str] = (), works: bool = False) -> Iterator[RunPlace]:
    """A working copy that no process of this machine works in, which may have there what the store
    has not yet; brought up to date, and held."""
    place = find_place(uri)
    for number in itertools.count():
        if number:
            place = _place(uri, number)
        place.path.mkdir(parents=True, exist_ok=True)
        with held_if_free(place.path, works) as free:
            if free:
                place.pull(skip)
                yield place
                return
