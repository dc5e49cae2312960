"""`raysearch cluster`, `attach`, and `tune` with ``--cluster``, as they are typed."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from raysearch import cli
from raysearch.search.launch import launch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def raysearch(tmp_path, monkeypatch, run_program):
    """``raysearch(*words)`` in the checkout, of somebody whose home is ``tmp_path``."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    return run_program


@pytest.fixture
def whole(tmp_path) -> Path:
    text = (ROOT / "cluster.yaml").read_text()
    path = tmp_path / "cluster.yaml"
    path.write_text(text.replace("ami-REPLACE_ME", "ami-0123").replace("REPLACE_ME", "mine"))
    return path


def test_check_names_each_fault_and_exits_2(raysearch):
    done = raysearch("cluster", "check", "cluster.yaml")
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 2
    assert all(line.startswith("cluster.yaml:") for line in done.stdout.splitlines())
    assert done.stderr == ""


def test_check_makes_what_a_whole_file_sends(raysearch, whole, tmp_path):
    done = raysearch("cluster", "check", whole)
    assert done.returncode == 0, done.stdout
    assert done.stdout == (
        f"{whole}: ok, provider aws, at most 4 workers, runs in s3://mine/raysearch\n"
    )
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    assert list((tmp_path / ".raysearch" / "wheels").glob("raysearch-*.whl"))


def test_check_prints_one_object_with_json(raysearch):
    done = raysearch("cluster", "check", "cluster.yaml", "--json")
    said = json.loads(done.stdout)
    assert (done.returncode, said["ok"]) == (2, False)
    assert {"key", "line", "message"} == set(said["faults"][0])


def test_a_manifest_for_kuberay_is_left_to_kubectl(raysearch, tmp_path):
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
def test_what_is_no_cluster_file_is_an_error_without_a_traceback(raysearch, tmp_path, text):
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


def test_packing_asks_for_no_number_of_gpus(monkeypatch):
    request = asked(monkeypatch, "--cluster", "c.yaml", "--gpus-per-trial", "auto")
    assert request.options == ("--gpus-per-trial", "auto")
    assert request.demand.gpus is None


def test_what_is_not_given_is_not_sent(monkeypatch):
    request = asked(monkeypatch, "--cluster", "c.yaml")
    assert request.options == ()
    assert (request.space, request.data, request.name) == ("demo", None, None)


def test_detach_and_down_need_a_cluster(raysearch):
    for option in ("--detach", "--down"):
        done = raysearch("tune", option)
        assert done.returncode == 2
        assert "--cluster FILE" in done.stderr


def test_a_dry_run_checks_and_starts_nothing(raysearch, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["demo", "--cluster", whole, "--name", "x", "--dry-run", "--json"]
    done = raysearch("tune", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == "s3://mine/raysearch/x"
    assert done.stderr == ""
    assert not (tmp_path / "results").exists()
