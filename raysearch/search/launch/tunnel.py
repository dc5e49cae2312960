"""The way to the head's dashboard, which listens on the head's loopback alone: over ssh, by
``ray dashboard``, which knows each provider's addresses, keys and proxies."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from types import TracebackType

from raysearch.errors import RunError
from raysearch.search.launch.clusterfile import ClusterFile
from raysearch.search.launch.raycommand import environment, log_file, ray_command

ANSWERS, CLOSED, NOTHING = "answers", "closed", "nothing"
"""Of the tunnel's end here: the dashboard; ssh, with no dashboard behind it; no ssh."""
CLOSED_SECONDS = 5.0
"""For how long there may be no dashboard behind ssh before there is none."""
STUCK_SECONDS = 30.0
PAUSE_SECONDS = 0.3


class Tunnel:
    """``with Tunnel(file) as tunnel:`` is not open yet. `find` and `wait` open it, mend it as
    often as it breaks, and each time it has another port."""

    def __init__(self, file: ClusterFile):
        self.file = file
        self.port = 0
        self._process: subprocess.Popen | None = None
        self._started = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def find(self, tries: int = 2) -> bool:
        """Whether a dashboard answers; ``tries``: how often ssh may fail before there is none."""
        failed, closed = 0, None
        while True:
            state = self._look()
            if state == ANSWERS:
                return True
            if state == CLOSED:
                closed = closed or time.monotonic()
                if time.monotonic() - closed > CLOSED_SECONDS:
                    return False
            elif not self._runs() or self._is_stuck():
                if self._process is not None:
                    failed += 1
                if failed >= tries:
                    return False
                self._start()
            time.sleep(PAUSE_SECONDS)

    def wait(self, seconds: float) -> None:
        """Until the dashboard answers; raises `RunError` when it has not for ``seconds``."""
        end = time.monotonic() + seconds
        while self._look() != ANSWERS:
            if time.monotonic() > end:
                raise RunError(
                    f"the cluster's head has not answered for {seconds:.0f} s; what ssh said is in "
                    f"{log_file(self.file, 'tunnel')}"
                )
            if not self._runs() or self._is_stuck():
                self._start()
            time.sleep(PAUSE_SECONDS)

    def close(self) -> None:
        """End our own group of processes: ``ray dashboard`` and its ssh."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait()
        self._process = None

    def __enter__(self) -> "Tunnel":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _command(self) -> list[str]:
        remote = self.file.dashboard_port
        return ray_command(
            "dashboard", self.file.path, "-p", str(self.port), "--remote-port", str(remote)
        )

    def _start(self) -> None:
        self.close()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        with open(log_file(self.file, "tunnel"), "wb") as log:
            self._process = subprocess.Popen(
                self._command(),
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C detaches us; it must not cut this first
            )
        self._started = time.monotonic()

    def _runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _is_stuck(self) -> bool:
        return time.monotonic() - self._started > STUCK_SECONDS

    def _look(self) -> str:
        """Any answer will do: without the token, the dashboard says 401."""
        if not self._runs():
            return NOTHING
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/api/version")
            connection.getresponse().read()
        except ConnectionRefusedError:
            return NOTHING
        except (OSError, http.client.HTTPException):
            return CLOSED
        finally:
            connection.close()
        return ANSWERS
