"""One trial as an executor runs it, without Ray."""

import errno

import pytest
import torch

from raysearch.search.worker import cached_dataset, run_payload
from raysearch.train.trial import TrialFolder

CPU = torch.device("cpu")
TRAIN = {
    "model": {"name": "mlp", "hidden": [8]},
    "image_size": 16,
    "epochs": 1,
    "batch_size": 64,
    "precision": "fp32",
}


def payload(run, data, **train) -> dict:
    return {
        "trial": 0,
        "train": TRAIN | train,
        "run": str(run),
        "uri": None,
        "data": str(data),
        "shipped": None,
        "threads": 1,
        "memory_share": 1.0,
    }


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    cached_dataset.cache_clear()


def test_trials_of_one_process_share_the_set(tmp_path, shards_folder):
    reported = []
    for trial in range(2):
        values = payload(tmp_path, shards_folder, classes=["c", "a"], seed=trial)
        run_payload(values | {"trial": trial}, CPU, reported.append)
    assert cached_dataset.cache_info()[:2] == (1, 1)
    assert [row["epoch"] for row in reported] == [1, 1]
    assert TrialFolder(tmp_path / "trials" / "0001").read_record().classes == ("c", "a")


def test_trial_whose_data_cannot_be_used_reports_why(tmp_path, shards_folder):
    reported = []
    run_payload(payload(tmp_path, shards_folder, classes=["a", "d"]), CPU, reported.append)
    assert [row["status"] for row in reported] == ["failed"]
    assert "no class 'd'" in reported[0]["error"]


@pytest.fixture
def at_uri(tmp_path, monkeypatch):
    """A run at a URI, worked on by machines whose caches are ``tmp_path/<name>``."""
    monkeypatch.setenv("RAYSEARCH_CACHE", str(tmp_path / "cache"))
    return f"file://{tmp_path}/store/run"


def test_trial_at_a_uri_goes_on_elsewhere_from_the_last_epoch_that_it_published(
    tmp_path, shards_folder, at_uri, monkeypatch
):
    values = payload(tmp_path / "nowhere", shards_folder, epochs=3) | {"uri": at_uri}
    there = TrialFolder(tmp_path / "store/run/trials/0000")

    class PowerCut(BaseException):
        pass

    def cut(row):
        if row["epoch"] == 2:
            assert len(there.metrics.read_text().splitlines()) == 3  # it was published first
            raise PowerCut

    with pytest.raises(PowerCut):
        run_payload(values, CPU, cut)
    monkeypatch.setenv("RAYSEARCH_CACHE", str(tmp_path / "another machine"))
    reported = []
    run_payload(values | {"told": 2}, CPU, reported.append)
    assert [row["epoch"] for row in reported] == [3]
    assert there.read_status()["status"] == "completed"

    alone = payload(tmp_path / "alone", shards_folder, epochs=3)
    (tmp_path / "alone").mkdir()
    run_payload(alone, CPU, [].append)
    expected = TrialFolder(tmp_path / "alone/trials/0000")
    assert there.validation.read_bytes() == expected.validation.read_bytes()


def test_machine_without_the_runs_folder_says_so(tmp_path, shards_folder):
    reported = []
    run_payload(payload(tmp_path / "unmounted", shards_folder), CPU, reported.append)
    assert reported[0]["status"] == "failed"
    assert "not shared" in reported[0]["error"] and "s3://" in reported[0]["error"]


def test_trial_without_room_on_the_disk_is_interrupted(tmp_path, shards_folder, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    values, reported = payload(tmp_path, shards_folder, epochs=2), []
    with monkeypatch.context() as full:
        full.setattr("raysearch.train.recorder.save_state", refuse)
        run_payload(values, CPU, reported.append)
    assert [row.get("status") for row in reported] == ["interrupted"]
    assert "disk is full" in reported[0]["error"]
    run_payload(values, CPU, reported.append)
    assert [row["epoch"] for row in reported[1:]] == [1, 2]
