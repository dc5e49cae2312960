"""Several trials on a GPU: who gets how much of it, and that Ray runs them so."""

import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysearch.config import TrainConfig
from raysearch.search import packing
from raysearch.search.packing import HEADROOM, Packing
from raysearch.search.searcher import METRIC, StudySearcher
from raysearch.search.study import open_study
from raysearch.train.curve import read_metrics
from raysearch.train.memory import CONTEXT_BYTES, MemoryUse
from raysearch.train.trial import trial_folders

GIB = 2**30
LEAST = 0.125


def config(batch_size=64, width=8):
    model = {"name": "vgg", "width": width, "depth": 4}
    return TrainConfig.model_validate({"model": model, "batch_size": batch_size, "image_size": 24})


def use(step_gib, fixed_gib=1.0, device_gib=80):
    fixed = int(fixed_gib * GIB)
    return MemoryUse(fixed, fixed + int(step_gib * GIB), int(device_gib * GIB))


def test_until_a_trial_was_measured_each_has_a_gpu_to_itself():
    packing = Packing(2, LEAST, 1, 7)
    assert [packing.take(name, config()) for name in "ab"] == [1.0, 1.0]
    assert packing.is_full
    packing.give_back("a")
    assert not packing.is_full


def test_as_many_are_packed_as_fit_by_hand():
    packing = Packing(1, LEAST, 1, 7)
    packing.learn(config(), use(20))
    # 0.85 of 80 GiB for 0.625 of context, 1 of images and 20 of the step each: 3.14.
    assert packing.share(config()) == 0.3333
    for name in "abc":
        assert not packing.is_full
        packing.take(name, config())
    assert packing.is_full


def test_what_is_foreseen_of_a_trial_grows_with_its_step():
    packing = Packing(1, LEAST, 1, 7)
    packing.learn(config(), use(20))
    assert packing.share(config(batch_size=1024)) == 1.0
    assert packing.share(config(width=16)) == 1.0
    assert packing.share(config(batch_size=2)) == LEAST


def test_the_trial_that_took_most_and_the_smallest_gpu_decide():
    packing = Packing(1, LEAST, 1, 7)
    packing.learn(config(), use(20))
    packing.learn(config(), use(5, fixed_gib=4))
    assert packing.share(config()) == 0.5  # 0.625 + 4 + 20 of 68
    packing.learn(config(), use(1, device_gib=40))
    assert packing.share(config()) == 1.0


@given(
    steps=st.lists(st.floats(0.01, 200), min_size=1, max_size=5),
    fixed=st.floats(0, 10),
    gib=st.floats(8, 200),
)
def test_trials_like_those_measured_fit_together(steps, fixed, gib):
    packing = Packing(1, LEAST, 1, 7)
    for step in steps:
        packing.learn(config(), use(step, fixed, gib))
    share = packing.share(config())
    assert LEAST <= share <= 1
    together = int(1 / share)
    needed = CONTEXT_BYTES + (fixed + max(steps)) * GIB
    assert together == 1 or together * needed <= HEADROOM * gib * GIB * (1 + 1e-6)


def test_a_search_that_goes_on_knows_what_was_measured(tmp_path, write_space):
    def searcher():
        study, packing = open_study(tmp_path / "study.log"), Packing(1, LEAST, 1, 3)
        return StudySearcher(study, write_space(), trials=9, epochs=3, seed=0, packing=packing)

    first = searcher()
    assert first.suggest("a")["gpus"] == 1.0
    assert first.suggest("b") is None
    report = {"epoch": 1, "epochs": 3, METRIC: 1.0, "seconds": 1.0, "memory": astuple(use(5))}
    first.on_trial_complete("a", report)  # stopped in its first epoch
    handed_out = first.suggest("b")
    assert 0 < handed_out["gpus"] < 1
    assert searcher().suggest("c") == handed_out  # trial 1 again, with the same share


def test_the_measured_trial_has_the_gpu_to_itself_and_three_share_it_then(
    tmp_path, shards_folder, space_text
):
    """On a GPU that only Ray believes in; memory is told by the program."""
    space = tmp_path / "space.yaml"
    text = space_text.replace("trials: 4, epochs: 3", "trials: 7, epochs: 2")
    space.write_text(
        text.replace("{choice: [[16], [32]]}", "[16]").replace(", model.hidden: [16]", "")
    )
    program = Path(__file__).with_name("packed_search.py")
    command = [sys.executable, program, tmp_path / "run", shards_folder, space]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folders = trial_folders(tmp_path / "run")
    assert [len(read_metrics(folder.metrics)) for folder in folders] == [2] * 7
    spans = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    assert len(spans) == 7
    at_once = [sum(begin <= moment < end for begin, end in spans) for moment, _ in spans]
    assert at_once[0] == 1
    assert max(at_once) == 3


@pytest.mark.parametrize(("trials", "share"), [(1, 1.0), (3, 0.3333), (6, 0.1666), (8, 0.125)])
def test_so_many_of_a_share_fit_on_a_gpu_as_ray_counts(trials, share):
    assert packing.share_of(trials) == share
    assert round(share * 10_000) * trials <= 10_000
