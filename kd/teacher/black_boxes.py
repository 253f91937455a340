"""Teachers that are no network of a library: an ONNX file, a saved program, the user's own code."""

import hashlib
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from base.errors import UserError
from export.onnx_session import onnx_session
from kd.teacher.program_file import run_in_batches

DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxNetwork(nn.Module):
    """An ONNX file of any framework, images [B, 3, H, W] -> [B, K], run by ONNX Runtime.

    A file of grey images is given the first of three channels.
    `resolution` is the size that the file asks for, None when it takes any. Raises `UserError` for
    a file that cannot be opened, and for an input that is no batch of RGB images.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        if not path.is_file():
            raise UserError(f"{path}: no such file; expected an ONNX model")
        # The provider that this ONNX Runtime prefers; as many threads as there are cores.
        provider = onnxruntime.get_available_providers()[0]
        self.session = onnx_session(path, os.cpu_count() or 1, provider)
        inputs = self.session.get_inputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or not _of_images(shape):
            described = "; ".join(f"{one.name} {one.shape}" for one in inputs)
            raise UserError(
                f"{path}: takes {described}; expected one input [batch, 3, height, width] of square"
                " RGB images, or [batch, 1, height, width] of grey ones"
            )
        if inputs[0].type not in DTYPES:
            raise UserError(f"{path}: takes {inputs[0].type}, expected {' or '.join(DTYPES)}")
        self.input_name, self.dtype = inputs[0].name, DTYPES[inputs[0].type]
        self.batch = shape[0] if isinstance(shape[0], int) else None
        self.resolution = shape[2] if isinstance(shape[2], int) else None
        self.channels = 1 if shape[1] == 1 else 3

    def forward(self, images: Tensor) -> Tensor:
        """Run the file, in parts where it has a fixed batch size."""
        images = images[:, : self.channels]
        return run_in_batches(self._run, images.cpu(), self.batch).to(images.device)

    def _run(self, images: Tensor) -> Tensor:
        feed = {self.input_name: images.numpy().astype(self.dtype)}
        return torch.from_numpy(self.session.run(None, feed)[0]).float()


def _of_images(shape: list[int | str | None]) -> bool:
    """Whether it can be [batch, 3 or 1, side, side]; sizes that are free are no numbers."""
    fixed = [{size for size in sizes if isinstance(size, int)} for sizes in (shape[1:2], shape[2:])]
    return len(shape) == 4 and fixed[0] in (set(), {1}, {3}) and len(fixed[1]) <= 1


class FunctionNetwork(nn.Module):
    """Any function of images as a network."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        """Call the function."""
        return self.function(images)


def python_network(reference: str) -> tuple[nn.Module, Path]:
    """Run the user's own code: "module:factory", a function without arguments.

    Returns the network that it makes and the module's file. This executes that code, with all that
    it may do. Raises `UserError` when it cannot be imported, fails, or returns nothing callable.
    """
    module_name, _, factory_name = reference.partition(":")
    if not module_name or not factory_name:
        raise UserError(f"teacher python:{reference}: expected python:MODULE:FACTORY")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
        network = getattr(module, factory_name)()
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        reason = " ".join(str(error).split())
        raise UserError(
            f"teacher python:{reference}: {type(error).__name__}: {reason}; expected a function "
            f"{factory_name or 'FACTORY'}() in {module_name}.py that returns a torch module"
        ) from error
    if not callable(network):
        raise UserError(
            f"teacher python:{reference}: returned {type(network).__name__}, expected a torch "
            "module or a function of images [B, 3, H, W]"
        )
    return (network if isinstance(network, nn.Module) else FunctionNetwork(network)), Path(
        module.__file__
    )


def file_fingerprint(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]
