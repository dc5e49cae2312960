"""Cores of a machine, a container or a pod."""

import os

import pytest

from raysearch.machine import usable_cores

CORES = len(os.sched_getaffinity(0))


def test_without_a_quota_they_are_those_that_the_process_may_run_on(tmp_path):
    assert usable_cores(tmp_path) == CORES


@pytest.mark.parametrize(
    ("written", "cores"),
    [
        ("max 100000", CORES),
        ("100000 100000", 1),
        ("150000 100000", 1),
        ("20000 100000", 1),
        ("6400000 100000", CORES),
        ("0 0", CORES),
        ("torn", CORES),
    ],
)
def test_quota_of_a_container_is_counted_in_whole_cores(tmp_path, written, cores):
    (tmp_path / "cpu.max").write_text(written + "\n")
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [(-1, CORES), (100_000, 1), (50_000, 1)])
def test_older_control_groups_are_read_too(tmp_path, quota, cores):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == cores
