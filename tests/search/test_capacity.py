"""What a search may use: from a cluster's configuration, and from a Ray that really runs."""

import os
import socket
import threading

import pytest

from raysearch.search.capacity import Capacity, Machine, missing, node_types
from raysearch.search.cluster import inherited, running_address

GPU, CPU = Machine(4, 1), Machine(8, 0)
AWS = {
    "provider": {"type": "aws"},
    "max_workers": 5,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}},
        "cpu": {"resources": {"CPU": 8}, "max_workers": 4},
        "gpu": {"resources": {"CPU": 4, "GPU": 1}, "min_workers": 1, "max_workers": 3},
    },
}


def test_autoscaler_may_start_what_its_configuration_allows_gpus_first():
    """No more than max_workers of the whole cluster, and the head is no worker."""
    assert node_types(AWS) == [(GPU, 1, 3), (CPU, 0, 2)]
    assert missing(node_types(AWS), []) == (GPU, GPU, GPU, CPU, CPU)
    assert missing(node_types(AWS), [GPU, CPU]) == (GPU, GPU, CPU)
    assert missing(node_types(AWS), [GPU] * 5) == (CPU, CPU)


def test_machines_of_unknown_resources_are_taken_to_be_like_those_that_are_there():
    local = {
        "provider": {"type": "local"},
        "max_workers": 3,
        "head_node_type": "local.cluster.node",
        "available_node_types": {"local.cluster.node": {"resources": {}, "min_workers": 3}},
    }
    assert node_types(local) == [(None, 3, 3)]
    assert missing(node_types(local), [CPU]) == (CPU, CPU)
    assert missing(node_types(local), []) == ()


def test_machine_without_a_cluster_configuration_expects_no_others():
    assert node_types({}) == []


def test_what_was_found_is_said_in_a_line():
    one = str(Capacity((GPU,), 1, "10.0.0.4:6379"))
    assert one == "the Ray cluster at 10.0.0.4:6379: 1 machine, 4 CPUs, 1 GPUs"
    more = str(Capacity((GPU, GPU, CPU), 0, "head:6379"))
    assert more.endswith(
        "0 machines, 0 CPUs, 0 GPUs; its autoscaler may start 3 machines, 16 CPUs, 2 GPUs more"
    )


@pytest.fixture
def ray_folder(tmp_path, monkeypatch):
    """Where Ray writes the address of the cluster that was started here."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


def test_cluster_that_answers_here_is_joined_and_a_dead_one_is_not(ray_folder):
    assert running_address() is None
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        ray_folder.write_text(address)
        accepting = threading.Thread(target=server.accept)
        accepting.start()
        assert running_address() == address
        accepting.join()
    assert running_address() is None


def test_address_that_is_given_comes_first_and_local_means_none(ray_folder, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.4:6379")
    assert running_address() == "10.0.0.4:6379"
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert running_address() is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to others")
def test_cluster_of_another_user_of_the_machine_is_left_alone(ray_folder):
    with socket.create_server(("127.0.0.1", 0)) as server:
        ray_folder.write_text(f"127.0.0.1:{server.getsockname()[1]}")
        os.chown(ray_folder, 12345, -1)
        assert running_address() is None


def test_variables_are_there_within_and_as_before_after(monkeypatch):
    monkeypatch.setenv("RAYSEARCH_ONE", "before")
    before = dict(os.environ)
    with inherited({"RAYSEARCH_ONE": "within", "RAYSEARCH_TWO": "within"}):
        assert os.environ["RAYSEARCH_ONE"] == os.environ["RAYSEARCH_TWO"] == "within"
    assert dict(os.environ) == before


@pytest.mark.slow
def test_processes_of_ray_have_the_threads_asked_for_and_import_this_raysearch(ray_here):
    import ray

    import raysearch

    @ray.remote
    def see() -> tuple[str, str]:
        import raysearch

        return os.environ["OMP_NUM_THREADS"], raysearch.__file__

    assert ray.get(see.remote()) == ("1", raysearch.__file__)
