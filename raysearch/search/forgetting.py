"""What Tune keeps in memory of trials that have ended, and writes out in the end."""

from typing import Any

from ray import tune


class Forget(tune.Callback):
    """Last of all callbacks: empties Tune's record of a trial that ended. Of every metric it holds
    extremes and means over the last reports, some 40 KiB a trial, which nothing asks for; and a
    reference to an object in Ray's store."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **_: Any) -> None:
        trial.config = trial._Trial__unresolved_config = trial.evaluated_params = {}
        trial.experiment_tag = ""
        trial._default_result_or_future = None
        trial.run_metadata.metric_analysis = {}
        trial.run_metadata.metric_n_steps = {}
        # The rest of it stays: where it is empty, Tune prints so.
        trial.run_metadata.last_result.pop("config", None)

    on_trial_error = on_trial_complete
