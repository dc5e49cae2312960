"""Which file is of which class and split, told from its path alone."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from raysearch.errors import DataError

FER_CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
USAGES = {"training": "train", "publictest": "validation", "privatetest": "test"}
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}
_PREFIX = re.compile(r"(Training|PublicTest|PrivateTest)_")


@dataclass(frozen=True)
class Entry:
    """One labelled file; ``split`` is empty where the layout does not say."""

    name: str
    label: str
    split: str


@dataclass
class Layout:
    found: str
    entries: list[Entry]
    complete: bool
    """The splits are the data set's own: what is missing is not cut out of another."""
    notes: list[str] = field(default_factory=list)


def read_layout(names: Sequence[str], title: str) -> Layout:
    """The layout of image files ``names`` (relative paths); `DataError` where there is none."""
    paths = [name.split("/") for name in names]
    if paths and all(len(path) > 1 and _PREFIX.match(path[-1]) for path in paths):
        return _fer_archive(names, paths)
    paths = _without_common_top(paths)
    if not paths or any(len(path) < 2 for path in paths):
        stray = next((n for n, path in zip(names, paths, strict=True) if len(path) < 2), None)
        raise DataError(
            f"{title} is no folder of class folders: images must lie in CLASS/ or SPLIT/CLASS/"
            + (f", but {stray!r} lies in none." if stray else ", but there are none.")
        )
    tops = {path[0].casefold() for path in paths}
    if tops <= set(SPLIT_NAMES):
        return _split_folders(names, paths, title)
    mixed = sorted(tops & set(SPLIT_NAMES))
    if mixed:
        raise DataError(
            f"{title} has split folders ({', '.join(mixed)}) beside other folders "
            f"({', '.join(sorted(tops - set(SPLIT_NAMES))[:5])}): move one of them away."
        )
    entries = [Entry(name, path[0], "") for name, path in zip(names, paths, strict=True)]
    return Layout("class folders", entries, complete=False)


def order_classes(names: Iterable[str]) -> tuple[str, ...]:
    """FER2013's own order for exactly its seven classes, else alphabetical; case is kept."""
    found = {name.casefold(): name for name in sorted(names, reverse=True)}
    if set(found) == set(FER_CLASSES):
        return FER_CLASSES
    if len(found) < 2:
        raise DataError(f"At least two classes are needed, but found {sorted(found.values())}.")
    return tuple(found[key] for key in sorted(found))


def _fer_archive(names: Sequence[str], paths: list[list[str]]) -> Layout:
    entries = [
        Entry(name, path[-2], USAGES[path[-1].split("_")[0].lower()])
        for name, path in zip(names, paths, strict=True)
    ]
    layout = Layout("FER2013 image archive (splits in the file names)", entries, complete=True)
    if not any(entry.split == "test" for entry in entries):
        layout.notes.append(
            "The archive holds no PrivateTest images, so the test split is empty; "
            "none is cut out of the training images, because FER2013's splits are fixed."
        )
    return layout


def _split_folders(names: Sequence[str], paths: list[list[str]], title: str) -> Layout:
    if any(len(path) < 3 for path in paths):
        stray = next(n for n, path in zip(names, paths, strict=True) if len(path) < 3)
        raise DataError(f"{title}: images must lie in SPLIT/CLASS/, but {stray!r} does not.")
    entries = [
        Entry(name, path[1], SPLIT_NAMES[path[0].casefold()])
        for name, path in zip(names, paths, strict=True)
    ]
    splits = {entry.split for entry in entries}
    layout = Layout("class folders in split folders", entries, complete=False)
    fer = {entry.label.casefold() for entry in entries} == set(FER_CLASSES)
    if fer and splits == {"train", "test"}:
        layout.found = "FER2013 class folders in train/ and test/"
        layout.notes.append(
            "The test folder merges FER2013's PublicTest and PrivateTest and they cannot be "
            "separated, because the file names do not say which is which: scores on it are not "
            "comparable with published ones."
        )
    return layout


def _without_common_top(paths: list[list[str]]) -> list[list[str]]:
    """Strip the folders that all files share, as an archive of one folder has."""
    while paths and all(len(path) > 2 for path in paths) and len({path[0] for path in paths}) == 1:
        paths = [path[1:] for path in paths]
    return paths
