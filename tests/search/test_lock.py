import subprocess
import sys

import pytest

from raysearch.errors import RunError
from raysearch.search.lock import locked

HOLD = """
import sys
from pathlib import Path
from raysearch.search.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_second_process_is_refused_until_the_first_ends_even_by_a_kill(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match=f"Process {holder.pid} is working on"):
            with locked(tmp_path):
                pass
        holder.kill()
        holder.wait()
        with locked(tmp_path):
            pass


def test_lock_is_released_at_the_end(tmp_path):
    for _ in range(2):
        with locked(tmp_path):
            pass
