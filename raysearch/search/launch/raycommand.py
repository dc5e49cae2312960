"""Ray's own launcher, as the ``ray`` command of this Python."""

import os
import subprocess
import sys
from pathlib import Path

from raysearch.errors import RunError
from raysearch.search.launch.clusterfile import ClusterFile

LOGS = "~/.raysearch/logs"


def ray_command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "ray.scripts.scripts", *map(str, words)]


def environment() -> dict[str, str]:
    return {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}


def run_ray(file: ClusterFile, what: str, *words: str | Path) -> None:
    """Run ``ray words...``; what it prints goes to a log. Raises `RunError` where it fails."""
    log = log_file(file, what)
    with open(log, "wb") as output:
        done = subprocess.run(
            ray_command(*words),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    if done.returncode:
        raise RunError(f"`ray {words[0]}` failed: {_last_words(log)} All of it is in {log}")


def log_file(file: ClusterFile, what: str) -> Path:
    folder = Path(LOGS).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{file.name}-{what}.log"


def _last_words(log: Path) -> str:
    """Its last line with words, which is where Ray says what went wrong."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if any(map(str.isalnum, line))), "no message.")
