"""Faults that real trials meet in their own processes.

Everything here is made within a function, so that it reaches Ray's processes by value: they
cannot import the tests.
"""

from collections.abc import Callable
from typing import Any


def make_fault() -> Callable[[str, Any, Any], None]:
    """``meet(kinds, once, training)``: do the first of ``kinds`` as ``training`` begins its second
    epoch, the next as it begins its third; "once" means the first time alone, of which the
    file ``once`` tells."""

    def meet(kinds: str, once: Any, training: Any) -> None:
        import os
        import signal

        import torch

        kind = dict(enumerate(kinds.split(", "), start=1)).get(training.epoch, "")
        if kind.endswith("once"):
            if kind in (once.read_text() if once.exists() else ""):
                return
            with open(once, "a") as file:
                file.write(kind)
        if kind.startswith("raise"):
            raise ValueError("a fault in the second epoch")
        if kind.startswith("memory"):
            raise torch.OutOfMemoryError("tried to allocate 9 GiB")
        if kind:
            os.kill(os.getpid(), signal.SIGSTOP if kind.startswith("hang") else signal.SIGKILL)

    return meet


def make_inline(faults: dict[int, str]) -> Callable[[dict], None]:
    """Tune's function trainable, in which the trials of ``faults`` meet theirs."""
    meet = make_fault()

    def train_inline(payload: dict[str, Any]) -> None:
        from pathlib import Path

        from raysearch.search import worker
        from raysearch.train.loop import Training

        run_epoch, kind = Training.run_epoch, faults.get(payload["trial"])
        once = Path(payload["run"]) / f"met-{payload['trial']}"

        def faulty(training: Any) -> Any:
            if kind:
                meet(kind, once, training)
            return run_epoch(training)

        Training.run_epoch = faulty
        try:
            worker.train_inline(payload)
        finally:
            Training.run_epoch = run_epoch

    return train_inline


def make_train_trial(base: type, faults: dict[int, str]) -> type:
    """`TrainTrial`, in which the second worker of the trials of ``faults`` meets theirs."""
    meet = make_fault()

    def train_worker(payload: dict[str, Any]) -> None:
        from pathlib import Path

        import ray.train

        from raysearch.search import worker
        from raysearch.train.distributed import Workers
        from raysearch.train.loop import Training

        context = ray.train.get_context()
        workers = Workers(context.get_world_rank(), context.get_world_size())
        run_epoch, kind = Training.run_epoch, faults.get(payload["trial"])
        once = Path(payload["run"]) / f"met-{payload['trial']}"

        def faulty(training: Any) -> Any:
            if kind and workers.rank == 1:
                meet(kind, once, training)
            return run_epoch(training)

        Training.run_epoch = faulty
        device = ray.train.torch.get_device()
        worker.run_payload(payload, device, ray.train.report, workers)

    class Faulty(base):
        def setup(self, config: dict[str, Any]) -> None:
            from raysearch.search import train_executor

            train_executor.train_worker = train_worker
            super().setup(config)

    return Faulty
