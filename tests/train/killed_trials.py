"""Trials killed by SIGKILL at each of their writes: ``python killed_trials.py FOLDER``.

Trial ``FOLDER/03`` was killed as its third file was about to take its name; the last folder holds
a trial that was not killed. One interpreter start serves all: each trial runs in a fork.
"""

import itertools
import os
import signal
import sys
from pathlib import Path

import pandas  # noqa: F401 - else each fork imports it, with its first Arrow array
import tensorboardX  # noqa: F401 - likewise, with its first epoch
import torch
import torch._dynamo  # likewise, with its first optimizer
from small_runs import make_config, make_dataset

from raysearch.train.runner import run_trial

CONFIG = make_config(epochs=2, augment={"mirror": 0.5, "shift": 0.1})


def die_at(write: int) -> None:
    replace, writes = os.replace, itertools.count(1)

    def replace_or_die(source, target) -> None:
        if next(writes) == write:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = replace_or_die


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dataset = make_dataset()
    for write in itertools.count(1):
        child = os.fork()
        if child == 0:
            die_at(write)
            run_trial(folder / f"{write:02d}", 0, CONFIG, dataset, device=torch.device("cpu"))
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code != -signal.SIGKILL:
            sys.exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
