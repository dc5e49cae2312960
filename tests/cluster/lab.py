"""Several machines on one: hosts with addresses, file systems and process tables of their own.

Each is a network namespace on a bridge that leads nowhere else, and in it PID, mount, UTS and IPC
namespaces over a copy-on-write overlay of this machine's ``/``, with sshd as PID 1. `Lab.crash` is
a power cut, `Lab.cut` pulls the network cable. ``/mnt/shared`` is one folder on all of them but
the stranger; it plays NFS, except that a host whose cable is out still reaches it: the harder case
for whoever writes there. Everything lies on a tmpfs, dies with the process that made it (a killed
one too), and what is left of names and mounts is cleared by the next `Lab.up`.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path("/run/raysearch-lab")
NETWORK = "10.77.0"
# From .4 on the addresses that moto's EC2 hands out in a fresh subnet.
ADDRESSES = {
    "laptop": f"{NETWORK}.2",
    "stranger": f"{NETWORK}.3",
    "head": f"{NETWORK}.4",
    "w1": f"{NETWORK}.5",
    "w2": f"{NETWORK}.6",
    "w3": f"{NETWORK}.7",
    "w4": f"{NETWORK}.8",
}
SWITCH = "raysearch-switch"
SHARED = Path("/mnt/shared")
CHECKOUT = Path(__file__).resolve().parents[2]
PATH = f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

INSTALL = """
mount --make-rprivate /
mount -t overlay image -o lowerdir=/,upperdir=$1/upper,workdir=$1/work $1/root
mount -t proc proc $1/root/proc; mount --rbind /dev $1/root/dev
mount -t tmpfs tmpfs $1/root/tmp; mount -t tmpfs tmpfs $1/root/run
mkdir -p "$1/root$(dirname "$(readlink -f /etc/resolv.conf)")"
cat /etc/resolv.conf >"$1/root$(readlink -f /etc/resolv.conf)"
printf '#!/bin/sh\\nexit 101\\n' >$1/root/usr/sbin/policy-rc.d # start no daemons
chmod 755 $1/root/usr/sbin/policy-rc.d
install="apt-get install -y -q --no-install-recommends openssh-server openssh-sftp-server rsync"
export DEBIAN_FRONTEND=noninteractive
chroot $1/root $install || { chroot $1/root apt-get update -q; chroot $1/root $install; }
rm -f $1/root/usr/sbin/policy-rc.d $1/root/etc/ssh/ssh_host_*
"""

BOOT = """
name=$1 disk=$2 image=$3 shared=$4; shift 4; root=$disk/root
mount --make-rprivate /
mount -t overlay root -o lowerdir=$image:/,upperdir=$disk/upper,workdir=$disk/work $root
hostname $name
mount -t proc proc $root/proc; mount -t sysfs sysfs $root/sys
mount -t tmpfs -o mode=755 tmpfs $root/dev
for node in null zero full random urandom tty; do
    : >$root/dev/$node; mount --bind /dev/$node $root/dev/$node
done
mkdir $root/dev/pts $root/dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts $root/dev/pts
ln -s pts/ptmx $root/dev/ptmx; ln -s /proc/self/fd $root/dev/fd
ln -s fd/0 $root/dev/stdin; ln -s fd/1 $root/dev/stdout; ln -s fd/2 $root/dev/stderr
mount -t tmpfs -o mode=1777,size=1g tmpfs $root/dev/shm
mount -t tmpfs -o mode=1777 tmpfs $root/tmp
mount -t tmpfs tmpfs $root/run; mkdir -p $root/run/sshd
mount --bind $disk/home $root/root
mkdir -p $root/mnt/shared; [ -z "$shared" ] || mount --bind $shared $root/mnt/shared
number=0
for path in "$@"; do # what is hidden by the mounts above, or lies on another file system
    number=$((number + 1)); layer=$disk/layer$number
    mkdir -p $layer/upper $layer/work "$root$path"
    mount -t overlay layer -o lowerdir="$path",upperdir=$layer/upper,workdir=$layer/work \
        "$root$path"
done
exec chroot $root /usr/sbin/sshd -D -e
"""


class LabError(Exception):
    """The machine does not let us build the lab."""


class Lab:
    """``with Lab() as lab:`` has the names and mounts; `up` boots hosts."""

    def __init__(self) -> None:
        self.booted: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> "Lab":
        self._lock = open("/run/raysearch-lab.lock", "w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # one lab at a time
        clear()
        ROOT.mkdir()
        _do("mount", "-t", "tmpfs", "-o", "size=8g,mode=700", "raysearch-lab", ROOT)
        (ROOT / "shared").mkdir()
        try:
            self._install()
            self._wire()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.booted):
            self.crash(name)
        clear()
        self._lock.close()

    def _install(self) -> None:
        image = ROOT / "image"
        for part in ("upper", "work", "root"):
            (image / part).mkdir(parents=True)
        if shutil.which("/usr/sbin/sshd") and shutil.which("rsync"):
            return
        command = ["unshare", "--mount", "--pid", "--fork", "sh", "-euc", INSTALL, "sh", str(image)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode:
            words = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise LabError(f"openssh-server and rsync cannot be installed into a layer: {words}")

    def _wire(self) -> None:
        _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ROOT / "key")
        _do("ip", "netns", "add", SWITCH)
        _do("ip", "-n", SWITCH, "link", "set", "lo", "up")
        _do("ip", "-n", SWITCH, "link", "add", "br0", "type", "bridge")
        _do("ip", "-n", SWITCH, "addr", "add", f"{NETWORK}.1/24", "dev", "br0")
        _do("ip", "-n", SWITCH, "link", "set", "br0", "up")
        for name, address in ADDRESSES.items():
            space, port = _namespace(name), _port(name)
            _do("ip", "netns", "add", space)
            _do("ip", "-n", space, "link", "set", "lo", "up")
            veth = ["eth0", "netns", space, "type", "veth", "peer", "name", port, "netns", SWITCH]
            _do("ip", "link", "add", *veth)
            _do("ip", "-n", SWITCH, "link", "set", port, "master", "br0", "up")
            _do("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            _do("ip", "-n", space, "link", "set", "eth0", "up")
            # Ray finds its own address by the route to one that is far away.
            _do("ip", "-n", space, "route", "add", "default", "via", f"{NETWORK}.1")
            self._write_disk(name)

    def _write_disk(self, name: str) -> None:
        disk = ROOT / name
        for part in ("upper/etc/ssh", "work", "root", "home/.ssh"):
            (disk / part).mkdir(parents=True)
        home, etc = disk / "home", disk / "upper/etc"
        if name != "stranger":
            shutil.copy(ROOT / "key.pub", home / ".ssh/authorized_keys")
        if name == "laptop":
            shutil.copy(ROOT / "key", home / ".ssh/id_cluster")
        for folder in (home, home / ".ssh"):
            folder.chmod(0o700)
        _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", etc / "ssh/ssh_host_ed25519_key")
        (etc / "ssh/sshd_config").write_text(
            f"ListenAddress {ADDRESSES[name]}\nPermitRootLogin prohibit-password\n"
            "PasswordAuthentication no\nUsePAM no\nMaxStartups 100\nSubsystem sftp internal-sftp\n"
        )
        hosts = "".join(f"{address} {host}\n" for host, address in ADDRESSES.items())
        (etc / "hosts").write_text("127.0.0.1 localhost\n" + hosts)
        (etc / "resolv.conf").write_text("nameserver 127.0.0.1\n")  # which refuses at once
        (home / ".bashrc").write_text(f"export PATH={PATH}\nexport PYTHONPATH={CHECKOUT}\n")
        (home / ".profile").write_text(". ~/.bashrc\n")

    def up(self, names: Iterable[str], seconds: float = 30) -> None:
        """Boot hosts, or boot them again after a crash, and wait for their sshd."""
        names = list(names)
        for name in names:
            self._boot(name)
        end = time.monotonic() + seconds
        for name in names:
            while not _listens(name):
                if self.booted[name].poll() is not None or time.monotonic() > end:
                    raise LabError(f"{name} does not start: {self.console(name)[-500:]}")
                time.sleep(0.1)

    def _boot(self, name: str) -> None:
        shared = "" if name == "stranger" else ROOT / "shared"
        arguments = [name, ROOT / name, ROOT / "image/upper", shared, *_own_paths()]
        spaces = ["--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child=KILL"]
        command = ["ip", "netns", "exec", _namespace(name), "setpriv", "--pdeathsig", "KILL"]
        command += ["unshare", *spaces, "bash", "-euc", BOOT, "sh", *map(str, arguments)]
        with open(ROOT / name / "console.log", "ab") as log:
            self.booted[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def crash(self, name: str) -> None:
        """Power cut: everything that runs there is gone at once; the disk stays."""
        host = self.booted.pop(name)
        host.kill()
        host.wait()
        _wait_until_empty(name)

    def cut(self, name: str) -> None:
        """Pull the network cable."""
        _do("ip", "-n", SWITCH, "link", "set", _port(name), "down")

    def heal(self, name: str) -> None:
        _do("ip", "-n", SWITCH, "link", "set", _port(name), "up")

    def console(self, name: str) -> str:
        return (ROOT / name / "console.log").read_text(errors="replace")

    def home(self, name: str) -> Path:
        """The home folder of root on a host, seen from outside."""
        return ROOT / name / "home"

    def shared(self) -> Path:
        """`SHARED` of all hosts, seen from outside."""
        return ROOT / "shared"

    def command(self, name: str, *command: object) -> list[str]:
        """What runs ``command`` on a host, when run here."""
        inside = Path(f"/proc/{self.booted[name].pid}/task/{self.booted[name].pid}/children")
        pid = inside.read_text().split()[0]
        enter = ["nsenter", "-t", pid, "-m", "-u", "-i", "-n", "-p", "-r", "-w"]
        variables = ["HOME=/root", "USER=root", "SHELL=/bin/bash", "TERM=dumb", f"PATH={PATH}"]
        variables += [f"PYTHONPATH={CHECKOUT}", "RAY_USAGE_STATS_ENABLED=0"]
        dies_with_us = ["setpriv", "--pdeathsig", "KILL"]
        shell = ["sh", "-c", 'cd && exec "$@"', "sh"]
        return [*enter, *dies_with_us, "env", "-i", *variables, *shell, *map(str, command)]

    def run(self, name: str, *command: object, seconds: float = 120) -> subprocess.CompletedProcess:
        """Run a command on a host, from root's home."""
        full = self.command(name, *command)
        return subprocess.run(
            full, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL
        )


def clear() -> None:
    """Remove what a lab left behind, this process's or another's."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    for space in (line.split()[0] for line in listed.splitlines()):
        if space in (SWITCH, *map(_namespace, ADDRESSES)):
            for pid in _pids(space):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            _do("ip", "netns", "del", space)
    while ROOT.is_mount():
        _do("umount", "-l", ROOT)
    if ROOT.exists():
        ROOT.rmdir()


def _wait_until_empty(name: str) -> None:
    end = time.monotonic() + 20
    while _pids(_namespace(name)) and time.monotonic() < end:
        time.sleep(0.05)


def _pids(space: str) -> list[int]:
    found = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def _listens(name: str) -> bool:
    """Whether a host's sshd answers (seen from its own network)."""
    look = f"exec 3<>/dev/tcp/{ADDRESSES[name]}/22 && read -t 2 -u 3 line"
    command = ["ip", "netns", "exec", _namespace(name), "bash", "-c", look]
    return subprocess.run(command, capture_output=True).returncode == 0


def _own_paths() -> list[Path]:
    """The interpreter's environment and the checkout, where a host would not see them anyway."""
    hidden = ("/tmp", "/root", "/run", "/dev", "/mnt/shared")
    paths: list[Path] = []
    for path in sorted({Path(sys.base_prefix), Path(sys.prefix), CHECKOUT}, key=str):
        covered = any(path.is_relative_to(other) for other in paths)
        here = path.stat().st_dev == os.stat("/").st_dev
        if not covered and (not here or any(path.is_relative_to(folder) for folder in hidden)):
            paths.append(path)
    return paths


def _namespace(name: str) -> str:
    return f"raysearch-{name}"


def _port(name: str) -> str:
    return f"v-{name}"


def _do(*command: object) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"{' '.join(words)}: {done.stderr.strip()}")
