"""One trial as an executor runs it, without Ray."""

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
        "data": str(data),
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
