"""A live Ray is never restarted, and `down` ends the workers of machines of one's own too."""

import os
import socket
import subprocess
from pathlib import Path

import pytest
from cluster_files import write

from raysearch.errors import RunError
from raysearch.search.launch import bringup
from raysearch.search.launch.checks import check
from raysearch.search.launch.clusterfile import load_cluster_file


@pytest.fixture
def file(home, tmp_path):
    return load_cluster_file(write(tmp_path, "onprem"))


def start_head(file, folder: Path) -> list[str]:
    """What of the guarded start commands runs here; ``ray`` is a stand-in that takes notes."""
    notes = folder / "notes"
    (folder / "ray").write_text(f'#!/bin/sh\necho "$1" >>{notes}\n')
    (folder / "ray").chmod(0o755)
    environ = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    for command in bringup.guard_start(file)["head_start_ray_commands"]:
        subprocess.run(["bash", "-c", command], env=environ, check=True)
    return notes.read_text().split() if notes.exists() else []


def test_a_head_without_ray_is_started(file, tmp_path):
    assert start_head(file, tmp_path) == ["stop", "start"]


def test_a_head_whose_dashboard_listens_is_left_alone(home, tmp_path):
    with socket.socket() as dashboard:
        dashboard.bind(("127.0.0.1", 0))
        dashboard.listen()
        port = dashboard.getsockname()[1]
        host = "--dashboard-host=127.0.0.1"
        path = write(tmp_path, "onprem", (host, f"{host} --dashboard-port={port}"))
        assert start_head(load_cluster_file(path), tmp_path) == []


@pytest.mark.parametrize("name", ["aws", "gcp", "onprem"])
def test_only_the_heads_start_commands_are_guarded(home, tmp_path, name):
    file = load_cluster_file(write(tmp_path, name))
    guarded = bringup.guard_start(file)
    changed = {key for key in file.values if guarded[key] != file.values[key]}
    assert changed == {"head_start_ray_commands"}
    assert not check(file)


@pytest.fixture
def machines(file, tmp_path, monkeypatch):
    """Stand-ins for ssh, which fails for what ``unreachable`` (from anywhere) and ``behind_head``
    (from here) list, and for Ray's launcher, whose head is this machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ssh").write_text(
        "#!/bin/bash\n"
        f'for word in "$@"; do [[ $word == *@* ]] && host=${{word#*@}}; done\n'
        f'[ -z "$ON_HEAD" ] && grep -qx "$host" {tmp_path}/behind_head && exit 255\n'
        f'grep -qx "$host" {tmp_path}/unreachable && exit 255\n'
        f'echo "$host" >>{tmp_path}/stopped\n'
    )
    (folder / "ray").write_text("#!/bin/sh\n")
    for script in folder.iterdir():
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name in ("behind_head", "unreachable", "stopped"):
        (tmp_path / name).touch()
    monkeypatch.setattr(
        bringup, "ray_command", lambda *words: ["env", "ON_HEAD=1", "bash", "-c", words[2]]
    )
    ran: list[tuple] = []
    monkeypatch.setattr(bringup, "run_ray", lambda file, what, *words: ran.append(words))
    return ran


def stopped(folder: Path) -> list[str]:
    return sorted((folder / "stopped").read_text().split())


def test_workers_are_stopped_before_ray_down(file, machines, tmp_path):
    (tmp_path / "behind_head").write_text("10.0.0.2\n10.0.0.3\n")
    bringup.take_down(file, lambda line: None)
    assert stopped(tmp_path) == ["10.0.0.2", "10.0.0.3"]
    assert machines == [("down", "-y", file.path)]


def test_where_the_head_is_gone_workers_are_stopped_from_here(
    file, machines, tmp_path, monkeypatch
):
    monkeypatch.setattr(bringup, "ray_command", lambda *words: ["false"])
    bringup.take_down(file, lambda line: None)
    assert stopped(tmp_path) == ["10.0.0.2", "10.0.0.3"]


def test_a_worker_that_does_not_answer_is_named(file, machines, tmp_path):
    (tmp_path / "unreachable").write_text("10.0.0.3\n")
    with pytest.raises(RunError, match="not stopped on 10.0.0.3, which"):
        bringup.take_down(file, lambda line: None)
    assert stopped(tmp_path) == ["10.0.0.2"]
    assert machines == [("down", "-y", file.path)]
