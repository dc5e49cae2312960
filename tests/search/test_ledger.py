"""The journal of a study and the ends of its trials, cut off at any place, are gone on with."""

import os
import random
import time

import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher
from test_kills import told

from raysearch.errors import ArtifactError
from raysearch.search.searcher import METRIC, StudySearcher
from raysearch.search.study import open_study
from raysearch.search.tuner import settle
from raysearch.train.trial import TrialFolder

TRIALS, EPOCHS = 14, 3
INVALID = "\n  - {lr: 0.02, model.hidden: [32]}\n"


def loss(number: int, epoch: int) -> float:
    """Of trial 0 the first epoch is the best."""
    return 1 + (number * 37 % 11) / 10 - (0.1 * epoch if number else -0.1 * epoch)


def curve(number: int) -> list[dict]:
    """What a trial reports, and its process again where it was killed."""
    return [{"epoch": e, METRIC: loss(number, e), "seconds": 1.0} for e in range(1, EPOCHS + 1)]


def finish(journal, space) -> list[tuple]:
    """Search on to the end; every third trial is stopped after its second epoch."""
    study = open_study(journal)
    searcher = StudySearcher(study, space, trials=TRIALS, epochs=EPOCHS, seed=5)
    while (payload := searcher.suggest("a")) != Searcher.FINISHED:
        last = 2 if payload["trial"] % 3 == 2 else EPOCHS
        rows = [row | {"epochs": EPOCHS} for row in curve(payload["trial"])[:last]]
        for row in rows[payload["told"] : -1]:
            searcher.on_trial_result("a", row)
        searcher.on_trial_complete("a", rows[-1])
    return [told(trial) for trial in open_study(journal).trials]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_search_goes_on_alike_wherever_its_journal_was_cut_off(
    tmp_path, write_space, space_text, sampler
):
    space = write_space(space_text + INVALID, sampler=sampler)
    expected = finish(tmp_path / "whole.log", space)
    assert len(expected) == TRIALS
    text = (tmp_path / "whole.log").read_bytes()
    chance = random.Random(0)
    ends = [i + 1 for i, byte in enumerate(text) if byte == ord("\n")]
    cuts = [0, 1, *ends[:12], *chance.sample(ends, 12), *chance.sample(range(len(text)), 12)]
    for cut in cuts:
        journal = tmp_path / "cut.log"
        journal.write_bytes(text[:cut])
        assert finish(journal, space) == expected, text[:cut][-200:]


def test_lock_of_a_killed_process_holds_nobody_up(tmp_path):
    journal = tmp_path / "study.log"
    open_study(journal)
    os.symlink(journal, f"{journal}.lock")  # as optuna.storages.journal.JournalFileSymlinkLock
    (tmp_path / "study.log.lock1-2.rename").touch()
    begin = time.monotonic()
    open_study(journal).enqueue_trial({"x": 1})
    assert time.monotonic() - begin < 5
    assert [path.name for path in tmp_path.iterdir()] == ["study.log"]


def test_journal_that_is_damaged_inside_is_refused_in_words(tmp_path):
    journal = tmp_path / "study.log"
    study = open_study(journal)
    study.enqueue_trial({"x": 1})
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([lines[0], b"\0" * 20 + b"\n", *lines[1:]]))
    with pytest.raises(ArtifactError, match="is damaged"):
        open_study(journal)


@pytest.mark.parametrize(
    ("state", "value", "status"),
    [
        (TrialState.COMPLETE, 1.0, "completed"),
        (TrialState.PRUNED, None, "pruned"),
        (TrialState.FAIL, None, "failed"),
    ],
)
def test_end_that_only_the_study_knows_of_is_written_into_the_folder(
    tmp_path, state, value, status
):
    study = open_study(tmp_path / "study.log")
    study.tell(study.ask(), value, state=state)
    study.ask()
    for number in range(2):
        folder = TrialFolder(tmp_path / "trials" / f"{number:04d}")
        folder.path.mkdir(parents=True)
        folder.write_status("running", 3)
    settle(tmp_path, study)
    statuses = [TrialFolder(tmp_path / "trials" / name).read_status() for name in ("0000", "0001")]
    assert [s["status"] for s in statuses] == [status, "running"]
    assert [s["epochs"] for s in statuses] == [3, 3]
    assert bool(statuses[0]["error"]) == (status == "failed")


def test_end_that_the_folder_knows_better_stays(tmp_path):
    study = open_study(tmp_path / "study.log")
    study.tell(study.ask(), state=TrialState.FAIL)
    folder = TrialFolder(tmp_path / "trials" / "0000")
    folder.path.mkdir(parents=True)
    folder.write_status("diverged", 2, "loss is NaN")
    settle(tmp_path, study)
    assert folder.read_status() == {"status": "diverged", "epochs": 2, "error": "loss is NaN"}


def test_disk_is_waited_for_twice_a_trial_however_many_values_it_has(
    tmp_path, write_space, monkeypatch
):
    study = open_study(tmp_path / "study.log")
    searcher = StudySearcher(study, write_space(sampler="random"), trials=9, epochs=9, seed=0)
    waits, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: waits.append(file) or fsync(file))
    for number in range(9):
        before, text = len(waits), (tmp_path / "study.log").read_bytes()
        config = searcher.suggest("a")
        known = number == 0  # begins by being taken from those that wait
        assert len(waits) == before + 1 + known
        rows = [row | {"epochs": 9} for row in curve(config["trial"])]
        for epoch in range(1, 9):
            searcher.on_trial_result("a", rows[0] | {"epoch": epoch})
        searcher.on_trial_complete("a", rows[0] | {"epoch": 9})
        assert len(waits) == before + 2 + known
        written = (tmp_path / "study.log").read_bytes()
        assert written.startswith(text) and written.endswith(b"\n")
        assert len(open_study(tmp_path / "study.log").trials[number].intermediate_values) == 9


def test_trial_that_was_being_pruned_as_the_search_was_killed_is_pruned(tmp_path, write_space):
    """Wherever the kill was: judged again, by more trials, it might go on."""
    journal = tmp_path / "study.log"
    searcher = StudySearcher(open_study(journal), write_space(), trials=1, epochs=9, seed=0)
    searcher.suggest("a")
    rows = [row | {"epochs": 9} for row in curve(0)]
    searcher.on_trial_result("a", rows[0])
    before = len(journal.read_bytes().splitlines())
    searcher.on_trial_complete("a", rows[1])
    lines = journal.read_bytes().splitlines(keepends=True)
    (expected,) = [told(trial) for trial in open_study(journal).trials]
    assert expected[0] == TrialState.PRUNED and expected[3].keys() == {1, 2}
    assert len(lines) == before + 3
    for count in range(before + 1, len(lines)):
        journal.write_bytes(b"".join(lines[:count]))
        folder = TrialFolder(tmp_path / "trials" / "0000")
        folder.write_status("running", 2)
        settle(tmp_path, open_study(journal))
        assert [told(trial) for trial in open_study(journal).trials] == [expected]
        assert folder.read_status()["status"] == "pruned"
