"""What `tune --cluster` checks, sends and brings back; the cluster itself is left out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_files import SHIPPED, write

from raysearch.data.synthetic import synthesize
from raysearch.errors import ConfigError, DataError, InputError, RunError
from raysearch.search.launch import fetch, job, launch, parcel
from raysearch.search.launch.checks import Demand
from raysearch.space import load_space

SPACE = "search: {trials: 2, epochs: 1}\ntrain:\n  model: {name: mlp, hidden: [8]}\n  lr: 0.1\n"


@pytest.fixture
def here(home, tmp_path, monkeypatch) -> Path:
    """The current folder, with ``mine.yaml`` in it."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "mine.yaml").write_text(SPACE)
    monkeypatch.chdir(folder)
    return folder


def request(folder: Path, cluster: Path | None = None, **changes) -> launch.Request:
    values = {
        "cluster": cluster or write(folder, "onprem"),
        "space": "mine.yaml",
        "data": None,
        "name": "first",
        "options": (),
        "demand": Demand(),
    }
    return launch.Request(**{**values, **changes})


def test_runs_lie_where_the_cluster_file_says(here):
    checked = launch.check_request(request(here))
    assert checked.run == "/mine/raysearch/first"
    assert checked.results == here / "results" / "first"
    assert (
        launch.check_request(request(here, demand=Demand(storage="s3://b/runs/"))).run
        == "s3://b/runs/first"
    )


def test_a_run_without_a_name_gets_one(here):
    assert launch.check_request(request(here, name=None)).name.startswith("synthetic-mine-")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"demand": Demand(storage="/tmp/x")}, "--storage /tmp/x is a folder of one machine"),
        ({"demand": Demand(storage="results")}, "--storage results is a folder of one machine"),
        ({"space": "yours.yaml"}, "yours.yaml"),
        ({"cluster": SHIPPED["aws"]}, "REPLACE_ME is left in"),
        ({"cluster": SHIPPED["kuberay"]}, "kubectl apply -f"),
        ({"detach": True, "down": True}, "--down comes after the search"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_started(here, changes, words):
    with pytest.raises(ConfigError, match=words):
        launch.check_request(request(here, **changes))


def test_a_folder_of_another_run_is_not_fetched_into(here):
    (here / "results" / "first").mkdir(parents=True)
    (here / "results" / "first" / "run.yaml").touch()
    with pytest.raises(InputError, match="is not a copy of /mine/raysearch/first"):
        launch.check_request(request(here))


def test_data_here_is_sent_and_data_there_is_named(here):
    synthesize(here / "faces", images=40)
    sent = launch.check_request(request(here, data="faces"))
    assert sent.shards == here / "faces"
    assert len(sent.fingerprint) >= 16
    there = launch.check_request(request(here, data="/mnt/only/there"))
    assert (there.shards, there.remote_data) == (None, "/mnt/only/there")
    with pytest.raises(DataError):
        launch.check_request(request(here, data="no-such-folder"))


class Client:
    def __init__(self):
        self.sent: dict = {}
        self.files: dict[str, str] = {}

    def submit_job(self, **sent) -> str:
        folder = Path(sent["runtime_env"]["working_dir"])
        self.sent = sent
        self.files = {
            path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.yaml")
        }
        return sent["submission_id"]


def submitted(monkeypatch, checked: launch.Checked) -> tuple[list[str], Client]:
    """The job's entry point as a shell splits it, and the client that got it."""
    client = Client()
    monkeypatch.setattr(job, "connect", lambda tunnel: client)
    launch._submit(checked, None)
    echo = 'printf "%s\\n" ' + client.sent["entrypoint"]
    done = subprocess.run(["sh", "-c", echo], env={"HOME": "/home/node"}, capture_output=True)
    return done.stdout.decode().splitlines(), client


def test_the_job_is_the_same_command_with_what_differs_there(here, monkeypatch):
    synthesize(here / "faces", images=40)
    ran: list[tuple] = []
    monkeypatch.setattr(parcel, "run_ray", lambda file, what, *words: ran.append(words))
    options = ("--trials", "7", "--time-budget", "5 m")
    checked = launch.check_request(request(here, data="faces", options=options, as_json=True))
    words, client = submitted(monkeypatch, checked)
    data = f"raysearch-data/{checked.fingerprint[:16]}"
    assert words == [
        *("python", "-m", "raysearch", "tune", "space/mine.yaml"),
        *("--data", f"/home/node/{data}", "--storage", "/mine/raysearch", "--name", "first"),
        *("--trials", "7", "--time-budget", "5 m"),
    ]
    assert ran[-1] == ("rsync-up", checked.file.path, f"{here}/faces/", f"~/{data}/")
    assert client.files["space/mine.yaml"] == SPACE
    assert client.sent["metadata"]["run"] == "/mine/raysearch/first"


def test_names_that_a_shell_would_read_reach_the_head_as_they_are(here, monkeypatch):
    odd = "a b;$(touch x)'"
    checked = launch.check_request(
        request(here, data=f"/{odd}", demand=Demand(storage=f"/{odd}"), space="demo")
    )
    words, _ = submitted(monkeypatch, checked)
    assert words[4:9] == ["demo", "--data", f"/{odd}", "--storage", f"/{odd}"]


def test_what_goes_with_a_job_runs_by_itself(here, tmp_path):
    """Without an installed raysearch: a cluster that runs may have an older one."""
    (here / "weights.safetensors").write_bytes(b"weights")
    folder = tmp_path / "job"
    folder.mkdir()
    name = parcel.pack_job(folder, load_space("mine.yaml"))
    script = (
        "import sys, runpy, raysearch; print(raysearch.__file__, file=sys.stderr); "
        f"sys.argv[1:] = ['space', 'check', {name!r}]; runpy.run_module('raysearch', None, "
        "'__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0] == str(folder / "raysearch" / "__init__.py")
    assert done.stdout.startswith("space/mine.yaml: ok")
    assert (folder / "search_spaces" / "demo.yaml").exists()
    assert list((folder / "search_spaces" / "baselines").glob("*.yaml"))


def test_a_run_comes_home_from_the_head(here, tmp_path, monkeypatch):
    there = tmp_path / "there"
    there.mkdir()
    (there / "run.yaml").write_text("command: tune\n")

    def rsync(file, what, *words):
        assert words[:1] == ("rsync-down",)
        subprocess.run(["cp", "-r", f"{words[2]}.", words[3]], check=True)

    monkeypatch.setattr(fetch, "run_ray", rsync)
    file = launch.load_launchable(write(here, "onprem"))
    for _ in range(2):  # again, after more epochs
        fetch.fetch(file, str(there), here / "results" / "first")
        assert (here / "results" / "first" / "run.yaml").read_text() == "command: tune\n"
    with pytest.raises(InputError, match="not a copy"):
        fetch.fetch(file, "/another/first", here / "results" / "first")


def end(code: int, **metadata) -> job.End:
    return job.End("SUCCEEDED" if code == 0 else "FAILED", code, metadata)


@pytest.fixture
def finish(here, monkeypatch):
    """`_finish` with a log, an end, and a fetch that may fail; returns code and what was done."""

    def run(end_or_error, down=False, log="", trouble=None):
        done: list[str] = []

        def follow(name, connect, write, say):
            write(log)
            if isinstance(end_or_error, BaseException):
                raise end_or_error
            return end_or_error

        def bring(file, run, folder):
            done.append(f"fetch {run}")
            if trouble:
                raise trouble

        monkeypatch.setattr(job, "follow", follow)
        monkeypatch.setattr(launch, "fetch", bring)
        monkeypatch.setattr(launch.bringup, "take_down", lambda file, say: done.append("down"))
        file = launch.load_launchable(write(here, "onprem"))
        return launch._finish(file, None, "raysearch-1", down), done

    return run


RUN = {"run": "/mine/raysearch/first", "name": "first"}


@pytest.mark.parametrize("code", [0, 1, 130])
def test_the_run_is_fetched_and_the_jobs_exit_code_returned(finish, here, capsys, code):
    assert finish(end(code, **RUN)) == (code, ["fetch /mine/raysearch/first"])
    assert capsys.readouterr().out == f"{here}/results/first\n"


def test_a_job_that_refused_its_input_left_no_run(finish):
    assert finish(end(2, **RUN)) == (2, [])


def test_down_comes_last_and_not_where_the_run_would_be_out_of_reach(finish, capsys):
    assert finish(end(1, **RUN), down=True) == (1, ["fetch /mine/raysearch/first", "down"])
    assert finish(end(1, **RUN), down=True, trouble=RunError("no ssh"))[1][1:] == []
    assert "is left running" in capsys.readouterr().err
    for trouble in (RunError("no ssh"), OSError("no ssh")):
        with pytest.raises(RunError, match="no ssh"):
            finish(end(0, **RUN), trouble=trouble)


def test_a_lost_head_says_how_to_go_on(finish):
    with pytest.raises(RunError, match="no answer. Where the head is lost.*goes on with the run"):
        finish(RunError("no answer."))


def test_ctrl_c_says_how_to_attach_and_leaves_everything(finish, capsys):
    assert finish(KeyboardInterrupt(), down=True) == (130, [])
    assert "raysearch attach" in capsys.readouterr().err


def test_with_json_the_summary_is_the_one_object_on_stdout(finish, here, capsys):
    log = 'trial 0\n{"run": "/mine/raysearch/first", "trials": {"completed": 2}}\nbye\n'
    finish(end(0, **RUN, json="yes"), log=log)
    said = capsys.readouterr()
    assert json.loads(said.out) == {
        "run": f"{here}/results/first",
        "cluster_run": "/mine/raysearch/first",
        "trials": {"completed": 2},
    }
    assert said.err.startswith(log)


def test_a_home_folder_is_the_one_there():
    words = launch._for_shell("~/a b"), launch._for_shell("/a b")
    assert words == ("\"$HOME\"/'a b'", "'/a b'")


def test_a_run_comes_home_from_a_bucket_without_its_checkpoints(here, tmp_path):
    bucket = tmp_path / "bucket" / "first"
    for name in ("run.yaml", "trials/0000/metrics.csv", "trials/0000/checkpoint/state"):
        (bucket / name).parent.mkdir(parents=True, exist_ok=True)
        (bucket / name).write_text(name)
    file = launch.load_launchable(write(here, "onprem"))
    fetch.fetch(file, bucket.as_uri(), here / "results" / "first")
    found = {p.name for p in (here / "results" / "first").rglob("*") if p.is_file()}
    assert found == {"run.yaml", "metrics.csv", fetch.ORIGIN}
