"""All tests in two processes side by side: those of the search, and all others.

Most tests of the search wait for processes of Ray, and hardly load a core while they do. What the
others print is seen at once, what the search's print when both have ended, and then their sum in a
last line as pytest's own. Ctrl-C ends both as it ends pytest.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

OF_THE_SEARCH = "tests/search"
NAMES = ("failed", "passed", "skipped", "deselected", "xfailed", "xpassed", "warning", "error")
"""What pytest counts, in its order."""


def parts() -> tuple[list[str], list[str]]:
    """What the two are given: the others, and those of the search."""
    tests = (p for p in Path("tests").iterdir() if p.is_dir() or p.match("test_*.py"))
    others = sorted(str(p) for p in tests if p != Path(OF_THE_SEARCH) and p.name[0] not in "._")
    return others, [OF_THE_SEARCH]


def run_side_by_side(seen: Sequence[str], held: Sequence[str]) -> int:
    """Run pytest with the arguments ``seen`` and with ``held``; the worse of their exit codes."""
    begin, running = time.monotonic(), []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: interrupt(running))
    with tempfile.TemporaryDirectory(prefix="raysearch-tests-") as folder:
        logs = [Path(folder) / "seen.log", Path(folder) / "held.log"]
        for part, log in zip((seen, held), logs, strict=True):
            running.append(start(part, log))
        print(f"pytest {' '.join(held)}: beside this, into {logs[1]}", flush=True)
        with open(logs[0], "rb") as log:
            show(log, running[0])
        with open(logs[1], "rb") as log:
            running[1].wait()
            show(log, running[1])
        print(total([log.read_text(errors="replace") for log in logs], time.monotonic() - begin))
    return max(abs(process.returncode) for process in running)


def start(arguments: Sequence[str], log: Path) -> subprocess.Popen:
    """In a session of its own: Ctrl-C must come once, by `interrupt`. Into a file: a pipe would
    stay open as long as any process that a test left behind."""
    # More threads than cores would wait for each other.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with open(log, "wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def interrupt(running: Sequence[subprocess.Popen]) -> None:
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)


def show(log: BinaryIO, process: subprocess.Popen) -> None:
    """Print ``log`` as it grows, until ``process``, which writes it, has ended."""
    ended = False
    while not ended:
        ended = process.poll() is not None
        sys.stdout.buffer.write(log.read())
        sys.stdout.flush()
        if not ended:
            time.sleep(0.2)


def total(texts: Sequence[str], seconds: float) -> str:
    """The last lines of ``texts``, pytest's summaries, as one: ``= 3 passed in 1.50s =``."""
    counts = Counter(dict.fromkeys(NAMES, 0))
    for text in texts:
        last = text.strip().rpartition("\n")[2]
        for count, what in re.findall(r"(\d+) (\w+?)s?\b(?=.* in \d)", last):
            counts[what] += int(count)
    plural = {what: "s" for what in ("warning", "error") if counts[what] > 1}
    words = [f"{n} {what}{plural.get(what, '')}" for what, n in counts.items() if n]
    return f" {', '.join(words)} in {seconds:.2f}s ".center(80, "=")


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    sys.exit(run_side_by_side(*parts()))
