"""Each fault of a cluster file gives its line, and nothing else."""

import copy
import platform
from importlib import metadata

import pytest
import yaml
from cluster_files import SHIPPED, write

from raysearch.errors import ConfigError
from raysearch.search.launch.checks import Demand, check, load_checked
from raysearch.search.launch.clusterfile import ClusterFile, load_cluster_file

RAY = metadata.version("ray")
PYTHON = ".".join(platform.python_version_tuple()[:2])
WORKER = "available_node_types.worker"
PROFILE = "      IamInstanceProfile: {Name: raysearch-worker}\n"
TOKEN = "  ~/.ray/auth_token: ~/.ray/auth_token\n"


def found(path, demand=None) -> list[tuple[str, str]]:
    file = load_cluster_file(path)
    return [(fault.key, fault.message) for fault in check(file, demand)]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_are_whole_once_they_are_filled_in(home, tmp_path, name):
    assert found(write(tmp_path, name)) == []


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("aws", ["head.node_config.ImageId", "setup_commands[6]"]),
        ("gcp", ["provider.project_id", "sourceImage", "setup_commands[6]"]),
        ("onprem", ["provider.head_ip", "provider.worker_ips[0]", "setup_commands[6]"]),
        (
            "kuberay",
            [
                "headGroupSpec.template.spec.serviceAccountName",
                "containers[0].image",
                "env[0].value",
                "workerGroupSpecs[0].template.spec.serviceAccountName",
            ],
        ),
    ],
)
def test_each_place_that_is_not_filled_in_is_one_line(home, name, keys):
    faults = found(SHIPPED[name])
    assert len(faults) == len(keys)
    for (key, message), expected in zip(faults, keys, strict=True):
        assert key.endswith(expected)
        assert "REPLACE_ME is left in" in message


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_the_places_to_edit_are_numbered_one_to_five(name):
    text = SHIPPED[name].read_text()
    assert all(f"# ({number})" in text for number in range(1, 6))


FAULTS = [
    # what Ray's schema says
    ("aws", ("max_workers: 4", "max_worker: 4"), "max_worker", "did you mean 'max_workers'?"),
    ("aws", ("max_workers: 4", "max_workers: four"), "max_workers", "'four' is not of type"),
    ("aws", ("cluster_name: raysearch", ""), "", "'cluster_name' is missing"),
    ("aws", ("min_workers: 0", "min_workers: 9"), "max_workers", "smaller than the sum"),
    ("aws", ("head_node_type: head", "head_node_type: heed"), "head_node_type", "must be one of"),
    (
        "aws",
        ("type: aws", "type: awss"),
        "provider.type",
        "no provider 'awss' (did you mean 'aws'?",
    ),
    # what it leaves open
    (
        "aws",
        ("cache_stopped_nodes", "cache_stoped_nodes"),
        "provider.cache_stoped_nodes",
        "did you",
    ),
    ("gcp", ("project_id", "project"), "provider.project", "did you mean 'project_id'?"),
    ("onprem", ("worker_ips", "workers_ips"), "provider.workers_ips", "did you mean 'worker_ips'?"),
    ("aws", ("ssh_user: ubuntu", "ssh_usr: ubuntu"), "auth.ssh_usr", "did you mean 'ssh_user'?"),
    (
        "aws",
        ("InstanceType: g5", "InstanceTyp: g5"),
        f"{WORKER}.node_config.InstanceTyp",
        "did you mean 'InstanceType'?",
    ),
    (
        "aws",
        ("MarketType: spot", "MarketTyp: spot"),
        f"{WORKER}.node_config.InstanceMarketOptions.MarketTyp",
        "did you mean 'MarketType'?",
    ),
    (
        "aws",
        ("VolumeSize: 150", "VolumeSize: much"),
        "available_node_types.head.node_config.BlockDeviceMappings[0].Ebs.VolumeSize",
        "must be a whole number, but got 'much'",
    ),
    (
        "gcp",
        ("machineType: g2", "machinType: g2"),
        f"{WORKER}.node_config.machinType",
        "did you mean 'machineType'?",
    ),
    ("aws", ("us-west-2c", "us-east-1c"), "provider.availability_zone", "no zone of us-west-2"),
    ("gcp", (", GPU: 1}", "}"), WORKER, "GPUs that Ray is not told of"),
    ("gcp", ("TERMINATE", "MIGRATE"), f"{WORKER}.node_config", "onHostMaintenance: TERMINATE"),
    # files
    (
        "aws",
        (TOKEN, f"{TOKEN}  ~/faces/: ./no-such-folder\n"),
        "file_mounts.~/faces/",
        "./no-such-folder is not on this machine",
    ),
    ("onprem", ("id_ed25519", "id_rsa"), "auth.ssh_private_key", "id_rsa is not on this machine"),
    # versions
    (
        "aws",
        ("chmod 600", 'pip install "ray[default]==2.9.0"; chmod 600'),
        "setup_commands[0]",
        f"installs ray 2.9.0, but this machine has {RAY}",
    ),
    (
        "aws",
        ("chmod 600", "pip install raysearch==9.9; chmod 600"),
        "setup_commands[0]",
        "installs raysearch 9.9",
    ),
    (
        "aws",
        ("chmod 600", "uv venv --python 3.9 ~/venv; chmod 600"),
        "setup_commands[0]",
        f"takes Python 3.9, but this machine has {PYTHON}",
    ),
    (
        "aws",
        ("chmod 600", "pip install https://host/ray-wheels/latest/ray; chmod 600"),
        "setup_commands[0]",
        "nightly",
    ),
    (
        "aws",
        (
            "max_workers: 4",
            "docker: {image: 'rayproject/ray:2.9.0', container_name: r}\nmax_workers: 4",
        ),
        "docker.image",
        "holds Ray 2.9.0",
    ),
    # storage
    ("aws", ("s3://mine/raysearch", "/home/ubuntu/runs"), "setup_commands[6]", "a folder of one"),
    ("onprem", ("=/mine/raysearch", "=/tmp/runs"), "setup_commands[6]", "a folder of one machine"),
    ("onprem", ("=/mine/raysearch", "=runs"), "setup_commands[6]", "a folder of one machine"),
    ("aws", ("s3://mine", "ftp://mine"), "setup_commands[6]", "no ftp:// here"),
    ("aws", ("export RAYSEARCH_STORAGE", "export STORAGE"), "setup_commands", "nowhere where runs"),
    ("aws", (PROFILE, ""), f"{WORKER}.node_config", "Add `IamInstanceProfile"),
    ("gcp", ("serviceAccounts:", "tags:"), f"{WORKER}.node_config", "Add `serviceAccounts"),
    # security
    (
        "aws",
        ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"),
        "head_start_ray_commands[1]",
        "--dashboard-host=0.0.0.0 opens the dashboard, which runs what it is sent",
    ),
    (
        "aws",
        ("head_start_ray_commands:", "metadata:\n  was:"),
        "head_start_ray_commands",
        "Ray's default opens the dashboard",
    ),
    ("aws", (TOKEN, ""), "file_mounts", "sends no token: whoever reaches a node"),
    ("onprem", ("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled"), "setup_commands[5]", "disabled"),
    (
        "aws",
        (
            "cache_stopped_nodes: false",
            "security_group: {IpPermissions: [{IpProtocol: tcp, FromPort: 8265, ToPort: 8265, "
            "IpRanges: [{CidrIp: 0.0.0.0/0}]}]}",
        ),
        "provider.security_group.IpPermissions[0]",
        "opens a port other than ssh's to everyone",
    ),
    # what fits
    (
        "gcp",
        ("resources: {CPU: 4, GPU: 1}", "resources: {CPU: 0}"),
        "available_node_types",
        "no trial",
    ),
    ("aws", ("max_workers: 4", "max_workers: 0"), "available_node_types", "no trial fits"),
    (
        "onprem",
        ("export RAY_enable_autoscaler_v2=0;", ""),
        "head_start_ray_commands",
        "autoscaler v2 starts one worker too few",
    ),
    ("onprem", ("provider:", "head_node_type: head\nprovider:"), "head_node_type", "no node types"),
    ("kuberay", ("authOptions: {mode: token}", ""), "spec.rayClusterSpec", "authOptions"),
    (
        "kuberay",
        ("maxReplicas: 4", "maxReplicas: 0"),
        "spec.rayClusterSpec.workerGroupSpecs[0]",
        "no",
    ),
]

ALSO = {  # what else is wrong then
    "project": ["provider gcp needs 'project_id'."],
    "workers_ips": ["provider local needs 'worker_ips'."],
    "VolumeSize: much": ["must be a whole number, but got 'much'."],  # the worker's, by its alias
    "resources: {CPU: 0}": [
        "has GPUs that Ray is not told of: Google does not say. Add `resources: {GPU: 1}`."
    ],
}


@pytest.mark.parametrize(
    ("name", "change", "key", "words"), FAULTS, ids=[f"{n}-{k}-{w[:20]}" for n, _, k, w in FAULTS]
)
def test_a_fault_is_named_with_its_key_and_nothing_else_is(
    home, tmp_path, name, change, key, words
):
    faults = found(write(tmp_path, name, change))
    named = [(at, message) for at, message in faults if at == key and words in message]
    assert len(named) == 1, faults
    others = [message for at, message in faults if (at, message) not in named]
    assert others == ALSO.get(change[1], [])


def test_a_fault_says_file_line_and_key(home, tmp_path):
    path = write(tmp_path, "aws", ("us-west-2c", "us-east-1c"))
    line = 1 + path.read_text().splitlines().index(
        "  availability_zone: us-west-2a,us-west-2b,us-east-1c"
    )
    with pytest.raises(ConfigError) as error:
        load_checked(path)
    assert str(error.value).startswith(f"{path}:{line}: provider.availability_zone: 'us-east-1c'")


def test_all_faults_are_named_at_once_in_the_order_of_the_file(home, tmp_path):
    path = write(
        tmp_path, "aws", ("127.0.0.1", "0.0.0.0"), (TOKEN, ""), ("max_workers", "max_worker")
    )
    with pytest.raises(ConfigError) as error:
        load_checked(path)
    lines = str(error.value).splitlines()
    keys = [line.split(": ")[1] for line in lines]
    assert keys == ["max_worker", "file_mounts", "head_start_ray_commands[1]"]


@pytest.mark.parametrize(
    ("name", "changes", "demand", "words"),
    [
        ("gcp", [("g2-", "n2-"), ("CPU: 4, GPU: 1", "CPU: 4")], Demand(gpus=1), "no node type has"),
        ("gcp", [], Demand(gpus=8), "--gpus-per-trial 8, but all nodes have 4 GPUs"),
        ("aws", [("g5.xlarge", "m7i.large")], Demand(gpus=0.5), "no node type has a GPU"),
        ("gcp", [], Demand(workers=5), "--workers-per-trial 5, but all nodes have 4 GPUs"),
    ],
)
def test_a_plan_that_no_node_can_take_is_a_fault(home, tmp_path, name, changes, demand, words):
    path = write(tmp_path, name, *changes)
    assert found(path) == []
    ((key, message),) = found(path, demand)
    assert key == "available_node_types"
    assert words in message


@pytest.mark.parametrize(
    ("name", "demand"), [("aws", Demand(gpus=0.25)), ("gcp", Demand(1, 4)), ("onprem", Demand(2))]
)
def test_a_plan_that_may_fit_is_none(home, tmp_path, name, demand):
    assert found(write(tmp_path, name), demand) == []


def test_a_mounted_folder_is_shared_in_a_cloud(home, tmp_path):
    mount = "chmod 600", "sudo mount -t nfs4 10.0.0.9:/ /mnt/efs; chmod 600"
    storage = "s3://mine/raysearch", "/mnt/efs/raysearch"
    assert found(write(tmp_path, "aws", mount, storage)) == []


def test_without_botocore_the_nodes_options_are_not_checked(home, tmp_path, monkeypatch):
    from raysearch.search.launch import nodes_aws

    monkeypatch.setattr(nodes_aws, "_run_instances", lambda: None)
    assert found(write(tmp_path, "aws", ("InstanceType: g5", "InstanceTyp: g5"))) == []


def paths(value, path=()) -> list[tuple]:
    """Of everything in a document, from the top."""
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    return [path] + [inner for key, item in items for inner in paths(item, (*path, key))]


@pytest.mark.parametrize("odd", [None, [], [None], {"a": None}, -1.5, "x"])
@pytest.mark.parametrize("name", SHIPPED)
def test_values_of_any_kind_are_faults_or_nothing_but_never_a_traceback(home, tmp_path, name, odd):
    document = yaml.safe_load(write(tmp_path, name).read_text())
    for path in paths(document)[1:]:
        changed = copy.deepcopy(document)
        at = changed
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = odd
        for fault in check(ClusterFile(tmp_path, changed, {(): (1, 1)})):
            assert fault.message
