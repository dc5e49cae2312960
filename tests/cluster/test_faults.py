"""What a search survives: the loss of a process, a machine, a cable, and of the head itself.

No finished epoch may be run a second time except the one under way, and no result may be lost.
"""

import time
from dataclasses import replace

import pytest
from fault_runs import command, describe, search_with_fault, wait_for_epochs

pytestmark = [pytest.mark.cluster, pytest.mark.chaos, pytest.mark.slow]

CABLE_OUT = 60.0
"""Seconds: longer than it takes to notice."""


def expect_nothing_lost(outcome):
    assert outcome.exit_code == 0, outcome.output[-3000:]
    assert outcome.interrupted, "the fault met no trial"
    assert (outcome.finished, outcome.lost) == (4, 0)
    assert outcome.repeated == 0
    assert outcome.again is not None


@pytest.fixture
def all_joined(cluster):
    """The cluster, whatever an earlier test did to it."""
    for host in ("w1", "w2"):
        cluster.lab.heal(host)
        if host not in cluster.lab.booted:
            cluster.lab.up([host])
    with cluster.watch() as watch:
        watch.wait_for({"head", "w1", "w2"})
    return cluster


def test_a_raylet_is_killed(all_joined, table):
    lab = all_joined.lab

    def strike():
        assert lab.run("w1", "pkill", "-KILL", "-x", "raylet").returncode == 0

    outcome = search_with_fault(all_joined, "raylet", "w1", strike)
    table("a worker's raylet is killed (SIGKILL)", outcome)
    expect_nothing_lost(outcome)


def test_a_worker_is_powered_off_and_on(all_joined, table):
    lab = all_joined.lab

    def then():
        time.sleep(20)
        lab.up(["w1"])

    outcome = search_with_fault(all_joined, "power", "w1", lambda: lab.crash("w1"), then)
    table("a worker loses power for 20 s", outcome)
    expect_nothing_lost(outcome)


def test_a_spot_instance_is_taken(all_joined, table):
    lab = all_joined.lab
    outcome = search_with_fault(all_joined, "spot", "w1", lambda: lab.crash("w1"))
    table("a worker is taken for good (spot)", outcome)
    expect_nothing_lost(outcome)
    assert outcome.back is None


def test_a_cable_is_out(all_joined, table):
    lab = all_joined.lab

    def then():
        time.sleep(CABLE_OUT)
        lab.heal("w1")

    outcome = search_with_fault(all_joined, "cable", "w1", lambda: lab.cut("w1"), then)
    table(f"a worker's cable is out for {CABLE_OUT:.0f} s", outcome)
    expect_nothing_lost(outcome)
    assert outcome.dead < 40  # Ray's own health checks take 62 s


def test_the_head_is_lost_and_the_same_command_goes_on(all_joined, table, lab, shared):
    run, log = shared / "runs/head", shared / "runs/head.log"
    run.parent.mkdir(exist_ok=True)
    began = time.monotonic()
    job = all_joined.on_head(command("head"), log)
    wait_for_epochs(run, "w1", job, log)
    struck = time.time()
    lab.crash("head")
    assert job.wait(timeout=30) != 0
    lab.up(["head"])
    all_joined.up()
    with all_joined.watch() as watch:
        again = all_joined.on_head(command("head"), log.with_name("head-again.log"))
        code = again.wait(timeout=400)
        outcome = describe(
            run,
            log.with_name("head-again.log"),
            watch,
            "w1",
            struck,
            code,
            time.monotonic() - began,
        )
    outcome = replace(outcome, dead=None, back=None)  # the Ray that would tell is another one
    table("the head loses power; ray up and the same command again at once", outcome)
    assert outcome.exit_code == 0, outcome.output[-3000:]
    assert outcome.interrupted
    assert (outcome.finished, outcome.lost, outcome.repeated) == (4, 0, 0)
    assert outcome.again is not None
