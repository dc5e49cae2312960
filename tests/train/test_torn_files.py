"""A trial's files, each damaged at its end or gone, and places that cannot be written to."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import make_config, make_dataset, timeless

from raysearch.files import is_disk_full
from raysearch.probabilities import read_probabilities
from raysearch.train.curve import read_metrics
from raysearch.train.runner import run_trial
from raysearch.train.trial import TrialFolder

CPU = torch.device("cpu")
CONFIG = make_config(epochs=3, augment={"mirror": 0.5, "shift": 0.1})


class Stopped(BaseException):
    pass


def train(folder: Path, stop_after: int | None = None) -> str | None:
    def report(metrics):
        if metrics["epoch"] == stop_after:
            raise Stopped

    torch.set_num_threads(1)
    try:
        return run_trial(folder, 7, CONFIG, make_dataset(), device=CPU, report=report)
    except Stopped:
        return None


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> TrialFolder:
    folder = tmp_path_factory.mktemp("torn") / "whole"
    assert train(folder) == "completed"
    return TrialFolder(folder)


def assert_same(found: TrialFolder, expected: TrialFolder) -> None:
    rows = [[timeless(row) for row in read_metrics(f.metrics)] for f in (found, expected)]
    assert rows[0] == rows[1]
    one, other = (read_probabilities(f.validation) for f in (found, expected))
    assert one.epoch == other.epoch and one.candidates.keys() == other.candidates.keys()
    for name, probs_VK in one.candidates.items():
        assert np.array_equal(probs_VK, other.candidates[name]), name
    assert found.read_record() == expected.read_record()
    assert found.read_status()["status"] == "completed"


def cut_last_line(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def blank(path: Path) -> None:
    """As some file systems leave a file after a power cut."""
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("damage", [cut_last_line, halve, blank, Path.unlink])
@pytest.mark.parametrize(
    "name", ["metrics.csv", "status.json", "config.json", "checkpoint/state.pt"]
)
def test_trial_with_a_damaged_file_goes_on_and_ends_the_same(tmp_path, whole, name, damage):
    train(tmp_path / "trial", stop_after=2)
    damage(tmp_path / "trial" / name)
    assert train(tmp_path / "trial") == "completed"
    assert_same(TrialFolder(tmp_path / "trial"), whole)


def test_finished_trial_whose_metrics_are_cut_off_is_trained_again(tmp_path, whole):
    folder = TrialFolder(shutil.copytree(whole.path, tmp_path / "trial"))
    cut_last_line(folder.metrics)
    assert len(read_metrics(folder.metrics)) == 2
    assert train(folder.path) == "completed"
    assert_same(folder, whole)


def test_clock_that_jumps_changes_nothing_but_times(tmp_path, whole, monkeypatch):
    now, jumps = time.time, iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: now() + (-1) ** next(jumps) * 86_400)
    assert train(tmp_path / "trial") == "completed"
    assert_same(TrialFolder(tmp_path / "trial"), whole)
    assert all(0 < row["seconds"] < 60 for row in read_metrics(tmp_path / "trial" / "metrics.csv"))


@pytest.fixture
def small_disk(tmp_path):
    """A disk that has room for two epochs' files and not for all."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_full_disk_interrupts_the_trial_and_with_room_again_it_goes_on(small_disk, whole):
    filler = small_disk / "filler"

    def fill(metrics):
        if metrics["epoch"] == 1:
            with open(filler, "wb", buffering=0) as file:
                with pytest.raises(OSError, match="No space"):
                    while True:
                        file.write(bytes(4096))

    folder = TrialFolder(small_disk / "trial")
    with pytest.raises(Exception) as failure:
        run_trial(folder.path, 7, CONFIG, make_dataset(), device=CPU, report=fill)
    assert is_disk_full(failure.value)
    assert [row["epoch"] for row in read_metrics(folder.metrics)] == [1]
    filler.unlink()
    assert folder.read_status()["status"] in ("running", "interrupted")
    assert not list(folder.path.rglob(".*.tmp"))
    assert train(folder.path) == "completed"
    assert_same(folder, whole)
