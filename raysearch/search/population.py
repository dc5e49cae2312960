"""Population-based training: poor trials end, and good ones go on a second time, a little changed.

Jaderberg et al., "Population Based Training of Neural Networks", 2017, without their step locked
to a wall clock: at every so many epochs a trial in the worst quarter of all that came so far ends,
and in its place a new one begins where one of the best quarter stood after the same epoch, with
perturbed settings. A trial that ends so is PRUNED and its successor a trial of its own in the
study, so nothing that was trained is lost, and every record says which epochs are whose.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from raysearch.errors import ConfigError
from raysearch.search.study import open_study
from raysearch.space import SearchSpace
from raysearch.space.dimensions import Dimension, Scalar
from raysearch.train.trial import Fork

QUARTER = 0.25
FACTORS = (0.8, 1.25)
"""What a number is multiplied with (the paper's 0.8 and 1.2, so that one takes back the other)."""
ANEW = 0.25
"""How often a setting is drawn anew instead."""
CHANGEABLE = ("lr", "weight_decay", "l2", "label_smoothing", "mixup", "cutmix", "augment")
"""Fields (and all that is in them) that may change within a training run: not what the network is,
and not what a step is."""


def can_change(dimension: Dimension) -> bool:
    return dimension.path.split(".")[0] in CHANGEABLE


def what_changes(space: SearchSpace) -> str:
    """A line for the user. Raises `ConfigError` where the space searches nothing that may."""
    paths = {may: [] for may in (True, False)}
    for dimension in space.searched:
        found = paths[can_change(dimension)]
        if dimension.path not in found:
            found.append(dimension.path)
    if not paths[True]:
        raise ConfigError(
            f"scheduler pbt changes settings of trials that go on, any of {', '.join(CHANGEABLE)}, "
            f"but {space.path} searches none of them. Give one of them a range, or take asha."
        )
    fixed = f"; {', '.join(paths[False])} stay what they are" if paths[False] else ""
    return f"pbt changes {', '.join(paths[True])} of trials that go on{fixed}"


def is_poor(losses: Mapping[int, float], number: int) -> bool:
    """Whether the trial ``number`` is in the worst quarter, none of fewer than four."""
    return number in _ranked(losses)[len(losses) - int(QUARTER * len(losses)) :]


def good(losses: Mapping[int, float]) -> list[int]:
    """Numbers of the best quarter, at least one."""
    return _ranked(losses)[: max(1, int(QUARTER * len(losses)))]


def _ranked(losses: Mapping[int, float]) -> list[int]:
    """From the best; of equal ones the first comes first."""
    return sorted(losses, key=lambda number: (losses[number], number))


def perturbed(
    space: SearchSpace, values: Mapping[str, Scalar], rng: np.random.Generator
) -> dict[str, Scalar]:
    """``values`` (by dimension name) with each that may change drawn anew, or a step away."""
    dimensions = {dimension.name: dimension for dimension in space.searched}
    return {
        name: _moved(dimensions[name], value, rng) if can_change(dimensions[name]) else value
        for name, value in values.items()
    }


def _moved(dimension: Dimension, value: Any, rng: np.random.Generator) -> Scalar:
    anew, up = rng.random() < ANEW, bool(rng.integers(2))
    if anew or (dimension.kind == "float" and not dimension.step and value == 0):
        return dimension.draw(rng)
    if dimension.kind == "choice":
        return value
    if dimension.kind == "int" or dimension.step:
        step = dimension.step or 1
        moved = value + (step if up else -step)
    else:
        moved = value * FACTORS[up]
    return min(max(moved, dimension.low), dimension.high)


@dataclass(frozen=True)
class Successor:
    """Of the trial ``replaces``: ``values`` by dimension name, from ``fork`` on."""

    replaces: int
    fork: Fork
    values: dict[str, Scalar]

    def enqueue(self, study: optuna.Study) -> None:
        about = {"fork": asdict(self.fork), "replaces": self.replaces}
        study.enqueue_trial(self.values, user_attrs=about)


def population_of(study: optuna.Study, space: SearchSpace, seed: int) -> "Population | None":
    """Of a search with ``space``; None where it is no population-based training."""
    if space.search.scheduler != "pbt":
        return None
    return Population(study, space, space.search.population, space.search.grace_epochs, seed)


def is_complete(run: Path, space: SearchSpace) -> bool:
    """Whether the search in ``run`` is population-based and has no more trials to begin."""
    if space.search.scheduler != "pbt" or not (run / "study.log").exists():
        return False
    population = population_of(open_study(run / "study.log"), space, seed=0)
    return population is not None and population.is_complete


class Population:
    """What the study says of a search with ``size`` trials that begin anew, each of which may be
    replaced after every ``every``-th epoch."""

    def __init__(self, study: optuna.Study, space: SearchSpace, size: int, every: int, seed: int):
        self.study, self.space, self.size, self.every = study, space, size, every
        self.seed = seed

    def ends(self, number: int, epoch: int, loss: float) -> bool:
        """Whether the trial ``number`` is to end after ``epoch``, which is not its last."""
        if epoch % self.every:
            return False
        return is_poor(self._losses(epoch) | {number: loss}, number)

    def successor(self) -> Successor | None:
        """Of the first trial that ended so and has none; None where each has one."""
        trials = self.study.get_trials(deepcopy=False)
        replaced = {trial.user_attrs.get("replaces") for trial in trials}
        for trial in trials:
            taken = trial.number in replaced or "imported" in trial.user_attrs
            if trial.state != TrialState.PRUNED or taken:
                continue
            epoch = max(trial.intermediate_values)
            rng = np.random.default_rng((self.seed, trial.number))
            donors = good(self._losses(epoch))
            donor = donors[int(rng.integers(len(donors)))]
            values = perturbed(self.space, trials[donor].params, rng)
            return Successor(trial.number, Fork(donor, epoch), values)
        return None

    @property
    def is_complete(self) -> bool:
        """As many began anew as are to, and every one that ended has a successor under way."""
        trials = self.study.get_trials(deepcopy=False)
        waits = any(trial.state == TrialState.WAITING for trial in trials)
        anew = sum("replaces" not in trial.user_attrs for trial in trials)
        return anew >= self.size and not waits and self.successor() is None

    def _losses(self, epoch: int) -> dict[int, float]:
        """Validation log loss after ``epoch`` of every trial that has finished it itself, in this
        study, and has not failed since."""
        return {
            trial.number: trial.intermediate_values[epoch]
            for trial in self.study.get_trials(deepcopy=False)
            if epoch in trial.intermediate_values
            and trial.state != TrialState.FAIL
            and "imported" not in trial.user_attrs
        }
