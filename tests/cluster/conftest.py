"""The lab is built once, for the tests marked `cluster`; those marked `chaos` are asked for."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_runs import Outcome
from lab import CHECKOUT, Lab, LabError
from lab_cluster import Cluster
from lab_needs import missing

from raysearch.data.synthetic import synthesize

sys.path.insert(0, str(CHECKOUT / "benchmarks"))
from conditions import conditions, write_table

SPACE = """
description: one network, with epochs of about a second
search: {trials: 4, epochs: 12, sampler: random, scheduler: none}
train:
  batch_size: 32
  precision: fp32
  model: {name: vgg, width: 8, depth: 4, dropout: 0.0}
  lr: {float: [0.01, 0.1], log: true}
  augment: {mirror: 0.5}
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if "cluster" in item.keywords]
    if ours and (reason := missing()):
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=f"the lab of hosts {reason}"))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """All names and mounts, and nothing booted but the laptop and the stranger."""
    try:
        with Lab() as lab:
            lab.up(["laptop", "stranger"])
            yield lab
    except LabError as error:
        if "cannot be installed" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="session")
def shared(lab: Lab) -> Path:
    """The hosts' shared folder seen from outside, with a space and faces in it."""
    folder = lab.shared()
    (folder / "space.yaml").write_text(SPACE)
    synthesize(folder / "faces", images=1200)
    return folder


@pytest.fixture(scope="session")
def cluster(lab: Lab, shared: Path) -> Cluster:
    """Head, which runs no trials, and two workers with a core each; all of them have joined."""
    lab.up(["head", "w1", "w2"])
    cluster = Cluster(lab)
    cluster.up()
    with cluster.watch() as watch:
        watch.wait_for({"head", "w1", "w2"})
    return cluster


@pytest.fixture(scope="session")
def table() -> Iterator[Callable[[str, Outcome], None]]:
    """``table(fault, outcome)`` adds a row to the file named by RAYSEARCH_FAULTS_TABLE."""
    rows: list[dict] = []

    def add(fault: str, outcome: Outcome) -> None:
        rows.append({"fault": fault, **outcome.row(), **conditions("ray", "torch")})
        print(rows[-1])

    yield add
    if rows and (path := os.environ.get("RAYSEARCH_FAULTS_TABLE")):
        write_table(Path(path), rows)
