"""Up and down, through Ray's own launcher."""

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import yaml

from raysearch.errors import RunError
from raysearch.search.launch.clusterfile import ClusterFile
from raysearch.search.launch.handout import hand_out
from raysearch.search.launch.raycommand import environment, log_file, ray_command, run_ray
from raysearch.search.launch.tunnel import Tunnel

READY_SECONDS = 120.0
SSH = (
    "ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "
    "-o LogLevel=ERROR -o ConnectTimeout=5"
)
HEADS_KEY = "~/ray_bootstrap_key.pem"
"""Where ``ray up`` puts the key on the head."""

Say = Callable[[str], None]


def bring_up(file: ClusterFile, tunnel: Tunnel, say: Say) -> bool:
    """Bring up the cluster of ``file``, or leave it as it is where it runs; ``tunnel`` is open
    afterwards. Returns whether it was brought up. Raises `RunError` where that fails.
    """
    for path in hand_out(file):
        say(f"made {path}, which {file.path} sends to the nodes")
    if tunnel.find():
        say(f"found the cluster {file.name} running")
        return False
    say(f"bringing up the cluster {file.name}; the log is {log_file(file, 'up')}")
    with tempfile.TemporaryDirectory() as folder:
        guarded = Path(folder) / file.path.name
        guarded.write_text(yaml.safe_dump(guard_start(file), sort_keys=False), encoding="utf-8")
        run_ray(file, "up", "up", "-y", guarded)
    tunnel.wait(READY_SECONDS)
    say("the head is ready; workers join as they come")
    return True


def guard_start(file: ClusterFile) -> dict:
    """``file``'s values, with a head that starts Ray only where none runs.

    The head may run a search although it could not be reached a moment ago, and its start
    commands begin with ``ray stop``, which would end it.
    """
    alive = f"(exec 3<>/dev/tcp/127.0.0.1/{file.dashboard_port}) 2>/dev/null"
    section = "head_start_ray_commands"
    commands = [f"{alive} || {{ {command}; }}" for _, command in file.commands(section)]
    return {**file.values, section: commands} if commands else dict(file.values)


def take_down(file: ClusterFile, say: Say) -> None:
    """End every node of the cluster; raises `RunError` where Ray goes on somewhere.

    With provider `local`, ``ray down`` stops Ray on the head alone.
    """
    say(f"taking down the cluster {file.name}; the log is {log_file(file, 'down')}")
    left = _stop_workers(file) if file.provider == "local" else []
    run_ray(file, "down", "down", "-y", file.path)
    if left:
        raise RunError(
            f"Ray was not stopped on {', '.join(left)}, which do not answer on ssh. It ends by "
            "itself about a minute after it has lost the head."
        )


def _stop_workers(file: ClusterFile) -> list[str]:
    """Stop Ray on a local cluster's workers, from the head, or from here where the head is gone;
    returns the addresses where that failed. The head goes first: its autoscaler would start again
    what is stopped."""
    workers = [str(address) for address in file.items("provider", "worker_ips")]
    user, key = file.get("auth", "ssh_user"), file.get("auth", "ssh_private_key")
    own = f" -i {key}" if key else ""

    def stop(key: str, address: str) -> str:
        target = f"{user}@{address}" if user else address
        done = f"{SSH}{key} {target} \"bash -lic 'ray stop --force'\" </dev/null >/dev/null 2>&1"
        return f"{{ {done} && echo stopped:{address}; }} &"

    from_head = " ".join(stop(f" -i {HEADS_KEY}" if key else "", a) for a in workers)
    on_head = ray_command("exec", file.path, f"ray stop; {from_head} wait")
    stopped = _stopped(on_head)
    rest = [address for address in workers if address not in stopped]
    if rest:
        stopped |= _stopped(["bash", "-c", " ".join(stop(own, a) for a in rest) + " wait"])
    return [address for address in workers if address not in stopped]


def _stopped(command: list[str]) -> set[str]:
    done = subprocess.run(
        command, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    lines = (line.strip() for line in done.stdout.splitlines())
    return {line.removeprefix("stopped:") for line in lines if line.startswith("stopped:")}
