"""A retrained student as files: architecture, weights, ONNX; and its time as it ships."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from export.files import write_json
from export.onnx_file import add_metadata, write_onnx
from export.stopwatch import Patience, Timing
from export.tensor_files import write_tensors
from supernet.latency import LatencyTable
from supernet.measure import measure_shipped, not_from_here
from supernet.space import Architecture
from supernet.student import MEAN, STD, Student


def ship(
    student: Student,
    architecture: Architecture,
    table: LatencyTable,
    folder: Path,
    metadata: Mapping[str, str],
    patience: Patience,
    seed: int,
) -> Timing | None:
    """Write student.onnx, student.safetensors and architecture.json into `folder`, and time it.

    None where the table's device is not here. The ONNX file says what it is and takes, its time,
    and `metadata`.
    """
    write_json(folder / "architecture.json", architecture.to_json())
    write_tensors(folder / "student.safetensors", student.state_dict(), {"name": folder.name})
    example = torch.zeros(2, 3, table.space.resolution, table.space.resolution)
    path = folder / "student.onnx"
    write_onnx(student, example, path, {**_facts(architecture, table), **metadata})
    if not_from_here(table):
        return None
    predicted_ms = table.predicted_ms(architecture)
    measured = measure_shipped(student, path, predicted_ms, table, patience, seed)
    add_metadata(path, {"measured_ms": f"{measured.ms:.4f}"})
    return measured


def _facts(architecture: Architecture, table: LatencyTable) -> dict[str, str]:
    size = table.space.resolution
    return {
        "architecture": json.dumps(architecture.to_json()),
        "input": f"RGB [batch, 3, {size}, {size}], float32 in [0, 1]",
        "normalisation": f"inside the graph: (x - {MEAN}) / {STD}",
        "unit_of_work": table.unit_of_work(),
        "predicted_ms": f"{table.predicted_ms(architecture):.4f}",
    }
