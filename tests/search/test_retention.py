"""Which weights stay, on trials that were really trained, without Ray."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from raysearch.config import parse_train_config
from raysearch.data.dataset import load_dataset
from raysearch.ensemble.build import build_ensemble, open_data
from raysearch.search import retention
from raysearch.search.retention import Retention, keep_best, shrink, size_of, useful_first
from raysearch.storage.runs import RunPlace
from raysearch.train.fork import take_snapshot
from raysearch.train.runner import run_trial
from raysearch.train.trial import TrialFolder, trial_folders

LEARNING_RATES = (0.0003, 0.02, 0.0001, 0.03, 0.0002, 0.01)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shards_folder) -> Path:
    """Trials 1, 3 and 5 learn, the others hardly do."""
    run = tmp_path_factory.mktemp("retention") / "run"
    dataset = load_dataset(shards_folder)
    torch.set_num_threads(1)
    for trial, lr in enumerate(LEARNING_RATES):
        values = {"model": {"name": "mlp", "hidden": [32]}, "image_size": 16, "epochs": 3}
        values |= {
            "lr": lr,
            "batch_size": 32,
            "precision": "fp32",
            "seed": trial,
            "schedule": "cosine",
        }
        config, folder = parse_train_config(values), run / "trials" / f"{trial:04d}"
        run_trial(folder, trial, config, dataset, device=torch.device("cpu"))
    (run / "run.yaml").write_text(yaml.safe_dump({"data": str(shards_folder)}))
    return run


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def holding(run: Path) -> set[int]:
    return {int(f.path.name) for f in trial_folders(run) if f.best.exists()}


def ended(number: int, status: str) -> SimpleNamespace:
    """A trial as Tune hands it to callbacks."""
    result = {} if status == "completed" else {"status": status}
    return SimpleNamespace(config={"trial": number}, last_result=result)


def test_members_of_the_ensemble_come_first_and_the_worst_trials_last(run):
    members, others = useful_first(run, open_data(run), trial_folders(run))
    order = [int(folder.path.name) for folder in members + others]
    assert sorted(order) == list(range(6))
    assert set(order[:3]) == {1, 3, 5}
    report = build_ensemble(run).to_json()
    assert {m["trial"] for m in report["members"]} == {int(f.path.name) for f in members}


def test_weights_stay_of_as_many_trials_as_told_and_probabilities_of_all(run):
    keep_best(RunPlace(run), open_data(run), 2)
    assert len(holding(run)) == 2 and holding(run) <= {1, 3, 5}
    assert all(folder.validation.exists() for folder in trial_folders(run))
    assert not any(folder.checkpoint.exists() for folder in trial_folders(run))
    assert build_ensemble(run).members


def test_trials_that_end_one_by_one_are_looked_at_one_by_one(run, monkeypatch):
    for folder in trial_folders(run)[1:]:
        folder.write_status("running", 3)
    looks, look = [], retention._ended
    monkeypatch.setattr(retention, "_ended", lambda run: looks.append(run) or look(run))
    callback = Retention(RunPlace(run), open_data(run), 2, None)
    for number, folder in enumerate(trial_folders(run)):
        folder.write_status("completed", 3)
        callback.on_trial_complete(0, [], ended(number, "completed"))
    assert len(looks) <= 3  # after the first, however many follow
    assert len(holding(run)) <= 3  # one more than allowed, until the search ends
    keep_best(RunPlace(run), open_data(run), 2)
    assert len(holding(run)) == 2 and holding(run) <= {1, 3, 5}
    assert not any(folder.checkpoint.exists() for folder in trial_folders(run))


def test_looking_at_the_size_of_a_run_takes_a_twentieth_of_the_time(run, monkeypatch):
    callback = Retention(RunPlace(run), open_data(run), 2, 10**9)
    clock, looks = [100.0], []

    def shrink(*_):
        looks.append(clock[0])
        clock[0] += 0.2  # what a look takes
        return ""

    monkeypatch.setattr(retention, "shrink", shrink)
    monkeypatch.setattr(retention, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    for _ in range(100):
        callback.on_step_end(0, [])
        clock[0] += 0.1
    assert looks == pytest.approx([100.0, 104.0, 108.0], abs=0.35)


def test_trials_that_run_or_were_interrupted_keep_all_they_have(run):
    for trial, status in ((0, "running"), (2, "interrupted")):
        TrialFolder(run / "trials" / f"{trial:04d}").write_status(status, 1)
    keep_best(RunPlace(run), open_data(run), 1)
    assert holding(run) >= {0, 2} and len(holding(run)) == 3
    left = {int(f.path.name) for f in trial_folders(run) if f.checkpoint.exists()}
    assert left == {0, 2}


@pytest.mark.parametrize("before", [0, 1, 3])
def test_trial_that_a_full_disk_interrupted_keeps_all_it_has(run, before):
    """Whether it is the first of which the search hears an end or not. Its own last word of it may
    have found no room."""
    callback, folders = Retention(RunPlace(run), open_data(run), 1, None), trial_folders(run)
    for folder in folders[before:]:
        folder.write_status("running", 2)
    for number in range(before):
        callback.on_trial_complete(0, [], ended(number, "completed"))
    for number in range(before, 6):
        callback.on_trial_complete(0, [], ended(number, "interrupted"))
    kept = {int(f.path.name) for f in folders if f.checkpoint.exists()}
    assert kept == set(range(before, 6))
    assert holding(run) >= kept


def test_nothing_goes_while_the_run_fits(run):
    keep_best(RunPlace(run), open_data(run), 20)
    assert holding(run) == set(range(6))
    before = size_of(run)
    assert shrink(RunPlace(run), open_data(run), 10 * before) == ""
    assert (holding(run), size_of(run)) == (set(range(6)), before)


def test_least_useful_weights_go_first_until_the_run_fits(run):
    keep_best(RunPlace(run), open_data(run), 20)
    members, _ = useful_first(run, open_data(run), trial_folders(run))
    one = size_of(members[0].best)
    limit = size_of(run) + 2 * sum(size_of(f.best) for f in members) - one
    assert shrink(RunPlace(run), open_data(run), limit) == ""
    assert len(holding(run)) == 5
    assert holding(run) >= {int(folder.path.name) for folder in members}
    assert size_of(run) <= limit


def test_what_cannot_fit_is_said_and_the_ensemble_is_kept(run):
    members, _ = useful_first(run, open_data(run), trial_folders(run))
    said = shrink(RunPlace(run), open_data(run), 1000)
    assert "of 0.0 MB allowed" in said and str(run) in said
    assert holding(run) == {int(folder.path.name) for folder in members}


def test_snapshots_cost_nothing_and_go_with_the_weights_that_they_hold(run):
    before = size_of(run)
    for folder in trial_folders(run):
        take_snapshot(folder, 3)
    assert size_of(run) == before
    members, _ = useful_first(run, open_data(run), trial_folders(run))
    one = size_of(members[0].best)
    limit = before + 2 * sum(size_of(f.best) for f in members) - one
    assert shrink(RunPlace(run), open_data(run), limit) == ""
    assert len(holding(run)) == 5
    assert {int(f.path.name) for f in trial_folders(run) if f.snapshots.exists()} == holding(run)
    assert size_of(run) <= before - one


def test_size_is_what_the_files_hold(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(b"12345")
    (tmp_path / "a" / "b" / "two").write_bytes(b"123")
    assert size_of(tmp_path) == 8
