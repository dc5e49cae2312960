"""`raysearch train RUN --trial N`: a trial again, from its record, beside what it was."""

from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from raysearch.data.dataset import load_dataset
from raysearch.errors import ConfigError
from raysearch.train.curve import METRICS, read_metrics
from raysearch.train.device import device_name
from raysearch.train.fork import begin_from
from raysearch.train.single import train_one
from raysearch.train.trial import TrialFolder, TrialRecord

TIMES = ("images_per_second", "seconds")


def repeat_trial(
    original: TrialFolder, data: Path, folder: Path, device: torch.device, console: Console
) -> dict[str, Any]:
    """Train the configuration of ``original`` again, as it was run then, in ``folder``; the epochs
    that were another trial's before that, in ``folder/from``.

    Returns what `train_one` does, with ``compared_epochs`` and ``differences`` (`compare`). Raises
    `ArtifactError` where ``original`` has no record, `ConfigError` where one process cannot repeat
    it or ``data`` is not what it was trained on.
    """
    result = _train_again(original, data, folder, device, console)
    before, after = read_metrics(original.metrics), read_metrics(folder / "metrics.csv")
    return result | {
        "compared_epochs": min(len(before), len(after)),
        "differences": compare(before, after),
    }


def _train_again(
    original: TrialFolder,
    data: Path,
    folder: Path,
    device: torch.device,
    console: Console,
    until: int | None = None,
) -> dict[str, Any]:
    record = original.read_record()
    _check(original, record, data, device, console)
    torch.set_num_threads(record.execution.threads)
    if fork := record.forked_from:
        first = TrialFolder(folder / "from")
        console.print(f"first trial {fork.trial}, up to epoch {fork.epoch}", highlight=False)
        donor = TrialFolder(original.path.with_name(f"{fork.trial:04d}"))
        _train_again(donor, data, first.path, device, console, until=fork.epoch)
        begin_from(TrialFolder(folder), first.snapshot(fork.epoch))
    return train_one(
        record.train,
        data,
        folder,
        device,
        console,
        accumulate=record.execution.accumulate,
        forked_from=fork,
        until=until,
    )


def _check(
    original: TrialFolder,
    record: TrialRecord,
    data: Path,
    device: torch.device,
    console: Console,
) -> None:
    if record.execution.workers > 1:
        raise ConfigError(
            f"{original.path} was trained by {record.execution.workers} workers, each with random "
            "draws of its own, which one process cannot repeat."
        )
    fingerprint = load_dataset(data, classes=record.train.classes, images_on="host").fingerprint
    if fingerprint != record.data_fingerprint:
        raise ConfigError(
            f"{original.path} was trained on other data than {data} (fingerprint "
            f"{record.data_fingerprint}, not {fingerprint}); name them by --data."
        )
    here, then = device_name(device), record.execution.device
    if then and here != then:
        console.print(
            f"This is {here}, and the trial was trained on {then}: expect other rounding.",
            highlight=False,
        )


def compare(
    before: list[dict[str, float]], after: list[dict[str, float]]
) -> list[dict[str, float | str]]:
    """The first epoch in which each metric differs, ``{"metric", "epoch", "was", "is"}``, over the
    epochs that both curves have; times are left out."""
    differences = []
    for name in METRICS:
        for old, new in zip(before, after, strict=False):
            if name not in TIMES and old[name] != new[name]:
                differences.append(
                    {"metric": name, "epoch": new["epoch"], "was": old[name], "is": new[name]}
                )
                break
    return differences
