"""Run a module in PyTorch eager, as ONNX Runtime runs a model."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from base.errors import UserError
from export.runtimes import in_onnxruntime
from export.runtimes.network import Network
from export.timing.stopwatch import Runner
from export.timing.unit_of_work import CPU, UnitOfWork

FORMS = {"fp32": ("fp32",)}
DEVICES = ("cpu", "cuda")


def providers() -> Sequence[str]:
    """Name none: PyTorch runs no ONNX files."""
    return ()


def check(unit: UnitOfWork) -> None:
    """Raise `UserError` when this PyTorch cannot run on the device."""
    if unit.device not in DEVICES:
        raise UserError(f"provider {unit.provider}: expected torch:cpu or torch:cuda")
    if unit.device == "cuda" and not torch.cuda.is_available():
        raise UserError("provider torch:cuda: this PyTorch sees no GPU; name torch:cpu")


def runner(network: Network, unit: UnitOfWork) -> Runner:
    """Return a call that runs a copy of the module once, in eval mode, and waits for its end.

    The input is `unit.batch` random images of the network's shape in [0, 1], on the device already.
    Both are in channels-last order, in which PyTorch is faster. PyTorch's number of threads is the
    process's own affair again after each call.
    """
    check(unit)
    if network.module is None:
        raise UserError(f"provider {unit.provider}: PyTorch runs no ONNX files; name another")
    device = torch.device(unit.device)
    there = {"device": device, "memory_format": torch.channels_last}
    module = copy.deepcopy(network.module()).eval().to(**there)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((unit.batch, *network.shape), generator=generator).to(**there)
    # Kernels are launched and not waited for: without this a GPU's clock reads the launch.
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def run() -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(unit.threads)
        try:
            with torch.inference_mode():
                module(images)
            synchronize()
        finally:
            torch.set_num_threads(threads)

    return run


def logits(
    model: bytes | Path, images: Iterable[np.ndarray], unit: UnitOfWork
) -> Iterator[np.ndarray]:
    """Yield what an ONNX model answers, in ONNX Runtime: PyTorch runs none."""
    return in_onnxruntime.logits(model, images, replace(unit, provider=CPU))


def machine(unit: UnitOfWork) -> dict[str, str]:
    """Return the versions, and what PyTorch calls the device, or that there is none."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no cuda"
    name = gpu if unit.device == "cuda" else "cpu"
    torch_version = f"{version('torch')}, channels last"  # milliseconds of another order differ
    return {**in_onnxruntime.machine(unit), "torch": torch_version, "device": name}


def how(unit: UnitOfWork) -> str:
    """Say how a program gets the unit's milliseconds."""
    how = f"inference mode on {unit.device}, {unit.threads} threads, channels last"
    return f"PyTorch eager in {how}"
