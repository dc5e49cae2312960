"""`raysearch tune --cluster` from the laptop: over lost connections, and over a lost head."""

import json
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from epoch_count import lost, repeated
from fault_runs import trials

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def tune(lab, shared, name: str, *options: str) -> tuple[subprocess.Popen, Path]:
    """The search, started on the laptop, and its log."""
    home = lab.home("laptop")
    shutil.copy(shared / "space.yaml", home)
    if not (home / "faces").exists():
        shutil.copytree(shared / "faces", home / "faces")
    words = ["tune", "space.yaml", "--cluster", "cluster.yaml", "--data", "faces"]
    words += ["--storage", "/mnt/shared/runs", "--name", name, *options]
    log = home / f"{name}.log"
    command = lab.command("laptop", "python", "-m", "raysearch", *words)
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # A shell's background job, as these tests may be, starts with Ctrl-C ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    return process, log


def wait_for_text(log: Path, pattern: str, process: subprocess.Popen, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not re.search(pattern, log.read_text()):
        if process.poll() is not None or time.monotonic() > end:
            raise AssertionError(f"no {pattern!r} in: {log.read_text()[-3000:]}")
        time.sleep(0.1)


def test_a_search_survives_lost_connections_and_comes_home(lab, cluster, shared):
    process, log = tune(lab, shared, "laptop", "--epochs", "6")
    wait_for_text(log, r"trial +\d+ +epoch +2/6", process)
    assert lab.run("laptop", "pkill", "-x", "ssh").returncode == 0
    assert process.wait(timeout=180) == 0, log.read_text()[-3000:]
    text = log.read_text()
    assert "found the cluster lab running" in text
    assert "connected again" in text
    epochs = Counter(re.findall(r"trial +\d+ +epoch +\d+/6", text))
    assert len(epochs) == 4 * 6 and set(epochs.values()) == {1}
    fetched = lab.home("laptop") / "results/laptop"
    assert json.loads((fetched / "ensemble/ensemble.json").read_text())["members"]
    assert not any(lost(trial, 6) or repeated(trial) for trial in trials(fetched))
    assert len(list(lab.home("head").glob("raysearch-data/*/manifest.json"))) == 1


@pytest.mark.chaos
def test_the_same_command_goes_on_after_the_head_was_lost(lab, cluster, shared):
    process, log = tune(lab, shared, "beheaded")
    wait_for_text(log, r"trial +\d+ +epoch +6/12", process)
    lab.crash("head")
    wait_for_text(log, "the connection is lost", process)
    lab.run("laptop", "pkill", "-INT", "-f", "raysearch [t]une")
    assert process.wait(timeout=30) == 130
    lab.up(["head"])
    process, log = tune(lab, shared, "beheaded")
    assert process.wait(timeout=300) == 0, log.read_text()[-3000:]
    text = log.read_text()
    assert "bringing up the cluster lab" in text
    assert "holds this search already: going on with it" in text
    fetched = lab.home("laptop") / "results/beheaded"
    assert not any(lost(trial, 12) for trial in trials(fetched))
    assert sum(n - 1 for trial in trials(fetched) for n in repeated(trial).values()) == 0
