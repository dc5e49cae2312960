"""Several workers per trial: Ray Train inside a Tune trainable that cleans up after itself.

The documented way (a Tune function that calls ``TorchTrainer.fit``) leaks its placement group
when the scheduler stops a trial and no dashboard runs to clean up, and the search then waits for
ever. This trainable keeps the Train controller's handle and aborts it on every kind of stop.
"""

import queue
import threading
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray import tune
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.exceptions import (
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2.api.callback import UserCallback
from ray.util.queue import Empty, Queue

from raysearch.files import is_disk_full
from raysearch.search.failures import RESTARTS, START_SECONDS, lost_words, timeout_words
from raysearch.search.worker import run_payload
from raysearch.storage.locations import scratch_copy
from raysearch.storage.mirror import Mirror
from raysearch.train.distributed import Workers
from raysearch.train.memory import is_out_of_memory
from raysearch.train.trial import STATUS, trial_name

WORKER_GONE = WorkerHealthCheckFailedError | WorkerHealthCheckTimeoutError
CONNECTION = ("Connection closed by peer", "Connection reset by peer", "ncclRemoteError")
ASK_SECONDS = 5.0
"""How often an object store is asked whether a trial has written."""


def train_worker(payload: dict[str, Any]) -> None:
    """One worker of a trial's group; every rank reports every epoch."""
    from ray.train.torch import get_device

    context = ray.train.get_context()
    workers = Workers(context.get_world_rank(), context.get_world_size())
    run_payload(payload, get_device(), ray.train.report, workers)


def diagnose(error: BaseException) -> tuple[str, str]:
    """Status and words for what Ray Train ended with."""
    failures = list(getattr(error, "worker_failures", {}).values()) or [error]
    for failure in failures:
        if is_out_of_memory(failure):
            return "out_of_memory", str(failure)
    for failure in failures:
        if is_disk_full(failure):
            return "interrupted", f"the disk is full ({failure})"
    for failure in failures:
        if is_loss(failure):
            return "worker_lost", lost_words(failure)
    return "failed", f"{type(failures[0]).__name__}: {failures[0]}"


def is_loss(failure: BaseException) -> bool:
    """Whether a worker is gone: by what Ray says of it, or by what another one, which was waiting
    for it, says of the connection."""
    if isinstance(failure, ray.exceptions.RayActorError | WORKER_GONE):
        return True
    return isinstance(failure, RuntimeError) and any(sign in str(failure) for sign in CONNECTION)


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
    """One trial as a Ray Train run of ``config["workers"]`` workers; a step is an epoch.

    Whatever goes wrong in a worker ends them all, because those that are left wait for it in
    their next collective operation. A lost worker, and memory that ran out for the first time,
    are answered by a new run that goes on from the trial's folder; anything else is the end of
    the trial, which its last result says.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.payload = config
        self.runs, self.lost = 0, 0
        self.asked, self.answer = -ASK_SECONDS, 0
        if config["uri"] is not None:
            self.mirror = Mirror(scratch_copy(config["uri"], 0), config["uri"])
        self.last = {
            "trial": config["trial"],
            "epochs": config["train"]["epochs"],
            "epoch": 0,
            "validation_log_loss": float("inf"),
            "seconds": 0.0,
        }
        self._launch()

    def _launch(self) -> None:
        config = self.payload
        self.runs += 1
        self.messages = Queue(actor_options={"num_cpus": 0})
        self.controller = None
        self.outcome: queue.SimpleQueue = queue.SimpleQueue()
        self.written = self._written()
        self.heard = time.monotonic() + START_SECONDS
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
                name=f"trial-{config['trial']:04d}-{self.trial_id}-{self.runs}",
                storage_path=config["storage"],
                callbacks=[_SendReports(self.messages), _SendHandle(self.messages)],
                failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=3),
            ),
        )
        threading.Thread(target=self._fit, args=(trainer, self.outcome), daemon=True).start()

    @staticmethod
    def _fit(trainer: TorchTrainer, outcome: queue.SimpleQueue) -> None:
        try:
            trainer.fit()
            outcome.put(None)
        except BaseException as error:  # dealt with by `step`, in the trial's own thread
            outcome.put(error)

    def step(self) -> dict[str, Any]:
        while True:
            try:
                kind, value = self.messages.get(timeout=0.2)
            except Empty:
                if self._is_late():
                    return self._failed("timeout", timeout_words(self.payload["timeout"]))
                if self.outcome.empty():
                    continue
                error = self.outcome.get()
                if error is None:
                    return {"done": True, "__duplicate__": True}
                status, words = diagnose(error)
                if not self._starts_again(status):
                    return self._failed(status, words)
            else:
                if kind == "report":
                    if value["epoch"] > self.last["epoch"]:
                        self.lost = 0
                    self.heard, self.last = time.monotonic(), value
                    return value
                self.controller = value

    def _is_late(self) -> bool:
        timeout, written = self.payload["timeout"], self._written()
        if written != self.written:
            # A worker that is stuck keeps Ray Train from handing on what the others reported.
            self.written, self.heard = written, time.monotonic()
        return timeout is not None and time.monotonic() - self.heard > timeout

    def _written(self) -> int:
        """When the trial's status was last written: at its start and after every epoch."""
        name = trial_name(self.payload["trial"])
        if self.payload["uri"] is not None:
            return self._written_there(f"{name}/{STATUS}")
        try:
            return (Path(self.payload["run"]) / name / STATUS).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _written_there(self, name: str) -> int:
        """In an object store, which is asked now and then."""
        if time.monotonic() - self.asked > ASK_SECONDS:
            self.asked = time.monotonic()
            self.answer = self.mirror.modified(name)
        return self.answer

    def _starts_again(self, status: str) -> bool:
        if status == "worker_lost" and self.lost < RESTARTS:
            self.lost += 1
        elif status == "out_of_memory" and "accumulate" not in self.payload:
            self.payload = self.payload | {"accumulate": 2}
        else:
            return False
        self.messages.shutdown(force=True)
        self._launch()
        return True

    def _failed(self, status: str, error: str) -> dict[str, Any]:
        return self.last | {"status": status, "error": error, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {}  # the trial's own folder holds all that a new process needs

    def load_checkpoint(self, checkpoint: Any) -> None:
        pass

    def cleanup(self) -> None:
        if self.controller is not None:
            try:
                ray.get(self.controller.abort.remote(), timeout=15)
            except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
                pass  # an aborted controller dies, and that is its answer
        self.messages.shutdown(force=True)
