"""`raysearch cluster`, `attach`, and `tune` with ``--cluster``, as they are typed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from raysearch import cli
from raysearch.search.launch import launch

ROOT = Path(__file__).parents[2]


def raysearch(*words: object, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "raysearch", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.fixture
def environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)


@pytest.fixture
def whole(tmp_path) -> Path:
    text = (ROOT / "cluster.yaml").read_text()
    path = tmp_path / "cluster.yaml"
    path.write_text(text.replace("ami-REPLACE_ME", "ami-0123").replace("REPLACE_ME", "mine"))
    return path


def test_check_names_each_fault_and_exits_2(environment):
    done = raysearch("cluster", "check", "cluster.yaml", cwd=ROOT)
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 2
    assert all(line.startswith("cluster.yaml:") for line in done.stdout.splitlines())
    assert done.stderr == ""


def test_check_makes_what_a_whole_file_sends(environment, whole, tmp_path):
    done = raysearch("cluster", "check", whole)
    assert done.returncode == 0, done.stdout
    assert done.stdout == (
        f"{whole}: ok, provider aws, at most 4 workers, runs in s3://mine/raysearch\n"
    )
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    assert list((tmp_path / ".raysearch" / "wheels").glob("raysearch-*.whl"))


def test_check_prints_one_object_with_json(environment):
    done = raysearch("cluster", "check", "cluster.yaml", "--json", cwd=ROOT)
    said = json.loads(done.stdout)
    assert (done.returncode, said["ok"]) == (2, False)
    assert {"key", "line", "message"} == set(said["faults"][0])


def test_a_manifest_for_kuberay_is_left_to_kubectl(environment, tmp_path):
    text = (ROOT / "clusters" / "kuberay.yaml").read_text()
    path = tmp_path / "kuberay.yaml"
    path.write_text(text.replace("REPLACE_ME", "mine"))
    done = raysearch("cluster", "check", path)
    assert done.returncode == 0
    assert f"ok, a RayJob for KubeRay, which kubectl uses: kubectl apply -f {path}" in done.stdout
    for words in (["cluster", "down"], ["tune", "--cluster"]):
        done = raysearch(*words, path)
        assert done.returncode == 2
        assert "kubectl apply" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["", "- a\n", "a: &x [*x]\n", "a: [\n", "\ttab", "a: \x00"])
def test_what_is_no_cluster_file_is_an_error_without_a_traceback(environment, tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    done = raysearch("cluster", "check", path)
    assert done.returncode == 2
    assert str(path) in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def asked(monkeypatch, *words: str) -> launch.Request:
    """What `tune` asks of the launcher."""
    requests: list[launch.Request] = []

    def take(request: launch.Request) -> int:
        requests.append(request)
        return 7

    monkeypatch.setattr(launch, "tune_on_cluster", take)
    monkeypatch.setattr(cli, "app", typer.Typer())
    cli._register()
    result = CliRunner().invoke(cli.app, ["tune", *words])
    assert result.exit_code == 7, result.output
    (request,) = requests
    return request


def test_options_go_to_the_head_as_they_were_given(monkeypatch):
    monkeypatch.setenv("RAYSEARCH_STORAGE", "/of/the/laptop")
    request = asked(
        monkeypatch,
        *("space.yaml", "--cluster", "c.yaml", "--data", "d", "--trials", "5", "--json"),
        *("--time-budget", "90s", "--gpus-per-trial", "0.25", "--down"),
    )
    assert request.options == (
        *("--trials", "5", "--time-budget", "90s", "--gpus-per-trial", "0.25", "--json"),
    )
    assert request.cluster == Path("c.yaml")
    assert (request.space, request.data, request.demand.storage) == ("space.yaml", "d", None)
    assert (request.down, request.detach, request.as_json) == (True, False, True)
    assert (request.demand.gpus, request.demand.workers) == (0.25, 1)


def test_what_is_not_given_is_not_sent(monkeypatch):
    request = asked(monkeypatch, "--cluster", "c.yaml")
    assert request.options == ()
    assert (request.space, request.data, request.name) == ("demo", None, None)


def test_detach_and_down_need_a_cluster(environment, tmp_path):
    for option in ("--detach", "--down"):
        done = raysearch("tune", option, cwd=tmp_path)
        assert done.returncode == 2
        assert "--cluster FILE" in done.stderr


def test_a_dry_run_checks_and_starts_nothing(environment, whole, tmp_path):
    words = ["demo", "--cluster", whole, "--name", "x", "--dry-run", "--json"]
    done = raysearch("tune", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == "s3://mine/raysearch/x"
    assert done.stderr == ""
    assert not (tmp_path / "results").exists()
