"""Run an ONNX model in ONNX Runtime, alone and the same way each time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from export.onnx_session import onnx_session
from export.timing.unit_of_work import UnitOfWork

_CUDA_PROVIDERS = ("CUDAExecutionProvider", "TensorrtExecutionProvider")


def onnx_runner(
    model: bytes | Path, shape: tuple[int, int, int], unit: UnitOfWork
) -> Callable[[], None]:
    """Return a call that runs `model` once and waits until the outputs are there.

    Its one input takes `unit.batch` random images of `shape` [C, H, W] in [0, 1]. Input and outputs
    stay on the provider's device, so no copy is timed. Raises `UserError` as `onnx_session` does.
    """
    session = onnx_session(model, unit.threads, unit.provider)
    device = "cuda" if unit.provider in _CUDA_PROVIDERS else "cpu"
    images = np.random.default_rng(0).random((unit.batch, *shape), np.float32)
    binding = session.io_binding()
    binding.bind_ortvalue_input(
        session.get_inputs()[0].name, onnxruntime.OrtValue.ortvalue_from_numpy(images, device)
    )
    for output in session.get_outputs():
        binding.bind_output(output.name, device)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run
