"""The study: Optuna's journal and samplers, with every argument given. No Ray here."""

import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from raysearch.config import TrainConfig
from raysearch.errors import ConfigError
from raysearch.space import Dimension, SearchSpace

STUDY_NAME = "raysearch"


def open_study(journal: Path) -> optuna.Study:
    """The study in ``journal``, made where there is none. Only one process may write to it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name=STUDY_NAME,
        storage=JournalStorage(JournalFileBackend(str(journal))),
        direction="minimize",
        load_if_exists=True,
    )


def make_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """Every argument that Optuna 4 and 5 default differently is given."""
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "tpe":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                seed=seed,
                n_startup_trials=10,
                n_ei_candidates=24,
                multivariate=True,
                group=True,
                constant_liar=True,
            )
    raise ConfigError(f"There is no sampler {name!r}. Known: tpe, random.")


def suggest_value(trial: optuna.Trial, dimension: Dimension) -> Any:
    if dimension.kind == "choice":
        return trial.suggest_categorical(dimension.name, list(dimension.choices))
    suggest = trial.suggest_int if dimension.kind == "int" else trial.suggest_float
    step = {} if dimension.step is None else {"step": dimension.step}
    return suggest(dimension.name, dimension.low, dimension.high, log=dimension.log, **step)


def example_configs(space: SearchSpace, *, epochs: int, seed: int, drawn: int) -> list[TrainConfig]:
    """What a search of ``space`` begins with: up to ``drawn`` known configurations, completed at
    random, and ``drawn`` random ones."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=make_sampler("random", seed))
    for known in space.known_values[:drawn]:
        study.enqueue_trial(known)
    configs = []
    for _ in range(drawn + min(drawn, len(space.known_values))):
        trial = study.ask()
        values = space.propose(lambda dimension, t=trial: suggest_value(t, dimension))
        configs.append(space.build(values, epochs=epochs, seed=seed))
    return configs
