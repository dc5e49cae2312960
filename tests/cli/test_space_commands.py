"""``raysearch space check|show`` as a user runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPACE = "train:\n  model: mlp\n  lr: {float: [0.01, 0.1], log: true}\n"


@pytest.fixture
def raysearch(tmp_path, monkeypatch, run_program):
    """``raysearch(*words)`` after ``space``, in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *words: run_program("space", *words)


def test_check_prints_one_line(tmp_path):
    """In a process of its own, as a shell starts it."""
    (tmp_path / "mine.yaml").write_text(SPACE)
    command = [sys.executable, "-m", "raysearch", "space", "check", "mine.yaml"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    expected = "mine.yaml: ok, 1 dimension, 0 known configurations, 20 trials of up to 20 epochs\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")


def test_fault_is_one_line_on_stderr_and_exit_code_2(tmp_path, raysearch):
    (tmp_path / "mine.yaml").write_text(SPACE.replace("log:", "lgo:"))
    done = raysearch("check", "mine.yaml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: mine.yaml:3:28: lr: unknown key 'lgo' (did you mean")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["dmeo", "no/such.yaml"])
def test_unknown_space_names_those_that_exist(raysearch, name):
    done = raysearch("check", name)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: There is no search space '{name}'")
    assert "demo, fer2013" in done.stderr


def test_show_has_a_row_for_every_dimension(raysearch):
    done = raysearch("show", "demo")
    assert done.returncode == 0 and done.stderr == ""
    for text in ("model.width", "one of 8, 12, 16", "model.name=vgg", "from 0.003 to 0.03, log"):
        assert text in done.stdout


def test_show_json_is_one_object(raysearch):
    done = raysearch("show", "demo", "--json")
    shown = json.loads(done.stdout)
    assert shown["search"]["trials"] == 6
    lr = next(d for d in shown["dimensions"] if d["name"] == "lr@model.name=mlp")
    assert lr == {
        "path": "lr",
        "name": "lr@model.name=mlp",
        "kind": "float",
        "low": 0.003,
        "high": 0.03,
        "log": True,
        "step": None,
        "when": {"model.name": ["mlp"]},
    }


def test_own_folder_of_spaces_comes_before_the_shipped(tmp_path, raysearch):
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "demo.yaml").write_text(SPACE)
    done = raysearch("check", "demo")
    assert done.stdout.startswith("search_spaces/demo.yaml: ok, 1 dimension,")
