"""Run a module in PyTorch eager, as `onnx_runner` runs a model."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from base.errors import UserError
from export.timing.unit_of_work import UnitOfWork


def check_torch_provider(provider: str) -> None:
    """Raise `UserError` when this PyTorch cannot run on `provider`."""
    if provider == "torch:cuda" and not torch.cuda.is_available():
        raise UserError("provider torch:cuda: this PyTorch sees no GPU; name torch:cpu")


def torch_device_name(provider: str) -> str:
    """Return what PyTorch calls the device."""
    return torch.cuda.get_device_name() if provider == "torch:cuda" else "cpu"


def torch_runner(
    module: nn.Module, shape: tuple[int, int, int], unit: UnitOfWork
) -> Callable[[], None]:
    """Return a call that runs a copy of `module` once, in eval mode, and waits for its end.

    The input is `unit.batch` random images of `shape` [C, H, W] in [0, 1], on the device already.
    PyTorch's number of threads is the process's own affair again after each call.
    """
    check_torch_provider(unit.provider)
    device = torch.device(unit.provider.removeprefix("torch:"))
    module = copy.deepcopy(module).eval().to(device)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((unit.batch, *shape), generator=generator).to(device)
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
