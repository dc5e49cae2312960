"""What runs inside Ray's processes: one trial, by either executor, under the same `run_trial`.

Inline: a Tune function, its process and data kept warm from trial to trial. Ray Train: a worker
group of one or more processes per trial (`raysearch.search.train_executor`). Neither hands Ray a
checkpoint: the trial's folder holds it, and a process that starts there goes on from it.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from raysearch.config import TrainConfig
from raysearch.data.dataset import Dataset, load_dataset
from raysearch.train.device import free_memory
from raysearch.train.distributed import Workers
from raysearch.train.runner import run_trial
from raysearch.train.trial import TrialFolder


@lru_cache(maxsize=1)
def cached_dataset(
    folder: str, device: str, classes: tuple[str, ...] | None, images_on: str, memory_share: float
) -> Dataset:
    """One set per process: reading and copying it is paid by the first trial alone."""
    return load_dataset(
        folder, device, classes=classes, images_on=images_on, memory_share=memory_share
    )


def run_payload(
    payload: dict[str, Any], device: torch.device, report: Any, workers: Workers | None = None
) -> None:
    """Run ``{"trial", "train", "run", "data", "threads", "memory_share"}`` and report each
    epoch's metrics.

    ``epochs`` in a report is how many the trial will have in all: in the last one, which may be
    an early one, it is ``epoch``. A run that failed reports once more, with its ``status`` and
    ``error``. An exception in one of several workers passes through: the others wait for it, and
    Ray must end them.
    """
    torch.set_num_threads(payload["threads"])
    config = TrainConfig.model_validate(payload["train"])
    folder = Path(payload["run"]) / "trials" / f"{payload['trial']:04d}"
    last = {"epoch": 0, "validation_log_loss": float("inf"), "seconds": 0.0}
    about = {"trial": payload["trial"], "epochs": config.epochs}

    def on_epoch(metrics: dict[str, float]) -> None:
        last.update(metrics)
        report(about | metrics)

    options = {"report": on_epoch, "workers": workers, "accumulate": payload.get("accumulate", 1)}
    try:
        where = config.classes, config.images_on, payload["memory_share"]
        dataset = cached_dataset(payload["data"], str(device), *where)
        status = run_trial(folder, payload["trial"], config, dataset, device=device, **options)
        error = TrialFolder(folder).read_status()["error"]
    except Exception as exception:
        if workers and workers.count > 1:
            raise
        status, error = "failed", f"{type(exception).__name__}: {exception}"
    if status != "completed":
        report(about | last | {"status": status, "error": error})
    elif not last["epoch"]:  # everything was done by an earlier process, and only the end is new
        report(about | finished_epoch(folder))


def finished_epoch(folder: Path) -> dict[str, float]:
    from raysearch.train.runner import read_metrics

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
