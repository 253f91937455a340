"""Run an ONNX model in ONNX Runtime, alone and the same way each time."""

import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime

from export.runtimes.network import Network, random_images
from export.runtimes.onnx_session import check_provider, onnx_session
from export.timing.stopwatch import Runner
from export.timing.unit_of_work import CPU, UnitOfWork

# Which activations int8 is fast with, unsigned or signed ones, depends on the processor.
FORMS = {"fp32": ("fp32",), "int8": ("int8", "int8-signed")}
_CUDA_PROVIDERS = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
# It starts everywhere, and leaves all of a network to the CPU.
_ELSEWHERE = "AzureExecutionProvider"
_TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int8)": np.int8}


def providers() -> Sequence[str]:
    """Name this ONNX Runtime's execution providers, the CPU first."""
    others = set(onnxruntime.get_available_providers()) - {CPU, _ELSEWHERE}
    return [CPU, *sorted(others)]


def check(unit: UnitOfWork) -> None:
    """Raise `UserError`, with those there are, when this ONNX Runtime lacks the provider."""
    check_provider(unit.provider)


def runner(network: Network, unit: UnitOfWork) -> Runner:
    """Return a call that runs the model once and waits until the outputs are there.

    Its one input takes `unit.batch` random images of the network's shape in [0, 1], or random
    whole numbers where it takes such. Input and outputs stay on the provider's device, so no copy
    is timed. Raises `UserError` as `onnx_session` does.
    """
    session = onnx_session(network.graph(), unit.threads, unit.provider)
    device = "cuda" if unit.provider in _CUDA_PROVIDERS else "cpu"
    (taken, *_) = session.get_inputs()
    images = random_images((unit.batch, *network.shape), _TYPES[taken.type])
    binding = session.io_binding()
    binding.bind_ortvalue_input(
        taken.name, onnxruntime.OrtValue.ortvalue_from_numpy(images, device)
    )
    for output in session.get_outputs():
        binding.bind_output(output.name, device)

    if device == "cuda":
        session.run_with_iobinding(binding, releasing("gpu:0"))

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run


def releasing(arena: str) -> onnxruntime.RunOptions:
    """Return the options of a run that gives back what an arena, such as gpu:0, holds unused.

    A first run on a GPU tries every algorithm of each convolution (which is how they are deployed),
    and its session would keep the most memory that any of them took.
    """
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", arena)
    return options


def logits(
    model: bytes | Path, images: Iterable[np.ndarray], unit: UnitOfWork
) -> Iterator[np.ndarray]:
    """Yield what an ONNX model answers [B, K] to batches of images.

    Raises `UserError` as `onnx_session` does.
    """
    session = onnx_session(model, unit.threads, unit.provider)
    name = session.get_inputs()[0].name
    for batch in images:
        yield session.run(None, {name: batch})[0]


def machine(unit: UnitOfWork) -> dict[str, str]:
    """Return the version of ONNX Runtime, and the GPU where one runs the work."""
    gpu = _gpu_name() if unit.provider in _CUDA_PROVIDERS else None
    return {"onnxruntime": onnxruntime.__version__, **({"device": gpu} if gpu else {})}


@cache
def _gpu_name() -> str | None:
    """Name the first GPU that CUDA may use, as NVIDIA's driver does; ONNX Runtime says nothing."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip() or "0"
    command = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader", f"--id={first}")
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def how(unit: UnitOfWork) -> str:
    """Say how a program gets the unit's milliseconds."""
    return f"onnxruntime.InferenceSession, {unit.provider}, intra_op_num_threads={unit.threads}"
