"""Run one trial into its folder: `fit`, its files, and its end."""

import csv
import functools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from raysearch.config import TrainConfig
from raysearch.data.dataset import Dataset
from raysearch.errors import ArtifactError, InputError
from raysearch.files import is_disk_full, write_text
from raysearch.models.registry import build_model, count_parameters
from raysearch.models.views import MIRRORED, PLAIN
from raysearch.models.weights import Weights
from raysearch.probabilities import Probabilities, read_probabilities, write_probabilities
from raysearch.train.checkpoint import load_state, save_state, save_weights
from raysearch.train.device import device_name, free_memory, keep_memory
from raysearch.train.distributed import Workers
from raysearch.train.fork import take_snapshot
from raysearch.train.loop import Diverged, EpochEnd, fit
from raysearch.train.memory import is_out_of_memory, remedy
from raysearch.train.start import read_start
from raysearch.train.teaching import Teacher
from raysearch.train.trial import (
    Execution,
    Fork,
    Origin,
    TrialFolder,
    TrialRecord,
    make_record,
)

METRICS = (
    "epoch",
    "train_loss",
    "train_accuracy",
    "validation_log_loss",
    "validation_accuracy",
    "validation_macro_f1",
    "lr",
    "images_per_second",
    "seconds",
)


def run_trial(
    folder: Path | str,
    trial: int,
    config: TrainConfig,
    dataset: Dataset,
    *,
    device: torch.device,
    report: Callable[[dict[str, float]], None] = lambda metrics: None,
    workers: Workers | None = None,
    accumulate: int = 1,
    teacher: Teacher | None = None,
    told: int | None = None,
    forked_from: Fork | None = None,
    snapshot_every: int = 0,
    until: int | None = None,
) -> str:
    """Train ``config`` in ``folder`` from where its checkpoint stands, and return its status:
    "completed", "diverged", "out_of_memory". ``teacher`` and ``until`` are those of `fit`.

    ``forked_from`` says whose epochs those are that stand in a folder made by `begin_from`, and
    every ``snapshot_every`` epochs (0: never) one is taken that others can begin from.

    ``report`` gets the epoch's metrics, and under ``epochs`` how many there will be in all, once
    everything about the epoch is on disk; of epochs that an earlier process already finished,
    those after the first ``told`` are reported again, none where it is None. A single worker that
    runs out of memory goes on once more, with each batch in two parts (as does a later process in
    the same folder). Other exceptions pass through, as does every one of several workers: the
    others wait, and only whoever started them can end them. The folder then says "failed" with the
    message, or "interrupted" where the disk was full.
    """
    keep_memory(device)
    workers = workers or Workers()
    files = TrialFolder(folder)
    parts = max(accumulate, recorded_parts(files, config))
    options = {"device": device, "report": report, "workers": workers, "teacher": teacher}
    options |= {"forked_from": forked_from, "snapshot_every": snapshot_every, "until": until}
    run = functools.partial(_run_once, files, trial, config, dataset, **options)
    status = run(parts, may_retry=parts == 1, told=told)
    if status == "out_of_memory" and parts == 1:
        status = run(2, may_retry=False, told=None)
    return status


def _run_once(
    files: TrialFolder,
    trial: int,
    config: TrainConfig,
    dataset: Dataset,
    parts: int,
    *,
    may_retry: bool,
    told: int | None,
    device: torch.device,
    report: Callable[[dict[str, float]], None],
    workers: Workers,
    teacher: Teacher | None,
    forked_from: Fork | None,
    snapshot_every: int,
    until: int | None,
) -> str:
    state = load_state(files.checkpoint)
    if state and state["epoch"] > len(read_metrics(files.metrics)):
        state = None  # which epoch was the best depends on all of them
    recorder = Recorder(files, dataset, config.epochs, workers)
    recorder.begin(state["epoch"] if state else 0)
    for row in [] if told is None else recorder.rows[told:]:
        report(row | {"epochs": config.epochs})

    def on_epoch(end: EpochEnd) -> None:
        recorder.record(end)
        epoch = int(end.metrics["epoch"])
        if workers.leads and snapshot_every and epoch % snapshot_every == 0:
            take_snapshot(files, epoch)
        report(end.metrics | {"epochs": epoch if end.training.ended else config.epochs})

    try:
        start = read_start(config) if state is None else None
        execution = Execution(workers.count, torch.get_num_threads(), parts, device_name(device))
        recorder.describe(trial, config, start, execution, forked_from)
        options = {"workers": workers, "accumulate": parts, "start": start, "teacher": teacher}
        fit(config, dataset, on_epoch, state, device=device, until=until, **options)
        return recorder.finish("completed", stopped=recorder.early_end(config.early_stopping))
    except Diverged as error:
        return recorder.finish("diverged", str(error))
    except KeyboardInterrupt:
        recorder.finish("interrupted")
        raise
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        if is_disk_full(error):
            recorder.finish("interrupted", words)
            raise
        if not is_out_of_memory(error) or workers.count > 1:
            recorder.finish("failed", words)
            raise
    # Out here no traceback holds on to the failed run's memory any more.
    free_memory(device)
    if may_retry:
        return recorder.finish("out_of_memory", words)
    advice = remedy(config, dataset, device, workers)
    message = (
        f"batch_size {config.batch_size} does not fit on {device}, not even in {parts} parts. "
        f"{advice} ({words})"
    )
    return recorder.finish("out_of_memory", message)


def recorded_parts(files: TrialFolder, config: TrainConfig) -> int:
    """How many parts the batches of the run of ``config`` in this folder were split into; 1 where
    there is none."""
    try:
        record = files.read_record()
    except InputError:
        return 1
    return record.execution.accumulate if record.train == config else 1


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
        """Why a run that is over has fewer epochs than planned, or ""."""
        if not self.rows or self.rows[-1]["epoch"] >= self.epochs:
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


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Rows of metrics.csv, ``epoch`` an int: those before the first that is damaged; none where
    the file is absent."""
    if not path.exists():
        return []
    rows = []
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.DictReader(line for line in file if line.endswith("\n")):
            try:
                values = {key: float(value) for key, value in row.items()}
                rows.append(values | {"epoch": int(values["epoch"])})
            except (TypeError, ValueError, KeyError):
                break
    return rows


def write_metrics(path: Path, rows: list[dict[str, float]]) -> None:
    lines = [",".join(METRICS)]
    # All digits: whether an epoch is the best so far must not depend on a restart in between.
    lines += [",".join(repr(row[name]) for name in METRICS) for row in rows]
    write_text(path, "\n".join(lines) + "\n")
