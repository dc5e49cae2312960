"""``manifest.json`` of imported data: what its shards should be, read without trusting it."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raysearch.data.batches import REMEDY
from raysearch.errors import DataError

FORMAT = "raysearch-shards"
VERSION = 1
MANIFEST = "manifest.json"
SPLITS = ("train", "validation", "test")
BYTES = 16 * 2**20

Count = Annotated[int, Field(ge=0, lt=2**40)]
Side = Annotated[int, Field(ge=1, lt=2**16)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Shard(_Part):
    file: Annotated[str, Field(pattern=r"^[a-z]+-[0-9]{5,}\.arrow\z")]
    rows: Count
    bytes: Count
    sha256: str


class _Split(_Part):
    rows: Count
    class_counts: dict[str, Count]
    digest: str
    shards: list[_Shard]


class _Manifest(_Part):
    classes: Annotated[list[str], Field(min_length=1, max_length=32767)]
    shape: Annotated[list[Side], Field(min_length=3, max_length=3)]
    fingerprint: str
    source: dict[str, Any]
    splits: dict[Literal[SPLITS], _Split]


def read_manifest(folder: Path) -> dict[str, Any]:
    """The values of ``manifest.json``, each of its type. Raises `DataError`."""
    path = folder / MANIFEST
    manifest = _read_json(folder, path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{path} is not a manifest of imported data (format {FORMAT!r}).")
    if manifest.get("version") != VERSION:
        raise DataError(
            f"{folder} has format version {manifest.get('version')!r}; "
            f"this raysearch reads version {VERSION}. Import the data again with "
            "`raysearch data import`, or use the raysearch that wrote it."
        )
    try:
        _Manifest.model_validate(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        entry = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise DataError(f"{path} lacks the entry {entry!r}. {REMEDY}") from None
        raise DataError(f"{path}: {entry}: {first['msg']}. {REMEDY}") from None
    return manifest


def _read_json(folder: Path, path: Path) -> Any:
    if not folder.exists():
        raise DataError(f"There is no {folder}. Make it with `raysearch data import`.")
    try:
        with open(path, "rb") as file:
            return json.loads(file.read(BYTES))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{folder} is no folder of imported data: it holds no {MANIFEST}. "
            f"Did you mean to run `raysearch data import {folder} --out DIR` first?"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}). {REMEDY}") from None
