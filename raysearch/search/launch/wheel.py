"""A wheel of the raysearch that runs here: built from its checkout, or packed again from what a
wheel installed. Neither needs pip or a network, and the same files give the same bytes."""

import base64
import csv
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

import raysearch
from raysearch.errors import RunError
from raysearch.files import atomic_path

SOURCES = ("pyproject.toml", "README.md", "LICENSE", "raysearch", "search_spaces")
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
EPOCH = "315532800"
"""1 January 1980, the first moment that a zip knows, for every file in a wheel."""
OF_THE_INSTALLER = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json")


def build_wheel(folder: Path) -> Path:
    """Put the wheel into ``folder``; one that is there and equal is left as it is.

    Raises `RunError` where it cannot be built.
    """
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        if is_checkout():
            _build(checkout(), Path(scratch) / "sources", made)
        else:
            _repack(metadata.distribution("raysearch"), made)
        (wheel,) = made.glob("*.whl")
        target = folder / wheel.name
        if not target.exists() or target.read_bytes() != wheel.read_bytes():
            with atomic_path(target) as temporary:
                shutil.copyfile(wheel, temporary)
    return target


def checkout() -> Path:
    """The folder that holds the package."""
    return Path(raysearch.__file__).resolve().parents[1]


def is_checkout() -> bool:
    return (checkout() / "pyproject.toml").is_file()


def copy_sources(root: Path, target: Path, names: tuple[str, ...] = SOURCES) -> None:
    """Copy ``names`` of the checkout ``root`` to ``target``, without what running it left."""
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy2(source, target / name)


def _build(root: Path, sources: Path, made: Path) -> None:
    """In a copy: setuptools leaves its own files beside the sources."""
    copy_sources(root, sources)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(made)],
        cwd=sources,
        env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunError(f"no wheel could be built of {root}: {last}")


def _repack(distribution: metadata.Distribution, made: Path) -> None:
    """The files that ``distribution`` installed, as the wheel that would install them again."""
    stem = f"raysearch-{distribution.version}"
    rows: list[tuple[str, str, str]] = []
    with zipfile.ZipFile(made / f"{stem}-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:

        def add(name: str, data: bytes) -> None:
            wheel.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.append((name, f"sha256={digest}", str(len(data))))

        for file in sorted(distribution.files or [], key=str):
            name = _name_in_wheel(file.as_posix(), stem)
            if name is not None:
                add(name, Path(str(file.locate())).read_bytes())
        if not rows:
            raise RunError("raysearch is installed without a list of its files; install it again.")
        record = f"{stem}.dist-info/RECORD"
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*rows, (record, "", "")])
        wheel.writestr(zipfile.ZipInfo(record), text.getvalue())


def _name_in_wheel(installed: str, stem: str) -> str | None:
    """None for what an installer makes by itself: commands, compiled files, its own notes."""
    if installed.startswith(".."):
        _, found, rest = installed.partition("share/")
        return f"{stem}.data/data/share/{rest}" if found else None
    if installed.endswith(".pyc") or installed.rpartition("/")[2] in OF_THE_INSTALLER:
        return None
    return installed
