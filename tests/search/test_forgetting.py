"""What stays of a trial in Tune's memory, on Tune's own trials, without a cluster."""

import copy

from ray.train._internal.storage import StorageContext
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.utils.log import set_verbosity

from raysearch.search.forgetting import Forget


def made_trial(folder) -> Trial:
    storage = StorageContext(str(folder), experiment_dir_name="search", trial_dir_name="a")
    config = {"trial": 3, "train": {f"setting{n}": n for n in range(50)}}
    trial = Trial("inline", config=copy.deepcopy(config), stub=True, storage=storage, trial_id="a")
    trial.evaluated_params, trial.experiment_tag = config, "1_" + "setting=1," * 50
    for epoch in range(4):
        row = {f"metric{n}": n + epoch for n in range(20)}
        row |= {"epoch": epoch, "training_iteration": epoch, "config": copy.deepcopy(config)}
        trial.update_last_result(row)
    return trial


def test_of_a_trial_that_ended_little_is_kept_and_written(tmp_path):
    trial = made_trial(tmp_path)
    trial.invalidate_json_state()
    before = sum(map(len, trial.get_json_state()))
    Forget().on_trial_complete(0, [trial], trial)
    trial.invalidate_json_state()
    state, metadata = trial.get_json_state()
    assert len(state) + len(metadata) < before / 5
    assert "setting7" not in state and "setting7" not in metadata and "avg" not in metadata


def test_tune_says_nothing_of_it_and_asks_no_process_for_more(tmp_path, capsys):
    trial = made_trial(tmp_path)
    trial._default_result_or_future = "would be fetched"
    Forget().on_trial_complete(0, [trial], trial)
    set_verbosity(0)
    TrialProgressCallback().on_trial_complete(0, [trial], trial)
    assert capsys.readouterr().out == ""
    assert trial.last_result["epoch"] == 3
    assert trial._default_result_or_future is None
