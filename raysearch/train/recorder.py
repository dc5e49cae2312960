"""What a trial leaves in its folder, epoch by epoch."""

import math
from dataclasses import replace

import torch

from raysearch.config import TrainConfig
from raysearch.data.dataset import Dataset
from raysearch.errors import ArtifactError
from raysearch.models.registry import build_model, count_parameters
from raysearch.models.views import MIRRORED, PLAIN
from raysearch.models.weights import Weights
from raysearch.probabilities import Probabilities, read_probabilities, write_probabilities
from raysearch.train.checkpoint import save_state, save_weights
from raysearch.train.curve import METRICS, read_metrics, write_metrics
from raysearch.train.distributed import Workers
from raysearch.train.epoch import EpochEnd
from raysearch.train.schedule import stands_still
from raysearch.train.trial import (
    Execution,
    Fork,
    Origin,
    TrialFolder,
    TrialRecord,
    make_record,
)


class Recorder:
    """Writes the files of a trial, epoch by epoch. Only the leading worker writes.

    The checkpoint is written last in an epoch: what it says was done is on disk.
    """

    def __init__(self, files: TrialFolder, dataset: Dataset, epochs: int, workers: Workers):
        self.files, self.dataset, self.epochs, self.workers = files, dataset, epochs, workers
        self.rows: list[dict] = []

    def begin(self, epoch: int) -> None:
        """Keep the rows up to ``epoch``, the checkpoint's; later ones will be made again."""
        self.rows = [row for row in read_metrics(self.files.metrics) if row["epoch"] <= epoch]
        if self.workers.leads:
            from tensorboardX import SummaryWriter

            self.files.path.mkdir(parents=True, exist_ok=True)
            self.files.write_status("running", epoch)
            self.board = SummaryWriter(str(self.files.tensorboard), purge_step=epoch + 1)

    def describe(
        self,
        trial: int,
        config: TrainConfig,
        start: Weights | None,
        execution: Execution,
        forked_from: Fork | None,
    ) -> None:
        """Write config.json; of one that the checkpoint that is gone on from has already, how the
        trial is run alone.

        Raises `ConfigError` where the network of ``config`` cannot be built for this data.
        """
        if not self.workers.leads:
            return
        record = self._recorded() if self.rows else None
        if record:
            if record.execution != execution:
                self.files.write_record(replace(record, execution=execution))
            return
        channels, classes = self.dataset.shape[0], len(self.dataset.classes)
        with torch.random.fork_rng(devices=[]):
            network = build_model(config.model, channels, classes, config.image_size)
        parameters = count_parameters(network)
        origin = start and Origin(start.source, start.sha256)
        record = make_record(
            trial, config, self.dataset, parameters, execution, origin, forked_from
        )
        self.files.write_record(record)

    def _recorded(self) -> TrialRecord | None:
        try:
            return self.files.read_record()
        except ArtifactError:  # missing or torn: it is written anew
            return None

    def record(self, end: EpochEnd) -> None:
        row, training = end.metrics, end.training
        best = min((r["validation_log_loss"] for r in self.rows), default=math.inf)
        self.rows.append(row)
        if row["validation_log_loss"] < best:
            candidates = self._candidates(end)
            if self.workers.leads:
                self._save_best(end, candidates)
        elif training.ended:
            mirrored_VK = training.validation_probs(training.average.network, MIRRORED)
            if self.workers.leads:
                self._save_last(end, {"last": end.probs_VK, "last_mirror": mirrored_VK})
        if self.workers.leads:
            write_metrics(self.files.metrics, self.rows)
            for name in METRICS[1:]:
                self.board.add_scalar(name, row[name], row["epoch"])
            self.board.flush()
            save_state(self.files.checkpoint, training.state_dict())
            self.files.write_status("running", int(row["epoch"]))

    def _candidates(self, end: EpochEnd) -> dict:
        """Candidate name to ``probs_VK``. The unaveraged weights join in the last epoch alone,
        when the schedule has brought them to rest."""
        training = end.training
        candidates = {
            "ema": end.probs_VK,
            "ema_mirror": training.validation_probs(training.average.network, MIRRORED),
        }
        if end.metrics["epoch"] == self.epochs:
            for name, views in (("raw", PLAIN), ("raw_mirror", MIRRORED)):
                candidates[name] = training.validation_probs(training.network, views)
        return candidates

    def _save_best(self, end: EpochEnd, candidates: dict) -> None:
        training = end.training
        save_weights(self.files.best / "model.safetensors", training.average.network)
        if "raw" in candidates:
            save_weights(self.files.best / "raw.safetensors", training.network)
        precision = "fp32" if training.dtype is None else "bf16"
        write_probabilities(
            self.files.validation,
            Probabilities(
                candidates=candidates,
                split="validation",
                digest=self.dataset.validation.digest,
                classes=self.dataset.classes,
                epoch=int(end.metrics["epoch"]),
                precision=dict.fromkeys(candidates, precision),
            ),
        )

    def _save_last(self, end: EpochEnd, candidates: dict) -> None:
        """Add the averaged weights of the last epoch, which was not the best, to the best's."""
        try:
            old = read_probabilities(self.files.validation)
        except ArtifactError:  # damaged since: the trial goes on without it
            return
        save_weights(self.files.best / "last.safetensors", end.training.average.network)
        precision = "fp32" if end.training.dtype is None else "bf16"
        write_probabilities(
            self.files.validation,
            replace(
                old,
                candidates=old.candidates | candidates,
                precision=old.precision | dict.fromkeys(candidates, precision),
            ),
        )

    def early_end(self, patience: int) -> str:
        """Why a run that is over has fewer epochs than planned, or "" where it is not
        ``early_stopping`` that ended it."""
        losses = [row["validation_log_loss"] for row in self.rows]
        if not stands_still(losses, patience) or self.rows[-1]["epoch"] >= self.epochs:
            return ""
        best = min(self.rows, key=lambda row: row["validation_log_loss"])
        return (
            f"early_stopping {patience}: validation log loss was lowest after epoch "
            f"{best['epoch']}; {self.epochs} epochs were planned"
        )

    def finish(self, status: str, error: str = "", stopped: str = "") -> str:
        if self.workers.leads:
            self.board.close()
            epochs = int(self.rows[-1]["epoch"]) if self.rows else 0
            self.files.write_status(status, epochs, error, stopped)
        return status
