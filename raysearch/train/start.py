"""Where a run's weights come from before its first step: ``pretrained`` and ``init_from``.

``pretrained`` weights must fit but for the head. ``init_from`` carries over whatever has the same
name and shape, from another run's best trial, a trial, or a member of an artifact. Once a run has
a checkpoint of its own it needs neither again.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from raysearch.config import TrainConfig
from raysearch.data.dataset import Dataset
from raysearch.errors import ConfigError, FieldError, InputError
from raysearch.models.freeze import head_names
from raysearch.models.pretrained import (
    HUB,
    Fitted,
    check_pretrained,
    fit_pretrained,
    read_pretrained,
    take_fitting,
)
from raysearch.models.registry import check_model
from raysearch.models.weights import Weights, compare, read_weights
from raysearch.train.trial import TrialFolder, trial_folders

_KINDS = "a run's folder, a trial's, an exported ensemble or a configuration file"
_UNSEEN = "init_from takes weights that have not learned from validation images"

POINTLESS = (
    "warning: freeze_depth without pretrained or init_from keeps the first layers as they were "
    "drawn at random, and the others must make do with what those let through"
)


def resolve_start(train: TrainConfig, folder: Path) -> TrainConfig:
    """With absolute paths, of which relative ones start at ``folder``."""
    changes = {}
    for field in ("pretrained", "init_from"):
        value = getattr(train, field)
        if value is not None and (field, value) != ("pretrained", HUB):
            path, *member = value.split("#")
            absolute = (folder / Path(path).expanduser()).resolve()
            changes[field] = "#".join([str(absolute), *member])
    return train.model_copy(update=changes)


def start_field(train: TrainConfig) -> str | None:
    """The field that says where ``train`` starts, or None where it starts from nothing."""
    return next((f for f in ("pretrained", "init_from") if getattr(train, f) is not None), None)


def is_configuration(init_from: str | None) -> bool:
    """Whether ``init_from`` names a run that has yet to be trained."""
    return init_from is not None and init_from.endswith((".yaml", ".yml"))


def is_pointless(train: TrainConfig) -> bool:
    """Whether layers are frozen that have learned nothing."""
    return train.freeze_depth > 0 and start_field(train) is None


def check_start(train: TrainConfig) -> None:
    """Raises `FieldError` where what ``train`` starts from is not there; reads no weights and
    asks no hub."""
    try:
        if train.pretrained is not None:
            check_pretrained(train.pretrained, train.model)
        if train.init_from is not None:
            _find(train.init_from)
    except ConfigError as error:
        raise FieldError(str(error), (start_field(train),)) from None


def read_start(train: TrainConfig) -> Weights | None:
    """The weights that ``train``, its paths resolved, starts from; None where from nothing.

    Raises `ConfigError` for a source that is none, `RunError` where a hub does not answer.
    """
    if train.pretrained is not None:
        return read_pretrained(train.pretrained, train.model)
    if train.init_from is None:
        return None
    found = _find(train.init_from)
    return replace(read_weights(found.file.resolve()), classes=found.classes)


def fit_start(
    weights: Weights,
    train: TrainConfig,
    channels: int,
    classes: tuple[str, ...],
    network: nn.Module,
) -> Fitted:
    """``weights`` as ``network`` can load them, which ``train`` and the data's ``channels`` and
    ``classes`` made. Raises `ConfigError` where they do not fit, or nothing of them does."""
    if train.pretrained is not None:
        return fit_pretrained(weights, train.model, channels, train.image_size, network)
    tensors = weights.tensors
    if weights.classes in (None, classes):
        fitted = take_fitting(tensors, network)
    else:
        head = head_names(network)
        body = {name: tensor for name, tensor in tensors.items() if name not in head}
        fitted = take_fitting(body, network)
        note = f"the head begins anew, its classes were {', '.join(weights.classes)}"
        fitted = replace(fitted, misfit=fitted.misfit.without(head), note=note)
    if not any(tensor.ndim > 1 for tensor in fitted.tensors.values()):
        raise ConfigError(
            f"Nothing of {weights.source} fits the network {train.model.name!r}: "
            f"{compare(tensors, network)}. Carry weights over between networks of the same name "
            "and options."
        )
    return fitted


def check_starts(configs: Sequence[TrainConfig], dataset: Dataset) -> None:
    """Read all weights that ``configs`` start from and hold them against their networks, so that
    none of many runs fails for them; a hub is asked here first. Says on stderr what was found.

    Raises `ConfigError` or `RunError`.
    """
    channels, classes = dataset.shape[0], dataset.classes
    distinct = {
        (train.model.model_dump_json(), train.image_size, train.pretrained, train.init_from): train
        for train in configs
        if start_field(train)
    }
    for train in distinct.values():
        weights = read_start(train)
        network = check_model(train.model, train.image_size, channels, len(classes))
        fitted = fit_start(weights, train, channels, classes, network)
        print(f"{train.model.name} starts from {weights.source}: {fitted}", file=sys.stderr)
    if any(is_pointless(train) for train in configs):
        print(POINTLESS, file=sys.stderr)


@dataclass(frozen=True)
class _Found:
    file: Path
    classes: tuple[str, ...]


def _find(init_from: str) -> _Found:
    """The trained weights that ``init_from`` stands for, and the classes they tell apart."""
    if is_configuration(init_from) and Path(init_from).exists():
        raise ConfigError(
            f"The configuration {init_from} is trained first by `raysearch train` alone. Train it "
            "on its own and name its folder here."
        )
    name, _, member = init_from.partition("#")
    folder = Path(name)
    if not folder.is_dir():
        what = "a file" if folder.exists() else "not there"
        raise ConfigError(
            f"init_from names {_KINDS}; {folder} is {what}. "
            "A file of weights is given as pretrained."
        )
    if (folder / "ensemble.json").exists():
        return _member(folder, member)
    if member:
        raise ConfigError(f"{folder} is no exported ensemble that #{member} could be a trial of.")
    if (folder / "trials").is_dir():
        return _trial(_best_trial(folder))
    if (folder / "config.json").exists():
        return _trial(TrialFolder(folder))
    raise ConfigError(f"init_from names {_KINDS}; {folder} is none of them.")


def _trial(files: TrialFolder) -> _Found:
    file = files.best / "model.safetensors"
    if not file.exists():
        raise ConfigError(f"{files.path} has no weights to carry over: {file} is missing.")
    if not files.metrics.exists():  # nothing was left to validate on
        raise ConfigError(
            f"{_UNSEEN}, but {files.path} has no {files.metrics.name}, as what "
            "`raysearch ensemble RUN --refit` trains on train and validation. Name the trial in "
            "RUN/trials that it was made from."
        )
    try:
        return _Found(file, files.read_record().classes)
    except InputError as error:
        raise ConfigError(str(error)) from None


def _best_trial(run: Path) -> TrialFolder:
    """The one of lowest validation log loss among those whose weights are still there."""
    from raysearch.train.curve import read_metrics

    losses = {}
    for files in trial_folders(run):
        rows = read_metrics(files.metrics)
        if rows and (files.best / "model.safetensors").exists():
            losses[files] = min(row["validation_log_loss"] for row in rows)
    if not losses:
        raise ConfigError(f"{run} has no trial with weights to carry over.")
    return min(losses, key=lambda files: losses[files])


def _member(folder: Path, trial: str) -> _Found:
    """The heaviest member of an artifact, or of its ``trial``."""
    from raysearch.ensemble.artifact import load_artifact
    from raysearch.ensemble.manifest import WEIGHTS

    try:
        artifact = load_artifact(folder)
    except InputError as error:
        raise ConfigError(str(error)) from None
    if artifact.manifest.refitted:
        raise ConfigError(
            f"{_UNSEEN}, but the ensemble in {folder} was trained on train and validation "
            "(`raysearch ensemble RUN --refit`). Name its run, or make the ensemble again without "
            "--refit."
        )
    members = [
        m for m in artifact.manifest.members if trial in ("", str(m.trial), f"{m.trial:04d}")
    ]
    if not members:
        known = sorted({m.trial for m in artifact.manifest.members})
        raise ConfigError(f"{folder} has no member of trial {trial!r}; its trials: {known}.")
    heaviest = max(members, key=lambda member: member.weight)
    return _Found(folder / heaviest.folder / WEIGHTS, artifact.classes)
