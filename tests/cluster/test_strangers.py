"""Who has no token gets nothing from a cluster, on the network that the cluster itself uses."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from lab import ADDRESSES

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

AGENT, DASHBOARD, GCS = 52365, 8265, 6379
NODES = ("head", "w1", "w2")
JOIN = """
import ray
ray.init(address="10.77.0.4:6379", log_to_driver=False)
print("joined", sum(node["Alive"] for node in ray.nodes()))
"""
REQUEST = """
import sys, urllib.error, urllib.request
url, token, body = sys.argv[1:]
headers = {"Content-Type": "application/json"}
if token:
    headers["Authorization"] = "Bearer " + token
request = urllib.request.Request(url, body.encode() or None, headers)
try:
    with urllib.request.urlopen(request, timeout=10) as answer:
        print(answer.status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError:
    print(0)
"""

KNOCK = """
import json, sys, urllib.error, urllib.request
import grpc
address, token, ports = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
METHODS = (
    "NodeInfoGcsService/GetAllNodeInfo",
    "NodeManagerService/GetNodeStats",
    "CoreWorkerService/GetCoreWorkerStats",
    "ReporterService/GetTraceback",
    "LogService/ListLogs",
    "ObjectManagerService/Pull",
    "RayletDriver/ClusterInfo",
)
answers = {}
for port in ports:
    try:
        with urllib.request.urlopen(f"http://{address}:{port}/metrics", timeout=5) as answer:
            told = answer.read(6) == b"# HELP"
            answers[port] = ["metrics" if told else f"HTTP {answer.status}"]
        continue
    except urllib.error.HTTPError as error:
        answers[port] = ["HTTP " + str(error.code)]
        continue
    except Exception:
        answers[port] = []
    channel = grpc.insecure_channel(f"{address}:{port}")
    for method in METHODS:
        call = channel.unary_unary("/ray.rpc." + method, bytes, bytes)
        try:
            call(b"", timeout=3, metadata=[("authorization", "Bearer " + token)] if token else [])
            answers[port].append("OK " + method)
        except grpc.RpcError as error:
            answers[port].append(error.code().name)
print(json.dumps(answers))
"""


def request(lab, host: str, url: str, token: str = "", body: str = "") -> int:
    """HTTP status of a request from ``host``, a POST where there is a body; 0 without answer."""
    done = lab.run(host, "python", "-c", REQUEST, url, token, body)
    return int(done.stdout)


def job(touched: str) -> str:
    """For a node's agent, which runs any shell command."""
    return json.dumps({"entrypoint": f"touch /tmp/{touched}"})


def jobs(host: str) -> str:
    return f"http://{ADDRESSES[host]}:{AGENT}/api/job_agent/jobs/"


@pytest.fixture
def token(lab) -> str:
    return (lab.home("laptop") / ".ray/auth_token").read_text()


def test_a_job_runs_with_the_token_and_not_without(lab, cluster, token):
    for host in NODES:
        assert request(lab, "stranger", jobs(host), body=job("owned")) == 401
        assert request(lab, "stranger", jobs(host), token[::-1], job("owned")) in (401, 403)
    assert request(lab, "laptop", jobs("w1"), token, job("allowed")) == 200
    lab.run("head", "timeout", "60", "sh", "-c", "until test -e /tmp/allowed; do sleep 0.2; done")
    made = [lab.run(host, "sh", "-c", "ls /tmp | grep -E 'owned|allowed'") for host in NODES]
    assert [done.stdout for done in made] == ["allowed\n", "", ""]  # jobs run on the head


def test_the_dashboard_is_on_loopback_alone_and_wants_the_token_there(lab, cluster, token):
    for host in NODES:
        assert request(lab, "stranger", f"http://{ADDRESSES[host]}:{DASHBOARD}/api/jobs/") == 0
    local = f"http://127.0.0.1:{DASHBOARD}/api/jobs/"
    assert request(lab, "head", local) == 401
    assert request(lab, "head", local, token) == 200


def test_ray_itself_does_not_let_a_stranger_join(lab, cluster, token):
    def joins(host, token):
        given = ["RAY_AUTH_MODE=token", f"RAY_AUTH_TOKEN={token}"]
        return lab.run(host, "env", *given, "timeout", "60", "python", "-c", JOIN)

    with ThreadPoolExecutor() as pool:
        refused, joined = pool.map(joins, ("stranger", "w1"), (token[::-1], token))
    assert refused.returncode != 0 and "joined" not in refused.stdout
    assert "uthenticat" in refused.stdout + refused.stderr
    assert joined.stdout == "joined 3\n"


def test_every_token_is_readable_by_its_owner_alone(lab, cluster):
    for host in ("laptop", *NODES):
        assert lab.run(host, "stat", "-c", "%a", ".ray/auth_token").stdout == "600\n"


def open_ports(lab, host: str) -> list[int]:
    """That a node listens on beyond loopback, sshd's aside."""
    addresses = lab.run(host, "ss", "-ltnH").stdout.split()[3::5]
    beyond = {a for a in addresses if not a.startswith(("127.", "[::1]", "[::ffff:127."))}
    return sorted({int(address.rpartition(":")[2]) for address in beyond} - {22})


def knock(lab, host: str, ports: list[int], token: str = "") -> dict[int, set[str]]:
    """What a stranger with ``token`` hears at each of ``ports``."""
    words = [ADDRESSES[host], token, json.dumps(ports)]
    done = lab.run("stranger", "python", "-c", KNOCK, *words)
    return {int(port): set(answers) for port, answers in json.loads(done.stdout).items()}


def test_open_ports_tell_a_stranger_no_more_than_how_busy_a_node_is(lab, cluster, token):
    """Ray's metrics, plain text for Prometheus, are the one thing that needs no token."""
    for host in NODES:
        heard = knock(lab, host, open_ports(lab, host))
        assert heard[AGENT] == {"HTTP 401"}
        assert host != "head" or "UNAUTHENTICATED" in heard[GCS]
        for port, answers in heard.items():
            # A service that a port does not have may be told from one that wants the token.
            known = answers - {"UNIMPLEMENTED"}
            assert known in ({"metrics"}, {"HTTP 401"}, {"UNAUTHENTICATED"}), (host, port, answers)
    # The same knock with the token is heard, so that silence means something.
    assert "OK NodeInfoGcsService/GetAllNodeInfo" in knock(lab, "head", [GCS], token)[GCS]
