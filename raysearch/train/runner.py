"""Run one trial into its folder: `fit`, its files, and its end."""

import functools
from collections.abc import Callable
from pathlib import Path

import torch

from raysearch.config import TrainConfig
from raysearch.data.dataset import Dataset
from raysearch.errors import InputError
from raysearch.files import is_disk_full
from raysearch.train.checkpoint import load_state
from raysearch.train.curve import read_metrics
from raysearch.train.device import device_name, free_memory, keep_memory
from raysearch.train.distributed import Workers
from raysearch.train.epoch import Diverged, EpochEnd
from raysearch.train.fork import take_snapshot
from raysearch.train.loop import fit
from raysearch.train.memory import is_out_of_memory, remedy
from raysearch.train.recorder import Recorder
from raysearch.train.start import read_start
from raysearch.train.teaching import Teacher
from raysearch.train.trial import Execution, Fork, TrialFolder


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
