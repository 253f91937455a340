"""A retrained student as files: architecture, weights, ONNX; and its time as it ships."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from base.files import write_json
from base.tensor_files import write_tensors
from export.onnx_file import add_metadata, write_model, write_onnx
from export.runtimes.runtime import runtime_of
from export.timing.stopwatch import Patience
from supernet.latency.measurement import machine_difference
from supernet.latency.runners import unit_of_table
from supernet.latency.students import measure_shipped
from supernet.latency_table import LatencyTable
from supernet.space import Architecture
from supernet.student import MEAN, STD, Student, parameters_and_macs

EXACT = "student.onnx"


def ship(
    student: Student,
    architecture: Architecture,
    table: LatencyTable,
    folder: Path,
    metadata: Mapping[str, str],
    patience: Patience,
    seed: int,
    int8: bytes | None,
) -> dict[str, object]:
    """Write student.onnx, student.safetensors and architecture.json into `folder`, and time it.

    What ships in int8 is written beside it as student.int8.onnx, and timed in its place. The ONNX
    files say what they are and take, their time, and `metadata`. Returns size and milliseconds for
    metrics.json; those measured are None where the table's device is not here.
    """
    write_json(folder / "architecture.json", architecture.to_json())
    write_tensors(folder / "student.safetensors", student.state_dict(), {"name": folder.name})
    example = torch.zeros(2, *table.space.image_shape)
    facts, predicted_ms = _facts(architecture, table) | metadata, table.predicted_ms(architecture)
    write_onnx(student, example, folder / EXACT, facts)
    path = shipped_file(folder, table)
    if int8 is not None:
        write_model(int8, path, facts)
    measured, elsewhere = None, machine_difference(table)
    if not elsewhere:
        measured = measure_shipped(student, path, predicted_ms, table, patience, seed)
        add_metadata(path, {"measured_ms": f"{measured.ms:.4f}"})
    parameters, macs = parameters_and_macs(table.space, architecture)
    return {
        "predicted_ms": predicted_ms,
        "measured_ms": measured.ms if measured else None,
        "measured_ms_spread": measured.spread if measured else None,
        "not_measured": elsewhere,
        "unit_of_work": table.unit_of_work(),
        "precision": unit_of_table(table).precision,
        "how_to_run": runtime_of(unit_of_table(table)).how(unit_of_table(table)),
        "table": table.fingerprint(),
        "params": parameters,
        "macs": macs,
    }


def shipped_file(folder: Path, table: LatencyTable) -> Path:
    """Return the file that takes the table's milliseconds."""
    return folder / ("student.int8.onnx" if unit_of_table(table).is_int8 else EXACT)


def _facts(architecture: Architecture, table: LatencyTable) -> dict[str, str]:
    channels, height, width = table.space.image_shape
    colours = "grey" if channels == 1 else "RGB"
    return {
        "architecture": json.dumps(architecture.to_json()),
        "input": f"{colours} [batch, {channels}, {height}, {width}], float32 in [0, 1]",
        "normalisation": f"inside the graph: (x - {MEAN}) / {STD}",
        "unit_of_work": table.unit_of_work(),
        "how_to_run": runtime_of(unit_of_table(table)).how(unit_of_table(table)),
        "predicted_ms": f"{table.predicted_ms(architecture):.4f}",
    }
