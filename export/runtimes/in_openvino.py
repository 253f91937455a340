"""Run an ONNX model in OpenVINO, alone and the same way each time."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from base.errors import UserError
from export.runtimes.network import Network, random_images
from export.timing.stopwatch import Runner
from export.timing.unit_of_work import UnitOfWork

if TYPE_CHECKING:
    from openvino import CompiledModel, Core, Model, Output, Tensor

FORMS = {"fp32": ("fp32",), "bf16": ("bf16",), "int8": ("int8",)}
# Left alone, OpenVINO takes bf16 wherever the processor has it. Of int8 networks this is the rest.
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
_CAPABILITIES = {"bf16": "BF16", "int8": "INT8"}


@cache
def _openvino() -> ModuleType:
    try:
        import openvino
    except ImportError as error:
        raise UserError(
            f"provider openvino: the package openvino cannot be imported ({error}); "
            "pip install openvino, or name another provider"
        ) from error
    return openvino


@cache
def _core() -> "Core":
    return _openvino().Core()


def providers() -> Sequence[str]:
    """Name OpenVINO's devices; `UserError` when it is not installed."""
    return [f"openvino:{device}" for device in _core().available_devices]


def check(unit: UnitOfWork) -> None:
    """Raise `UserError` without OpenVINO, its device, or the instructions of the precision."""
    devices = _core().available_devices
    if unit.device not in devices:
        raise UserError(
            f"provider {unit.provider}: OpenVINO sees no such device, only {', '.join(devices)}"
        )
    needed = _CAPABILITIES.get(unit.precision)
    able = _core().get_property(unit.device, "OPTIMIZATION_CAPABILITIES")
    if needed and needed not in able:
        raise UserError(
            f"precision {unit.precision}: {_device_name(unit)} has no instructions for it, as "
            "OpenVINO says; name another precision"
        )


def _device_name(unit: UnitOfWork) -> str:
    return _core().get_property(unit.device, "FULL_DEVICE_NAME").strip()


def _hints(unit: UnitOfWork) -> dict[str, str | int | bool]:
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _HINTS[unit.precision],
    }
    if unit.device == "CPU":
        # Pinned, a thread would have to wait for whatever else runs on its core.
        hints |= {"INFERENCE_NUM_THREADS": unit.threads, "ENABLE_CPU_PINNING": False}
    return hints


def _opened(model: bytes | Path) -> "Model":
    try:
        return _core().read_model(model if isinstance(model, bytes) else model.read_bytes())
    except (RuntimeError, OSError) as error:
        if not isinstance(model, Path):
            raise
        reason = " ".join(str(error).split())
        raise UserError(f"{model}: OpenVINO cannot open it ({reason}); make it again") from error


def _compiled(model: "Model", unit: UnitOfWork) -> "CompiledModel":
    return _core().compile_model(model, unit.device, _hints(unit))


def runner(network: Network, unit: UnitOfWork) -> Runner:
    """Return a call that runs the model once and waits for its end.

    Its one input takes `unit.batch` random images of the network's shape in [0, 1], or random
    whole numbers where it takes such, and is compiled for that shape. Features stand in the
    precision's own type, channels last: a part alone would otherwise spend more time on bringing
    them there and back than on its work. Raises `UserError` when a file cannot be opened.
    """
    check(unit)
    model = _opened(network.graph())
    model.reshape({model.input(0): [unit.batch, *network.shape]})
    model = _with_own_features(model, network, unit)
    request = _compiled(model, unit).create_infer_request()
    request.set_input_tensor(_random_tensor(model.input(0)))
    return request.infer


def _with_own_features(model: "Model", network: Network, unit: UnitOfWork) -> "Model":
    ov, changed = _openvino(), _openvino().preprocess.PrePostProcessor(model)
    ends = (
        *([changed.input(0)] if network.takes_features else []),
        *([changed.output(0)] if network.gives_features else []),
    )
    for end in ends:
        end.model().set_layout(ov.Layout("NCHW"))
        end.tensor().set_layout(ov.Layout("NHWC"))
        if unit.precision == "bf16":
            end.tensor().set_element_type(ov.Type.bf16)
    return changed.build()


def _random_tensor(taken: "Output") -> "Tensor":
    """Return random images in the type that is taken; bf16 is the upper half of fp32."""
    ov, shape = _openvino(), tuple(taken.shape)
    if taken.element_type == ov.Type.bf16:
        halves = random_images(shape, np.float32).view(np.uint16)[..., 1::2]
        return ov.Tensor(np.ascontiguousarray(halves), list(shape), ov.Type.bf16)
    return ov.Tensor(random_images(shape, taken.element_type.to_dtype().type))


def logits(
    model: bytes | Path, images: Iterable[np.ndarray], unit: UnitOfWork
) -> Iterator[np.ndarray]:
    """Yield what an ONNX model answers [B, K] to batches of images, in the unit's precision.

    Raises `UserError` when the file cannot be opened.
    """
    check(unit)
    answer = _compiled(_opened(model), unit)
    for batch in images:
        yield answer(batch)[0].copy()


def machine(unit: UnitOfWork) -> dict[str, str]:
    """Return the version of OpenVINO and the device, or that there is none."""
    is_here = unit.device in _core().available_devices
    device = _device_name(unit) if is_here else f"no {unit.device}"
    return {"openvino": _openvino().__version__, "device": device}


def how(unit: UnitOfWork) -> str:
    """Say how a program gets the unit's milliseconds."""
    hints = ", ".join(f"{name}={value}" for name, value in _hints(unit).items())
    return f"openvino.Core().compile_model(…, {unit.device!r}) for this batch, with {hints}"
