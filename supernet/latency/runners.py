"""What the stopwatch times: parts and students, in the runtime that the unit of work names."""

from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from base.errors import UserError
from export.onnx_file import to_onnx
from export.onnx_session import check_provider
from export.timing.onnx_runner import onnx_runner
from export.timing.stopwatch import Runner
from export.timing.torch_runner import check_torch_provider, torch_device_name, torch_runner
from export.timing.unit_of_work import UnitOfWork, check_threads, machine, unit_of_work
from supernet.latency.graphs import network_graph, part_graph
from supernet.latency.parts import Part
from supernet.latency_table import LatencyTable
from supernet.space import Architecture, SearchSpace
from supernet.student import Student


def check_unit(unit: UnitOfWork) -> None:
    """Raise `UserError` when nothing here can run the unit of work."""
    check_threads(unit)
    if unit.in_torch:
        check_torch_provider(unit.provider)
    else:
        check_provider(unit.provider)


def part_runner(part: Part, unit: UnitOfWork) -> Runner:
    """Return a call that runs a part in the unit of work."""
    if unit.in_torch:
        return torch_runner(part.module, part.shape, unit)
    return onnx_runner(part_graph(part.module, part.size).SerializeToString(), part.shape, unit)


def student_runner(space: SearchSpace, architecture: Architecture, unit: UnitOfWork) -> Runner:
    """Return a call that runs a student with random weights, which cost what trained ones cost."""
    shape = space.image_shape
    if unit.in_torch:
        return torch_runner(Student(space, architecture), shape, unit)
    return onnx_runner(network_graph(space, architecture).SerializeToString(), shape, unit)


def module_runner(module: nn.Module, unit: UnitOfWork) -> Runner:
    """Return a call that runs any network of images [B, C, H, W], exported as students are.

    Raises `UserError` when it cannot be exported, or the runtime does not take it.
    """
    shape = unit.shape
    if unit.in_torch:
        return torch_runner(module, shape, unit)
    try:
        model = to_onnx(module, torch.zeros(2, *shape))
    except Exception as error:  # the exporter fails in ways of its own
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"cannot be exported to ONNX ({reason}); name another") from error
    try:
        return onnx_runner(model.SerializeToString(), shape, unit)
    except UserError:
        raise
    except Exception as error:  # ONNX Runtime's own exceptions share no narrower base class
        reason = " ".join(str(error).split())
        raise UserError(f"ONNX Runtime does not run it ({reason}); name another") from error


def shipped_runner(student: Student, onnx_path: Path, table: LatencyTable) -> Runner:
    """Return a call that runs a finished student as it ships: the ONNX file, or in PyTorch."""
    unit, shape = unit_of_table(table), table.space.image_shape
    if unit.in_torch:
        return torch_runner(student, shape, unit)
    return onnx_runner(onnx_path, shape, unit)


def this_machine(unit: UnitOfWork) -> dict[str, str]:
    """Return the machine and runtime that would run the unit of work now."""
    if not unit.in_torch:
        return machine()
    return {**machine(), "torch": version("torch"), "device": torch_device_name(unit.provider)}


def unit_of_table(table: LatencyTable) -> UnitOfWork:
    """Return the unit of work that the table was measured in; `UserError` when it is damaged."""
    return unit_of_work(table.provenance.get("unit"))
