"""`raysearch tune` with all of Ray, killed and resumed until it ends."""

import itertools
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState
from ray.thirdparty_files import psutil
from test_tune_command import ENVIRONMENT, command, raysearch

from raysearch.probabilities import read_probabilities
from raysearch.search.study import open_study
from raysearch.train.curve import read_metrics
from raysearch.train.trial import trial_folders

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

KILLS = int(os.environ.get("RAYSEARCH_COMMAND_KILLS", "1"))
TRIALS, EPOCHS = 4, 40
TIMES = ("seconds", "images_per_second")


def epochs_done(run: Path) -> int:
    return sum(folder.read_status()["epochs"] for folder in trial_folders(run))


def start(arguments: list, run: Path, log: Path) -> psutil.Popen:
    with open(log, "ab") as file:
        return psutil.Popen(
            command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=ENVIRONMENT,
            start_new_session=True,
        )


def kill_at(process: psutil.Popen, run: Path, epochs: int, who: str) -> list[psutil.Process]:
    """Kill the search itself, or a process of a trial, once ``epochs`` are done in all; or
    nothing, where the search ends before. Returns all processes that were there."""
    while process.poll() is None and epochs_done(run) < epochs:
        time.sleep(0.01)
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    trials = [one for one in family if is_trial(one)]
    victim = trials[0] if who == "trial" and trials else process
    try:
        victim.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        pass
    return family


def search_without_kill(arguments: list, run: Path, log: Path) -> None:
    """A whole search, and nothing of what comes after it, which takes longer."""
    process = start(arguments, run, log)
    while process.poll() is None and not (run / "trials.csv").exists():
        time.sleep(0.05)
    assert process.poll() is None, log.read_text()
    process.kill()
    process.wait()


def is_trial(process: psutil.Process) -> bool:
    try:
        return any(word.startswith("ray::Impl") for word in process.cmdline())
    except psutil.Error:
        return False


def results(run: Path) -> dict:
    found = {}
    for folder in trial_folders(run):
        rows = [
            {k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(folder.metrics)
        ]
        found[folder.path.name] = (folder.read_status(), rows, folder.read_record().train)
    return found


def test_killed_commands_end_as_one_that_was_not_killed(
    tmp_path, space_text, shards_folder, monkeypatch, run_program
):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setitem(ENVIRONMENT, "TMPDIR", str(scratch))
    monkeypatch.setitem(ENVIRONMENT, "RAY_TMPDIR", "/tmp")  # names of sockets must be short
    space = tmp_path / "tiny.yaml"
    space.write_text(space_text)
    limits = ["--trials", TRIALS, "--epochs", EPOCHS, "--concurrent", 1, "--seed", 3]
    tune = ["tune", space, "--data", shards_folder, "--storage", tmp_path, *limits]
    run, log, chance = tmp_path / "killed", tmp_path / "log.txt", random.Random(0)
    search_without_kill([*tune, "--name", "whole"], tmp_path / "whole", log)
    arguments, processes = [*tune, "--name", "killed"], []
    moments = sorted(chance.sample(range(TRIALS * EPOCHS), KILLS))
    for moment, who in zip(moments, itertools.cycle(["search", "trial"]), strict=False):
        process = start(arguments, run, log)
        processes += kill_at(process, run, moment, who)
        # A search of which a trial was killed goes on by itself, and may end before its turn.
        if who == "search":
            process.wait(timeout=60)
            if (run / "run.yaml").exists():
                arguments = ["resume", run]
            else:
                assert not trial_folders(run)
        else:
            processes += kill_at(process, run, moment + 3, "search")
            process.wait(timeout=60)
            arguments = ["resume", run]
    done = raysearch("resume", run)
    assert done.returncode == 0, log.read_text() + done.stderr
    assert "is finished" in run_program("resume", run).stderr

    expected, found = results(tmp_path / "whole"), results(run)
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name] == expected[name], name
        one, other = (
            read_probabilities(folder / "trials" / name / "validation.arrow")
            for folder in (tmp_path / "whole", run)
        )
        assert one.epoch == other.epoch
        for candidate, probs_VK in one.candidates.items():
            assert np.array_equal(other.candidates[candidate], probs_VK), (name, candidate)
    studies = [open_study(folder / "study.log").trials for folder in (tmp_path / "whole", run)]
    assert [t.state for t in studies[1]] == [TrialState.COMPLETE] * TRIALS
    for left, right in zip(*studies, strict=True):
        assert (left.params, left.values) == (right.params, right.values)
        assert left.intermediate_values == right.intermediate_values

    assert not [path for path in run.rglob(".*") if path.name != ".lock"]
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
    assert not list(scratch.glob("raysearch-*"))
