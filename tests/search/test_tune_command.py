"""`raysearch tune` and its kin as a user runs them: real processes, real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raysearch.train.trial import trial_folders

pytestmark = pytest.mark.slow

ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "TUNE_"))}


def command(*arguments) -> list[str]:
    return [sys.executable, "-m", "raysearch", *map(str, arguments)]


def raysearch(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=400,
    )


@pytest.fixture
def space_file(tmp_path, space_text) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(space_text)
    return path


def start_long_search(space_file: Path, shards_folder: Path, storage: Path) -> subprocess.Popen:
    """A search that would take minutes; returns once a trial has finished three epochs."""
    arguments = ("tune", space_file, "--data", shards_folder, "--storage", storage, "--name", "r")
    process = subprocess.Popen(
        command(*arguments, "--epochs", 4000, "--trials", 2),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    limit = time.monotonic() + 200
    while time.monotonic() < limit and process.poll() is None:
        folders = trial_folders(storage / "r")
        if any(folder.read_status()["epochs"] >= 3 for folder in folders):
            return process
        time.sleep(0.2)
    raise AssertionError(process.communicate(timeout=60))


def test_one_command_goes_from_shards_to_a_verified_artifact(
    tmp_path, space_file, shards_folder, run_program
):
    done = raysearch(
        "tune", space_file, "--data", shards_folder, "--storage", tmp_path, "--name", "r", "--json"
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    run, ensemble = tmp_path / "r", summary["ensemble"]
    assert summary["trials"] == {"completed": 4}
    assert ensemble["validation"]["log_loss"] <= ensemble["best_single"]["log_loss"] + 1e-6
    for name in ("run.yaml", "space.yaml", "study.log", "trials.csv", "report.html"):
        assert (run / name).stat().st_size > 0
    assert (run / "ensemble" / "model.onnx").exists()

    status = json.loads(run_program("status", run, "--json").stdout)
    assert status["trials"]["completed"] == 4
    assert set(status["best"]) >= {"trial", "validation_accuracy", "validation_log_loss"}

    again = run_program("resume", run, "--json")
    assert again.returncode == 0
    assert "is finished" in again.stderr
    told = json.loads(again.stdout)
    assert (told.keys(), told["trials"]) == (summary.keys(), {"completed": 4})
    assert told["ensemble"] == ensemble
    refused = run_program("tune", space_file, "--storage", tmp_path, "--name", "r")
    assert refused.returncode == 2
    assert f"raysearch resume {run}" in refused.stderr

    more = raysearch("resume", run, "--trials", 5, "--json")
    assert json.loads(more.stdout)["trials"] == {"completed": 5}

    scored = run_program(
        "evaluate", run / "ensemble", "--data", shards_folder, "--split", "validation", "--json"
    )
    accuracy = json.loads(more.stdout)["ensemble"]["validation"]["accuracy"]
    assert json.loads(scored.stdout)["accuracy"] == pytest.approx(accuracy, abs=1e-4)


def test_ctrl_c_selects_and_saves_what_was_found_and_resume_goes_on(
    tmp_path, space_file, shards_folder
):
    process = start_long_search(space_file, shards_folder, tmp_path)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert f"raysearch resume {tmp_path / 'r'}" in errors
    assert (tmp_path / "r" / "ensemble" / "ensemble.json").exists()
    statuses = {folder.read_status()["status"] for folder in trial_folders(tmp_path / "r")}
    assert statuses == {"interrupted"}


def test_killed_search_loses_at_most_the_epoch_under_way(tmp_path, space_file, shards_folder):
    process = start_long_search(space_file, shards_folder, tmp_path)
    run = tmp_path / "r"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(3)  # Ray's own processes notice and leave
    before = {f.path.name: f.read_status()["epochs"] for f in trial_folders(run)}
    assert max(before.values()) >= 3
    done = raysearch("resume", run, "--time-budget", "40s")
    assert done.returncode == 0, done.stderr
    after = {f.path.name: f.read_status()["epochs"] for f in trial_folders(run)}
    assert after.keys() == before.keys()
    assert all(after[name] >= before[name] for name in before)
    assert (run / "ensemble" / "ensemble.json").exists()


def test_dry_run_prints_the_plan_and_starts_nothing(tmp_path, space_file, shards_folder):
    done = raysearch(
        "tune", space_file, "--data", shards_folder, "--storage", tmp_path, "--dry-run", "--json"
    )
    plan = json.loads(done.stdout)
    assert (plan["trials"], plan["epochs"], plan["epochs_in_all"]) == (4, 3, 12)
    assert plan["estimate"]["images"] == 12 * 192
    assert plan["estimate"]["seconds"] > 0
    assert not list(tmp_path.glob("*/run.yaml"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tune", "no_such_space"), "no_such_space"),
        (("tune", "--data", "no/such/folder"), "no/such/folder"),
        (("tune", "--time-budget", "soon"), "soon"),
        (("tune", "--executor", "magic"), "magic"),
        (("tune", "--gpus-per-trial", "0.5"), "needs a GPU"),
        (("tune", "--gpus-per-trial", "some"), "auto, a share of a GPU such as 0.25"),
        (("tune", "--gpus-per-trial", "1.5"), "auto, a share of a GPU such as 0.25"),
        (("resume", "no/such/run"), "no/such/run"),
        (("status", "no/such/run"), "no/such/run"),
        (("ensemble", "no/such/run"), "no/such/run"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    tmp_path, monkeypatch, run_program, arguments, said
):
    monkeypatch.chdir(tmp_path)
    done = run_program(*arguments)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert done.stdout == ""


def test_misspelt_dimension_is_named_with_its_place_and_the_right_name(
    tmp_path, space_text, run_program
):
    path = tmp_path / "typo.yaml"
    path.write_text(space_text.replace("  batch_size", "  bach_size"))
    done = run_program("tune", path)
    assert done.returncode == 2
    assert "typo.yaml:5:3" in done.stderr
    assert "batch_size" in done.stderr
