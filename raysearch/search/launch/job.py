"""The Ray Job that searches: submitted, and its log followed over a line that breaks."""

import asyncio
import logging
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

from raysearch.errors import ConfigError, RunError
from raysearch.search.launch.handout import read_token, token_file
from raysearch.search.launch.tunnel import Tunnel

PREFIX = "raysearch-"
LOST_SECONDS = 300.0
"""For how long the head may not answer before it is given up."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
UNKNOWN = "status code 404"


@dataclass(frozen=True)
class End:
    """How a job ended; ``metadata`` is what `submit` was given."""

    status: str
    exit_code: int
    metadata: dict[str, str]


def connect(tunnel: Tunnel, seconds: float = LOST_SECONDS) -> Any:
    """A client for the jobs of the cluster behind ``tunnel``; raises `RunError` where the head
    does not answer for ``seconds``, `ConfigError` where it wants another token."""
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    tunnel.wait(seconds)
    headers = {"Authorization": f"Bearer {read_token()}"}
    try:
        return JobSubmissionClient(tunnel.url, headers=headers)
    except AuthenticationError:
        raise ConfigError(
            f"the cluster does not take the token in {token_file()}: it was started with another "
            "one. Use that one, or take the cluster down and bring it up again."
        ) from None


def submit(client: Any, words: list[str], folder: Path, metadata: dict[str, str]) -> str:
    """Start ``words``, shell words as they are, in a copy of ``folder`` on the head; returns the
    job's id."""
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    job = f"{PREFIX}{moment}-{token_hex(2)}"
    return client.submit_job(
        entrypoint=" ".join(words),
        submission_id=job,
        runtime_env={"working_dir": str(folder)},
        metadata=metadata,
    )


def quote(words: list[str]) -> list[str]:
    return [shlex.quote(word) for word in words]


def newest_job(client: Any) -> str:
    """The id of the search that was submitted last; raises `ConfigError` where there is none."""
    jobs = [job for job in client.list_jobs() if (job.submission_id or "").startswith(PREFIX)]
    if not jobs:
        raise ConfigError("this cluster knows no search that was submitted to it.")
    return max(jobs, key=lambda job: job.start_time or 0).submission_id


def follow(
    job: str,
    connect: Callable[[], Any],
    write: Callable[[str], None],
    say: Callable[[str], None],
    pause: float = 1.0,
) -> End:
    """Hand the job's log to ``write`` as it grows, each piece once, until the job has ended.

    ``connect`` gives a client and waits for the head; a connection that breaks is made again.
    Raises `RunError` where the cluster does not know the job: its head was started anew.
    """
    from aiohttp import ClientError

    log, told = _Log(write), False
    while True:
        try:
            client = connect()
            client.get_job_info(job)  # which says so where the job is not known
            if told:
                say("connected again")
            told = False
            asyncio.run(_tail(client, job, log))
            info = client.get_job_info(job)
            if _status(info) in ENDED:
                return _end(info)
        except (RuntimeError, OSError, ClientError) as error:
            if UNKNOWN in str(error):
                raise _forgotten(job) from None
            if not told:
                say("the connection is lost, the search goes on; connecting again")
            told = True
        time.sleep(pause)


class _Log:
    """Of a text that begins anew with each connection, what has not been written yet."""

    def __init__(self, write: Callable[[str], None]):
        self.write, self.written = write, 0

    def rest(self, position: int, text: str) -> str:
        """``text`` begins at ``position``."""
        rest = text[max(0, self.written - position) :]
        self.written = max(self.written, position + len(text))
        return rest


async def _tail(client: Any, job: str, log: _Log) -> None:
    position = 0
    async for text in client.tail_job_logs(job):
        log.write(log.rest(position, text))
        position += len(text)


def _status(info: Any) -> str:
    return str(getattr(info.status, "value", info.status))


def _end(info: Any) -> End:
    status = _status(info)
    code = 0 if status == "SUCCEEDED" else info.driver_exit_code or 1
    return End(status, code, info.metadata or {})


def _forgotten(job: str) -> RunError:
    return RunError(
        f"the cluster does not know {job}: its head was started anew, and jobs died with the last "
        "one."
    )
