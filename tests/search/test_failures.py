"""Real trials in real Ray processes that fail in every way there is: the rest goes on."""

import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from faults import make_inline, make_train_trial
from leftovers import left_over
from optuna.trial import TrialState
from rich.console import Console

from raysearch.report.tables import run_status, write_leaderboard
from raysearch.search import tuner
from raysearch.search.capacity import Capacity, Machine
from raysearch.search.failures import Failures
from raysearch.search.plan import make_plan
from raysearch.search.retention import size_of
from raysearch.search.study import open_study
from raysearch.storage.runs import RunPlace
from raysearch.train.curve import read_metrics
from raysearch.train.trial import TrialFolder, trial_folders


def search(run: Path, data: Path, space, **options) -> tuner.SearchEnd:
    run.mkdir(exist_ok=True)
    plan = make_plan(space, Capacity((Machine(2, 0),), 1), **options)
    console, place = Console(stderr=True), RunPlace(run)
    return tuner.run_search(place, data, space, plan, seed=0, deadline=None, console=console)


def statuses(run: Path) -> dict[int, str]:
    return {int(f.path.name): f.read_status()["status"] for f in trial_folders(run)}


def error(run: Path, trial: int) -> str:
    return TrialFolder(run / "trials" / f"{trial:04d}").read_status()["error"]


def stopped_processes() -> list[int]:
    """Process numbers of this user's processes that are stopped (state T)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if path.read_text().rpartition(")")[2].split()[0] == "T":
                found.append(int(path.parent.name))
        except OSError:
            continue
    return [pid for pid in found if os.stat(f"/proc/{pid}").st_uid == os.getuid()]


def wait_for_stopped(expected: list[int], seconds: float = 30) -> list[int]:
    """`stopped_processes` once they are those: Ray asks a process to end before it kills it."""
    limit = time.monotonic() + seconds
    while (found := stopped_processes()) != expected and time.monotonic() < limit:
        time.sleep(0.2)
    return found


@pytest.mark.slow
def test_every_kind_of_failure_has_its_status_and_the_rest_goes_on(
    tmp_path, ray_here, shards_folder, write_space, monkeypatch
):
    # Few enough at any time that the search is not given up.
    faults = {1: "raise", 3: "hang", 5: "memory once", 7: "die", 9: "die once", 11: "memory"}
    monkeypatch.setattr(tuner, "train_inline", make_inline(faults))
    run, before = tmp_path / "run", stopped_processes()
    end = search(run, shards_folder, write_space(), trials=13, trial_timeout=30.0)
    failed = {1: "failed", 3: "timeout", 7: "worker_lost", 11: "out_of_memory"}
    assert statuses(run) == dict.fromkeys(range(13), "completed") | failed
    assert (end.aborted, end.interrupted) == ("", False)
    assert wait_for_stopped(before) == before, "what hung was killed"
    assert not left_over()
    assert error(run, 1) == "ValueError: a fault in the second epoch"
    assert "no epoch ended within 30 s" in error(run, 3)
    assert "each time that it was started anew" in error(run, 7)
    assert "batch_size 32 does not fit on cpu, not even in 2 parts" in error(run, 11)
    states = {t.number: t.state for t in open_study(run / "study.log").trials}
    assert {n for n, state in states.items() if state == TrialState.FAIL} == set(failed)

    for trial in (5, 9):  # they went on from the epoch that they had
        rows = read_metrics(TrialFolder(run / "trials" / f"{trial:04d}").metrics)
        assert [row["epoch"] for row in rows] == [1, 2, 3]
    board = pd.read_csv(write_leaderboard(_described(run, shards_folder))).set_index("trial")
    assert list(board.loc[[0, 5, 9, 11], "accumulate"]) == [1, 2, 1, 2]
    assert dict(board["status"]) == statuses(run)
    failures = {"failed": 1, "timeout": 1, "worker_lost": 1, "out_of_memory": 1}
    assert run_status(run)["failures"] == failures


def _described(run: Path, data: Path) -> Path:
    run.mkdir(exist_ok=True)
    (run / "run.yaml").write_text(f"started: 2026-01-01T00:00:00+00:00\ndata: {data}\n")
    return run


def search_by_two_workers(run, data, space, monkeypatch, faults: dict[int, str]) -> None:
    """Of as many trials as meet ``faults``, each in its second worker; nothing is left of them."""
    monkeypatch.setattr(tuner, "TrainTrial", make_train_trial(tuner.TrainTrial, faults))
    before = stopped_processes()
    search(run, data, space, trials=len(faults), workers_per_trial=2, trial_timeout=30.0)
    assert not left_over()
    assert wait_for_stopped(before) == before, "what hung was killed"


@pytest.mark.slow
def test_when_one_of_two_workers_dies_or_lacks_memory_both_go_on_from_their_epoch(
    tmp_path, ray_here, shards_folder, write_space, monkeypatch
):
    run, faults = tmp_path / "run", {0: "die once, memory once"}
    search_by_two_workers(run, shards_folder, write_space(), monkeypatch, faults)
    folder = TrialFolder(run / "trials" / "0000")
    assert statuses(run) == {0: "completed"}
    assert [row["epoch"] for row in read_metrics(folder.metrics)] == [1, 2, 3]
    execution = folder.read_record().execution
    assert (execution.workers, execution.accumulate) == (2, 2)
    assert sorted((run / "met-0").read_text().split(" once")) == ["", "die", "memory"]


@pytest.mark.chaos
def test_when_one_of_two_workers_fails_or_hangs_both_end(
    tmp_path, ray_here, shards_folder, write_space, monkeypatch
):
    run, faults = tmp_path / "run", {0: "raise", 1: "hang"}
    search_by_two_workers(run, shards_folder, write_space(), monkeypatch, faults)
    assert statuses(run) == {0: "failed", 1: "timeout"}
    assert error(run, 0) == "ValueError: a fault in the second epoch"
    assert "no epoch ended within 30 s" in error(run, 1)


@pytest.mark.slow
def test_search_of_which_most_fails_is_given_up_with_the_most_frequent_reason(
    tmp_path, ray_here, shards_folder, write_space, monkeypatch
):
    faults = {trial: "raise" for trial in range(30) if trial % 4} | {3: "memory"}
    monkeypatch.setattr(tuner, "train_inline", make_inline(faults))
    end = search(tmp_path / "run", shards_folder, write_space(), trials=30)
    words = r"(\d+) of the (\d+) trials that ended have failed, (\d+) of them failed, most often "
    found = re.match(words + "with: ValueError: a fault in the second epoch", end.aborted)
    failed, ended, alike = map(int, found.groups())
    assert 5 <= ended < 30 and ended < 2 * failed and alike <= failed
    assert end.statuses["failed"] == alike


def verdict(*ends: str) -> str:
    failures = Failures(None)
    for number, end in enumerate(ends):
        failures.record(number, (end, "why" if end in ("diverged", "interrupted") else ""))
    return failures.verdict()


def test_a_search_is_given_up_only_when_more_than_half_of_at_least_five_failed():
    assert not verdict(*["diverged"] * 4)
    assert not verdict(*["diverged"] * 3, *["completed"] * 2, "pruned")
    assert "3 of the 5" in verdict(*["diverged"] * 3, "completed", "pruned")
    assert "why" in verdict(*["diverged"] * 5)
    assert verdict("interrupted") == "why"


class NotLookedAt(list):
    def __iter__(self):
        raise AssertionError("what is asked many times a second looks at every trial")


def test_only_trials_that_run_are_looked_at_many_times_a_second(monkeypatch):
    killed, failures = [], Failures(1.0)
    monkeypatch.setattr(failures, "_kill", lambda trial: killed.append(trial.trial_id))
    for name in "abc":
        config = {"trial": ord(name)}
        trial = SimpleNamespace(trial_id=name, config=config, status="RUNNING")
        failures.on_trial_start(0, [], trial)
        failures.heard[name] = 0.0
        if name == "a":
            trial.last_result = {"epoch": 3, "epochs": 3}
            failures.on_trial_complete(0, [], trial)
        if name == "b":
            trial.status = "PENDING"  # its process was lost, and it waits for another
    failures.on_step_end(0, NotLookedAt())
    assert killed == ["c"]
    assert failures.heard.keys() == failures.started.keys() == {"b", "c"}
    failures.ends = NotLookedAt(range(6))
    failures.failed = [("diverged", "why")] * 3
    assert failures.verdict() == ""


@pytest.mark.slow
def test_weights_are_kept_within_the_number_and_the_disk_that_are_allowed(
    tmp_path, ray_here, shards_folder, write_space
):
    run, space = _described(tmp_path / "run", shards_folder), write_space()
    end = search(run, shards_folder, space, trials=4, keep=2)
    assert (end.statuses, end.aborted) == ({"completed": 4}, "")
    assert sum(folder.best.exists() for folder in trial_folders(run)) == 2
    assert not any(folder.checkpoint.exists() for folder in trial_folders(run))

    begin = time.monotonic()
    limit = size_of(run) + 1000
    end = search(run, shards_folder, write_space(epochs=9000), trials=6, max_disk=limit)
    assert f"of {limit / 1e6:,.1f} MB allowed" in end.aborted
    assert end.statuses["completed"] == 4
    assert any(folder.best.exists() for folder in trial_folders(run)[:4])
    print(f"{time.monotonic() - begin:.1f} s")


def test_only_losses_without_an_epoch_in_between_count_together():
    """Epochs that are reported again after a loss are none."""
    run = SimpleNamespace(num_failures=0)
    trial = SimpleNamespace(trial_id="a", run_metadata=run)
    failures = Failures(None)
    for epoch, left in ((1, 0), (2, 0), (1, 1), (2, 1), (3, 0), (3, 1)):
        run.num_failures = 1
        failures.on_trial_result(0, [], trial, {"epoch": epoch})
        assert run.num_failures == left
