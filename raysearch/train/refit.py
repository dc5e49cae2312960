"""A trial's configuration trained once more, on train and validation, for a fixed number of epochs.

Nothing is left to choose the epoch by, or to lower a learning rate by: both are as they were in
the trial, whose validation losses stand in for those that there are none of now.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from raysearch.data.dataset import Dataset
from raysearch.errors import InputError, RunError
from raysearch.train.checkpoint import load_state, save_state, save_weights
from raysearch.train.curve import read_metrics
from raysearch.train.device import device_name
from raysearch.train.distributed import Workers
from raysearch.train.loop import Diverged, Training
from raysearch.train.memory import is_out_of_memory
from raysearch.train.start import read_start
from raysearch.train.trial import Execution, TrialFolder, TrialRecord


def refit_trial(
    folder: Path | str,
    original: TrialFolder,
    epochs: int,
    dataset: Dataset,
    *,
    device: torch.device,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> TrialRecord:
    """Train the configuration of ``original`` for its first ``epochs`` epochs on ``dataset`` (of
    `load_merged`), in ``folder``, and leave its weights in ``best`` there.

    The learning rate is that of the trial's whole length, so that it ends where the trial's was in
    that epoch. One that was broken off is gone on with; one that is whole is left as it is.
    Returns its record. Raises `RunError` where it diverges or does not fit into memory.
    """
    files, record = TrialFolder(folder), original.read_record()
    parts = record.execution.accumulate
    wanted = replace(
        record,
        mean=dataset.mean,
        std=dataset.std,
        images_on=dataset.images_on,
        execution=Execution(1, torch.get_num_threads(), parts, device_name(device)),
    )
    if is_whole(files, wanted, epochs):
        return files.read_record()
    state = load_state(files.checkpoint) if is_same(files, wanted) else None
    state = state if state and state["epoch"] <= epochs else None
    files.write_record(wanted)
    files.write_status("running", state["epoch"] if state else 0)
    training = Training(record.train, dataset, device, Workers(), parts)
    losses = [row["validation_log_loss"] for row in read_metrics(original.metrics)]
    if state is not None:
        training.load_state_dict(state)
    elif start := read_start(record.train):
        training.begin_with(start)
    while training.epoch < epochs:
        try:
            training.run_epoch()
        except (Diverged, RuntimeError, MemoryError) as error:
            status = "diverged" if isinstance(error, Diverged) else "out_of_memory"
            if status == "out_of_memory" and not is_out_of_memory(error):
                raise
            files.write_status(status, training.epoch, str(error))
            raise RunError(
                f"Trial {record.trial} ended as {status} when it was trained again: {error} "
                "Select without it, or leave out --refit."
            ) from None
        training.losses = losses[: training.epoch]
        save_state(files.checkpoint, training.state_dict())
        files.write_status("running", training.epoch)
        on_epoch(training.epoch)
    save_weights(files.best / "model.safetensors", training.average.network)
    save_weights(files.best / "raw.safetensors", training.network)
    files.write_status("completed", epochs)
    (files.checkpoint / "state.pt").unlink(missing_ok=True)
    return wanted


def is_same(files: TrialFolder, wanted: TrialRecord) -> bool:
    """Whether ``files`` holds a refit of this trial on these data, wherever it was run."""
    try:
        found = files.read_record()
    except InputError:
        return False
    return replace(found, execution=wanted.execution, images_on=wanted.images_on) == wanted


def is_whole(files: TrialFolder, wanted: TrialRecord, epochs: int) -> bool:
    status = files.read_status()
    whole = status["status"] == "completed" and status["epochs"] == epochs
    weights = [files.best / name for name in ("model.safetensors", "raw.safetensors")]
    return whole and is_same(files, wanted) and all(file.is_file() for file in weights)
