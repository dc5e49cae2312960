"""Searches killed by SIGKILL again and again, and gone on with, until they end.

    python killed_searches.py FOLDER DATA SPACE KILLS SEED [FILE...]

``FOLDER/whole`` is a search that was not killed; ``FOLDER/00``, ``01``, ... were, as ``kills.txt``
tells: a line a kill, at least KILLS of them and one at a write of each FILE. A life of a search is
what `raysearch resume` does, with one trial at a time in a forked process in place of Ray Tune. One
interpreter start serves all lives.
"""

import ctypes
import functools
import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas  # noqa: F401 - else each fork imports it, with its first Arrow array
import tensorboardX  # noqa: F401 - likewise, with its first trial
import torch
import torch._dynamo  # likewise, with its first optimizer
from ray.tune.search import Searcher

from raysearch import files
from raysearch.search.searcher import StudySearcher
from raysearch.search.study import Journal, open_study
from raysearch.search.tuner import settle
from raysearch.search.worker import cached_dataset, run_payload
from raysearch.space import SearchSpace, load_space
from raysearch.storage.folderlock import locked_here
from raysearch.train.trial import TrialFolder

CPU = torch.device("cpu")
SYNC, REPLACE = files.sync, os.replace
DIE_WITH_PARENT, ADOPT_ORPHANS = 1, 36  # prctl(2)
MODES = ("before", "torn", "after")
WRITES = {"search": 40, "trial": 28}
"""About how many there are in one process: a trial's file is synced, then renamed."""
SECONDS = {"search": 0.5, "trial": 0.1}
"""About how long one takes."""


def main(
    folder: Path, data: Path, space: SearchSpace, kills: int, seed: int, names: list[str]
) -> None:
    torch.set_num_threads(1)
    ctypes.CDLL(None).prctl(ADOPT_ORPHANS, 1)
    cached_dataset(str(data), "cpu", None, "auto", 0.5)
    live(functools.partial(search, folder / "whole", data, space))
    draws, log = draw_kills(seed), folder / "kills.txt"
    log.touch()
    for number in itertools.count():
        killed = log.read_text()
        if killed.count("\n") >= kills and all(f" {name} " in killed for name in names):
            return
        one_life = functools.partial(search, folder / f"{number:02d}", data, space)
        while live(one_life, next(draws), log):
            pass


def draw_kills(seed: int) -> Iterator[dict[str, Any]]:
    """Most kills are at a write of the search or of a trial, each in turn; others at any moment."""
    chance = random.Random(seed)
    writes = {who: shuffled(chance, count) for who, count in WRITES.items()}
    while True:
        who = chance.choice(list(WRITES))
        if chance.random() < 0.25:
            yield {"who": who, "seconds": chance.uniform(0.0, SECONDS[who])}
        else:
            yield {"who": who, "write": next(writes[who]), "mode": chance.choice(MODES)}


def shuffled(chance: random.Random, count: int) -> Iterator[int]:
    while True:
        yield from chance.sample(range(1, count + 1), count)


def live(
    work: Callable[[dict[str, Any] | None, Path | None], None],
    kill: dict[str, Any] | None = None,
    log: Path | None = None,
) -> bool:
    """Whether ``work`` was killed. Exits where it failed, or left a process behind."""
    child = os.fork()
    if child == 0:
        os.setsid()
        work(kill, log)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, -signal.SIGKILL):
        sys.exit(f"a search ended with {code}, to be killed with {kill}")
    if not ended(child):
        sys.exit(f"a search left a process behind, killed with {kill}")
    return code != 0


def ended(group: int) -> bool:
    """Whether all of a process group are gone, within 10 seconds."""
    limit = time.monotonic() + 10
    while time.monotonic() < limit:
        try:
            while os.waitpid(-group, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return True
        time.sleep(0.005)
    return False


def search(
    run: Path, data: Path, space: SearchSpace, kill: dict[str, Any] | None, log: Path | None
) -> None:
    run.mkdir(exist_ok=True)
    kill = kill or {}
    arm_kill(kill, log, "search")
    with locked_here(run):
        files.remove_stale(run)
        study = open_study(run / "study.log")
        settle(run, study)
        searcher = StudySearcher(
            study,
            space,
            trials=space.search.trials,
            epochs=space.search.epochs,
            seed=0,
        )
        for trial_id in map(str, itertools.count()):
            payload = searcher.suggest(trial_id)
            if payload == Searcher.FINISHED:
                break
            about = {"run": str(run), "data": str(data), "uri": None, "shipped": None}
            about |= {"threads": 1, "memory_share": 0.5}
            run_trial(searcher, trial_id, about | payload, kill, log)
        files.remove_stale(run)


def run_trial(
    searcher: StudySearcher,
    trial_id: str,
    payload: dict[str, Any],
    kill: dict[str, Any],
    log: Path | None,
) -> None:
    """As Tune does: every second trial is stopped after its second epoch, and a process that dies
    is started anew."""
    files_of_trial = TrialFolder(Path(payload["run"]) / "trials" / f"{payload['trial']:04d}")
    last = None
    while last is None or last["epoch"] < last["epochs"]:
        process, results = start_trial(payload, kill, log)
        for result in results:
            last = result
            if result["epoch"] >= 2 and payload["trial"] % 2:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                searcher.on_trial_complete(trial_id, result)
                files_of_trial.write_status("pruned", files_of_trial.read_status()["epochs"])
                return
            searcher.on_trial_result(trial_id, result)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        assert code in (0, -signal.SIGKILL), code
        if code:
            kill.clear()  # one is enough in a life
    searcher.on_trial_complete(trial_id, last)
    if files_of_trial.read_status()["status"] != "completed":
        files_of_trial.write_status("completed", int(last["epoch"]))


def start_trial(
    payload: dict[str, Any], kill: dict[str, Any], log: Path | None
) -> tuple[int, Iterator[dict[str, Any]]]:
    reading, writing = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        files.sync, os.replace = SYNC, REPLACE
        arm_kill(kill, log, "trial")
        run_payload(payload, CPU, lambda r: os.write(writing, json.dumps(r).encode() + b"\n"))
        os._exit(0)
    os.close(writing)
    return child, (json.loads(line) for line in os.fdopen(reading))


def arm_kill(kill: dict[str, Any], log: Path | None, who: str) -> None:
    """Have this process die as ``kill`` says, if it is the one."""
    if kill.get("who") != who:
        return

    def die(what: str) -> None:
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{who} {what}\n")
        os.kill(os.getpid(), signal.SIGKILL)

    if "seconds" in kill:
        signal.signal(signal.SIGALRM, lambda *_: die("moment"))
        signal.setitimer(signal.ITIMER_REAL, kill["seconds"])
        return
    writes = itertools.count(1)

    def dying(write: Callable, tear: Callable, name: Callable[..., str]) -> Callable:
        def wrapped(*arguments: Any) -> Any:
            what = name(*arguments)
            if not what or next(writes) != kill["write"]:
                return write(*arguments)
            if kill["mode"] == "torn":
                tear(*arguments)
            elif kill["mode"] == "after":
                write(*arguments)
            return die(f"{what} {kill['mode']}")

        return wrapped

    def tear_journal(backend: Journal, logs: list[dict]) -> None:
        backend._lock.acquire()
        with open(backend._file_path, "ab") as file:
            line = json.dumps(logs[0], separators=(",", ":")).encode()
            file.write(line[: len(line) // 2])

    Journal.append_logs = dying(
        Journal.append_logs, tear_journal, lambda backend, logs: "study.log"
    )
    files.sync = dying(files.sync, lambda path: os.truncate(path, path.stat().st_size // 2), synced)
    os.replace = dying(os.replace, lambda *_: None, lambda _, path: f"rename {Path(path).name}")


def synced(path: Path) -> str:
    """With the name that a temporary file will have; "" for a folder, after a rename in it."""
    return "" if path.is_dir() else f"sync {path.name.strip('.').rsplit('.', 2)[0]}"


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        Path(sys.argv[2]),
        load_space(Path(sys.argv[3])),
        int(sys.argv[4]),
        int(sys.argv[5]),
        sys.argv[6:],
    )
