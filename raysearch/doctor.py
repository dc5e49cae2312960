"""`raysearch doctor`: whether this machine can run a search, line by line, with remedies."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from raysearch.machine import usable_cores

OK, WARN, BAD = "ok", "warn", "bad"
GB = 1e9
PACKAGES = ("torch", "ray", "optuna", "timm", "pyarrow")
ODD_SETTINGS = {
    "RAY_ADDRESS": (None, "Ray joins that cluster instead of starting one here"),
    "RAY_RUNTIME_ENV_HOOK": (None, "it changes the environment of every worker"),
    "RAY_TRAIN_V2_ENABLED": ("0", "raysearch does not use the Ray Train that it selects"),
    "RAY_memory_monitor_refresh_ms": ("0", "it turns off the guard against memory running out"),
    "CUDA_LAUNCH_BLOCKING": ("1", "it makes training on a GPU much slower"),
}
"""Settings of the environment that bite: the value that does (None is any), and what it does."""


@dataclass(frozen=True)
class Check:
    """``level`` is "ok", "warn" or "bad"; ``remedy`` is empty for "ok"."""

    name: str
    level: str
    found: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def examine(folder: Path, environ: Mapping[str, str] = os.environ) -> list[Check]:
    """All checks; ``folder`` is where the runs will be."""
    checks: list[Callable[[], list[Check]]] = [
        check_python,
        check_packages,
        check_gpus,
        check_cpu,
        lambda: [check_folder(folder), check_disk(folder), check_shared_memory()],
        lambda: check_environment(environ),
    ]
    return [check for run in checks for check in run()]


def check_python(version: tuple[int, ...] = tuple(sys.version_info)) -> list[Check]:
    found = ".".join(map(str, version[:3]))
    if not (3, 11) <= version[:2] <= (3, 13):
        return [Check("python", BAD, found, "Install Python 3.11 to 3.13 and run `make setup`.")]
    return [Check("python", OK, found)]


def check_packages(version_of: Callable[[str], str] = metadata.version) -> list[Check]:
    """Versions by their metadata: nothing is imported."""
    checks = []
    for name in PACKAGES:
        try:
            checks.append(Check(name, OK, version_of(name)))
        except metadata.PackageNotFoundError:
            checks.append(Check(name, BAD, "not installed", "Run `make setup`."))
    return checks


def check_gpus() -> list[Check]:
    try:
        import torch
    except ImportError:
        return []  # said by check_packages

    if torch.cuda.is_available():
        return [_gpu(index) for index in range(torch.cuda.device_count())]
    if shutil.which("nvidia-smi"):
        remedy = (
            f"torch {torch.__version__} cannot use it: compare `nvidia-smi`'s CUDA version with "
            f"{torch.version.cuda}, and look at CUDA_VISIBLE_DEVICES."
        )
        return [Check("gpu", WARN, "a driver, but no usable GPU", remedy)]
    return [Check("gpu", OK, "none; training runs on the CPU")]


def _gpu(index: int) -> Check:
    import torch

    free, total = torch.cuda.mem_get_info(index)
    major, minor = torch.cuda.get_device_capability(index)
    bf16 = "bf16 pays" if major >= 8 else "bf16 does not pay"
    found = (
        f"{torch.cuda.get_device_name(index)}, compute {major}.{minor}, "
        f"{free / GB:.1f} of {total / GB:.1f} GB free, {bf16}"
    )
    if free < 0.5 * total:
        remedy = "Something else uses it: see `nvidia-smi`, or lower --concurrent."
        return Check(f"gpu {index}", WARN, found, remedy)
    return Check(f"gpu {index}", OK, found)


def check_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[Check]:
    """Cores that may be used, and the flags that decide how fast they train."""
    cores = usable_cores()
    try:
        flags = set(cpuinfo.read_text(encoding="ascii", errors="replace").split())
    except OSError:
        flags = set()
    named = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    has = [flag for flag in named if flag in flags]
    bf16 = "bf16 pays" if {"amx_bf16", "avx512_bf16"} & flags else "bf16 does not pay"
    found = f"{cores} cores, {platform.machine()}, {', '.join(has) or 'no vector flags'}; {bf16}"
    return [Check("cpu", OK, found)]


def check_folder(folder: Path) -> Check:
    """Whether a file can be made in ``folder``, or in the nearest parent that exists."""
    parent = nearest(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=parent):
            pass
    except OSError as error:
        remedy = "Choose another --storage, or change the folder's owner."
        found = f"{parent} cannot be written to: {error.strerror}"
        return Check("results", BAD, found, remedy)
    return Check("results", OK, f"{folder.resolve()} is writable")


def check_disk(folder: Path, low: float = 2 * GB, very_low: float = 0.2 * GB) -> Check:
    free = shutil.disk_usage(nearest(folder)).free
    found = f"{free / GB:.1f} GB free"
    if free < low:
        remedy = (
            "Free some space, or choose another --storage; `tune --dry-run` estimates the need."
        )
        return Check("disk", BAD if free < very_low else WARN, found, remedy)
    return Check("disk", OK, found)


def check_shared_memory(folder: Path = Path("/dev/shm"), low: float = 0.25 * GB) -> Check:
    """Ray's object store and torch's workers pass data through it; a container gets 64 MB."""
    if not folder.is_dir():
        return Check("shared memory", OK, f"no {folder} on this system")
    usage = shutil.disk_usage(folder)
    found = f"{usage.free / GB:.2f} of {usage.total / GB:.2f} GB free"
    if usage.free < low:
        remedy = "Give the container more (docker run --shm-size=2g); Ray falls back to the disk."
        return Check("shared memory", WARN, found, remedy)
    return Check("shared memory", OK, found)


def check_environment(environ: Mapping[str, str]) -> list[Check]:
    """One warning for each setting in `ODD_SETTINGS`, or one line that there is none."""
    checks = [
        Check("environment", WARN, f"{name}={environ[name]}", f"Unset it unless meant: {why}.")
        for name, (value, why) in ODD_SETTINGS.items()
        if environ.get(name) and value in (None, environ[name])
    ]
    return checks or [Check("environment", OK, "no setting that Ray or torch would trip over")]


def nearest(folder: Path) -> Path:
    """``folder``, or its nearest parent that exists."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
