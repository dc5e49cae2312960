"""`raysearch train`: one configuration in a folder of its own."""

from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from raysearch.config import TrainConfig
from raysearch.data.dataset import Dataset, load_dataset
from raysearch.errors import ConfigError, RunError
from raysearch.train.runner import read_metrics, run_trial
from raysearch.train.trial import TrialFolder


def train_one(
    config: TrainConfig,
    data: Path,
    folder: Path,
    device: torch.device,
    console: Console,
    accumulate: int = 1,
) -> dict[str, Any]:
    """Train ``config`` on the shards in ``data``, or go on with it where ``folder`` holds it.
    ``accumulate`` is that of `run_trial`.

    Returns the best epoch's metrics with ``status``, ``parameters`` and ``folder``. Raises
    `ConfigError` where ``folder`` holds another configuration or other data, `RunError` where it
    diverged or ran out of memory.
    """
    files = TrialFolder(folder)
    dataset = load_dataset(data, device, classes=config.classes, images_on=config.images_on)
    console.print(_images_line(dataset, device), highlight=False)
    if files.config.exists():
        _check_same(files, config, dataset)

    def show(row: dict[str, float]) -> None:
        console.print(
            f"epoch {row['epoch']:>3}/{config.epochs}  train loss {row['train_loss']:.4f}  "
            f"validation log loss {row['validation_log_loss']:.4f}  "
            f"accuracy {100 * row['validation_accuracy']:5.2f} %  "
            f"{row['images_per_second']:,.0f} images/s",
            highlight=False,
        )

    status = run_trial(
        folder, 0, config, dataset, device=device, report=show, accumulate=accumulate
    )
    if status != "completed":
        raise RunError(f"{status}: {files.read_status()['error']}")
    if stopped := files.read_status().get("stopped"):
        console.print(f"ended by {stopped}", highlight=False)
    best = min(read_metrics(files.metrics), key=lambda row: row["validation_log_loss"])
    return best | {
        "status": status,
        "parameters": files.read_record().parameters,
        "folder": str(folder),
    }


def _images_line(dataset: Dataset, device: torch.device) -> str:
    where = f"on {device}" if dataset.images_on == "device" else f"on the host, fed to {device}"
    size = f"{dataset.image_bytes / 1e6:,.0f} MB"
    return f"{len(dataset.train):,} + {len(dataset.validation):,} images ({size}) {where}"


def _check_same(files: TrialFolder, config: TrainConfig, dataset: Dataset) -> None:
    record = files.read_record()
    # Where images wait makes no difference to what comes out.
    if record.train != config.model_copy(update={"images_on": record.train.images_on}):
        other = "of another configuration"
    elif record.data_fingerprint != dataset.fingerprint:
        other = "on other data"
    else:
        return
    raise ConfigError(f"{files.path} holds a run {other}; choose another --out, or remove it.")
