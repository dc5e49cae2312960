"""Which precision "auto" means, on machines that are not here, and what freed memory costs."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from raysearch.train import device
from raysearch.train.device import autocast_dtype, default_device

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda", 0), torch.device("mps")


@pytest.mark.parametrize("where", [CPU, CUDA, MPS], ids=str)
def test_explicit_precision_is_obeyed_on_every_device(where):
    assert autocast_dtype("fp32", where) is None
    assert autocast_dtype("bf16", where) is torch.bfloat16


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 5), None), ((8, 0), torch.bfloat16), ((8, 9), torch.bfloat16), ((12, 0), torch.bfloat16)],
)
def test_gpus_compute_in_bf16_from_ampere_on(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda where: capability)
    assert autocast_dtype("auto", CUDA) is expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx2 avx512f avx512_bf16 amx_bf16 amx_tile", torch.bfloat16),
        ("fpu avx2 avx512f avx512_bf16", torch.bfloat16),
        ("fpu avx2 avx512f avx512_vnni", None),
        ("fp asimd bf16", None),
    ],
)
def test_cpus_compute_in_bf16_where_they_multiply_it(monkeypatch, flags, expected):
    monkeypatch.setattr(Path, "read_text", lambda self, **options: f"flags\t\t: {flags}\n")
    monkeypatch.setattr(device, "_cpu_multiplies_bf16", device._cpu_multiplies_bf16.__wrapped__)
    assert autocast_dtype("auto", CPU) is expected


def test_cpu_that_does_not_tell_computes_in_fp32(monkeypatch):
    def absent(self, **options):
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", absent)
    monkeypatch.setattr(device, "_cpu_multiplies_bf16", device._cpu_multiplies_bf16.__wrapped__)
    assert autocast_dtype("auto", CPU) is None


def test_other_devices_compute_in_fp32():
    assert autocast_dtype("auto", MPS) is None


@pytest.mark.parametrize(("available", "expected"), [(True, "cuda"), (False, "cpu")])
def test_default_device_is_a_gpu_where_there_is_one(monkeypatch, available, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert default_device() == torch.device(expected)


FAULTS = """
import resource, torch
from raysearch.train.device import keep_memory
def faults(steps=10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        torch.ones(2**24)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / steps
given_back = faults()
keep_memory(torch.device("cpu"))
faults()
print(given_back, faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc's allocator")
def test_kept_memory_is_not_asked_of_the_system_again():
    """Each tensor has 16,384 pages of 4 KiB, or 32 of 2 MiB, above what glibc ever keeps."""
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    given_back, kept = map(float, done.stdout.split())
    assert kept < 1 and given_back >= 32
