"""Every sampler on a real study, and what goes with what."""

import optuna
import pytest
from optuna.trial import TrialState
from ray.tune.schedulers import MedianStoppingRule

from raysearch.errors import ConfigError
from raysearch.search import study as study_module
from raysearch.search.schedulers import make_scheduler
from raysearch.search.searcher import METRIC, StudySearcher
from raysearch.search.study import distribution, make_sampler, open_study, suggest_value


def two_objectives(space_text: str) -> str:
    return space_text.replace("sampler: tpe", "sampler: nsga2, objective: [log_loss, params]")


def play(searcher: StudySearcher, trials: int) -> list[dict]:
    """Configurations; the loss is lower the nearer lr is to 0.03, and for the larger network."""
    payloads = []
    for number in range(trials):
        payload = searcher.suggest(str(number))
        loss = abs(payload["train"]["lr"] - 0.03) + 1 / payload["train"]["model"]["hidden"][0]
        result = {"epoch": 3, "epochs": 3, METRIC: loss, "seconds": 1.0}
        searcher.losses = getattr(searcher, "losses", {}) | {payload["trial"]: loss}
        searcher.on_trial_complete(str(number), result)
        payloads.append(payload)
    return payloads


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp"])
def test_samplers_repeat_themselves_and_move(tmp_path, write_space, sampler):
    if sampler == "gp":
        pytest.importorskip("scipy")
    space, sequences = write_space(sampler=sampler), []
    for name in ("one", "two"):
        study = open_study(tmp_path / name)
        searcher = StudySearcher(study, space, trials=13, epochs=3, seed=0)
        sequences.append(play(searcher, 13))
    assert sequences[0] == sequences[1]
    assert len({p["train"]["lr"] for p in sequences[0]}) == 13


def test_two_objectives_make_a_front(tmp_path, write_space, space_text):
    space = write_space(two_objectives(space_text))
    study = open_study(tmp_path / "study.log", objectives=2)

    def outcome(number: int) -> list[float]:
        hidden = study.trials[number].user_attrs["train"]["model"]["hidden"][0]
        return [searcher.losses[number], float(hidden)]

    searcher = StudySearcher(study, space, trials=24, epochs=3, seed=0, outcome=outcome)
    searcher.suggest("epochs")
    searcher.on_trial_result("epochs", {"epoch": 1, METRIC: 1.0, "seconds": 1.0})
    searcher.on_trial_complete("epochs", error=True)
    play(searcher, 23)
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.FAIL] + [TrialState.COMPLETE] * 23
    assert {trial.values[1] for trial in study.best_trials} == {16.0, 32.0}


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ("sampler: nsga2, scheduler: none", "sampler nsga2 is for two"),
        ("objective: [log_loss, params], scheduler: none", "sampler tpe is for one objective"),
        ("objective: [log_loss, params], sampler: nsga2", "needs scheduler: none"),
        ("objective: params", "objective must be log_loss or"),
    ],
)
def test_what_does_not_go_together_is_refused(write_space, space_text, search, said):
    first = space_text.index("search:")
    line = space_text[first : space_text.index("\n", first)]
    with pytest.raises(ConfigError, match=said):
        write_space(space_text.replace(line, f"search: {{{search}}}"))


def test_gp_without_scipy_says_what_to_install(monkeypatch):
    monkeypatch.setattr(study_module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install scipy"):
        make_sampler("gp", 0)


def test_distributions_are_those_that_suggest_value_asks_for(write_space, space_text):
    text = space_text.replace("dropout: 0.0", "dropout: {float: [0.0, 0.5], step: 0.1}")
    text = text.replace("batch_size: 32", "batch_size: {int: [16, 64], log: true}")
    study = optuna.create_study()
    trial = study.ask()
    space = write_space(text)
    space.propose(lambda dimension: suggest_value(trial, dimension))
    expected = {dimension.name: distribution(dimension) for dimension in space.searched}
    assert study.trials[0].distributions == expected


def test_median_rule_never_pauses(write_space):
    scheduler = make_scheduler(write_space(scheduler="median"), 3)
    assert isinstance(scheduler, MedianStoppingRule)
    assert scheduler._min_time_slice == float("inf") and scheduler._hard_stop
