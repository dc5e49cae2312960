"""What this machine hands out to a cluster's nodes: the token, and a wheel of this raysearch with
the versions of the packages beside it, so that nodes have what the laptop has.

A cluster file's ``file_mounts`` name them; they are made just before Ray's launcher sends them.
"""

import os
import platform
import re
import secrets
from importlib import metadata
from pathlib import Path

from raysearch.errors import ConfigError
from raysearch.files import write_text
from raysearch.search.launch.clusterfile import ClusterFile

WHEELS = "~/.raysearch/wheels"
"""Here and on the nodes: one wheel, ``constraints.txt`` and ``python-version``."""
TOKEN_BYTES = 32


def token_file() -> Path:
    """Where Ray looks for it as well."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()


def wheel_folder() -> Path:
    return Path(WHEELS).expanduser()


def is_made_here(local: str) -> bool:
    """Whether `hand_out` makes the local path of a file mount."""
    return Path(local).expanduser() in (token_file(), wheel_folder())


def hand_out(file: ClusterFile) -> list[Path]:
    """Make what ``file`` sends and we can make; returns the paths that are new or changed."""
    made = []
    local = {Path(path).expanduser() for path in file.mounts.values()}
    if token_file() in local and make_token():
        made.append(token_file())
    if wheel_folder() in local and write_handout(wheel_folder()):
        made.append(wheel_folder())
    return made


def make_token() -> bool:
    """Make the token where there is none; one that others may read is closed to them.

    Returns whether it was made.
    """
    path = token_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        return False
    with os.fdopen(descriptor, "w") as token:
        token.write(secrets.token_hex(TOKEN_BYTES))
    return True


def read_token() -> str:
    """Raises `ConfigError` where there is none."""
    try:
        token = token_file().read_text().strip()
    except OSError as error:
        raise ConfigError(f"{token_file()} cannot be read: {error.strerror}.") from None
    if not token:
        raise ConfigError(f"{token_file()} is empty; remove it, and a new token is made.")
    return token


def write_handout(folder: Path) -> bool:
    """Fill ``folder``, where no other wheel stays; returns whether anything changed."""
    from raysearch.search.launch.wheel import build_wheel

    folder.mkdir(parents=True, exist_ok=True)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    wheel = build_wheel(folder)
    for old in folder.glob("*.whl"):
        if old != wheel:
            old.unlink()
    python = ".".join(platform.python_version_tuple()[:2])
    for name, text in (("constraints.txt", constraints()), ("python-version", python + "\n")):
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
    return before != {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def constraints() -> str:
    """``name==version`` of every package here, without what tells builds of one version apart:
    a node takes the build that suits its own hardware."""
    found = {}
    for distribution in metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if name and name != "raysearch":
            found.setdefault(name, distribution.version.partition("+")[0])
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items()))
