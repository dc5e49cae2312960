"""Several workers per trial: Ray Train inside a Tune trainable that cleans up after itself.

The documented way (a Tune function that calls ``TorchTrainer.fit``) leaks its placement group
when the scheduler stops a trial and no dashboard runs to clean up, and the search then waits for
ever. This trainable keeps the Train controller's handle and aborts it on every kind of stop, and
its process, which takes longest to start, goes on with the next trial.
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
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import (
    PlacementGroupCleanerCallback,
)
from ray.train.v2._internal.exceptions import (
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2.api.callback import UserCallback
from ray.util.queue import Empty, Queue

from raysearch.files import is_disk_full
from raysearch.search.failures import RESTARTS, START_SECONDS, lost_words, timeout_words
from raysearch.search.groups import announce, free
from raysearch.search.worker import run_payload
from raysearch.storage.locations import scratch_copy
from raysearch.storage.mirror import Mirror
from raysearch.train.distributed import Workers
from raysearch.train.memory import is_out_of_memory
from raysearch.train.trial import STATUS, trial_name

WORKER_GONE = WorkerHealthCheckFailedError | WorkerHealthCheckTimeoutError
CONNECTION = ("Connection closed by peer", "Connection reset by peer", "ncclRemoteError")
ABORT_SECONDS = 15.0
"""How long a controller is waited for that was told to end."""
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


class _Trainer(TorchTrainer):
    """Without the two processes that Ray starts for every run to remove its placement group
    (`raysearch.search.groups` does) and to hand out Ray Data's sets, which are not used."""

    def _create_default_callbacks(self) -> list[Any]:
        unused = PlacementGroupCleanerCallback | DatasetsCallback
        return [c for c in super()._create_default_callbacks() if not isinstance(c, unused)]


class _Announce(ControllerCallback, WorkerGroupCallback):
    """Runs inside the controller. It must not also be a UserCallback: those are never given the
    controller's hooks."""

    def __init__(self, messages: Queue, run: int, trial_id: str):
        self.messages, self.run, self.trial_id = messages, run, trial_id

    def after_controller_start(self, *_: Any) -> None:
        self.messages.put((self.run, "controller", ray.get_runtime_context().current_actor))

    def after_worker_group_start(self, worker_group: Any) -> None:
        handle = worker_group.get_worker_group_state().placement_group_handle
        announce(self.trial_id, handle.placement_group)


class _SendReports(UserCallback):
    def __init__(self, messages: Queue, run: int):
        self.messages, self.run = messages, run

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any):
        self.messages.put((self.run, "report", metrics[0]))


class TrainTrial(tune.Trainable):
    """One trial after the other, each as a Ray Train run of ``workers`` workers; a step is an
    epoch.

    Whatever goes wrong in a worker ends them all, because those that are left wait for it in
    their next collective operation. A lost worker, and memory that ran out for the first time,
    are answered by a new run that goes on from the trial's folder; anything else is the end of
    the trial, which its last result says.
    """

    common: dict[str, Any] = {}
    """What every trial of the search is given beside its own configuration."""

    def setup(self, config: dict[str, Any]) -> None:
        self.messages = Queue(actor_options={"num_cpus": 0})
        self.runs = 0
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._abort()
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self.payload = config = self.common | config
        self.lost = 0
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
        self.controller = None
        self.launched = self.trial_id
        self.outcome: queue.SimpleQueue = queue.SimpleQueue()
        self.written = self._written()
        self.heard = time.monotonic() + START_SECONDS
        told = _SendReports(self.messages, self.runs)
        announced = _Announce(self.messages, self.runs, self.trial_id)
        trainer = _Trainer(
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
                callbacks=[told, announced],
                failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=3),
            ),
        )
        self.thread = threading.Thread(target=self._fit, args=(trainer, self.outcome), daemon=True)
        self.thread.start()

    @staticmethod
    def _fit(trainer: TorchTrainer, outcome: queue.SimpleQueue) -> None:
        try:
            trainer.fit()
            outcome.put(None)
        except BaseException as error:  # dealt with by `step`, in the trial's own thread
            outcome.put(error)

    def step(self) -> dict[str, Any]:
        while True:
            report = self._hear(0.2)
            if report is not None:
                if report["epoch"] > self.last["epoch"]:
                    self.lost = 0
                self.heard, self.last = time.monotonic(), report
                return report
            if self._is_late():
                self._abort()
                return self._failed("timeout", timeout_words(self.payload["timeout"]))
            if self.outcome.empty():
                continue
            error = self.outcome.get()
            if error is None:
                return {"done": True, "__duplicate__": True}
            status, words = diagnose(error)
            if not self._starts_again(status):
                return self._failed(status, words)

    def _hear(self, seconds: float) -> dict[str, Any] | None:
        """The next report of the run under way, or None where none comes for ``seconds``."""
        while True:
            try:
                run, kind, value = self.messages.get(timeout=seconds)
            except Empty:
                return None
            if run != self.runs:
                continue  # one that was aborted
            if kind == "report":
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
        self._launch()
        return True

    def _failed(self, status: str, error: str) -> dict[str, Any]:
        return self.last | {"status": status, "error": error, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {}  # the trial's own folder holds all that a new process needs

    def load_checkpoint(self, checkpoint: Any) -> None:
        pass

    def _abort(self) -> None:
        """End the run under way, if there is one, and give back what it holds."""
        limit = time.monotonic() + ABORT_SECONDS
        while self.controller is None and self.thread.is_alive() and time.monotonic() < limit:
            self._hear(0.2)  # it has only just begun
        if self.controller is not None and self.thread.is_alive():
            try:
                ray.get(self.controller.abort.remote(), timeout=ABORT_SECONDS)
            except ray.exceptions.RayActorError:
                pass  # an aborted controller dies, and that is its answer
            except ray.exceptions.GetTimeoutError:
                ray.kill(self.controller)
        self.controller = None
        free(self.launched)

    def cleanup(self) -> None:
        self._abort()
        self.messages.shutdown(force=True)
