"""`compile: true`: the network's forward and backward pass through `torch.compile`."""

import os
import shutil
import sys

import torch
from torch import nn

from raysearch.errors import FieldError


def compiled(network: nn.Module, device: torch.device) -> nn.Module:
    """A module that computes what ``network`` does, faster, and shares its parameters.

    Dropout draws what it would draw without compilation, so that results differ by rounding
    alone. Compilation happens in the first step and takes up to a minute. Raises `FieldError`
    where the machine has no compiler.
    """
    _check_compiler(device)
    # Compiled code of earlier networks counts against a limit, beyond which nothing is compiled.
    torch.compiler.reset()
    return torch.compile(network, dynamic=False, options={"fallback_random": True})


def _check_compiler(device: torch.device) -> None:
    """Looks where torch (C++, for a CPU) and Triton (C, for a GPU) look."""
    if device.type == "cpu":
        language, variable = "C++", "CXX"
        names = ["clang++" if sys.platform == "darwin" else "g++"]
    else:
        language, variable, names = "C", "CC", ["gcc", "clang"]
    given = os.environ.get(variable)
    names = given.split()[:1] if given else names
    if not any(map(shutil.which, names)):
        raise FieldError(
            f"compile: true needs a {language} compiler, but {' or '.join(names)} is not on this "
            f"machine. Install it, name another in {variable}, or set compile: false.",
            ("compile",),
        )
