"""What a measurement depends on beside the code: written into every row of a table."""

import csv
import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def conditions(*packages: str) -> dict:
    """Date, cores, load, the CPU with the vector units that matter here, versions."""
    try:
        about = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        about = ""
    name = re.search(r"model name\s*: (.*)", about)
    found = re.search(r"flags\s*: (.*)", about)
    flags = set(found[1].split()) if found else set()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": name[1] if name else platform.machine(),
        "cpu_flags": " ".join(flag for flag in CPU_FLAGS if flag in flags),
        "load_before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def write_table(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
