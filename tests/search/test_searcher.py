import math
import time

import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from raysearch.search.searcher import METRIC, StudySearcher
from raysearch.search.study import open_study


def make(tmp_path, space, *, trials=4, epochs=3, seed=0, deadline=None):
    study = open_study(tmp_path / "study.log")
    return StudySearcher(study, space, trials=trials, epochs=epochs, seed=seed, deadline=deadline)


def epoch(number, loss, epochs=3, **more):
    return {"epoch": number, "epochs": epochs, METRIC: loss, "seconds": 1.0, **more}


def run_trial(searcher, trial_id, losses, epochs=3):
    """Play a trial's life as Tune does: results but the last, then completion with the last."""
    payload = searcher.suggest(trial_id)
    for number, loss in enumerate(losses[:-1], start=1):
        searcher.on_trial_result(trial_id, epoch(number, loss, epochs))
    searcher.on_trial_complete(trial_id, epoch(len(losses), losses[-1], epochs))
    return payload


def states(searcher):
    return [trial.state for trial in searcher.study.get_trials(deepcopy=False)]


def test_known_configurations_come_first_and_the_number_of_trials_is_kept(tmp_path, write_space):
    searcher = make(tmp_path, write_space(), trials=2)
    first = run_trial(searcher, "a", [1.0, 0.9, 0.8])
    assert first["trial"] == 0
    assert first["train"]["lr"] == 0.05
    assert first["train"]["model"] == {"name": "mlp", "hidden": [16], "dropout": 0.0}
    run_trial(searcher, "b", [1.0, 0.9, 0.8])
    assert searcher.suggest("c") == Searcher.FINISHED


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_neighbouring_seeds_have_nothing_in_common(tmp_path, write_space, sampler):
    """Trial 1 of one is not trial 0 of the next."""
    searches = {}
    for seed in (0, 1, 2):
        (tmp_path / str(seed)).mkdir()
        searcher = make(tmp_path / str(seed), write_space(sampler=sampler), trials=8, seed=seed)
        payloads = [run_trial(searcher, str(n), [1.0, 0.9, 0.8]) for n in range(8)]
        searches[seed] = [(p["train"]["lr"], p["train"]["seed"]) for p in payloads[1:]]
    rates = [rate for search in searches.values() for rate, _ in search]
    seeds = [seed for search in searches.values() for _, seed in search]
    assert len(set(rates)) == len(set(seeds)) == 3 * 7
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_finished_trial_is_complete_with_its_best_epoch(tmp_path, write_space):
    searcher = make(tmp_path, write_space())
    run_trial(searcher, "a", [1.0, 0.7, 0.8])
    trial = searcher.study.trials[0]
    assert trial.state == TrialState.COMPLETE
    assert trial.value == 0.7
    assert trial.intermediate_values == {1: 1.0, 2: 0.7, 3: 0.8}


def test_trial_that_ends_early_by_itself_is_complete(tmp_path, write_space):
    """Its last report says that there will be no more epochs than that."""
    searcher = make(tmp_path, write_space(), epochs=9)
    searcher.suggest("a")
    searcher.on_trial_result("a", epoch(1, 0.7, epochs=9))
    searcher.on_trial_complete("a", epoch(2, 0.8, epochs=2))
    trial = searcher.study.trials[0]
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.7)


def test_trial_that_the_scheduler_stops_is_pruned_and_never_a_finished_score(tmp_path, write_space):
    searcher = make(tmp_path, write_space())
    run_trial(searcher, "a", [1.5])
    trial = searcher.study.trials[0]
    assert trial.state == TrialState.PRUNED
    assert trial.intermediate_values == {1: 1.5}


@pytest.mark.parametrize(
    "end",
    [
        {"result": None, "error": True},
        {"result": epoch(2, math.inf, status="diverged")},
        {"result": epoch(2, 0.5, status="out_of_memory")},
    ],
)
def test_trial_that_failed_is_fail(tmp_path, write_space, end):
    searcher = make(tmp_path, write_space())
    searcher.suggest("a")
    searcher.on_trial_result("a", epoch(1, 1.0))
    searcher.on_trial_complete("a", **end)
    assert states(searcher) == [TrialState.FAIL]


def test_interrupted_trial_is_handed_out_again_unchanged(tmp_path, write_space):
    before = make(tmp_path, write_space())
    run_trial(before, "a", [1.0, 0.9, 0.8])
    cut_off = before.suggest("b")
    before.on_trial_result("b", epoch(1, 1.0))

    after = make(tmp_path, write_space())
    assert after.suggest("c") == cut_off
    after.on_trial_result("c", epoch(1, 1.0))  # an epoch that is made again is told once
    after.on_trial_result("c", epoch(2, 0.9))
    after.on_trial_complete("c", epoch(3, 0.8))
    assert states(after) == [TrialState.COMPLETE, TrialState.COMPLETE]
    assert after.suggest("d")["trial"] == 2


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_same_seed_gives_the_same_sequence_also_across_a_restart(tmp_path, write_space, sampler):
    space = write_space(sampler=sampler, trials=16)
    lives = [[1.0, 0.5 + 0.1 * (n % 5), 0.9] for n in range(16)]

    def sequence(folder, restart_every):
        folder.mkdir()
        payloads = []
        for start in range(0, 16, restart_every):
            searcher = make(folder, space, trials=16)
            for n in range(start, start + restart_every):
                payloads.append(run_trial(searcher, f"t{n}", lives[n]))
        return payloads

    whole = sequence(tmp_path / "whole", 16)
    assert whole == sequence(tmp_path / "restarted", 4)
    assert len({payload["train"]["lr"] for payload in whole}) == 16
    other = make(tmp_path / "whole", space, trials=17, seed=1)
    assert other.suggest("x")["train"]["seed"] != whole[0]["train"]["seed"]


def test_schedule_is_shortened_to_what_fits_before_the_deadline(tmp_path, write_space):
    searcher = make(tmp_path, write_space(), epochs=10, deadline=time.monotonic() + 6.5)
    assert searcher.suggest("a")["train"]["epochs"] == 10  # nothing is known of the pace yet
    searcher.on_trial_result("a", epoch(1, 1.0, epochs=10))
    assert searcher.suggest("b")["train"]["epochs"] == 6
    searcher.deadline = time.monotonic() + 4.5
    assert searcher.suggest("c") == Searcher.FINISHED  # under half a schedule is not worth it


def test_trial_that_a_full_disk_interrupted_is_handed_out_again(tmp_path, write_space):
    searcher = make(tmp_path, write_space())
    first = searcher.suggest("a")
    searcher.on_trial_result("a", epoch(1, 1.5))
    searcher.on_trial_complete("a", epoch(1, 1.5, status="interrupted"))
    assert states(searcher) == [TrialState.RUNNING]
    again = make(tmp_path, write_space()).suggest("b")
    assert again == first


def test_pace_is_that_of_epochs_and_not_of_trials_that_failed_before_one(tmp_path, write_space):
    searcher = make(tmp_path, write_space(), epochs=10, deadline=time.monotonic() + 100)
    failed = epoch(0, math.inf, epochs=10, status="out_of_memory") | {"seconds": 0.0}
    for trial_id in ("a", "b"):
        searcher.suggest(trial_id)
        searcher.on_trial_result(trial_id, failed)
        searcher.on_trial_complete(trial_id, failed)
    assert searcher.suggest("c")["train"]["epochs"] == 10  # nothing is known of the pace yet
    searcher.on_trial_result("c", epoch(1, 1.0, epochs=10))
    searcher.on_trial_result("c", epoch(1, 1.0, epochs=10, status="diverged") | {"seconds": 0.1})
    searcher.deadline = time.monotonic() + 7.5
    assert searcher.suggest("d")["train"]["epochs"] == 7
