"""Trials of one run in the study of another, whose space differs."""

import json
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from raysearch.errors import ConfigError
from raysearch.files import write_json
from raysearch.search.newstudy import import_trials
from raysearch.search.searcher import METRIC, StudySearcher
from raysearch.search.study import open_study
from raysearch.space.encoding import values_of

LOSSES = ([1.0, 0.9, 0.8], [1.0, 0.7, 0.6], [1.4], [1.0, 0.95, 0.9])


def make(run: Path, space, trials: int) -> StudySearcher:
    return StudySearcher(open_study(run / "study.log"), space, trials=trials, epochs=3, seed=0)


@pytest.fixture
def source(tmp_path, write_space) -> Path:
    """Four finished trials, the third one pruned, and one that is cut off."""
    run = tmp_path / "source"
    (run / "trials").mkdir(parents=True)
    searcher = make(run, write_space(), trials=5)
    for number, losses in enumerate([*LOSSES, None]):
        payload = searcher.suggest(str(number))
        folder = run / "trials" / f"{number:04d}"
        write_json(
            folder / "config.json", {"trial": number, "train": payload["train"], "parameters": 99}
        )
        (folder / "validation.arrow").write_bytes(bytes([number]))
        (folder / "checkpoint").mkdir()
        for epoch, loss in enumerate(losses or [], start=1):
            result = {"epoch": epoch, "epochs": 3, METRIC: loss, "seconds": 1.0}
            if epoch < len(losses):
                searcher.on_trial_result(str(number), result)
            else:
                searcher.on_trial_complete(str(number), result)
    return run


def settings(run: Path) -> list[dict]:
    trials = open_study(run / "study.log").get_trials(states=[TrialState.COMPLETE])
    return [trial.user_attrs["train"] for trial in trials]


def test_finished_trials_keep_values_states_and_files(tmp_path, source, write_space, space_text):
    wider = write_space(space_text.replace("[0.001, 0.1]", "[0.0001, 0.5]"))
    imported = import_trials(source, tmp_path / "new", wider)
    assert (imported.numbers, imported.reasons) == ({0: 0, 1: 1, 2: 2, 3: 3}, {})
    old, new = open_study(source / "study.log"), open_study(tmp_path / "new" / "study.log")
    for before, after in zip(old.trials[:4], new.trials[:4], strict=True):
        assert (after.state, after.value) == (before.state, before.value)
        assert after.params == before.params
        assert after.intermediate_values == before.intermediate_values
        assert after.distributions["lr"].high == 0.5
        assert after.user_attrs["imported"] == str(source / "trials" / f"{before.number:04d}")
    folder = tmp_path / "new" / "trials" / "0003"
    assert (folder / "validation.arrow").read_bytes() == b"\x03"
    assert not (folder / "checkpoint").exists()


def test_trials_outside_the_new_space_stay_behind_with_the_reason(
    tmp_path, source, write_space, space_text
):
    text = space_text.replace("[[16], [32]]", "[[32]]").replace("model.hidden: [16]", "lr: 0.05")
    text = text.replace("{lr: 0.05, lr: 0.05}", "{lr: 0.05}")
    imported = import_trials(source, tmp_path / "new", write_space(text))
    small = [n for n, train in enumerate(_trains(source)) if train["model"]["hidden"] == [16]]
    assert small and set(imported.reasons) == set(small)
    assert all(
        "model.hidden is [16], but it must be one of [32]" in r for r in imported.reasons.values()
    )
    assert list(imported.numbers.values()) == list(range(4 - len(small)))
    for old, new in imported.numbers.items():
        record = json.loads(
            (tmp_path / "new" / "trials" / f"{new:04d}" / "config.json").read_text()
        )
        assert record == {"trial": new, "train": _trains(source)[old], "parameters": 99}


def _trains(run: Path) -> list[dict]:
    return [t.user_attrs["train"] for t in open_study(run / "study.log").trials][:4]


def test_search_goes_on_after_the_imported_trials(tmp_path, source, write_space, space_text):
    space = write_space(space_text.replace("[0.001, 0.1]", "[0.0001, 0.5]"))
    import_trials(source, tmp_path / "new", space)
    searcher = make(tmp_path / "new", space, trials=5)
    assert searcher.suggest("a")["trial"] == 4
    assert searcher.suggest("b") == "FINISHED"


def test_study_that_is_imported_twice_is_the_same(tmp_path, source, write_space):
    space = write_space()
    for name in ("one", "two"):
        import_trials(source, tmp_path / name, space)
    assert settings(tmp_path / "one") == settings(tmp_path / "two") == settings(source)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("batch_size: 32", "batch_size: 64", "batch_size is 32, but there it is always 64"),
        ("lr: {float: [0.001, 0.1], log: true}", "lr: {float: [0.05, 0.1]}", "lr is 0.001, but"),
        ("dropout: 0.0", "dropout: {float: [0.1, 0.5]}", "model.dropout is 0.0, but it must be"),
        ("precision: fp32", "weight_decay: 0.1", "precision is fp32, but there it is always auto"),
    ],
)
def test_values_of_names_the_field_that_lies_outside(write_space, space_text, old, new, reason):
    inside = write_space()
    values = {"model.name": "mlp", "model.hidden": "[16]", "lr": 0.001}
    train = inside.build(values, epochs=3, seed=5)
    assert values_of(inside, train) == values
    other = write_space(space_text.replace(old, new).replace("- {lr: 0.05,", "- {"))
    with pytest.raises(ConfigError) as caught:
        values_of(other, train)
    assert reason in str(caught.value) or "weight_decay" in str(caught.value)


def test_distributions_are_those_that_a_sampler_is_asked_for(tmp_path, source, write_space):
    import_trials(source, tmp_path / "new", write_space())
    old, new = open_study(source / "study.log"), open_study(tmp_path / "new" / "study.log")
    assert new.trials[0].distributions == old.trials[0].distributions
    assert isinstance(new.trials[0].distributions["lr"], optuna.distributions.FloatDistribution)
