"""Where images wait, by what they need and what is free."""

import os

import pytest
import torch

from raysearch.data import placement
from raysearch.data.placement import host_memory, place_images

CPU = torch.device("cpu")
GB = 10**9


@pytest.mark.parametrize(
    ("size", "free", "total", "share", "expected"),
    [
        (3 * GB, 8 * GB, 16 * GB, 1.0, "device"),
        (4 * GB, 8 * GB, 16 * GB, 1.0, "host"),
        (3 * GB, 8 * GB, 16 * GB, 0.25, "host"),  # three more trials will want as much
        (1 * GB, 8 * GB, 16 * GB, 0.25, "device"),
        (1 * GB, 1 * GB, 16 * GB, 0.25, "host"),
    ],
)
def test_auto_is_the_device_below_half_of_what_this_process_may_count_on(
    monkeypatch, size, free, total, share, expected
):
    monkeypatch.setattr(placement, "host_memory", lambda: (free, total))
    assert place_images("auto", size, CPU, share) == expected


@pytest.mark.parametrize("said", ["device", "host"])
def test_what_was_said_is_done_without_asking_for_the_memory(monkeypatch, said):
    monkeypatch.setattr(placement, "host_memory", None)
    assert place_images(said, 10**18, CPU) == said


def test_gpu_is_asked_for_its_own_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * GB, 80 * GB))
    assert place_images("auto", 3 * GB, torch.device("cuda")) == "device"
    assert place_images("auto", 5 * GB, torch.device("cuda")) == "host"


def test_container_has_no_more_than_its_limit(tmp_path):
    meminfo, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    meminfo.write_text("MemTotal: 64000 kB\nMemAvailable:   48000 kB\n")
    limit.write_text("1024000\n")
    assert host_memory(meminfo, limit) == (1_024_000, 1_024_000)
    limit.write_text("max\n")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert host_memory(meminfo, limit) == (48_000 * 1024, total)


def test_system_without_these_files_counts_all_its_memory(tmp_path):
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert host_memory(tmp_path / "no", tmp_path / "no") == (total, total)
