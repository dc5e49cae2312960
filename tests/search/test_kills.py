"""SIGKILL at any moment loses at most the epoch under way: what is left in the end is what an
uninterrupted search leaves."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import FrozenTrial

from raysearch.probabilities import read_probabilities
from raysearch.search.study import open_study
from raysearch.train.curve import read_metrics
from raysearch.train.trial import trial_folders

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("RAYSEARCH_KILLS", "60"))
TIMES = ("seconds", "images_per_second")
FILES = {
    "config.json",
    "metrics.csv",
    "status.json",
    "state.pt",
    "model.safetensors",
    "raw.safetensors",
    "validation.arrow",
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory, shards_folder, space_text) -> Path:
    """Searches that were killed, beside one that was not (`killed_searches`)."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "space.yaml").write_text(space_text)
    arguments = [folder, shards_folder, folder / "space.yaml", KILLS, 0, *sorted(FILES)]
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("killed_searches.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        timeout=60 + 10 * KILLS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def searches(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "whole")


def summary(run: Path) -> dict:
    """All that does not depend on a clock."""
    trials = {}
    for folder in trial_folders(run):
        rows = [
            {k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(folder.metrics)
        ]
        trials[folder.path.name] = (folder.read_status(), rows, folder.read_record().train)
    return trials


def told(trial: FrozenTrial) -> tuple:
    return trial.state, trial.values, trial.params, trial.intermediate_values, trial.user_attrs


@pytest.mark.slow
def test_kills_hit_every_kind_of_write_of_search_and_trials(killed):
    kills = [line.split(" ", 1) for line in (killed / "kills.txt").read_text().splitlines()]
    assert len(kills) >= KILLS
    assert {who for who, what in kills if what == "moment"} == {"search", "trial"}
    where = {what for _, what in kills}
    assert {f"study.log {mode}" for mode in ("before", "torn", "after")} <= where
    assert {what.split()[1] for what in where if len(what.split()) == 3} >= FILES


@pytest.mark.slow
def test_killed_searches_end_as_the_one_that_was_not_killed(killed):
    expected = summary(killed / "whole")
    statuses = [status["status"] for status, *_ in expected.values()]
    assert statuses == ["completed", "pruned", "completed", "pruned"]
    for run in searches(killed):
        found = summary(run)
        assert found.keys() == expected.keys(), run
        for name in expected:
            # The process of a pruned trial is ahead of its end by as much as chance has it.
            epochs = 2 if expected[name][0]["status"] == "pruned" else 3
            assert found[name][0]["status"] == expected[name][0]["status"], (run, name)
            assert found[name][1][:epochs] == expected[name][1][:epochs], (run, name)
            assert len(found[name][1]) >= epochs, (run, name)
            assert found[name][2] == expected[name][2], (run, name)


@pytest.mark.slow
def test_killed_searches_have_the_probabilities_of_the_one_that_was_not_killed(killed):
    whole = {folder.path.name: folder for folder in trial_folders(killed / "whole")}
    for run in searches(killed):
        for folder in trial_folders(run):
            expected = read_probabilities(whole[folder.path.name].validation)
            found = read_probabilities(folder.validation)
            pruned = folder.read_status()["status"] == "pruned"
            if found.epoch != expected.epoch:
                assert pruned
                continue
            # A pruned trial whose process was ahead of its end has those of its last epoch too.
            ahead = {"last", "last_mirror"} if pruned else set()
            assert found.candidates.keys() ^ expected.candidates.keys() <= ahead, folder.path
            for name in found.candidates.keys() & expected.candidates.keys():
                same = np.array_equal(found.candidates[name], expected.candidates[name])
                assert same, (folder.path, name)


@pytest.mark.slow
def test_killed_searches_tell_the_study_what_the_one_that_was_not_killed_tells(killed):
    expected = [told(trial) for trial in open_study(killed / "whole" / "study.log").trials]
    for run in searches(killed):
        assert [told(trial) for trial in open_study(run / "study.log").trials] == expected, run


@pytest.mark.slow
def test_killed_searches_leave_no_temporaries(killed):
    for run in searches(killed):
        left = {path.name for path in run.rglob(".*")} - {".lock"}
        assert not left, run
        assert {path.name for path in run.iterdir()} == {".lock", "study.log", "trials"}
