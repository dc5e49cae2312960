"""The study: Optuna's journal and samplers, with every argument given. No Ray here."""

import fcntl
import json
import math
import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from raysearch.config import TrainConfig
from raysearch.errors import ArtifactError, ConfigError
from raysearch.space import Dimension, SearchSpace

STUDY_NAME = "raysearch"
PRUNED_AFTER = "pruned_after"
"""Attribute of a trial that the scheduler stopped: its last epoch, and its loss after that."""


def open_study(journal: Path, objectives: int = 1) -> optuna.Study:
    """The study in ``journal``, made where there is none, whose values are all to be small. Only
    one process may write to it.

    Raises `ArtifactError` where the journal is damaged elsewhere than at its end.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    mend(journal)
    backend = Journal(journal)
    try:
        return _create(backend, objectives)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{journal} is damaged: a line of it cannot be read ({error}). Put back a copy of it, "
            "or start a new run."
        ) from None


def _create(backend: JournalFileBackend, objectives: int) -> optuna.Study:
    return optuna.create_study(
        study_name=STUDY_NAME,
        storage=JournalStorage(backend),
        directions=["minimize"] * objectives,
        load_if_exists=True,
    )


def mend(journal: Path) -> None:
    """Cut off a last line that was not written whole: the next one would be joined to it. Remove
    what killed holders of Optuna's own lock left."""
    for left in journal.parent.glob(f"{journal.name}.lock*"):
        left.unlink(missing_ok=True)
    if not journal.exists():
        return
    with open(journal, "rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        text = file.read()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            file.truncate(whole)
            os.fsync(file.fileno())


class Journal(JournalFileBackend):
    """Waits for the disk where a proposal or a trial is whole, and not for every value that makes
    it up, which would be most of what a proposal takes. What is written outlives the process in
    any case; a power cut takes an incomplete proposal, which is drawn again, or epochs that the
    trials report again."""

    def __init__(self, path: Path):
        self.path, self.lock = path, FileLock(path)
        super().__init__(str(path), lock_obj=self.lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self.lock.acquire()
        try:
            with open(self.path, "ab") as file:
                file.write(text.encode())
                file.flush()
                if any("user_attr" in log or "state" in log for log in logs):
                    os.fsync(file.fileno())
        finally:
            self.lock.release()


class FileLock:
    """A lock on the journal that the system releases however its holder ends. Optuna's own, a
    file, outlives a killed holder, and makes the next one wait for 30 seconds."""

    def __init__(self, journal: Path):
        self._journal = journal
        self._held: IO[bytes] | None = None

    def acquire(self) -> bool:
        self._held = open(self._journal, "rb")
        fcntl.flock(self._held, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        self._held.close()


def finish_pruning(study: optuna.Study) -> None:
    """End the trials that were being pruned as the search was killed: judged again later, by more
    trials, they might go on."""
    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if PRUNED_AFTER not in frozen.user_attrs:
            continue
        epoch, loss = frozen.user_attrs[PRUNED_AFTER]
        trial = optuna.Trial(study, frozen._trial_id)
        if math.isfinite(loss) and epoch not in frozen.intermediate_values:
            trial.report(loss, epoch)
        study.tell(trial, state=TrialState.PRUNED)


def losses_by_trial(study: optuna.Study) -> dict[int, dict[int, float]]:
    """Validation log loss by epoch of every trial of this search that has reported one, failed ones
    too, by its number; not of imported ones, whose search was another."""
    return {
        trial.number: trial.intermediate_values
        for trial in study.get_trials(deepcopy=False)
        if trial.intermediate_values and "imported" not in trial.user_attrs
    }


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
