"""A trial that begins where another one stood is, from there on, what that one would have been."""

import copy
import os

import pytest
import torch
from small_runs import TIMES, assert_bitwise_equal, make_config, make_dataset, weights

from raysearch.probabilities import read_probabilities
from raysearch.train import fork
from raysearch.train.curve import read_metrics
from raysearch.train.distributed import Workers
from raysearch.train.fork import begin_from, take_snapshot
from raysearch.train.loop import Training
from raysearch.train.runner import run_trial
from raysearch.train.trial import Fork, TrialFolder

CPU = torch.device("cpu")
CONFIG = make_config("vgg", epochs=6, augment={"mirror": 0.5, "shift": 0.1}, ema=0.5)


def files_in(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def curve(files):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(files.metrics)]


def run(folder, config=CONFIG, **options):
    run_trial(folder, 0, config, make_dataset(), device=CPU, **options)
    return TrialFolder(folder)


@pytest.fixture(scope="module")
def donor(tmp_path_factory):
    torch.set_num_threads(1)
    return run(tmp_path_factory.mktemp("run") / "0000", snapshot_every=2)


@pytest.fixture(params=["links", "copies"])
def way(request, monkeypatch):
    if request.param == "copies":

        def refuse(*_):
            raise OSError("no links here")

        monkeypatch.setattr(os, "link", refuse)


def test_snapshots_are_taken_when_asked_and_stay_as_they_were(donor):
    assert sorted(p.name for p in donor.snapshots.iterdir()) == ["0002", "0004", "0006"]
    for epoch in (2, 4):
        kept = TrialFolder(donor.snapshot(epoch))
        assert curve(kept) == curve(donor)[:epoch]
        state = torch.load(kept.checkpoint / "state.pt", weights_only=True)
        assert state["epoch"] == epoch
        best = min(curve(kept), key=lambda row: row["validation_log_loss"])
        assert read_probabilities(kept.validation).epoch == best["epoch"]


def test_same_settings_and_seed_give_the_donors_own_later_epochs(donor, tmp_path, way):
    child, told = TrialFolder(tmp_path / "0001"), []
    begin_from(child, donor.snapshot(2))
    options = {"forked_from": Fork(0, 2), "told": 2, "report": told.append}
    run(child.path, **options)
    assert curve(child) == curve(donor)
    assert [row["epoch"] for row in told] == [3, 4, 5, 6]
    assert (child.best / "model.safetensors").read_bytes() == (
        donor.best / "model.safetensors"
    ).read_bytes()
    record = child.read_record()
    assert (record.forked_from, record.train) == (Fork(0, 2), CONFIG)
    assert donor.read_record().forked_from is None


def test_other_settings_leave_the_donor_and_its_snapshot_alone(donor, tmp_path, way):
    before = files_in(donor.path)
    child = TrialFolder(tmp_path / "0001")
    begin_from(child, donor.snapshot(4))
    run(child.path, CONFIG.model_copy(update={"lr": 0.01, "seed": 5}), forked_from=Fork(0, 4))
    assert files_in(donor.path) == before
    assert curve(child)[:4] == curve(donor)[:4]
    assert curve(child)[4:] != curve(donor)[4:]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_weights_are_decayed_as_the_successors_own_settings_say(optimizer):
    """As in the donor, had its decay been changed after the epoch in which the other begins."""
    config = make_config("vgg", optimizer=optimizer, weight_decay=0.01)
    donor, dataset = Training(config, make_dataset(), CPU, Workers()), make_dataset()
    donor.run_epoch()
    state = copy.deepcopy(donor.state_dict())
    child, unchanged = (
        Training(config.model_copy(update={"weight_decay": decay}), dataset, CPU, Workers())
        for decay in (0.5, 0.01)
    )
    for training in (child, unchanged):
        training.load_state_dict(copy.deepcopy(state))
        training.run_epoch()
    name = "decoupled_decay" if optimizer == "sgd" else "weight_decay"
    for group in donor.optimizer.param_groups:
        group[name] = 0.5 if group[name] else 0.0
    donor.run_epoch()
    assert_bitwise_equal(weights(child), weights(donor))
    assert not torch.equal(weights(unchanged)["network.0.weight"], donor.network[0].weight)


def test_what_has_begun_does_not_begin_again(donor, tmp_path, monkeypatch):
    child, link, count = TrialFolder(tmp_path / "0001"), fork._link_file, []

    def killed(source, target):
        count.append(target.name)
        if len(count) == 3:
            raise KeyboardInterrupt
        link(source, target)

    monkeypatch.setattr(fork, "_link_file", killed)
    with pytest.raises(KeyboardInterrupt):
        begin_from(child, donor.snapshot(2))
    assert not (child.checkpoint / "state.pt").exists()
    monkeypatch.setattr(fork, "_link_file", link)
    begin_from(child, donor.snapshot(2))
    run(child.path, forked_from=Fork(0, 2))
    done = files_in(child.path)
    begin_from(child, donor.snapshot(4))
    assert files_in(child.path) == done


def test_snapshot_that_is_gone_is_missed_before_anything_is_made(donor, tmp_path):
    with pytest.raises(FileNotFoundError):
        begin_from(TrialFolder(tmp_path / "0001"), donor.snapshot(3))
    take_snapshot(donor, 6)  # again, as after a kill in between
    assert curve(TrialFolder(donor.snapshot(6))) == curve(donor)
