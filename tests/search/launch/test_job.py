"""A job's log over connections that break: each line once, the exit code, and Ctrl-C."""

import _thread
import threading

import pytest
from job_server import TOKEN, JobServer

from raysearch.errors import ConfigError, RunError
from raysearch.search.launch import job
from raysearch.search.launch.handout import token_file

PIECES = [f"epoch {number}\nvalidation " for number in range(20)] + ["the end\n"]
NAME = "raysearch-1"


class DirectTunnel:
    """A tunnel that leads to ``server`` and is always open."""

    def __init__(self, server: JobServer):
        self.url = server.url

    def wait(self, seconds: float) -> None:
        pass


@pytest.fixture
def token(home):
    token_file().parent.mkdir()
    token_file().write_text(TOKEN + "\n")


def follow(server: JobServer, write, said=None) -> job.End:
    said = [] if said is None else said
    connect = lambda: job.connect(DirectTunnel(server))  # noqa: E731
    return job.follow(NAME, connect, write, said.append, pause=0.01)


@pytest.mark.parametrize("cuts", [[], [0], [1], [7, 3, 12], [20], [21], [5, 5, 5, 5, 5]])
def test_every_line_comes_once_however_often_the_connection_breaks(token, cuts):
    written: list[str] = []
    with JobServer(PIECES, cuts=cuts) as server:
        end = follow(server, written.append)
    assert "".join(written) == "".join(PIECES)
    assert (end.status, end.exit_code) == ("SUCCEEDED", 0)
    assert end.metadata == {"run": "/mnt/runs/first"}
    assert server.listened == 1 + len([cut for cut in cuts if cut < len(PIECES)])


def test_a_loss_is_told_once_and_so_is_its_end(token):
    said: list[str] = []
    with JobServer(PIECES, cuts=[3]) as server:
        follow(server, lambda text: None, said)
    assert [line.split(";")[0].split(",")[0] for line in said] == [
        "the connection is lost",
        "connected again",
    ]


@pytest.mark.parametrize("code", [1, 2, 5, 130])
def test_the_jobs_exit_code_is_ours(token, code):
    with JobServer(["error: something\n"], exit_code=code) as server:
        end = follow(server, lambda text: None)
    assert (end.status, end.exit_code) == ("FAILED", code)


def test_a_job_that_was_stopped_is_no_success(token):
    with JobServer(["a\n"]) as server:
        server.status, server.exit_code = "STOPPED", None
        assert follow(server, lambda text: None).exit_code == 1


def test_ctrl_c_ends_the_following_at_once_and_not_the_job(token):
    seen = threading.Event()

    def interrupt_after_some() -> None:
        assert seen.wait(10)
        _thread.interrupt_main()

    threading.Thread(target=interrupt_after_some).start()
    with JobServer(["first\n"] + [""] * 400) as server:
        with pytest.raises(KeyboardInterrupt):
            follow(server, lambda text: seen.set())
        assert server._grown() < 400


def test_a_job_that_the_head_does_not_know_any_more_is_not_waited_for(token):
    with JobServer(PIECES) as server:
        server.knows = False
        with pytest.raises(RunError, match="its head was started anew"):
            follow(server, lambda text: None)


def test_another_token_is_told_with_the_remedy(token):
    token_file().write_text("not-it")
    with JobServer(PIECES) as server, pytest.raises(ConfigError, match="another one"):
        job.connect(DirectTunnel(server))


def test_the_newest_search_is_found_among_other_jobs(token):
    with JobServer(PIECES) as server:
        assert job.newest_job(job.connect(DirectTunnel(server))) == "raysearch-3"


def test_a_job_is_submitted_with_its_folder_and_what_attach_needs(token, tmp_path):
    (tmp_path / "file").write_text("x")
    with JobServer(PIECES) as server:
        client = job.connect(DirectTunnel(server))
        name = job.submit(client, ["python", "-V"], tmp_path, {"run": "s3://a/b"})
    (sent,) = server.submitted
    assert name == sent["submission_id"] and name.startswith("raysearch-")
    assert sent["entrypoint"] == "python -V"
    assert sent["metadata"]["run"] == "s3://a/b"
    assert sent["runtime_env"]["working_dir"].startswith("gcs://")
