"""A search that is killed and gone on with stops the trials that the uninterrupted one stops.

Tune's part is played here: three slots, and a clock by which some trials are faster than others.
"""

import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from raysearch.search.population import population_of
from raysearch.search.schedulers import Numbered, make_scheduler
from raysearch.search.searcher import METRIC, StudySearcher
from raysearch.search.study import losses_by_trial, open_study
from raysearch.search.tuner import settle

TRIALS, EPOCHS, SLOTS = 30, 9, 3
PACE = {0: 1.0, 1: 2.3, 2: 0.7}
FAILS = {4: 2, 11: 5}
"""In which epoch a trial fails, which was the best until then."""


def loss(number: int, epoch: int) -> float:
    if number in FAILS:
        return 0.5 - 0.01 * epoch
    start, rate, noise = np.random.default_rng((number, 0)).uniform((1, 0.02, 0), (2, 0.5, 0.3))
    wobble = np.random.default_rng((number, epoch)).normal(0, noise)
    return float(start * math.exp(-rate * epoch) + abs(wobble))


def row(number: int, epoch: int, **more) -> dict:
    about = {"trial": number, "epoch": epoch, "epochs": EPOCHS, "seconds": 1.0}
    return about | {METRIC: loss(number, epoch)} | more


@dataclass
class Play:
    """A search on ``journal``: what was decided after which epoch of which trial. The driver is
    killed before every event that ``kills`` counts."""

    journal: object
    space: object
    kills: range = range(0)
    decisions: list = field(default_factory=list)
    due: dict = field(default_factory=dict)
    now: float = 0.0
    lives: int = 0

    def run(self) -> list:
        self.begin_life()
        while self.fill_slots():
            if len(self.decisions) in self.kills and self.alive_for:
                self.begin_life()
                self.fill_slots()
            trial = min(self.running, key=lambda t: (self.due[t.number], t.number))
            self.now = self.due[trial.number]
            self.step(trial)
            self.alive_for += 1
        return self.decisions

    def begin_life(self) -> None:
        self.lives += 1
        self.running, self.started, self.alive_for = [], 0, 0
        study = open_study(self.journal)
        settle(self.journal.parent, study)
        population = population_of(study, self.space, 0)
        past = losses_by_trial(study)
        self.scheduler = make_scheduler(self.space, EPOCHS, population, past)
        options = {"trials": TRIALS, "epochs": EPOCHS, "seed": 0, "population": population}
        self.searcher = StudySearcher(study, self.space, **options)

    def fill_slots(self) -> bool:
        """Whether anything runs."""
        while len(self.running) < SLOTS:
            trial_id = f"life {self.lives} trial {self.started}"
            payload = self.searcher.suggest(trial_id)
            if payload in (None, Searcher.FINISHED):
                break
            self.started += 1
            number, told = payload["trial"], payload["told"]
            trial = SimpleNamespace(trial_id=trial_id, config=payload, number=number, epoch=told)
            self.due.setdefault(number, self.now + PACE[number % 3])
            self.scheduler.on_trial_add(None, trial)
            self.running.append(trial)
            known = self.searcher.study.trials[number].intermediate_values
            if known:  # told once more
                self.report(trial)
                assert trial in self.running
                assert trial.epoch == max(known)
        return bool(self.running)

    def step(self, trial: SimpleNamespace) -> None:
        number = trial.number
        self.due[number] += PACE[number % 3]
        if FAILS.get(number) == trial.epoch + 1:
            result = row(number, trial.epoch, status="diverged")
            assert self.scheduler.on_trial_result(None, trial, result) == TrialScheduler.CONTINUE
            self.searcher.on_trial_result(trial.trial_id, result)
            self.end(trial, result)
            self.decisions.append((number, trial.epoch, "failed"))
            return
        self.decisions.append((number, trial.epoch + 1, self.report(trial)))

    def report(self, trial: SimpleNamespace) -> str:
        trial.epoch += 1
        result = row(trial.number, trial.epoch)
        decision = self.scheduler.on_trial_result(None, trial, result)
        if decision == TrialScheduler.CONTINUE:
            self.searcher.on_trial_result(trial.trial_id, result)
        if decision == TrialScheduler.STOP or trial.epoch == EPOCHS:
            self.end(trial, result)
            decision = TrialScheduler.STOP
        return decision

    def end(self, trial: SimpleNamespace, result: dict) -> None:
        self.scheduler.on_trial_complete(None, trial, result)
        self.searcher.on_trial_complete(trial.trial_id, result)
        self.running.remove(trial)


def told(journal) -> list[tuple]:
    trials = open_study(journal).trials
    return [(t.state, t.params, t.intermediate_values, t.user_attrs) for t in trials]


@pytest.fixture(params=["asha", "median", "pbt"])
def space(request, write_space):
    grace = 2 if request.param == "pbt" else 1
    about = {"scheduler": request.param, "grace_epochs": grace, "population": 12}
    return write_space(sampler="random", trials=TRIALS, epochs=EPOCHS, **about)


@pytest.mark.parametrize(
    ("scheduler", "reference"),
    [
        ("asha", ASHAScheduler("epoch", METRIC, "min", EPOCHS, 1, 3)),
        ("median", MedianStoppingRule("epoch", METRIC, "min", 1, 3, math.inf)),
    ],
)
def test_search_that_is_not_killed_is_decided_by_tunes_own(
    tmp_path, write_space, scheduler, reference
):
    space = write_space(sampler="random", epochs=EPOCHS, scheduler=scheduler)
    trials = {}
    for number, epoch, decision in Play(tmp_path / "study.log", space).run():
        if number not in trials:
            trials[number] = Numbered(str(number))
            reference.on_trial_add(None, trials[number])
        if decision != "failed" and epoch < EPOCHS:
            result = row(number, epoch)
            assert reference.on_trial_result(None, trials[number], result) == decision
    assert len(trials) == TRIALS


@pytest.mark.parametrize("kills", [range(1, 999), range(40, 41), range(17, 999, 13)])
def test_killed_search_decides_as_the_uninterrupted_one(tmp_path, space, kills):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = Play(tmp_path / "whole/study.log", space)
    killed = Play(tmp_path / "killed/study.log", space, kills)
    expected = whole.run()
    assert killed.run() == expected
    assert whole.lives == 1 and killed.lives > 1
    assert told(killed.journal) == told(whole.journal)
    states = [trial.state for trial in open_study(whole.journal).trials]
    assert min(states.count(s) for s in (TrialState.COMPLETE, TrialState.PRUNED)) >= 3
    assert TrialState.FAIL in states
