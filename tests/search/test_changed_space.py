"""`resume` with raised limits and with another space, without starting a search."""

from pathlib import Path

import pytest

from raysearch import pipeline, resuming
from raysearch.errors import ConfigError, InputError
from raysearch.files import write_json
from raysearch.runfolder import start_run
from raysearch.search.searcher import METRIC, StudySearcher
from raysearch.search.study import open_study
from raysearch.space import load_space
from raysearch.train.trial import TrialFolder, trial_folders


@pytest.fixture
def run(tmp_path, space_text, shards_folder) -> Path:
    """A run of two trials, both told to the study as finished."""
    path, run = tmp_path / "first.yaml", tmp_path / "runs" / "first"
    path.write_text(space_text)
    limits = pipeline.Limits(trials=2)
    prepared = pipeline.prepare(load_space(path), str(shards_folder), limits, 0, tmp_path)
    start_run(prepared, run, ["raysearch", "tune"], limits)
    searcher = StudySearcher(
        open_study(run / "study.log"), prepared.space, trials=2, epochs=1, seed=0
    )
    for number in range(2):
        payload = searcher.suggest(str(number))
        folder = TrialFolder(run / "trials" / f"{number:04d}")
        folder.write_status("completed", 1)
        write_json(folder.config, {**payload, "parameters": 9})
        end = {"epoch": 1, "epochs": 1, METRIC: 1.0, "seconds": 1.0}
        searcher.on_trial_complete(str(number), end)
    return run


def changed(run: Path, space_text: str, old: str, new: str) -> str:
    path = run.parent / "changed.yaml"
    path.write_text(space_text.replace(old, new))
    return str(path)


def test_changed_space_is_refused_with_every_difference_and_the_way_on(run, space_text):
    given = changed(run, space_text, "[0.001, 0.1]", "[0.001, 0.2]")
    given = changed(run, Path(given).read_text(), "batch_size: 32", "batch_size: 16")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError) as caught:
        resuming.change_space(run, given, None)
    said = str(caught.value)
    assert 'lr is float {"low": 0.001, "high": 0.2, "log": true}' in said
    assert 'batch_size is constant {"value": 16}' in said
    assert "--new-study NAME" in said
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_space_that_only_searches_otherwise_is_the_same_space(run, space_text):
    given = changed(run, space_text, "trials: 4", "trials: 9")
    assert resuming.change_space(run, given, "other") == run
    assert not (run.parent / "other").exists()


def test_new_study_is_a_run_of_its_own_that_begins_with_the_old_trials(run, space_text, capsys):
    given = changed(run, space_text, "[0.001, 0.1]", "[0.0001, 0.1]")
    new = resuming.change_space(run, given, "wider")
    assert new == run.parent / "wider"
    assert (new / "space.yaml").read_text() == Path(given).read_text()
    assert [f.read_status()["status"] for f in trial_folders(new)] == ["completed"] * 2
    assert "begins with 2 trials" in capsys.readouterr().err
    prepared, anything_left = resuming.resume(new)
    assert not anything_left and prepared.space.dimensions[0].name
    assert resuming.resume(new, trials=3)[1]
    with pytest.raises(InputError, match="choose another --new-study"):
        resuming.change_space(run, given, "wider")


def test_raised_limits_last_but_a_time_budget(run):
    assert not resuming.resume(run)[1]
    prepared, anything_left = resuming.resume(run, trials=5, time_budget=60.0, max_disk=10**8)
    assert anything_left
    assert (prepared.plan.trials, prepared.time_budget) == (5, 60.0)
    again, _ = resuming.resume(run)
    assert (again.plan.trials, again.plan.max_disk, again.time_budget) == (5, 10**8, None)


def test_disk_that_one_trial_would_fill_is_refused_before_anything_starts(run):
    with pytest.raises(ConfigError, match=r"--max-disk must leave room for .* Raise it"):
        resuming.resume(run, max_disk=1000)
    assert "max_disk: null" in (run / "run.yaml").read_text()


def test_time_for_the_ending_is_what_the_last_one_took_and_some(run):
    assert pipeline.ending_seconds(60.0, run) == 20
    assert pipeline.ending_seconds(3600.0, run) == 300
    assert pipeline.ending_seconds(20.0, run) == 10
    (run / "ensemble_report.json").write_text('{"seconds": 100.0}')
    assert pipeline.ending_seconds(3600.0, run) == 160
    assert pipeline.ending_seconds(100.0, run) == 50
