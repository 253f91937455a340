"""A retrained student as files: architecture, weights, ONNX; and its time as it ships."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from base.size import strided
from export.onnx_file import add_metadata, write_model, write_onnx
from export.runtimes.runtime import runtime_of
from export.timing.stopwatch import Patience
from supernet.choice.budget import Budget
from supernet.choice.evidence import is_kept
from supernet.choice.student_file import write_student
from supernet.latency.measurement import machine_difference
from supernet.latency.runners import unit_of_table
from supernet.latency.students import measure_shipped, plain_runs_shipped
from supernet.latency_table import LatencyTable, places
from supernet.space import Architecture, SearchSpace
from supernet.student import MEAN, STD, Student, parameters_and_macs

EXACT = "student.onnx"


def ship(
    student: Student,
    architecture: Architecture,
    space: SearchSpace,
    table: LatencyTable,
    budget: Budget,
    folder: Path,
    metadata: Mapping[str, str],
    patience: Patience,
    seed: int,
    int8: bytes | None,
) -> dict[str, object]:
    """Write student.onnx, student.safetensors and architecture.json into `folder`, and time it.

    What ships in int8 is written beside it as student.int8.onnx, and timed in its place. The ONNX
    files say what they are and take, and `metadata`; the one that is timed says its time. Returns
    size and milliseconds for metrics.json; those measured are None where the table's device is not
    here. The table may be of other classes than the student's `space`.
    """
    write_student(folder, student, architecture, space, metadata)
    example = torch.zeros(2, *space.image_shape)
    path, predicted_ms = shipped_file(folder, table), table.predicted_ms(architecture)
    facts = _form(architecture, space) | metadata
    output = "vector" if space.unit_length else "logits"
    write_onnx(student, example, folder / EXACT, facts, output)
    if int8 is not None:
        write_model(int8, path, facts)
    unit = json.dumps(asdict(unit_of_table(table)))
    add_metadata(path, _time(table) | {"unit": unit, "predicted_ms": f"{predicted_ms:.4f}"})
    measured, plain, elsewhere, meets = None, None, machine_difference(table), None
    if not elsewhere:
        known = (student, path, predicted_ms, table, patience, seed)
        measured = measure_shipped(*known, partial(is_kept, budget.undisturbed_ms))
        plain = plain_runs_shipped(student, path, table)
        meets = budget.is_met(measured, plain)
        add_metadata(path, {"measured_ms": f"{measured.ms:.4f}"})
    parameters, macs = parameters_and_macs(space, architecture)
    return {
        "target_ms": budget.target_ms,
        "latency_statistic": budget.statistic,
        "slowdown": budget.slowdown,
        "meets_target": meets,
        "predicted_ms": predicted_ms,
        "measured_ms": measured.ms if measured else None,
        "measured_ms_spread": measured.spread if measured else None,
        "plain_runs": asdict(plain) if plain else None,
        "not_measured": elsewhere,
        **_time(table),
        "precision": unit_of_table(table).precision,
        "table": table.fingerprint(),
        "parts": parts_facts(table, architecture),
        "params": parameters,
        "macs": macs,
    }


def parts_facts(table: LatencyTable, architecture: Architecture) -> list[dict[str, object]]:
    """Return for every part, stem to head, size [H, W] of its output and predicted milliseconds."""
    space, sizes = table.space, []
    size = strided(space.resolution, space.stem_stride)
    sizes.append(size)
    for stage, own in zip(space.stages, architecture.stages, strict=True):
        size = strided(size, stage.stride)
        sizes += [size] * len(own.layers)
    found = zip([*sizes, (1, 1)], places(space, architecture), strict=True)
    return [{"size": list(size), "predicted_ms": table.entry(place)} for size, place in found]


def shipped_file(folder: Path, table: LatencyTable) -> Path:
    """Return the file that takes the table's milliseconds."""
    return folder / ("student.int8.onnx" if unit_of_table(table).is_int8 else EXACT)


def _form(architecture: Architecture, space: SearchSpace) -> dict[str, str]:
    channels, height, width = space.image_shape
    answer = f"vector of {space.classes} numbers, of length 1; compare two by their product"
    colours = "grey" if channels == 1 else "RGB"
    return {
        "architecture": json.dumps(architecture.to_json()),
        "input": f"{colours} [batch, {channels}, {height}, {width}], float32 in [0, 1]",
        "output": answer if space.unit_length else "logits, one for each of the classes",
        "normalisation": f"inside the graph: (x - {MEAN}) / {STD}",
    }


def _time(table: LatencyTable) -> dict[str, str]:
    """Say what takes the milliseconds."""
    unit = unit_of_table(table)
    return {"unit_of_work": table.unit_of_work(), "how_to_run": runtime_of(unit).how(unit)}
