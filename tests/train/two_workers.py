"""Two real worker processes over gloo; ``python two_workers.py FOLDER`` leaves what each saw.

One interpreter start serves both: the second worker is forked before torch has any threads.
"""

import json
import os
import signal
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import pandas  # noqa: F401 - else each fork imports it, with its first Arrow array
import tensorboardX  # noqa: F401 - likewise, with its first epoch
import torch
import torch._dynamo  # likewise, with its first optimizer
from small_runs import Stopped, make_config, make_dataset, run_fit, timeless
from torch import distributed as dist

from raysearch.config import TrainConfig
from raysearch.train.distributed import Workers
from raysearch.train.runner import run_trial

CPU = torch.device("cpu")
TRIAL = make_config("vgg", augment={"mirror": 0.5, "shift": 0.1}, mixup=0.2)

EARLY = {"epochs": 20, "lr": 1.0, "early_stopping": 1, "balance": "oversample", "l2": 1e-4}


def deterministic(**changes) -> TrainConfig:
    """No draw depends on the worker, so that the number of workers cannot matter."""
    model = {"name": "mlp", "hidden": [16], "dropout": 0.0}
    return make_config(model=model, augment={"mirror": 0.0}, **changes)


def normalized(**changes) -> TrainConfig:
    """BatchNorm and augmentation, which must not depend on the number of workers either, and a
    batch that two workers cannot share evenly."""
    model = {"name": "vgg", "width": 4, "depth": 4, "dropout": 0.0}
    augment = {"mirror": 0.5, "shift": 0.1, "rotate": 10, "noise": 0.05, "erase": 0.2}
    return make_config(model=model, augment=augment, batch_size=31, **changes)


def work(workers: Workers, folder: Path) -> dict:
    dataset = make_dataset()
    plain = run_fit(deterministic(), dataset, workers=workers)
    frozen = run_fit(make_config("vgg", epochs=1, freeze_depth=2), dataset, workers=workers)
    early = run_fit(deterministic(**EARLY), dataset, workers=workers)
    uneven = run_fit(normalized(), dataset, workers=workers)
    parts = run_fit(deterministic(), dataset, workers=workers, accumulate=2)
    whole, resumed = [], []

    def stop(metrics: dict) -> None:
        if metrics["epoch"] == 2:
            raise Stopped

    # Folders of their own show who writes; after the stop both go on from the leader's.
    own = folder / f"whole-{workers.rank}"
    run_trial(own, 0, TRIAL, dataset, device=CPU, workers=workers, report=whole.append)
    options = {"device": CPU, "workers": workers}
    try:
        run_trial(folder / "resumed", 0, TRIAL, dataset, report=stop, **options)
    except Stopped:
        dist.barrier()
    run_trial(folder / "resumed", 0, TRIAL, dataset, report=resumed.append, **options)
    return {
        "plain": [timeless(end.metrics) for end in plain],
        "uneven": [timeless(end.metrics) for end in uneven],
        "parts": [timeless(end.metrics) for end in parts],
        "probs_VK": plain[-1].probs_VK.tolist(),
        "frozen": {n: t.tolist() for n, t in frozen[-1].training.network.state_dict().items()},
        "early": [timeless(end.metrics) for end in early],
        "whole": [timeless(metrics) for metrics in whole],
        "resumed": [timeless(metrics) for metrics in resumed],
    }


def run_worker(rank: int, folder: Path) -> int:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    meeting = f"file://{folder}/meeting"
    patience = timedelta(seconds=300)
    try:
        dist.init_process_group("gloo", meeting, patience, world_size=2, rank=rank)
        seen = work(Workers(rank, 2), folder)
        (folder / f"{rank}.json").write_text(json.dumps(seen))
        dist.destroy_process_group()
        return 0
    except Exception:
        traceback.print_exc()
        return 1


def main(folder: Path) -> int:
    second = os.fork()
    if second == 0:
        os._exit(run_worker(1, folder))
    code = run_worker(0, folder)
    if code:
        os.kill(second, signal.SIGKILL)
    return code or os.waitstatus_to_exitcode(os.waitpid(second, 0)[1])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
