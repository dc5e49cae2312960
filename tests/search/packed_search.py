"""A search that packs its trials on one GPU that only Ray believes in.

    python packed_search.py RUN DATA SPACE

A trial takes 20 of 80 GiB by what it says itself. Prints when each began and ended, a line each.
"""

import contextlib
import os
import sys
import time
from pathlib import Path


def patch() -> None:
    """In every process of Ray: memory as it would be measured, and epochs that take a while."""
    from raysearch.search import worker
    from raysearch.train import runner
    from raysearch.train.memory import MemoryUse

    class Meter:
        def __init__(self, device, share):
            assert share in (1.0, 0.3333), share

        def read(self):
            return MemoryUse(2**30, 21 * 2**30, 80 * 2**30)

    def slow(folder, *arguments, **options):
        begin = time.time()
        time.sleep(1.0)
        status = runner.run_trial(folder, *arguments, **options)
        (Path(folder) / "span.txt").write_text(f"{begin} {time.time()}\n")
        return status

    worker.MemoryMeter, worker.run_trial = Meter, slow


def main(run: Path, data: Path, space_path: Path) -> None:
    os.environ |= {"CUDA_VISIBLE_DEVICES": "0"}
    from raysearch.search.cluster import QUIET

    os.environ |= QUIET
    import ray
    from rich.console import Console

    from raysearch.search.capacity import Capacity, Machine
    from raysearch.search.plan import make_plan
    from raysearch.search.tuner import run_search
    from raysearch.space import load_space
    from raysearch.storage.runs import RunPlace

    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        runtime_env={"worker_process_setup_hook": patch},
    )
    space = load_space(space_path)
    plan = make_plan(space, Capacity((Machine(4, 1),), 1), gpus_per_trial="auto")
    assert (plan.concurrent, plan.slots, plan.resources["gpu"]) == (4, 1, 0.25)
    run.mkdir()
    console = Console(stderr=True)
    with contextlib.redirect_stdout(sys.stderr):
        end = run_search(RunPlace(run), data, space, plan, seed=0, deadline=None, console=console)
    assert end.statuses == {"completed": 7}, end
    assert 0 < end.utilization <= 1, end
    for path in sorted(run.glob("trials/*/span.txt")):
        print(path.read_text(), end="")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
