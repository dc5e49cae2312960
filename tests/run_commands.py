"""`raysearch` commands, one after the other: ``python run_commands.py FILE``.

Each line of FILE has the words of one, as JSON. Each runs in a process of its own, forked from this
one, which has imported what takes longest; but not Ray, which settles how it authenticates while it
is imported. The first that fails ends it, and all that it printed is printed.
"""

import importlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from raysearch import cli

SLOW = ("torch._dynamo", "timm", "numba", "onnxscript", "tensorboardX", "raysearch.pipeline")
SLOW += ("raysearch.ensemble.distill", "raysearch.report.page")


def main(file: Path) -> None:
    for name in SLOW:
        importlib.import_module(name)
    for line in file.read_text().splitlines():
        words, begin = json.loads(line), time.monotonic()
        with tempfile.TemporaryFile() as output:
            child = os.fork()
            if child == 0:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                sys.argv = ["raysearch", *words]
                sys.exit(cli.main())
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            print(f"{time.monotonic() - begin:5.1f} s, exit {code}: {' '.join(words)}", flush=True)
            if code:
                output.seek(0)
                sys.exit(output.read().decode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
