"""The ensemble of a search under way: equal to that of the finished run, and harmless."""

import shutil
import threading
import time

import numpy as np
import pytest
from made_run import make_data, make_run, trial_folder

from raysearch.data.shards import open_shards
from raysearch.ensemble import live
from raysearch.ensemble.estimate import fit_ensemble
from raysearch.ensemble.library import load_library
from raysearch.metrics import log_loss


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    data = make_data(folder / "data")
    return data, make_run(folder / "run", data)


def test_library_grown_trial_by_trial_scores_as_the_one_read_at_once(made):
    data, run = made
    shards = open_shards(data)
    library = live.LiveLibrary(shards)
    assert library.score() is None
    for trial in (0, 1, 1, 2):
        library.add(trial_folder(run, trial))
    whole = load_library(run, shards)
    ensemble = fit_ensemble(whole.probs_NVK, whole.labels_V, steps=25)
    score = library.score()
    assert score.candidates == len(whole)
    assert score.members == len(ensemble.selection.members)
    expected = log_loss(ensemble.predict(whole.probs_NVK), whole.labels_V)
    assert score.log_loss == pytest.approx(expected, rel=1e-6)


def test_trial_without_usable_probabilities_adds_nothing(made, tmp_path):
    data, run = made
    shutil.copytree(run, tmp_path / "run")
    trial_folder(tmp_path / "run", 1).validation.write_bytes(b"torn")
    library = live.LiveLibrary(open_shards(data))
    library.add(trial_folder(tmp_path / "run", 1))
    library.add(trial_folder(tmp_path / "run", 9))
    assert library.score() is None


def test_trial_whose_weights_were_removed_is_no_longer_selected(made, tmp_path):
    data, run = made
    shutil.copytree(run, tmp_path / "run")
    library = live.LiveLibrary(open_shards(data))
    for trial in (0, 1):
        library.add(trial_folder(tmp_path / "run", trial))
    assert library.score().candidates == 8
    shutil.rmtree(trial_folder(tmp_path / "run", 0).best)
    assert library.score().candidates == 4
    assert list(library.parts) == [trial_folder(tmp_path / "run", 1).path], "memory stays flat"
    library.add(trial_folder(tmp_path / "run", 0))
    assert len(library.parts) == 1


def test_thousand_candidates_are_joined_by_a_trial_and_selected_from_in_a_second_of_work(
    made, tmp_path
):
    """CPU time, so that a busy machine does not fail it; FER2013's number of images."""
    rng = np.random.default_rng(0)
    library = live.LiveLibrary(open_shards(made[0]))
    library.labels_V = rng.integers(0, 7, 3589)
    for trial in range(250):
        probs_MVK = rng.dirichlet(np.ones(7), (4, 3589)).astype(np.float32)
        (tmp_path / str(trial) / "best").mkdir(parents=True)
        library.parts[tmp_path / str(trial)] = probs_MVK, np.ones(4)
    begin = time.process_time()
    assert library.score().candidates == 1000
    assert time.process_time() - begin < 1.5


def follow(run, data, expected):
    """Run a live ensemble until it has given ``expected`` candidates, or 60 s."""
    scores, enough = [], threading.Event()

    def on_score(score):
        scores.append(score)
        if score.candidates == expected:
            enough.set()

    following = live.LiveEnsemble(run, open_shards(data), on_score)
    return following, scores, enough


def test_trials_of_an_earlier_process_and_those_that_end_now_are_followed(made, tmp_path):
    data, run = made
    part = tmp_path / "run"
    (part / "trials").mkdir(parents=True)
    for trial in (0, 1):
        shutil.copytree(run / "trials" / f"000{trial}", part / "trials" / f"000{trial}")
    following, scores, enough = follow(part, data, 12)
    following.start()
    shutil.copytree(run / "trials" / "0002", part / "trials" / "0002")
    following.trial_ended(trial_folder(part, 2))
    assert enough.wait(60)
    following.close()
    assert following.latest == scores[-1]
    assert "of 12 candidates: log loss" in str(scores[-1])


def test_whatever_goes_wrong_is_logged_and_ends_nothing_but_itself(made, monkeypatch, caplog):
    def fail(library, folder):
        raise MemoryError("no room")

    monkeypatch.setattr(live.LiveLibrary, "add", fail)
    following, scores, _ = follow(made[1], made[0], 12)
    following.start()
    following.trial_ended(trial_folder(made[1], 0))
    following.close()
    assert scores == []
    assert "the search goes on without it" in caplog.text and "no room" in caplog.text


def test_selecting_gets_a_fiftieth_of_the_time(made, monkeypatch):
    """After a selection of 0.2 s, the next one may start 9.8 s later at the earliest."""
    data, run = made
    following, _, _ = follow(run, data, 12)
    library = live.LiveLibrary(open_shards(data))
    waits = []

    class Ended:
        def __init__(self):
            self.answers = [trial_folder(run, 0), live.Empty(), trial_folder(run, 1), None]

        def get(self, timeout):
            waits.append(timeout)
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    following._ended = Ended()
    monkeypatch.setattr(following, "_select", lambda library: 0.2)
    following._serve(library)
    assert waits[0] is None and waits[1] == 0 and waits[2] is None
    assert waits[3] == pytest.approx(9.8, abs=1.0)
