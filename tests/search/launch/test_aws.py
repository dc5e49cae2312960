"""cluster.yaml against a model of AWS on loopback: what `ray up` would resolve and launch."""

import boto3
import pytest
import yaml
from cluster_files import AMI, write
from moto.server import ThreadedMotoServer

MOTO_AMI = "ami-03cf127a"
SPOT, ON_DEMAND = "spot", None


@pytest.fixture
def aws(home, monkeypatch):
    for name in ("AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")  # never the real cloud
    yield
    server.stop()


def test_the_head_is_on_demand_and_workers_are_spot_gpus(aws, tmp_path):
    from ray.autoscaler._private.commands import _bootstrap_config
    from ray.autoscaler._private.providers import _get_node_provider

    config = yaml.safe_load(write(tmp_path, "aws", (AMI, MOTO_AMI)).read_text())
    region = config["provider"]["region"]
    iam = boto3.client("iam", region_name=region)
    for name in ("raysearch-head", "raysearch-worker"):
        iam.create_instance_profile(InstanceProfileName=name)
    full = _bootstrap_config(config, no_config_cache=True)
    types = full["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    assert types["worker"]["resources"]["GPU"] == 1
    assert types["worker"]["max_workers"] == 4

    provider = _get_node_provider(full["provider"], full["cluster_name"])
    for name, kind in types.items():
        role = "head" if name == "head" else "worker"
        tags = {"ray-node-type": role, "ray-user-node-type": name, "ray-node-name": name}
        provider.create_node(kind["node_config"], {**tags, "ray-node-status": "uninitialized"}, 1)
    ec2 = boto3.client("ec2", region_name=region)
    launched = {}
    for reservation in ec2.describe_instances()["Reservations"]:
        for instance in reservation["Instances"]:
            launched[instance["InstanceType"]] = (
                instance.get("InstanceLifecycle"),
                instance["IamInstanceProfile"]["Arn"].rpartition("/")[2],
                instance["Placement"]["AvailabilityZone"][:-1],
            )
    assert launched == {
        "m7i.large": (ON_DEMAND, "raysearch-head", region),
        "g5.xlarge": (SPOT, "raysearch-worker", region),
    }
    name = f"ray-autoscaler-{full['cluster_name']}"
    groups = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": [name]}])
    (group,) = groups["SecurityGroups"]
    to_all = [p for p in group["IpPermissions"] if p["IpRanges"]]
    assert [(p["FromPort"], p["ToPort"]) for p in to_all] == [(22, 22)]
    for node in provider.non_terminated_nodes({}):
        provider.terminate_node(node)
