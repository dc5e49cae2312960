"""`ray up` from the laptop, then a search on the head."""

import json

import pytest
from epoch_count import lost, repeated, stretches
from fault_runs import command, trials

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_a_search_on_the_head_joins_and_uses_every_worker(cluster, shared):
    run, log = shared / "runs/flow", shared / "flow.log"
    job = cluster.on_head(f"{command('flow')} --epochs 4", log)
    assert job.wait(timeout=400) == 0, log.read_text()[-3000:]
    done = [stretches(trial) for trial in trials(run)]
    assert len(done) == 4
    assert {stretch.host for found in done for stretch in found} == {"w1", "w2"}
    assert not any(repeated(trial) or lost(trial, 4) for trial in trials(run))
    assert json.loads((run / "ensemble/ensemble.json").read_text())["members"]
    assert (run / "report.html").exists()
