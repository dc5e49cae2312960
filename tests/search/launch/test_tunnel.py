"""The tunnel is opened, told from one that leads nowhere, and mended when it breaks."""

import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from cluster_files import write
from job_server import TOKEN, JobServer

from raysearch.errors import RunError
from raysearch.search.launch import job, tunnel
from raysearch.search.launch.clusterfile import load_cluster_file
from raysearch.search.launch.handout import token_file

FORWARDER = Path(__file__).with_name("forwarder.py")


class Forwarded(tunnel.Tunnel):
    """A tunnel to a port of this machine, by a process that can be killed as ssh can."""

    def __init__(self, file, remote: int):
        super().__init__(file)
        self.remote, self.opened = remote, 0

    def _command(self) -> list[str]:
        self.opened += 1
        return [sys.executable, str(FORWARDER), str(self.port), str(self.remote)]

    def kill(self) -> None:
        os.kill(self._process.pid, signal.SIGKILL)


class Failing(Forwarded):
    def _command(self) -> list[str]:
        self.opened += 1
        return ["false"]


@pytest.fixture
def file(home, tmp_path):
    return load_cluster_file(write(tmp_path, "onprem"))


@pytest.fixture
def server(home):
    token_file().parent.mkdir()
    token_file().write_text(TOKEN)
    with JobServer([f"line {number}\n" for number in range(40)]) as server:
        yield server


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_dashboard_that_wants_the_token_is_found(file, server):
    with Forwarded(file, server.port) as found:
        assert found.find()
        assert found.opened == 1


def test_a_head_that_cannot_be_reached_is_not_found(file):
    with Failing(file, 1) as found:
        assert not found.find(tries=3)
        assert found.opened == 3


def test_a_head_without_ray_is_not_found(file, monkeypatch):
    monkeypatch.setattr(tunnel, "CLOSED_SECONDS", 0.5)
    with Forwarded(file, closed_port()) as found:
        assert not found.find()
        assert found.opened == 1


def test_waiting_has_an_end(file):
    with Failing(file, 1) as found, pytest.raises(RunError, match="has not answered for 1 s"):
        found.wait(1)


def test_a_broken_tunnel_is_opened_again_at_another_port(file, server):
    with Forwarded(file, server.port) as found:
        found.wait(20)
        before = found.url
        found.kill()
        found.wait(20)
        assert found.opened == 2
        assert found.url != before


def test_closing_ends_the_process(file, server):
    with Forwarded(file, server.port) as found:
        found.wait(20)
        process = found._process
    assert process.poll() is not None


def test_the_log_is_whole_although_ssh_is_killed_twice(file, server):
    written: list[str] = []
    with Forwarded(file, server.port) as found:

        def kill_twice() -> None:
            for lines in (3, 20):
                while len(written) < lines:
                    time.sleep(0.01)
                found.kill()

        threading.Thread(target=kill_twice, daemon=True).start()
        end = job.follow(
            "raysearch-1", lambda: job.connect(found), written.append, lambda line: None, pause=0.01
        )
        assert found.opened == 3
    assert [text for text in written if text] == server.pieces
    assert end.exit_code == 0
