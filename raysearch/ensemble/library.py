"""The prediction library: what every candidate of every trial of a run said on validation."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raysearch.config import TrainConfig
from raysearch.data.shards import Shards
from raysearch.ensemble.member import CANDIDATES, weights_of
from raysearch.errors import InputError
from raysearch.models.views import MIRRORED
from raysearch.probabilities import Probabilities, read_probabilities
from raysearch.train.trial import TrialFolder, TrialRecord, trial_folders, trial_name

_ROW_SUM_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Candidate:
    """One set of weights of a trial and how many views its probabilities are averaged over.

    ``precision`` says how its probabilities were computed ("fp32", "bf16"), or "stale" where its
    weights were written after them.
    """

    trial: int
    name: str
    weights_file: Path
    views: int
    parameters: int
    train: TrainConfig
    epoch: int
    precision: str

    def __str__(self) -> str:
        return f"{self.trial:04d}/{self.name}"


@dataclass(frozen=True)
class Library:
    """``probs_NVK`` float32 (rows sum to 1), ``labels_V`` int64 of the validation split and
    ``groups_V`` int64: images of equal pixels have equal numbers.

    ``records`` are by trial; ``skipped`` maps a file or candidate to why it was left out.
    """

    candidates: tuple[Candidate, ...]
    probs_NVK: NDArray[np.float32]
    labels_V: NDArray[np.int64]
    groups_V: NDArray[np.int64]
    records: dict[int, TrialRecord]
    skipped: dict[str, str]

    def __len__(self) -> int:
        return len(self.candidates)

    def without(self, reasons: dict[int, str]) -> "Library":
        """A copy that leaves out the candidates at these indices, for these reasons."""
        if not reasons:
            return self
        kept = [n for n in range(len(self)) if n not in reasons]
        named = {str(self.candidates[n]): reason for n, reason in reasons.items()}
        return replace(
            self,
            candidates=tuple(self.candidates[n] for n in kept),
            probs_NVK=self.probs_NVK[kept],
            skipped=self.skipped | named,
        )


def load_library(
    run: Path | str,
    shards: Shards,
    trials: Collection[int] | None = None,
    views: int = MIRRORED,
) -> Library:
    """Read ``validation.arrow`` of every trial of ``run`` (or of those in ``trials``), whatever
    became of the trial: candidates of at most so many ``views``.

    A file that is torn, or whose split, digest or classes are not those of ``shards``, is left
    out with its reason in `Library.skipped`; the library may be empty. Raises `DataError` where
    the shards have no validation split.
    """
    validation = shards.split("validation")
    found: list[tuple[Candidate, NDArray[np.float16]]] = []
    records: dict[int, TrialRecord] = {}
    skipped: dict[str, str] = {}
    if trials is None:
        folders = trial_folders(run)
    else:  # looking for all would take longer, the more there are
        folders = [TrialFolder(Path(run) / trial_name(number)) for number in sorted(trials)]
    for folder in folders:
        read = read_trial(folder, shards, views)
        skipped |= read.skipped
        if read.record:
            records[read.record.trial] = read.record
            found += read.candidates
    return Library(
        candidates=tuple(candidate for candidate, _ in found),
        probs_NVK=_stack([probs for _, probs in found], len(validation), len(shards.classes)),
        labels_V=np.ascontiguousarray(validation.labels_N, np.int64),
        groups_V=group_equal(validation.digests_N16),
        records=records,
        skipped=skipped,
    )


@dataclass(frozen=True)
class TrialCandidates:
    """What one trial has for a library: candidates with their ``probs_VK``, and why others were
    left out. ``record`` is None where the whole trial was."""

    record: TrialRecord | None
    candidates: list[tuple[Candidate, NDArray[np.float16]]]
    skipped: dict[str, str]


def read_trial(folder: TrialFolder, shards: Shards, views: int = MIRRORED) -> TrialCandidates:
    """Read one trial; nothing that is wrong with its files raises."""

    def left_out(reason: str) -> TrialCandidates:
        return TrialCandidates(None, [], {folder.path.name: reason})

    if not folder.validation.exists():
        return left_out(f"no probabilities (status {folder.read_status()['status']})")
    try:
        record = folder.read_record()
        probabilities = read_probabilities(folder.validation)
    except InputError as error:
        return left_out(str(error))
    if record.trial != int(folder.path.name):
        return left_out(f"{folder.config} is of trial {record.trial}")
    if reason := _mismatch(probabilities, shards):
        return left_out(reason)
    found, skipped = [], {}
    for candidate, probs_VK in read_candidates(folder, record, probabilities):
        if candidate.views > views:
            continue
        if fault := _fault(probs_VK):
            skipped[str(candidate)] = fault
        else:
            found.append((candidate, probs_VK))
    return TrialCandidates(record, found, skipped)


def read_candidates(
    folder: TrialFolder, record: TrialRecord, probabilities: Probabilities
) -> Iterable[tuple[Candidate, NDArray[np.float16]]]:
    """The candidates in one trial's file, with ``probs_VK``; names that are not known are not
    candidates."""
    written = folder.validation.stat().st_mtime_ns
    last = folder.read_status()["epochs"]
    for name, probs_VK in probabilities.candidates.items():
        if name not in CANDIDATES:
            continue
        file, views = CANDIDATES[name]
        weights_file = folder.path / file
        newer = weights_file.exists() and weights_file.stat().st_mtime_ns > written
        candidate = Candidate(
            trial=record.trial,
            name=name,
            weights_file=weights_file,
            views=views,
            parameters=record.parameters,
            train=record.train,
            epoch=last if weights_of(name) == "last" else probabilities.epoch,
            precision="stale" if newer else probabilities.precision.get(name, "unknown"),
        )
        yield candidate, probs_VK


def group_equal(digests_N16: NDArray[np.uint8]) -> NDArray[np.int64]:
    """``groups_N``: one number for all rows of equal digest."""
    keys_N = np.ascontiguousarray(digests_N16).view(np.dtype((np.void, 16))).reshape(-1)
    return np.unique(keys_N, return_inverse=True)[1].reshape(-1).astype(np.int64)


def normalized(probs_VK: NDArray) -> NDArray[np.float32]:
    """float32 rows that sum to 1, from float16 ones that nearly do."""
    probs_VK = probs_VK.astype(np.float32)
    return probs_VK / probs_VK.sum(axis=1, keepdims=True)


def _stack(parts: list[NDArray[np.float16]], images: int, classes: int) -> NDArray[np.float32]:
    probs_NVK = np.empty((len(parts), images, classes), np.float32)
    for n, probs_VK in enumerate(parts):
        probs_NVK[n] = normalized(probs_VK)
    return probs_NVK


def _mismatch(probabilities: Probabilities, shards: Shards) -> str:
    """Why these probabilities are not about the validation split of ``shards``, or ""."""
    validation = shards.split("validation")
    if probabilities.split != "validation":
        return f"probabilities of the split {probabilities.split!r}, not of validation"
    if probabilities.classes != shards.classes:
        return f"classes {probabilities.classes} differ from the data's {shards.classes}"
    if probabilities.digest != validation.digest:
        return (
            f"probabilities of other images: digest {probabilities.digest[:12]}, "
            f"the data's is {validation.digest[:12]}"
        )
    rows = {len(probs_VK) for probs_VK in probabilities.candidates.values()}
    if rows - {len(validation)}:
        return f"{rows} rows for {len(validation)} validation images"
    return ""


def _fault(probs_VK: NDArray[np.float16]) -> str:
    totals_V = probs_VK.sum(axis=1, dtype=np.float32)
    off_V = ~((np.abs(totals_V - 1) <= _ROW_SUM_TOLERANCE) & (probs_VK.min(axis=1) >= 0))
    if not off_V.any():
        return ""
    return f"{off_V.sum()} rows are no distributions, the first is row {off_V.argmax()}"
