"""Disks that are full and folders that may not be written to, as a user meets them."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def mount(tmp_path):
    """``mount(options)``: a small disk of its own."""
    mounted = []

    def mount(options: str) -> Path:
        disk = tmp_path / f"disk{len(mounted)}"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a small disk needs root")
        mounted.append(disk)
        return disk

    yield mount
    for disk in mounted:
        subprocess.run(["umount", str(disk)], check=True)


def raysearch(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "raysearch", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_full_disk_is_one_sentence_and_leaves_nothing(mount):
    disk = mount("size=1m")
    done = raysearch("data", "synth", disk / "faces")
    assert done.returncode == 1, done.stderr
    assert "The disk is full" in done.stderr and "Traceback" not in done.stderr
    assert not list(disk.iterdir())


def test_read_only_folder_is_one_sentence(mount):
    disk = mount("size=1m,ro")
    done = raysearch("data", "synth", disk / "faces")
    assert done.returncode == 2, done.stderr
    assert str(disk) in done.stderr and "Traceback" not in done.stderr
