"""Several workers per trial: Ray Train inside a Tune trainable that cleans up after itself.

The documented way (a Tune function that calls ``TorchTrainer.fit``) leaks its placement group
when the scheduler stops a trial and no dashboard runs to clean up, and the search then waits for
ever. This trainable keeps the Train controller's handle and aborts it on every kind of stop.
"""

import queue
import threading
from typing import Any

import ray
import ray.train
from ray import tune
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2.api.callback import UserCallback
from ray.util.queue import Empty, Queue

from raysearch.search.worker import run_payload
from raysearch.train.distributed import Workers


def train_worker(payload: dict[str, Any]) -> None:
    """One worker of a trial's group; every rank reports every epoch."""
    from ray.train.torch import get_device

    context = ray.train.get_context()
    workers = Workers(context.get_world_rank(), context.get_world_size())
    run_payload(payload, get_device(), ray.train.report, workers)


class _SendHandle(ControllerCallback):
    """Runs inside the controller. It must not also be a UserCallback: those are never given the
    controller's hooks."""

    def __init__(self, messages: Queue):
        self.messages = messages

    def after_controller_start(self, *_: Any) -> None:
        self.messages.put(("controller", ray.get_runtime_context().current_actor))


class _SendReports(UserCallback):
    def __init__(self, messages: Queue):
        self.messages = messages

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any):
        self.messages.put(("report", metrics[0]))


class TrainTrial(tune.Trainable):
    """One trial as a Ray Train run of ``config["workers"]`` workers; a step is an epoch."""

    def setup(self, config: dict[str, Any]) -> None:
        self.messages = Queue(actor_options={"num_cpus": 0})
        self.controller = None
        self.outcome: queue.SimpleQueue = queue.SimpleQueue()
        trainer = TorchTrainer(
            train_worker,
            train_loop_config=config,
            torch_config=TorchConfig(backend=config["backend"]),
            scaling_config=ray.train.ScalingConfig(
                num_workers=config["workers"],
                use_gpu=config["worker_resources"].get("GPU", 0) > 0,
                resources_per_worker=config["worker_resources"],
            ),
            run_config=ray.train.RunConfig(
                name=f"trial-{config['trial']:04d}-{self.trial_id}",
                storage_path=config["storage"],
                callbacks=[_SendReports(self.messages), _SendHandle(self.messages)],
                failure_config=ray.train.FailureConfig(max_failures=2, controller_failure_limit=3),
            ),
        )
        threading.Thread(target=self._fit, args=(trainer,), daemon=True).start()

    def _fit(self, trainer: TorchTrainer) -> None:
        try:
            trainer.fit()
            self.outcome.put(None)
        except BaseException as error:  # raised again by `step`, in the trial's own thread
            self.outcome.put(error)

    def step(self) -> dict[str, Any]:
        while True:
            try:
                kind, value = self.messages.get(timeout=0.2)
            except Empty:
                if self.outcome.empty():
                    continue
                error = self.outcome.get()
                if error is not None:
                    raise error from None
                return {"done": True, "__duplicate__": True}
            if kind == "controller":
                self.controller = value
            else:
                return value

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {}  # the trial's own folder holds all that a new process needs

    def load_checkpoint(self, checkpoint: Any) -> None:
        pass

    def cleanup(self) -> None:
        if self.outcome.empty() and self.controller is not None:
            try:
                ray.get(self.controller.abort.remote(), timeout=15)
            except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
                pass  # an aborted controller dies, and that is its answer
        self.messages.shutdown(force=True)
