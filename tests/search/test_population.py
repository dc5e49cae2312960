"""Population-based training: who ends, who goes on instead, with what, and a real search of it."""

import math

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from rich.console import Console

from raysearch.errors import ConfigError
from raysearch.search import tuner
from raysearch.search.capacity import Capacity, Machine
from raysearch.search.plan import make_plan
from raysearch.search.population import (
    Population,
    good,
    is_complete,
    is_poor,
    perturbed,
    what_changes,
)
from raysearch.search.searcher import METRIC, StudySearcher
from raysearch.search.study import distribution, open_study
from raysearch.space import load_space
from raysearch.storage.runs import RunPlace
from raysearch.train.curve import read_metrics
from raysearch.train.trial import Fork, TrialFolder, trial_folders

SPACE = """
description: for tests
search: {trials: 9, epochs: 4, sampler: random, scheduler: pbt, grace_epochs: 2, population: 5}
train:
  batch_size: {choice: [16, 32]}
  image_size: 16
  precision: fp32
  model: {name: mlp, hidden: {choice: [[16], [32]]}, dropout: 0.0}
  lr: {float: [0.0001, 0.1], log: true}
  label_smoothing: {float: [0.0, 0.3]}
  augment: {mirror: {choice: [0.0, 0.5]}, shift: {float: [0.0, 0.2], step: 0.05}}
"""


@pytest.fixture
def space(tmp_path):
    return write(tmp_path / "space.yaml")


def write(path, text=SPACE):
    path.write_text(text)
    return load_space(path)


losses = st.dictionaries(st.integers(0, 99), st.floats(0, 5), min_size=1, max_size=30)


@given(losses)
def test_worst_quarter_ends_and_best_quarter_goes_on(found):
    ranked = sorted(found.values())
    poor = [number for number in found if is_poor(found, number)]
    assert len(poor) == len(found) // 4
    assert all(found[number] >= ranked[len(found) - len(poor)] for number in poor)
    best = good(found)
    assert len(best) == max(1, len(found) // 4)
    assert all(found[number] <= ranked[len(best) - 1] for number in best)
    assert len(found) < 4 or not set(poor) & set(best)


@settings(max_examples=200)
@given(st.integers(0, 2**32), st.integers(0, 2**32))
def test_only_what_may_change_is_moved_and_stays_in_its_range(tmp_path_factory, first, second):
    space = write(tmp_path_factory.mktemp("space") / "space.yaml")
    rng = np.random.default_rng(first)
    values = {dimension.name: dimension.draw(rng) for dimension in space.searched}
    moved = perturbed(space, values, np.random.default_rng(second))
    assert moved.keys() == values.keys()
    for name in ("batch_size", "model.hidden"):
        assert moved[name] == values[name]
    assert all(dimension.contains(moved[dimension.name]) for dimension in space.searched)
    space.build(moved, epochs=4, seed=0)


def test_numbers_move_by_a_fifth_or_are_drawn_anew(space):
    values = {"batch_size": 16, "model.hidden": "[16]", "lr": 0.01, "label_smoothing": 0.1}
    values |= {"augment.mirror": 0.5, "augment.shift": 0.1}
    rng, ratios, shifts = np.random.default_rng(0), [], []
    for _ in range(400):
        moved = perturbed(space, values, rng)
        ratios.append(moved["lr"] / 0.01)
        shifts.append(round(moved["augment.shift"], 6))
    stepped = [ratio for ratio in ratios if min(abs(ratio - 0.8), abs(ratio - 1.25)) < 1e-9]
    assert 0.65 < len(stepped) / 400 < 0.85
    assert 0.4 < sum(ratio > 1 for ratio in stepped) / len(stepped) < 0.6
    assert set(shifts) == {0.0, 0.05, 0.1, 0.15, 0.2}
    assert 0.65 < sum(shift in (0.05, 0.15) for shift in shifts) / 400 < 0.95


def test_zero_does_not_stay_zero_for_ever(space):
    values = {"label_smoothing": 0.0}
    assert perturbed(space, values, np.random.default_rng(0))["label_smoothing"] > 0


def test_space_without_anything_that_may_change_is_refused(tmp_path, space):
    told = what_changes(space)
    assert "lr, label_smoothing, augment.mirror, augment.shift" in told
    assert "batch_size, model.hidden stay what they are" in told
    text = SPACE.replace("{float: [0.0001, 0.1], log: true}", "0.1").replace(
        "{float: [0.0, 0.3]}", "0.1"
    )
    text = text.replace("{choice: [0.0, 0.5]}", "0.5").replace(
        "{float: [0.0, 0.2], step: 0.05}", "0.1"
    )
    with pytest.raises(ConfigError, match="searches none of them. Give one of them a range"):
        what_changes(write(tmp_path / "fixed.yaml", text))


def add(study, space, state, losses, number_of=None, **about):
    rng = np.random.default_rng(len(study.trials))
    values = {d.name: d.draw(rng) for d in space.searched}
    study.add_trial(
        optuna.trial.create_trial(
            state=state,
            value=min(losses.values()) if state == TrialState.COMPLETE else None,
            params=values,
            distributions={d.name: distribution(d) for d in space.searched},
            intermediate_values=losses,
            user_attrs=about,
        )
    )


def test_successor_begins_where_one_of_the_best_stood_after_the_same_epoch(tmp_path, space):
    study = open_study(tmp_path / "study.log")
    for number, loss in enumerate((1.0, 0.7, 0.9, 0.8, 0.6)):
        last = {2: loss, 4: 0.1 * number}
        add(study, space, TrialState.COMPLETE, last)
    add(study, space, TrialState.FAIL, {2: 0.1})
    add(study, space, TrialState.PRUNED, {2: 1.5})
    population = Population(study, space, size=5, every=2, seed=0)
    successor = population.successor()
    assert (successor.replaces, successor.fork) == (6, Fork(trial=4, epoch=2))
    assert successor.values.keys() == study.trials[4].params.keys()
    assert successor.values["batch_size"] == study.trials[4].params["batch_size"]
    assert successor == Population(study, space, size=5, every=2, seed=0).successor()
    assert not population.is_complete
    successor.enqueue(study)
    assert population.successor() is None
    assert not population.is_complete  # it waits
    trial = study.ask()
    assert trial.user_attrs == {"fork": {"trial": 4, "epoch": 2}, "replaces": 6}
    assert population.is_complete


def test_trials_end_only_where_they_are_compared(tmp_path, space):
    study = open_study(tmp_path / "study.log")
    for loss in (0.5, 0.6, 0.7):
        add(study, space, TrialState.COMPLETE, {1: loss, 2: loss, 3: loss, 4: loss})
    population = Population(study, space, size=5, every=2, seed=0)
    assert [population.ends(3, epoch, 0.9) for epoch in (1, 2, 3)] == [False, True, False]
    assert not population.ends(3, 2, 0.65)


def epoch(number, loss, epochs=4):
    return {"epoch": number, "epochs": epochs, METRIC: loss, "seconds": 1.0}


def test_successor_is_handed_out_with_its_start_again_after_a_kill(tmp_path, space):
    def searcher():
        study = open_study(tmp_path / "study.log")
        population = Population(study, space, size=5, every=2, seed=0)
        options = {"trials": 9, "epochs": 4, "seed": 0, "population": population}
        return StudySearcher(study, space, **options)

    first = searcher()
    for number in range(5):
        assert "fork" not in first.suggest(str(number))
        for n in (1, 2):
            first.on_trial_result(str(number), epoch(n, 1.0 + number))
    assert first.suggest("x") is None  # the population is complete, and may still need successors
    first.on_trial_complete("4", epoch(2, 9.0))
    payload = first.suggest("5")
    assert (payload["trial"], payload["fork"]) == (5, {"trial": 0, "epoch": 2})
    assert (payload["told"], payload["train"]["epochs"]) == (2, 4)
    for number in range(4):
        first.on_trial_complete(str(number), epoch(4, 0.5))
    again = searcher()  # trial 5 was under way
    assert not again.is_done
    assert again.suggest("a") == payload
    again.on_trial_result("a", epoch(3, 0.7))
    assert searcher().suggest("b") == payload  # epoch 3 is told once more
    assert not is_complete(tmp_path / "none", space)
    again.on_trial_complete("a", epoch(4, 0.5))
    assert again.is_done and is_complete(tmp_path, space)
    assert again.suggest("c") == again.FINISHED


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["inline", pytest.param("train", marks=pytest.mark.chaos)])
def test_search_replaces_poor_trials_and_every_record_says_whose_epochs_are_whose(
    tmp_path, ray_here, shards_folder, space, executor
):
    run, printed = tmp_path / "run", tmp_path / "printed"
    run.mkdir()
    plan = make_plan(space, Capacity((Machine(2, 0),), 1), executor=executor)
    with open(printed, "w") as file:
        end = tuner.run_search(
            RunPlace(run),
            shards_folder,
            space,
            plan,
            seed=0,
            deadline=None,
            console=Console(file=file, width=200),
        )
    assert "pbt changes lr, label_smoothing" in printed.read_text()
    study = open_study(run / "study.log")
    poor = [t for t in study.trials if t.state == TrialState.PRUNED]
    assert end.statuses == {"pruned": len(poor), "completed": len(study.trials) - len(poor)}
    successors = [t for t in study.trials if "fork" in t.user_attrs]
    assert len(study.trials) == 5 + len(successors) <= 9
    assert 1 <= len(successors) <= len(poor)
    for trial in successors:
        files = TrialFolder(run / "trials" / f"{trial.number:04d}")
        fork = files.read_record().forked_from
        donor = TrialFolder(run / "trials" / f"{fork.trial:04d}")
        assert fork == Fork(**trial.user_attrs["fork"])
        rows, theirs = read_metrics(files.metrics), read_metrics(donor.metrics)
        assert rows[: fork.epoch] == theirs[: fork.epoch]
        assert min(trial.intermediate_values) == fork.epoch + 1
        mine, other = files.read_record().train, donor.read_record().train
        assert (mine.model, mine.batch_size) == (other.model, other.batch_size)
        assert mine.lr != other.lr or mine.label_smoothing != other.label_smoothing
    assert all(math.isfinite(t.value) for t in study.trials if t.state == TrialState.COMPLETE)
    assert not any(folder.snapshots.exists() for folder in trial_folders(run))
