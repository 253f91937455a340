"""What the stopwatch times: parts and students, in the runtime that the unit of work names."""

import copy
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from base.errors import UserError
from export.int8.quantise import quantised
from export.onnx_file import to_onnx
from export.runtimes.network import Network, random_images
from export.runtimes.runtime import runtime_of
from export.timing.stopwatch import Runner
from export.timing.unit_of_work import SIGNED, UnitOfWork, unit_of_work
from supernet.latency.graphs import PartGraph, network_graph, part_graph, with_biases
from supernet.latency.int8_graphs import int8_part_graph
from supernet.latency.parts import Part, structures
from supernet.latency.structures import export_together
from supernet.latency_table import LatencyTable
from supernet.space import Architecture, SearchSpace
from supernet.student import Student


def one_part(unit: UnitOfWork) -> PartGraph:
    """Return what makes a part's graph in the unit's precision."""
    return partial(int8_part_graph, signed=unit.precision == SIGNED) if unit.is_int8 else part_graph


def part_model(part: Part, unit: UnitOfWork) -> onnx.ModelProto:
    """Return a part in the unit's precision."""
    return one_part(unit)(part.module, part.size)


def student_model(
    space: SearchSpace, architecture: Architecture, unit: UnitOfWork
) -> onnx.ModelProto:
    """Return a student with random weights in the unit's precision.

    The first of a space exports the structures of all, which other students and parts find then.
    """
    export_together(structures(space))
    return network_graph(space, architecture, one_part(unit))


def part_runner(part: Part, unit: UnitOfWork) -> Runner:
    """Return a call that runs a part in the unit of work."""
    network = Network(
        part.shape,
        lambda: part_model(part, unit).SerializeToString(),
        lambda: part.module,
        part.takes_features,
        part.gives_features,
    )
    return runtime_of(unit).runner(network, unit)


def student_runner(space: SearchSpace, architecture: Architecture, unit: UnitOfWork) -> Runner:
    """Return a call that runs a student with random weights, which cost what trained ones cost."""
    network = Network(
        space.image_shape,
        lambda: student_model(space, architecture, unit).SerializeToString(),
        lambda: Student(space, architecture),
    )
    return runtime_of(unit).runner(network, unit)


def module_runner(module: nn.Module, unit: UnitOfWork) -> Runner:
    """Return a call that runs any network of images [B, C, H, W], exported as students are.

    Raises `UserError` when it cannot be exported or quantised, or the runtime does not take it.
    """
    network = Network(
        unit.shape, lambda: module_model(module, unit).SerializeToString(), lambda: module
    )
    try:
        return runtime_of(unit).runner(network, unit)
    except UserError:
        raise
    except Exception as error:  # the runtimes' own exceptions share no narrower base class
        reason = " ".join(str(error).split())
        raise UserError(
            f"{unit.runtime_text()} does not run it ({reason}); name another"
        ) from error


def module_model(module: nn.Module, unit: UnitOfWork) -> onnx.ModelProto:
    """Return any network in the unit's precision; `UserError` when it cannot be had in it."""
    try:
        model = to_onnx(with_biases(copy.deepcopy(module)), torch.zeros(2, *unit.shape))
    except Exception as error:  # the exporter fails in ways of its own
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"cannot be exported to ONNX ({reason}); name another") from error
    if not unit.is_int8:
        return model
    images = torch.from_numpy(random_images((2, *unit.shape), np.float32))
    return quantised(model, [images], signed=unit.precision == SIGNED)


def file_runner(student: Student, path: Path, table: LatencyTable) -> Runner:
    """Return a call that runs a finished student as it ships: its file, or in PyTorch."""
    network = Network(table.space.image_shape, lambda: path, lambda: student)
    unit = unit_of_table(table)
    return runtime_of(unit).runner(network, unit)


def unit_of_table(table: LatencyTable) -> UnitOfWork:
    """Return the unit of work that the table was measured in; `UserError` when it is damaged."""
    return unit_of_work(table.provenance.get("unit"))
