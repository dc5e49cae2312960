"""Runs after the other files: nobody needs the cluster any more."""

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_down_leaves_no_ray_on_any_host(lab, cluster):
    done = lab.run("laptop", "raysearch", "cluster", "down", "cluster.yaml")
    assert done.returncode == 0, done.stderr
    for host in ("head", "w1", "w2"):
        assert lab.run(host, "pgrep", "-x", "raylet|gcs_server").returncode == 1, host
