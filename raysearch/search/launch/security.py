"""Who can reach a cluster: its dashboard stays on loopback, and every node wants the token.

Ray runs what it is sent. Without tokens that holds for anyone who can reach a node: the agent of
a node takes jobs on the node's own address, whatever the dashboard's is (CVE-2023-48022).
"""

import re
from collections.abc import Iterator

from raysearch.search.launch.clusterfile import ClusterFile
from raysearch.search.launch.faults import Fault

LOOPBACK = ("127.0.0.1", "localhost", "::1")
TOKEN = "~/.ray/auth_token"
OPEN_BY_DEFAULT = ("aws", "gcp", "azure", "aliyun", "vsphere")
"""Providers whose built-in start command opens the dashboard."""
ROLES = {
    "head": ("setup_commands", "head_setup_commands", "head_start_ray_commands"),
    "worker": ("setup_commands", "worker_setup_commands", "worker_start_ray_commands"),
}


def check_security(file: ClusterFile) -> Iterator[Fault]:
    yield from _dashboard(file)
    yield from _token(file)
    yield from _open_ports(file)


def _dashboard(file: ClusterFile) -> Iterator[Fault]:
    section = "head_start_ray_commands"
    if file.get(section) is None and file.provider in OPEN_BY_DEFAULT:
        yield Fault(
            (section,),
            "is missing, and Ray's default opens the dashboard, which runs what it is sent, to "
            "the network. Write the commands out, with --dashboard-host=127.0.0.1.",
        )
    for path, command in file.commands(section):
        for host in re.findall(r"--dashboard-host[= ]+['\"]?([^\s'\"]+)", command):
            if host not in LOOPBACK:
                yield Fault(
                    path,
                    f"--dashboard-host={host} opens the dashboard, which runs what it is sent, to "
                    "the network. Use 127.0.0.1: `ray dashboard` reaches it over ssh.",
                )


def _token(file: ClusterFile) -> Iterator[Fault]:
    if TOKEN not in file.mounts:
        yield Fault(
            ("file_mounts",),
            "sends no token: whoever reaches a node could run commands there. Add "
            f"`{TOKEN}: {TOKEN}`.",
        )
    missing = []
    for role, sections in ROLES.items():
        if role == "worker" and not file.max_workers:
            continue
        modes = [
            (path, mode)
            for path, command in file.commands(*sections)
            for mode in re.findall(r"\bRAY_AUTH_MODE=['\"]?(\w+)", command)
        ]
        if not modes:
            missing.append(role)
        elif modes[-1][1] != "token":
            path, mode = modes[-1]
            yield Fault(path, f"RAY_AUTH_MODE={mode} lets everyone in; use token.")
    if missing:
        yield Fault(
            ("setup_commands",),
            f"the {' and the '.join(missing)} would ask for no token: RAY_AUTH_MODE is not "
            "exported. Add `echo 'export RAY_AUTH_MODE=token' >> ~/.bashrc`.",
        )


def _open_ports(file: ClusterFile) -> Iterator[Fault]:
    rules = file.items("provider", "security_group", "IpPermissions")
    for number, rule in enumerate(rules):
        if not isinstance(rule, dict) or (rule.get("FromPort"), rule.get("ToPort")) == (22, 22):
            continue
        ranges = str(rule.get("IpRanges", "")) + str(rule.get("Ipv6Ranges", ""))
        if "0.0.0.0/0" in ranges or "::/0" in ranges:
            yield Fault(
                ("provider", "security_group", "IpPermissions", number),
                "opens a port other than ssh's to everyone. Leave it out: ssh is enough.",
            )
