"""The lab is what it plays: separate machines, which die at once and leave nothing behind."""

import subprocess
from pathlib import Path

import pytest
from lab import ADDRESSES, CHECKOUT

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def reaches(lab, host: str, other: str) -> bool:
    look = f"exec 3<>/dev/tcp/{ADDRESSES[other]}/22"
    return lab.run(host, "timeout", "2", "bash", "-c", look).returncode == 0


def test_hosts_have_processes_and_files_of_their_own(lab):
    marker = "/etc/raysearch-lab-was-here"
    lab.run("laptop", "touch", marker)
    assert lab.run("laptop", "test", "-e", marker).returncode == 0
    assert lab.run("stranger", "test", "-e", marker).returncode == 1
    assert not Path(marker).exists()
    assert lab.run("laptop", "hostname").stdout == "laptop\n"
    assert int(lab.run("laptop", "sh", "-c", "ls -d /proc/[0-9]* | wc -l").stdout) < 10


def test_hosts_import_this_checkout(lab):
    code = "import raysearch; print(raysearch.__file__)"
    done = lab.run("laptop", "python", "-c", code)
    assert done.stdout == f"{CHECKOUT}/raysearch/__init__.py\n", done.stderr


def test_a_cable_can_be_pulled_and_plugged_in(lab):
    assert reaches(lab, "stranger", "laptop")
    lab.cut("laptop")
    assert not reaches(lab, "stranger", "laptop")
    lab.heal("laptop")
    assert reaches(lab, "stranger", "laptop")


def sleeping() -> bool:
    return subprocess.run(["pgrep", "-f", "sleep 1234.5"], capture_output=True).returncode == 0


def test_a_host_that_lost_power_has_its_disk_and_no_process(lab):
    lab.run("stranger", "sh", "-c", "touch /root/kept; sleep 1234.5 >/dev/null 2>&1 &")
    assert sleeping()
    lab.crash("stranger")
    assert not sleeping()
    lab.up(["stranger"])
    assert lab.run("stranger", "test", "-e", "/root/kept").returncode == 0


def test_the_shared_folder_is_shared_with_all_but_the_stranger(lab):
    (lab.shared() / "seen").touch()
    assert lab.run("laptop", "ls", "/mnt/shared/seen").returncode == 0
    assert lab.run("stranger", "ls", "/mnt/shared/seen").returncode == 2
