"""torch.compile for networks that take many steps of one shape."""

import os
import shutil

import torch
from torch import nn

from base.errors import UserError


def compiled(network: nn.Module, *, wanted: bool) -> nn.Module:
    """Return `network`, or what runs its weights compiled; it is compiled at its first call."""
    return torch.compile(network) if wanted else network


def check_compiler() -> None:
    """Raise `UserError` where torch.compile would find no C++ compiler."""
    name = os.environ.get("CXX", "g++")
    if shutil.which(name) is None:
        raise UserError(
            f"--compile: no C++ compiler {name} is here; install it, name another as CXX, "
            "or leave --compile out"
        )
