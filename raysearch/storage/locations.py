"""Names of places: URIs that pyarrow.fs opens, and the folders of this machine that copy them."""

import hashlib
import os
from pathlib import Path

from pyarrow import fs

from raysearch.errors import ConfigError

EXAMPLES = "s3://bucket/folder, gs://bucket/folder, or a folder that all machines share"


def is_uri(place: str | Path) -> bool:
    """Whether ``place`` is a URI (``file://`` ones too) and not a plain path."""
    return "://" in str(place)


def join(place: str, *parts: str) -> str:
    """``s3://bucket/a`` and ``b`` to ``s3://bucket/a/b``."""
    return "/".join([place.rstrip("/"), *parts])


def open_filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of ``uri`` and the path in it. Nothing is read yet.

    Raises `ConfigError` for a URI that pyarrow.fs cannot open.
    """
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError, NotImplementedError) as error:  # Arrow's errors are among these
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"{uri} cannot be opened as a place for runs: {reason}. Give {EXAMPLES}."
        ) from None
    return filesystem, path.rstrip("/")


def cache_folder() -> Path:
    """``$RAYSEARCH_CACHE``, else the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("RAYSEARCH_CACHE") or Path(base) / "raysearch")


def working_copy(uri: str, number: int = 0) -> Path:
    """Where this machine works on the run at ``uri``: the search in number 0, and what is done
    meanwhile in another."""
    return cache_folder() / (f"runs-{number}" if number else "runs") / _folder_name(uri)


def scratch_copy(uri: str, worker: int) -> Path:
    """Where worker ``worker`` of a trial writes on its machine, which may be the driver's too."""
    return cache_folder() / "trials" / f"{_folder_name(uri)}-{worker}"


def _folder_name(uri: str) -> str:
    digest = hashlib.sha256(uri.rstrip("/").encode()).hexdigest()[:12]
    return f"{uri.rstrip('/').rsplit('/', 1)[-1]}-{digest}"
