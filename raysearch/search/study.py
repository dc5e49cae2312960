"""The study: Optuna's journal and samplers, with every argument given. No Ray here."""

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from raysearch.config import TrainConfig
from raysearch.errors import ConfigError
from raysearch.space import Dimension, SearchSpace

STUDY_NAME = "raysearch"


def open_study(journal: Path, objectives: int = 1) -> optuna.Study:
    """The study in ``journal``, made where there is none, whose values are all to be small. Only
    one process may write to it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name=STUDY_NAME,
        storage=JournalStorage(JournalFileBackend(str(journal))),
        directions=["minimize"] * objectives,
        load_if_exists=True,
    )


def make_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """Every argument that Optuna 4 and 5 default differently, or may, is given. Raises
    `ConfigError` where what a sampler needs is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _SAMPLERS[name](seed)


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(
        seed=seed,
        n_startup_trials=10,
        n_ei_candidates=24,
        multivariate=True,
        group=True,
        constant_liar=True,
    )


def _gp(seed: int) -> optuna.samplers.BaseSampler:
    if find_spec("scipy") is None:
        raise ConfigError(
            "sampler: gp needs scipy, which is not installed: pip install scipy, or take tpe."
        )
    return optuna.samplers.GPSampler(
        seed=seed,
        independent_sampler=optuna.samplers.RandomSampler(seed=seed),
        n_startup_trials=10,
        deterministic_objective=False,
        constraints_func=None,
        warn_independent_sampling=False,
    )


def _nsga2(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.NSGAIISampler(
        seed=seed,
        population_size=20,
        mutation_prob=None,
        crossover=optuna.samplers.nsgaii.UniformCrossover(swapping_prob=0.5),
        crossover_prob=0.9,
        swapping_prob=0.5,
        constraints_func=None,
        elite_population_selection_strategy=None,
        child_generation_strategy=None,
        after_trial_strategy=None,
    )


_SAMPLERS = {
    "tpe": _tpe,
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "gp": _gp,
    "nsga2": _nsga2,
}


def distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    """What `suggest_value` has the sampler draw from."""
    if dimension.kind == "choice":
        return optuna.distributions.CategoricalDistribution(list(dimension.choices))
    low, high, log, step = dimension.low, dimension.high, dimension.log, dimension.step
    if dimension.kind == "int":
        return optuna.distributions.IntDistribution(low, high, log=log, step=step or 1)
    return optuna.distributions.FloatDistribution(low, high, log=log, step=step)


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
