"""A new run whose study begins with trials of another one: what becomes of a changed space."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from raysearch.config import TrainConfig
from raysearch.errors import ConfigError
from raysearch.files import write_json
from raysearch.search.study import distribution, open_study
from raysearch.space import SearchSpace
from raysearch.space.encoding import values_of
from raysearch.train.trial import TrialFolder

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Imported:
    """``numbers`` maps trials of the old run to their numbers in the new one; ``reasons`` says of
    each other finished trial why it is not in the new space."""

    numbers: dict[int, int]
    reasons: dict[int, str]


def import_trials(source: Path, target: Path, space: SearchSpace) -> Imported:
    """Copy the finished trials of the run ``source`` that lie in ``space`` to the run ``target``,
    which has none yet: their folders and their place in the study, with new numbers."""
    (target / "trials").mkdir(parents=True, exist_ok=True)
    objectives = len(space.search.objective)
    study = open_study(target / "study.log", objectives)
    dimensions = {dimension.name: dimension for dimension in space.searched}
    numbers, reasons = {}, {}
    for trial in open_study(source / "study.log").get_trials(deepcopy=False, states=FINISHED):
        folder = TrialFolder(source / "trials" / f"{trial.number:04d}")
        if "fork" in trial.user_attrs:
            reasons[trial.number] = "its first epochs are another trial's"
            continue
        try:
            values = values_of(space, TrainConfig.model_validate(trial.user_attrs["train"]))
        except ConfigError as error:
            reasons[trial.number] = str(error)
            continue
        number = numbers[trial.number] = len(numbers)
        record = _copy_folder(folder, target / "trials" / f"{number:04d}", number)
        distributions = {name: distribution(dimensions[name]) for name in values}
        outcome = [*trial.values[:1], record["parameters"]][:objectives] if trial.values else None
        study.add_trial(
            optuna.trial.create_trial(
                state=trial.state,
                values=outcome,
                params=values,
                distributions=distributions,
                intermediate_values=trial.intermediate_values if objectives == 1 else {},
                user_attrs=trial.user_attrs | {"imported": str(folder.path)},
            )
        )
    for known in space.known_values:
        study.enqueue_trial(known, skip_if_exists=True)
    return Imported(numbers, reasons)


def _copy_folder(folder: TrialFolder, target: Path, number: int) -> dict[str, Any]:
    """All but its checkpoint, which nothing goes on from; returns its record."""
    shutil.copytree(
        folder.path, target, ignore=shutil.ignore_patterns("checkpoint", "snapshots", ".*.tmp")
    )
    copy = TrialFolder(target)
    record = json.loads(copy.config.read_text(encoding="utf-8"))
    write_json(copy.config, record | {"trial": number})
    return record
