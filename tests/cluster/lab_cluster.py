"""A Ray cluster on the lab's hosts, brought up by ``ray up`` from the laptop."""

import json
import secrets
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from lab import ADDRESSES, Lab, LabError

OBJECT_STORE = "--object-store-memory=200000000"
WATCH = """
import json, logging, time, ray
ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
while True:
    alive = sorted(n["NodeManagerAddress"] for n in ray.nodes() if n["Alive"])
    print(json.dumps({"time": time.time(), "alive": alive}), flush=True)
    time.sleep(0.25)
"""


def cluster_file(
    workers: Sequence[str] = ("w1", "w2"),
    head_cpus: int = 0,
    worker_cpus: int = 1,
    settings: str = "",
) -> dict:
    """What `clusters/onprem.yaml` says, for hosts that have the software already. ``settings`` are
    variables of the environment for ``ray start``."""
    before = f"export RAY_enable_autoscaler_v2=0 {settings}; ulimit -n 65536 || true;"
    return {
        "cluster_name": "lab",
        "provider": {
            "type": "local",
            "head_ip": ADDRESSES["head"],
            "worker_ips": [ADDRESSES[name] for name in workers],
        },
        "auth": {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_cluster"},
        "file_mounts": {"~/.ray/auth_token": "~/.ray/auth_token"},
        "setup_commands": [
            "chmod 600 ~/.ray/auth_token",
            "grep -q RAY_AUTH_MODE ~/.bashrc || echo 'export RAY_AUTH_MODE=token "
            "RAY_USAGE_STATS_ENABLED=0' >> ~/.bashrc",
        ],
        "head_start_ray_commands": [
            "ray stop",
            f"{before} ray start --head --port=6379 --dashboard-host=127.0.0.1 "
            f"--num-cpus={head_cpus} --autoscaling-config=~/ray_bootstrap_config.yaml "
            f"{OBJECT_STORE} --disable-usage-stats",
        ],
        "worker_start_ray_commands": [
            "ray stop",
            f"{before} ray start --address=$RAY_HEAD_IP:6379 --num-cpus={worker_cpus} "
            f"{OBJECT_STORE}",
        ],
    }


class Cluster:
    """Head and workers of ``lab``; ``laptop`` holds the cluster's file and the token."""

    def __init__(self, lab: Lab, **options: object):
        self.lab = lab
        self.file = cluster_file(**options)
        home = lab.home("laptop")
        (home / "cluster.yaml").write_text(yaml.safe_dump(self.file, sort_keys=False))
        token = home / ".ray/auth_token"
        if not token.exists():
            token.parent.mkdir(mode=0o700, exist_ok=True)
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32))

    def up(self) -> None:
        """``ray up``: returns when the head is ready."""
        command = ["ray", "up", "-y", "--no-config-cache", "cluster.yaml"]
        done = self.lab.run("laptop", *command, seconds=180)
        if done.returncode:
            raise LabError(f"ray up failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")

    def on_head(self, command: str, log: Path) -> subprocess.Popen:
        """Start ``command`` in a login shell on the head, as ``ray exec`` does."""
        full = self.lab.command("head", "bash", "-lc", command)
        with open(log, "wb") as file:
            return subprocess.Popen(full, stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def watch(self) -> "Watch":
        return Watch(self.lab)


class Watch:
    """Which hosts Ray takes to be alive, four times a second, as a driver on the head sees it."""

    def __init__(self, lab: Lab):
        command = lab.command("head", "env", "RAY_AUTH_MODE=token", "python", "-c", WATCH)
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.seen: list[tuple[float, set[str]]] = []
        self._names = {address: name for name, address in ADDRESSES.items()}
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.stdout:
            if not line.startswith(b"{"):  # Ray itself says things, too
                continue
            said = json.loads(line)
            self.seen.append((said["time"], {self._names[address] for address in said["alive"]}))

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def wait_for(self, names: set[str], seconds: float = 120) -> None:
        """Until exactly ``names`` are alive."""
        end = time.monotonic() + seconds
        while not self.seen or self.seen[-1][1] != names:
            if time.monotonic() > end or self._process.poll() is not None:
                raise LabError(f"Ray sees {self.seen[-1:]}, not {names}, after {seconds:g} s")
            time.sleep(0.1)

    def gone(self, name: str, since: float) -> float | None:
        """When ``name`` was first seen to be lost after ``since``, in seconds after that."""
        return next((t - since for t, alive in self.seen if t > since and name not in alive), None)

    def back(self, name: str, since: float) -> float | None:
        """When ``name``, lost after ``since``, was first seen again."""
        lost = self.gone(name, since)
        if lost is None:
            return None
        times = (t - since for t, alive in self.seen if t > since + lost and name in alive)
        return next(times, None)
