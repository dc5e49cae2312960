"""A Ray cluster on the lab's hosts, brought up by ``ray up`` from the laptop."""

import json
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from lab import ADDRESSES, CHECKOUT, SHARED, Lab, LabError

WATCH = """
import json, logging, time, ray
ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
while True:
    alive = sorted(n["NodeManagerAddress"] for n in ray.nodes() if n["Alive"])
    print(json.dumps({"time": time.time(), "alive": alive}), flush=True)
    time.sleep(0.25)
"""


def cluster_file(workers: Sequence[str] = ("w1", "w2"), worker_cpus: int = 1) -> dict[str, Any]:
    """`clusters/onprem.yaml` with its places filled in.

    The hosts have no internet, so the wheel is unpacked and Python told where; they believe that
    they have all of this machine, so they are told how much to take.
    """
    file = yaml.safe_load((CHECKOUT / "clusters/onprem.yaml").read_text())
    file["cluster_name"] = "lab"
    file["provider"]["head_ip"] = ADDRESSES["head"]
    file["provider"]["worker_ips"] = [ADDRESSES[name] for name in workers]
    file["auth"] = {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_cluster"}
    kept = [command for command in file["setup_commands"] if "uv" not in command]
    file["setup_commands"] = [
        "rm -rf ~/site && python -m zipfile -e ~/.raysearch/wheels/*.whl ~/site",
        "sed -i s,PYTHONPATH=.*,PYTHONPATH=/root/site, ~/.bashrc",
        *(command.replace("/REPLACE_ME/raysearch", f"{SHARED}/runs") for command in kept),
    ]
    for section, amount in (("head", ""), ("worker", f" --num-cpus={worker_cpus}")):
        commands = file[f"{section}_start_ray_commands"]
        commands[-1] = f"{commands[-1].rstrip()} --object-store-memory=200000000{amount}"
    return file


class Cluster:
    """Head and workers of ``lab``; the laptop has the cluster's file."""

    def __init__(self, lab: Lab, **options: Any):
        self.lab = lab
        text = yaml.safe_dump(cluster_file(**options), sort_keys=False)
        (lab.home("laptop") / "cluster.yaml").write_text(text)

    def up(self) -> None:
        """``raysearch cluster check``, which makes the token and the wheel, then ``ray up``, which
        returns when the head is ready."""
        for command in ("raysearch cluster check", "ray up -y --no-config-cache"):
            done = self.lab.run("laptop", *command.split(), "cluster.yaml", seconds=180)
            if done.returncode:
                raise LabError(f"{command} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")

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

    def wait_for(self, names: set[str], seconds: float = 200) -> None:
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
