"""Reading the probabilities of a run's trials, whole, torn and stale ones."""

import os
import shutil

import numpy as np
import pytest
from made_run import CLASSES, change_probabilities, make_data, make_run, trial_folder

from raysearch.data.shards import open_shards
from raysearch.ensemble import library as library_module
from raysearch.ensemble.library import group_equal, load_library
from raysearch.probabilities import read_probabilities


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("library")
    data = make_data(folder / "data")
    return data, make_run(folder / "run", data, epochs=1)


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made[1], tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def shards(made):
    return open_shards(made[0])


def test_every_candidate_of_every_trial_is_read(run, shards):
    library = load_library(run, shards)
    names = ["ema", "ema_mirror", "raw", "raw_mirror"]
    assert [(c.trial, c.name) for c in library.candidates] == [
        (trial, name) for trial in range(3) for name in names
    ]
    assert library.probs_NVK.shape == (12, 150, 3)
    assert library.probs_NVK.dtype == np.float32
    np.testing.assert_allclose(library.probs_NVK.sum(axis=2), 1, rtol=1e-6)
    np.testing.assert_array_equal(library.labels_V, shards.split("validation").labels_N)
    assert library.skipped == {}
    first = library.candidates[1]
    assert (first.precision, first.views, first.epoch) == ("fp32", 2, 1)
    assert first.weights_file.name == "model.safetensors" and first.weights_file.exists()


def test_of_some_trials_no_other_is_looked_for(run, shards, monkeypatch):
    whole = load_library(run, shards)
    monkeypatch.setattr(library_module, "trial_folders", None)
    some = load_library(run, shards, trials={2, 0, 7})
    assert [c for c in whole.candidates if c.trial != 1] == list(some.candidates)
    assert some.skipped == {"0007": "no probabilities (status pending)"}


def test_trials_of_any_status_count(run, shards):
    for trial, status in enumerate(("pruned", "interrupted", "diverged")):
        trial_folder(run, trial).write_status(status, 1)
    assert len(load_library(run, shards)) == 12


def test_equal_images_are_grouped(run, shards):
    groups_V = load_library(run, shards).groups_V
    assert groups_V.dtype == np.int64
    assert len(np.unique(groups_V)) == 140
    np.testing.assert_array_equal(groups_V[-10:], groups_V[-20:-10])


def test_groups_follow_all_bytes_of_the_digest():
    digests_N16 = np.zeros((3, 16), np.uint8)
    digests_N16[1, 15] = 1
    groups = group_equal(digests_N16)
    assert groups[0] == groups[2] != groups[1]


def test_torn_file_is_skipped_with_its_reason(run, shards):
    path = trial_folder(run, 1).validation
    path.write_bytes(path.read_bytes()[:300])
    library = load_library(run, shards)
    assert {c.trial for c in library.candidates} == {0, 2}
    assert "not a whole probability file" in library.skipped["0001"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"digest": "0" * 32}, "other images"),
        ({"classes": CLASSES[::-1]}, "differ from the data's"),
        ({"split": "test"}, "'test'"),
    ],
)
def test_stale_file_is_skipped_with_its_reason(run, shards, changes, reason):
    change_probabilities(run, 0, **changes)
    library = load_library(run, shards)
    assert {c.trial for c in library.candidates} == {1, 2}
    assert reason in library.skipped["0000"]


def test_file_of_another_length_is_skipped(run, shards):
    old = read_probabilities(trial_folder(run, 0).validation)
    change_probabilities(run, 0, candidates={k: p[:-1] for k, p in old.candidates.items()})
    assert "149" in load_library(run, shards).skipped["0000"]


def test_torn_configuration_is_skipped(run, shards):
    trial_folder(run, 2).config.write_text("{")
    library = load_library(run, shards)
    assert {c.trial for c in library.candidates} == {0, 1}
    assert "config.json" in library.skipped["0002"]


def test_trial_without_probabilities_is_skipped_with_its_status(run, shards):
    trial_folder(run, 0).validation.unlink()
    trial_folder(run, 0).write_status("failed", 0, "boom")
    assert load_library(run, shards).skipped["0000"] == "no probabilities (status failed)"


def test_candidate_with_nan_is_skipped_alone(run, shards):
    old = read_probabilities(trial_folder(run, 0).validation)
    broken = {k: p.copy() for k, p in old.candidates.items()}
    broken["raw"][7, 0] = np.nan
    change_probabilities(run, 0, candidates=broken)
    library = load_library(run, shards)
    assert len(library) == 11
    assert "the first is row 7" in library.skipped["0000/raw"]


def test_weights_written_after_the_probabilities_make_them_stale(run, shards):
    folder = trial_folder(run, 1)
    later = folder.validation.stat().st_mtime_ns + 10**9
    os.utime(folder.best / "raw.safetensors", ns=(later, later))
    library = load_library(run, shards)
    stale = [str(c) for c in library.candidates if c.precision == "stale"]
    assert stale == ["0001/raw", "0001/raw_mirror"]


def test_run_without_trials_is_an_empty_library(tmp_path, shards):
    assert len(load_library(tmp_path, shards)) == 0
