"""What runs inside Ray's processes: one trial, by either executor, under the same `run_trial`.

Inline: a Tune function, its process and data kept warm from trial to trial. Ray Train: a worker
group of one or more processes per trial (`raysearch.search.train_executor`). Neither hands Ray a
checkpoint: the trial's folder holds it, and a process that starts there, on this machine or
another, goes on from it.
"""

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from raysearch.config import TrainConfig
from raysearch.data.dataset import Dataset, load_dataset
from raysearch.errors import RunError
from raysearch.files import is_disk_full
from raysearch.search.shipping import local_shards, unshared
from raysearch.storage.locations import scratch_copy
from raysearch.storage.mirror import Mirror
from raysearch.train.curve import read_metrics
from raysearch.train.device import free_memory
from raysearch.train.distributed import Workers
from raysearch.train.fork import begin_from
from raysearch.train.memory import MemoryMeter
from raysearch.train.runner import run_trial
from raysearch.train.trial import Fork, TrialFolder, trial_name


@lru_cache(maxsize=1)
def cached_dataset(
    folder: str, device: str, classes: tuple[str, ...] | None, images_on: str, memory_share: float
) -> Dataset:
    """One set per process: reading and copying it is paid by the first trial alone."""
    return load_dataset(
        folder, device, classes=classes, images_on=images_on, memory_share=memory_share
    )


class TrialSite:
    """Where a worker of a trial writes: in the run's folder, or, where that is at a URI, in a
    copy of the trial on this machine."""

    def __init__(self, payload: dict[str, Any], rank: int):
        uri = payload["uri"]
        self.run, self.name = Path(payload["run"]), trial_name(payload["trial"])
        self.leads = rank == 0
        self.mirror = None if uri is None else Mirror(scratch_copy(uri, rank), uri)
        self.folder = (self.mirror.local if self.mirror else self.run) / self.name

    def begin(self) -> None:
        if self.mirror:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.mirror.pull(self.name)
        elif not self.run.is_dir():
            raise RunError(f"{socket.gethostname()}: {unshared(f'there is no {self.run}')}")

    def publish(self) -> None:
        """Make what the trial has written so far outlive this machine."""
        if self.mirror and self.leads:
            self.mirror.push(self.name)

    def fork(self, fork: Fork) -> None:
        """Begin where another trial stood."""
        name = TrialFolder(trial_name(fork.trial)).snapshot(fork.epoch).as_posix()
        if not self.mirror:
            if self.leads:
                begin_from(TrialFolder(self.folder), self.run / name)
            return
        # Not into the donor's own folder: it may be running on this machine.
        fetched = Mirror(self.folder.with_name(f"{self.folder.name}.fork"), self.mirror.uri)
        fetched.pull(name)
        begin_from(TrialFolder(self.folder), fetched.local / name)
        shutil.rmtree(fetched.local, ignore_errors=True)

    def end(self) -> None:
        if self.mirror:
            shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def trial_site(payload: dict[str, Any], rank: int) -> Iterator[TrialSite]:
    site = TrialSite(payload, rank)
    site.begin()
    try:
        yield site
        site.publish()
    finally:
        site.end()


def run_payload(
    payload: dict[str, Any], device: torch.device, report: Any, workers: Workers | None = None
) -> None:
    """Run ``{"trial", "train", "run", "uri", "data", "shipped", "threads", "memory_share"}`` and
    report each epoch's metrics, of those too that an earlier process finished after the first
    ``told`` (0 where left out): it may have been killed before it said so. With ``gpus``, the
    share of a GPU that it may fill, reports say under ``memory`` what it took, as `MemoryUse`'s
    fields: Tune takes dictionaries apart.

    ``epochs`` in a report is how many the trial will have in all: in the last one, which may be
    an early one, it is ``epoch``. A run that failed reports once more, with its ``status`` and
    ``error``. An exception in one of several workers passes through: the others wait for it, and
    Ray must end them.
    """
    torch.set_num_threads(payload["threads"])
    config = TrainConfig.model_validate(payload["train"])
    about = {"trial": payload["trial"], "epochs": config.epochs}
    last = about | {"epoch": 0, "validation_log_loss": float("inf"), "seconds": 0.0}
    done = None
    try:
        with trial_site(payload, workers.rank if workers else 0) as site:
            dataset = trial_dataset(payload, config, device)
            meter = MemoryMeter(device, payload["gpus"]) if "gpus" in payload else None

            def on_epoch(metrics: dict[str, float]) -> None:
                last.update(metrics)
                site.publish()
                use = meter and meter.read()
                report(about | metrics | ({"memory": astuple(use)} if use else {}))

            parts = payload.get("accumulate", 1)
            options = {"report": on_epoch, "workers": workers, "accumulate": parts}
            options["told"] = payload.get("told", 0)
            options["snapshot_every"] = payload.get("snapshot_every", 0)
            if "fork" in payload:
                options["forked_from"] = Fork(**payload["fork"])
                site.fork(options["forked_from"])
                if workers:  # none looks for a checkpoint before the leader has made it
                    workers.sum(torch.zeros(1, device=device))
            number = payload["trial"]
            status = run_trial(site.folder, number, config, dataset, device=device, **options)
            error = TrialFolder(site.folder).read_status()["error"]
            if status == "completed" and last["epoch"] < last["epochs"]:
                done = finished_epoch(site.folder)
    except Exception as exception:
        if workers and workers.count > 1:
            raise
        status, error = "failed", f"{type(exception).__name__}: {exception}"
        if is_disk_full(exception):
            status, error = "interrupted", f"the disk is full ({error})"
    if status != "completed":
        report(about | last | {"status": status, "error": error})
    elif done:  # everything was done by an earlier process, and only the end is new
        report(about | done)


def trial_dataset(payload: dict[str, Any], config: TrainConfig, device: torch.device) -> Dataset:
    folder = local_shards(payload["data"], payload["shipped"])
    where = config.classes, config.images_on, payload["memory_share"]
    return cached_dataset(folder, str(device), *where)


def finished_epoch(folder: Path) -> dict[str, float]:
    row = read_metrics(TrialFolder(folder).metrics)[-1]
    return row | {"epochs": row["epoch"]}


def train_inline(payload: dict[str, Any]) -> None:
    """Tune's function trainable."""
    from ray import tune

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        run_payload(payload, device, tune.report)
    finally:
        free_memory(device)
