"""`raysearch train`: one configuration in a folder of its own."""

from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from raysearch.config import TrainConfig
from raysearch.configfile import classes_located, load_train_config
from raysearch.data.dataset import Dataset, load_dataset
from raysearch.errors import ConfigError, RunError
from raysearch.models.registry import check_model
from raysearch.models.weights import Weights
from raysearch.train.curve import read_metrics
from raysearch.train.runner import run_trial
from raysearch.train.start import POINTLESS, fit_start, is_configuration, is_pointless
from raysearch.train.teaching import Teacher
from raysearch.train.trial import Fork, TrialFolder
from raysearch.yamlfile import load_yaml


def train_one(
    config: TrainConfig,
    data: Path,
    folder: Path,
    device: torch.device,
    console: Console,
    accumulate: int = 1,
    teacher: Teacher | None = None,
    forked_from: Fork | None = None,
    until: int | None = None,
) -> dict[str, Any]:
    """Train ``config`` on the shards in ``data``, or go on with it where ``folder`` holds it.
    ``accumulate``, ``teacher``, ``forked_from`` and ``until``, after which others may begin from
    it, are those of `run_trial`.

    A configuration file that it begins from (``init_from``) is trained first, into ``folder/init``.

    Returns the best epoch's metrics with ``status``, ``parameters`` and ``folder``. Raises
    `ConfigError` where ``folder`` holds another configuration or other data, `RunError` where it
    diverged or ran out of memory.
    """
    files = TrialFolder(folder)
    dataset = load_dataset(data, device, classes=config.classes, images_on=config.images_on)
    if is_configuration(config.init_from):
        config = _train_first(config, data, files, dataset, device, console)
    elif is_pointless(config):
        console.print(POINTLESS, highlight=False)
    console.print(_images_line(dataset, device, config.image_size), highlight=False, soft_wrap=True)
    if files.metrics.exists() and (files.config.exists() or not forked_from):
        _check_same(files, config, dataset)

    def show(row: dict[str, float]) -> None:
        console.print(
            f"epoch {row['epoch']:>3}/{config.epochs}  train loss {row['train_loss']:.4f}  "
            f"validation log loss {row['validation_log_loss']:.4f}  "
            f"accuracy {100 * row['validation_accuracy']:5.2f} %  "
            f"{row['images_per_second']:,.0f} images/s",
            highlight=False,
            soft_wrap=True,
        )

    options = {"device": device, "accumulate": accumulate, "teacher": teacher}
    options |= {"forked_from": forked_from, "until": until, "snapshot_every": until or 0}
    status = run_trial(folder, 0, config, dataset, report=show, **options)
    if status != "completed":
        raise RunError(f"{status}: {files.read_status()['error']}")
    if stopped := files.read_status().get("stopped"):
        console.print(f"ended by {stopped}", highlight=False, soft_wrap=True)
    best = min(read_metrics(files.metrics), key=lambda row: row["validation_log_loss"])
    return best | {
        "status": status,
        "parameters": files.read_record().parameters,
        "folder": str(folder),
    }


def _train_first(
    config: TrainConfig,
    data: Path,
    files: TrialFolder,
    dataset: Dataset,
    device: torch.device,
    console: Console,
) -> TrainConfig:
    """``config``, to begin from the trained run of the configuration file that it names.

    Raises `ConfigError` before that run starts where nothing of it could be carried over.
    """
    folder = files.path.resolve() / "init"
    if not files.metrics.exists():
        first = load_train_config(config.init_from)
        channels, classes = dataset.shape[0], len(dataset.classes)
        networks = [
            check_model(train.model, train.image_size, channels, classes)
            for train in (first, config)
        ]
        untrained = Weights(networks[0].state_dict(), config.init_from, "")
        fit_start(untrained, config, channels, dataset.classes, networks[1])
        console.print(f"first {config.init_from}, into {folder}", highlight=False)
        with classes_located(load_yaml(config.init_from)):
            train_one(first, data, folder, device, console)
        console.print(f"now {files.path}", highlight=False)
    return config.model_copy(update={"init_from": str(folder)})


def _images_line(dataset: Dataset, device: torch.device, side: int) -> str:
    resized = "" if side == dataset.shape[1] else f", resized to {side} x {side} pixels"
    where = f"on {device}" if dataset.images_on == "device" else f"on the host, fed to {device}"
    size = f"{dataset.image_bytes / 1e6:,.0f} MB"
    return f"{len(dataset.train):,} + {len(dataset.validation):,} images ({size}) {where}{resized}"


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
