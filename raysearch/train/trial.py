"""The folder of one trial: what it was, how it went, and what it leaves for the ensemble.

config.json                 `TrialRecord`
metrics.csv                 one row an epoch
status.json                 {"status", "epochs", "error"}; "stopped": why it ended early, if it did
checkpoint/                 newest state, for resume
best/model.safetensors      averaged weights of the epoch with the lowest validation log loss
best/raw.safetensors        the unaveraged ones, where the best epoch was the last
best/last.safetensors       averaged weights of the last epoch, where it was not the best
validation.arrow            probabilities of every candidate (`raysearch.probabilities`)
snapshots/<epoch>/          the same after that epoch, where others may go on from it
cost.json                   what the network costs, once that was measured (`ensemble.measure`)
"""

import functools
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import TypeAdapter

from raysearch.config import TrainConfig, parse_train_config
from raysearch.errors import ArtifactError
from raysearch.files import write_json

if TYPE_CHECKING:  # a run's folder is read without torch
    from torch import nn

    from raysearch.data.dataset import Dataset
    from raysearch.models.preprocess import Preprocess

STATUSES = (
    "pending",
    "running",
    "completed",
    "pruned",
    "interrupted",
    "diverged",
    "out_of_memory",
    "timeout",
    "worker_lost",
    "failed",
)
STATUS = "status.json"
FAILURES = STATUSES[STATUSES.index("diverged") :]
"""The last of `STATUSES`: a trial that ended so has failed, and is not gone on with."""


@dataclass(frozen=True)
class Execution:
    """How a trial is run, which is no part of what it is: ``threads`` of each of ``workers``
    processes on ``device``, every batch in ``accumulate`` parts."""

    workers: int = 1
    threads: int = 1
    accumulate: int = 1
    device: str = ""


@dataclass(frozen=True)
class Origin:
    """Where a trial's first weights came from, so that a repeat can be checked: an absolute path
    with the file's SHA-256, or a hub's name with that of the tensors written as safetensors."""

    source: str
    sha256: str


@dataclass(frozen=True)
class Fork:
    """``trial`` of the same run, as it was after its ``epoch``."""

    trial: int
    epoch: int


@dataclass(frozen=True)
class TrialRecord:
    """All that is needed to build a trial's network again, without the data.

    ``mean`` and ``std`` are per channel, of the training split, in units of [0, 1].
    ``started_from`` is None where the weights were drawn at random.
    """

    trial: int
    train: TrainConfig
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data_fingerprint: str
    parameters: int
    images_on: Literal["device", "host"] = "device"
    """Where its images waited."""
    execution: Execution = Execution()
    started_from: Origin | None = None
    forked_from: Fork | None = None
    """Where its first epochs are another trial's."""

    def build(self) -> "tuple[Preprocess, nn.Module]":
        """Preprocessing and the network, its weights freshly initialized."""
        from raysearch.models.preprocess import Preprocess
        from raysearch.models.registry import build_model

        train = self.train
        preprocess = Preprocess(train.normalize, train.image_size, list(self.mean), list(self.std))
        network = build_model(train.model, self.shape[0], len(self.classes), train.image_size)
        return preprocess, network

    def to_json(self) -> dict:
        return asdict(self) | {"train": self.train.model_dump(mode="json")}

    @classmethod
    def from_json(cls, values: dict, where: str) -> "TrialRecord":
        """Raises `ConfigError` or `ArtifactError` naming ``where``."""
        try:
            train = parse_train_config(values["train"], where)
            rest = {key: value for key, value in values.items() if key != "train"}
            return _record_adapter().validate_python({**rest, "train": train})
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{where} is not a trial's configuration: {error}") from None


@functools.cache
def _record_adapter() -> TypeAdapter[TrialRecord]:
    """Building it takes longer than reading a trial, and a search reads thousands."""
    return TypeAdapter(TrialRecord)


def make_record(
    trial: int,
    train: TrainConfig,
    dataset: "Dataset",
    parameters: int,
    execution: Execution,
    started_from: Origin | None = None,
    forked_from: Fork | None = None,
) -> TrialRecord:
    return TrialRecord(
        trial=trial,
        train=train,
        classes=dataset.classes,
        shape=dataset.shape,
        mean=dataset.mean,
        std=dataset.std,
        data_fingerprint=dataset.fingerprint,
        parameters=parameters,
        images_on=dataset.images_on,
        execution=execution,
        started_from=started_from,
        forked_from=forked_from,
    )


class TrialFolder:
    """Names and readers of the files in one trial's folder."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.csv"
        self.tensorboard = self.path / "tensorboard"
        self.status = self.path / STATUS
        self.checkpoint = self.path / "checkpoint"
        self.best = self.path / "best"
        self.validation = self.path / "validation.arrow"
        self.cost = self.path / "cost.json"
        self.snapshots = self.path / "snapshots"

    def snapshot(self, epoch: int) -> Path:
        return self.snapshots / f"{epoch:04d}"

    def write_record(self, record: TrialRecord) -> None:
        write_json(self.config, record.to_json())

    def read_record(self) -> TrialRecord:
        """Raises `ArtifactError` where config.json is missing or torn."""
        try:
            values = json.loads(self.config.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{self.config} cannot be read: {error}") from None
        return TrialRecord.from_json(values, str(self.config))

    def write_status(self, status: str, epochs: int, error: str = "", stopped: str = "") -> None:
        assert status in STATUSES, status
        values = {"status": status, "epochs": epochs, "error": error}
        write_json(self.status, values | ({"stopped": stopped} if stopped else {}))

    def read_status(self) -> dict:
        """``{"status": "pending", ...}`` where none was written yet."""
        try:
            return json.loads(self.status.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {"status": "pending", "epochs": 0, "error": ""}


def trial_name(number: int) -> str:
    """Of a trial's folder within its run."""
    return f"trials/{number:04d}"


def trial_folders(run: Path | str) -> list[TrialFolder]:
    """The folders ``RUN/trials/<number>`` in order of their numbers."""
    paths = [p for p in (Path(run) / "trials").glob("*") if p.name.isdigit() and p.is_dir()]
    return [TrialFolder(path) for path in sorted(paths, key=lambda p: int(p.name))]
