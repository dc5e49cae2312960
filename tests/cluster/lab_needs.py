"""What the lab needs from the machine, found out without leaving a trace on it."""

import functools
import os
import shutil
import subprocess

PROGRAMS = ("ip", "unshare", "nsenter", "setpriv", "mount", "ssh", "ssh-keygen")
PROBE = """
mount -t tmpfs probe /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay probe -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
test -d /mnt/root/etc
ip link add probe type bridge
ip link add one type veth peer name two
"""


@functools.cache
def missing() -> str:
    """Why the lab cannot be built on this machine, or ""."""
    if os.geteuid() != 0:
        return "needs root, for namespaces and mounts"
    programs = [name for name in PROGRAMS if shutil.which(name) is None]
    if programs:
        return f"needs the programs {', '.join(programs)}"
    namespaces = ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork"]
    probe = subprocess.run([*namespaces, "sh", "-euc", PROBE], capture_output=True, text=True)
    if probe.returncode:
        words = probe.stderr.strip().splitlines() or [f"exit code {probe.returncode}"]
        return f"needs namespaces, overlayfs, a bridge and veth pairs: {words[-1]}"
    if shutil.which("apt-get") is None and not all(map(shutil.which, ("/usr/sbin/sshd", "rsync"))):
        return "needs openssh-server and rsync, and has no apt-get to get them by"
    return ""
