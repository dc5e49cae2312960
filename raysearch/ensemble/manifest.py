"""``ensemble.json`` and ``SHA256SUMS``: what an artifact says it is, and the proof of it.

Nothing here imports torch: an artifact is checked and served where torch is not installed.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from raysearch.config import describe
from raysearch.ensemble.member import CANDIDATES, weights_of
from raysearch.errors import ArtifactError
from raysearch.files import sha256_of, write_text
from raysearch.models.views import PLAIN, SHIFTED

FORMAT = "raysearch-ensemble"
VERSION = 1
MANIFEST = "ensemble.json"
MODEL = "model.onnx"
PROGRAM = "model.pt2"
CARD = "README.md"
SUMS = "SHA256SUMS"
WEIGHTS = "model.safetensors"
CONFIG = "config.json"

JSON_BYTES = 16 * 2**20
NAME_LENGTH = 200
_REMEDY = "Copy or export the ensemble again (`raysearch export RUN --out DIR`)."

Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class MemberEntry(_Part):
    trial: Annotated[int, Field(ge=0)]
    candidate: Literal[tuple(CANDIDATES)]
    weight: Share
    temperature: Temperature
    folder: Annotated[str, Field(pattern=r"^members/[0-9]{4,12}-(ema|raw|last)\z")]
    """Shared by the candidates that have the same weights. The pattern keeps it inside."""
    mirror: bool
    """Averaged with the prediction for the mirror image."""
    shifts: bool = False
    """And with those for both in four more positions (`raysearch.models.views`)."""
    params: Annotated[int, Field(ge=0)]

    @property
    def views(self) -> int:
        """How often the image is seen."""
        return CANDIDATES[self.candidate][1]

    @model_validator(mode="after")
    def _consistent(self) -> "MemberEntry":
        weights = weights_of(self.candidate)
        told = (self.mirror, self.shifts, self.folder.rpartition("-")[2])
        if told != (self.views > PLAIN, self.views == SHIFTED, weights):
            raise ValueError(f"mirror, shifts and folder must be those of {self.candidate!r}")
        return self


class InputEntry(_Part):
    """Shape of the images, uint8 in [0, 255]: 1 channel is gray, 3 are RGB."""

    channels: Annotated[int, Field(ge=1, le=4)]
    height: Annotated[int, Field(ge=1, le=4096)]
    width: Annotated[int, Field(ge=1, le=4096)]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width


class Manifest(_Part):
    """The content of ``ensemble.json``."""

    format: Literal["raysearch-ensemble"] = FORMAT
    version: Literal[1] = VERSION
    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=32767)]
    """In the order of the probabilities."""
    input: InputEntry
    preprocessing: dict[str, Any]
    """For the reader: `model.onnx` and the members do all of it themselves."""
    members: Annotated[tuple[MemberEntry, ...], Field(min_length=1, max_length=100_000)]
    temperature: Temperature
    """Of the ensemble; applied after the members' own."""
    class_shares: dict[str, Annotated[float, Field(ge=0, le=1)]]
    """Share of each class among the validation images."""
    trained_on: Annotated[tuple[Literal["train", "validation"], ...], Field(min_length=1)] = (
        "train",
    )
    """The splits that the members' weights have seen."""
    teacher: dict[str, Any] = {}
    """Of a distilled network: the ensemble whose probabilities it learned from
    (`distill.teacher_account`)."""
    scores: dict[str, Any]
    cost: dict[str, Any] = {}
    """``params``, ``bytes``, ``flops`` of one image; ``latency_ms`` of one image and
    ``latency_64_ms`` of 64 at once, measured with ONNX Runtime on the ``machine`` of the export."""
    data: dict[str, Any]
    versions: dict[str, str]

    @model_validator(mode="after")
    def _consistent(self) -> "Manifest":
        total = sum(member.weight for member in self.members)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the members' weights must sum to 1, not {total}")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("a class is named twice")
        if set(self.class_shares) != set(self.classes):
            raise ValueError("class_shares must name every class")
        return self

    @property
    def refitted(self) -> bool:
        """Whether nothing honest can be measured on the validation split any more."""
        return "validation" in self.trained_on

    @property
    def folders(self) -> tuple[str, ...]:
        """Each distinct set of weights once, in order of first use."""
        return tuple(dict.fromkeys(member.folder for member in self.members))

    @property
    def files(self) -> set[str]:
        """Every file of the artifact but ``SHA256SUMS``."""
        weights = {f"{folder}/{name}" for folder in self.folders for name in (WEIGHTS, CONFIG)}
        return {MANIFEST, MODEL, PROGRAM, CARD} | weights


def read_json(path: Path) -> Any:
    """Raises `ArtifactError` for what is missing, large beyond reason or not JSON."""
    try:
        if path.stat().st_size > JSON_BYTES:
            raise ArtifactError(f"{path} is larger than {JSON_BYTES:,} bytes. {_REMEDY}")
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not readable JSON ({error}). {_REMEDY}") from None


def read_manifest(folder: Path) -> Manifest:
    """Parse ``ensemble.json``. Raises `ArtifactError`."""
    path = folder / MANIFEST
    values = read_json(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ArtifactError(f"{path} does not describe an ensemble (format {FORMAT!r}).")
    if values.get("version") != VERSION:
        raise ArtifactError(
            f"{path} has format version {values.get('version')!r}; this raysearch reads version "
            f"{VERSION}. Use the raysearch that wrote it, or export the run again with this one."
        )
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        raise ArtifactError(f"{path}: {describe(error, Manifest)} {_REMEDY}") from None


def write_sums(folder: Path, names: set[str]) -> None:
    """Write ``SHA256SUMS`` in the form of `sha256sum`: ``<hex>  <name>``."""
    write_text(
        folder / SUMS, "".join(f"{sha256_of(folder / name)}  {name}\n" for name in sorted(names))
    )


def verify_sums(folder: Path) -> set[str]:
    """Compare every file that ``SHA256SUMS`` names; return the names.

    Raises `ArtifactError` naming the first file that is missing, changed or outside.
    """
    sums, root = _read_sums(folder), folder.resolve()
    for name, expected in sums.items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"The ensemble's file {path} is missing. {_REMEDY}")
        if not path.resolve().is_relative_to(root):
            raise ArtifactError(
                f"{path} is a link that leads out of the ensemble's folder. Copy the ensemble with "
                "the files themselves (`cp -rL`)."
            )
        try:
            found = sha256_of(path)
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from None
        if found != expected:
            raise ArtifactError(
                f"{path} was changed or damaged since the export: its SHA-256 begins "
                f"{found[:12]}, {SUMS} says {expected[:12]}. {_REMEDY}"
            )
    return set(sums)


def _read_sums(folder: Path) -> dict[str, str]:
    path = folder / SUMS
    if not path.is_file():
        raise ArtifactError(
            f"{folder} is no exported ensemble: it holds no {SUMS}. Give the folder that "
            "`raysearch export` wrote, or RUN/ensemble."
        )
    try:
        with open(path, "rb") as file:
            text = file.read(JSON_BYTES).decode("utf-8")
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}). {_REMEDY}") from None
    sums = {}
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        match = re.fullmatch(r"([0-9a-f]{64})  ([\w.-]+(?:/[\w.-]+)*)", line, re.ASCII)
        if not match or not _is_inside(match[2]) or match[2] in sums:
            raise ArtifactError(
                f"{path}, line {number} is not '<sha256>  <file inside the folder>': "
                f"{line[:100]!r}. {_REMEDY}"
            )
        sums[match[2]] = match[1]
    return sums


def _is_inside(name: str) -> bool:
    return ".." not in name.split("/") and len(name) <= NAME_LENGTH


def check_listed(folder: Path, manifest: Manifest, listed: set[str]) -> None:
    """Raises `ArtifactError` unless the sums cover exactly the files of the artifact."""
    if unlisted := sorted(manifest.files - listed):
        raise ArtifactError(f"{folder / SUMS} lacks the file {unlisted[0]}. {_REMEDY}")
    if foreign := sorted(listed - manifest.files):
        raise ArtifactError(
            f"{folder / SUMS} lists {foreign[0]}, which is no part of the ensemble. {_REMEDY}"
        )
