"""A search on the cluster that something happens to, and what came of it."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from epoch_count import Stretch, lost, repeated, stretches
from lab_cluster import Cluster, Watch

EPOCHS = 12
EPOCHS_BEFORE = 4
"""Epochs that a trial on the host at fault has finished when it happens."""


@dataclass(frozen=True)
class Outcome:
    """Times are seconds after the fault, None where it never came to that: when Ray took the host
    to be ``dead``, and had it ``back``; when the last of the trials that ran there,
    ``interrupted``, ran ``again`` in another process. ``repeated`` counts finished epochs that
    were finished again, ``lost`` epochs of which no result is left. ``output`` is what the search
    printed."""

    exit_code: int
    dead: float | None
    again: float | None
    back: float | None
    interrupted: list[int]
    repeated: int
    lost: int
    finished: int
    seconds: float
    output: str

    @property
    def noticed(self) -> float | None:
        """A lost process may tell before Ray gives up its host; a lost head tells nobody."""
        return None if self.dead is None else min(self.dead, self.again or self.dead)

    def row(self) -> dict[str, object]:
        """For the table of faults."""
        times = {
            "noticed_s": self.noticed,
            "running_again_s": self.again,
            "node_dead_s": self.dead,
            "node_back_s": self.back,
        }
        return {
            **{name: None if t is None else round(t, 1) for name, t in times.items()},
            "epochs_repeated": self.repeated,
            "results_lost": self.lost,
            "trials_interrupted": len(self.interrupted),
            "trials_finished": self.finished,
            "exit_code": self.exit_code,
            "seconds": round(self.seconds),
        }


def command(name: str) -> str:
    """The search of a test, as a user types it on the head."""
    return f"raysearch tune /mnt/shared/space.yaml --data /mnt/shared/faces --name {name}"


def search_with_fault(
    cluster: Cluster,
    name: str,
    host: str,
    strike: Callable[[], None],
    then: Callable[[], None] = lambda: None,
    seconds: float = 400,
) -> Outcome:
    """Start a search, ``strike`` when a trial on ``host`` is well under way, then do ``then``,
    and wait for the search's end."""
    run = cluster.lab.shared() / "runs" / name
    log = run.parent / f"{name}.log"
    run.parent.mkdir(exist_ok=True)
    with cluster.watch() as watch:
        watch.wait_for({"head", "w1", "w2"})
        began = time.monotonic()
        job = cluster.on_head(command(name), log)
        wait_for_epochs(run, host, job, log)
        struck = time.time()
        strike()
        then()
        exit_code = job.wait(timeout=seconds)
        return describe(run, log, watch, host, struck, exit_code, time.monotonic() - began)


def wait_for_epochs(run: Path, host: str, job: subprocess.Popen, log: Path, seconds=200) -> None:
    end = time.monotonic() + seconds
    while not any(
        stretch.host == host and EPOCHS_BEFORE <= len(stretch.epochs) < EPOCHS - 3
        for stretch in current(run)
    ):
        if job.poll() is not None or time.monotonic() > end:
            raise AssertionError(f"no trial came so far on {host}: {log.read_text()[-3000:]}")
        time.sleep(0.1)


def current(run: Path) -> list[Stretch]:
    """The last stretch of each trial."""
    return [found[-1] for trial in trials(run) if (found := stretches(trial))]


def trials(run: Path) -> list[Path]:
    return sorted((run / "trials").glob("[0-9]*"))


def describe(
    run: Path, log: Path, watch: Watch, host: str, struck: float, exit_code: int, seconds: float
) -> Outcome:
    interrupted, again = [], []
    for trial in trials(run):
        found = stretches(trial)
        for before, after in zip(found, found[1:] + [None], strict=True):
            open_then = before.begin < struck and len(before.epochs) < EPOCHS
            if before.host == host and open_then and not _over(found, struck):
                interrupted.append(int(trial.name))
                again.append(after.begin - struck if after else None)
    whole = bool(again) and None not in again
    return Outcome(
        exit_code=exit_code,
        dead=watch.gone(host, struck),
        again=max(again) if whole else None,
        back=watch.back(host, struck),
        interrupted=interrupted,
        repeated=sum(n - 1 for trial in trials(run) for n in repeated(trial).values()),
        lost=sum(len(lost(trial, EPOCHS)) for trial in trials(run)),
        finished=sum(not lost(trial, EPOCHS) for trial in trials(run)),
        seconds=seconds,
        output=log.read_text(errors="replace"),
    )


def _over(found: list[Stretch], moment: float) -> bool:
    """Whether a trial had finished all its epochs by then."""
    return any(epoch == EPOCHS and when < moment for s in found for epoch, when in s.epochs)
