"""Several students as one ONNX file, which answers with the mean of their probabilities.

    python -m export.ensemble runs/x/students/5ms runs/x/students/8ms --out both.onnx \\
        --images photos/test --beside runs/x/students/13ms

The file is timed as a whole, in the same rounds as its members and the students beside it. What an
ensemble is to be compared with is one student of the sum of its members' budgets.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import tyro
from onnx import helper
from scipy.special import softmax
from tyro.conf import Positional

from base.errors import UserError
from base.exit_status import run_script
from base.streams import in_columns
from export.onnx_file import add_metadata, write_model
from export.runtimes.contest import time_together
from export.runtimes.given import (
    GivenImages,
    ModelFile,
    random_pixels,
    read_images,
    read_model_file,
)
from export.runtimes.network import Network
from export.runtimes.runtime import check_unit, runtime_of
from export.timing.stopwatch import Patience, Timing
from export.timing.unit_of_work import CPU, UnitOfWork, unit_of_work

STUDENT, OUTPUT = "student.onnx", "probabilities"
# What all members have to say alike, and the ensemble says too.
SHARED = ("classes", "input", "resize", "normalisation")
MOST_ERROR = 1e-5  # of a probability


@dataclass(frozen=True)
class Settings:
    """Which students, and how they are judged."""

    students: Positional[tuple[Path, ...]]
    """Folders of students, such as runs/x/students/5ms, or their ONNX files in fp32."""
    out: Path
    """The ONNX file to write."""
    beside: tuple[Path, ...] = ()
    """Other students to compare with, such as one of the sum of the budgets."""
    images: Path | None = None
    """Folder of images, best of the test split: folders of classes, or images alone. Without it the
    answers to random images are compared."""
    most_images: int = 10_000
    """No more images are read; which, chance says."""
    batch: int | None = None
    """Images in a run; as the first student was made for, or 1, when left out."""
    threads: int | None = None
    """CPU threads; likewise."""
    seconds: float = 5.0
    """Of timing, at most, for each file."""


def main(settings: Settings) -> bool:
    """Write the ensemble, time and judge it; return whether it answers with its members' mean."""
    members = {str(path): opened(path) for path in settings.students}
    others = {str(path): opened(path) for path in settings.beside}
    if len(members) < 2:
        raise UserError("an ensemble needs two different students or more; name them")
    files = members | others
    refuse_different(files)
    first = next(iter(members.values()))
    unit, folder = unit_for(settings, first), settings.images
    images = read_images(folder, first, settings.most_images) if folder else random_pixels(first)
    if any(settings.out.exists() and settings.out.samefile(f.path) for f in files.values()):
        raise UserError(f"--out {settings.out}: is one of the students; give another name")
    model = averaged([onnx.load(member.path) for member in members.values()])
    metadata = {name: first.metadata[name] for name in SHARED if name in first.metadata}
    metadata |= {"members": json.dumps([Path(name).name for name in members])}
    write_model(model.SerializeToString(), settings.out, metadata)

    own = {str(settings.out): settings.out}
    paths = {name: file.path for name, file in files.items()} | own
    runtime = runtime_of(unit)
    runners = {
        n: runtime.runner(Network(unit.shape, lambda p=p: p), unit) for n, p in paths.items()
    }
    patience = Patience(0.005, settings.seconds * len(runners), share=1)
    timings = time_together(runners, str(settings.out), patience)
    told = {name: answers(path, images, unit) for name, path in paths.items()}
    ms = timings[str(settings.out)].ms
    facts = {"unit": json.dumps(asdict(unit)), "unit_of_work": str(unit)}
    add_metadata(
        settings.out, facts | {"how_to_run": runtime.how(unit), "measured_ms": f"{ms:.4f}"}
    )

    probabilities = {name: softmax(told[name].astype(np.float64), axis=1) for name in members}
    error = np.abs(np.mean(list(probabilities.values()), axis=0) - told[str(settings.out)]).max()
    print(f"\n{unit}; answers to {len(images)} images of {images.source}\n")
    print(f"{table(timings, told, str(settings.out), images.labels)}\n")
    alone = sum(timings[name].ms for name in members)
    print(f"{settings.out}: {ms:.2f} ms, its members one after the other {alone:.2f} ms")
    print(f"largest difference to the mean of its members' probabilities: {error:.1e}")
    if not others:
        print(
            f"beside it stands one student of {alone:.3g} ms: search.py --target-latency, --beside"
        )
    if images.note:
        print(images.note)
    return unit.precision != "fp32" or bool(error <= MOST_ERROR)


def opened(path: Path) -> ModelFile:
    """Read a student's ONNX file; `UserError` when it is none, or not in fp32."""
    file = read_model_file(path / STUDENT if path.is_dir() else path)
    if file.architecture is None:
        raise UserError(f"{file.path}: is of no student; give a folder such as runs/x/students/5ms")
    if file.gives_vectors:
        raise UserError(
            f"{file.path}: answers with a vector; an ensemble needs students of classes"
        )
    if file.is_int8:
        raise UserError(f"{file.path}: is in int8; give the {STUDENT} that lies beside it")
    return file


def refuse_different(files: Mapping[str, ModelFile]) -> None:
    """Raise `UserError` for files that take other images or know other classes than the first."""
    first, *others = files.values()
    for other in others:
        for field in SHARED:
            one, two = first.metadata.get(field), other.metadata.get(field)
            if one != two:
                raise UserError(
                    f"{other.path}: {field} {two}, but {one} in {first.path}; give students of one "
                    "data set and size"
                )


def unit_for(settings: Settings, file: ModelFile) -> UnitOfWork:
    """Return what is timed: as the file was made for, where nothing else is asked."""
    channels, *size = file.shape
    unit = UnitOfWork(1, tuple(size), channels=channels)
    if stored := file.metadata.get("unit"):
        unit = replace(unit_of_work(json.loads(stored)), precision=unit.precision)
        unit = replace(unit, provider=CPU) if unit.runtime == "torch" else unit  # it runs no files
    asked = {n: v for n in ("batch", "threads") if (v := getattr(settings, n)) is not None}
    unit = replace(unit, **asked)
    check_unit(unit)
    return unit


def averaged(models: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
    """Return one model whose output is the mean of the models' softmax, [B, K].

    They take the same images. Raises `UserError` for models of different operator sets.
    """
    opset, ir_version = models[0].opset_import, models[0].ir_version
    if any(list(model.opset_import) != list(opset) for model in models):
        raise UserError("the students' files have different operator sets; search again for both")
    nodes, initializers, chances = [], [], []
    images = models[0].graph.input[0]
    for number, model in enumerate(models):
        graph = onnx.compose.add_prefix(model, f"student{number}/").graph
        for node in graph.node:
            names = [images.name if name == graph.input[0].name else name for name in node.input]
            node.input[:] = names
        chances.append(f"student{number}/{OUTPUT}")
        nodes += [*graph.node, helper.make_node("Softmax", [graph.output[0].name], chances[-1:])]
        initializers += graph.initializer
    nodes.append(helper.make_node("Mean", chances, [OUTPUT]))
    answer = onnx.ValueInfoProto()
    answer.CopyFrom(models[0].graph.output[0])
    answer.name = OUTPUT
    graph = helper.make_graph(nodes, "ensemble", [images], [answer], initializers)
    return helper.make_model(graph, opset_imports=opset, ir_version=ir_version)


def answers(path: Path, images: GivenImages, unit: UnitOfWork) -> np.ndarray:
    """Return what a file says of images, [N, K]."""
    found = runtime_of(unit).logits(path, images.batches(unit.batch), unit)
    return np.concatenate(list(found))[: len(images)]


def table(
    timings: Mapping[str, Timing],
    told: Mapping[str, np.ndarray],
    ensemble: str,
    labels: np.ndarray | None,
) -> str:
    """Return a row a file: milliseconds, accuracy where classes are known, and agreement."""
    usual = told[ensemble].argmax(axis=1)
    rows = [
        ("file", "ms", "spread", "as the ensemble", *(("accuracy",) if labels is not None else ()))
    ]
    for name, timing in timings.items():
        right = told[name].argmax(axis=1)
        row = (name, f"{timing.ms:.3f}", f"{timing.spread:.1%}", f"{(right == usual).mean():.2%}")
        rows.append((*row, *((f"{(right == labels).mean():.2%}",) if labels is not None else ())))
    return in_columns(rows)


if __name__ == "__main__":
    run_script(
        "export.ensemble",
        lambda: main(tyro.cli(Settings, prog="python -m export.ensemble", description=__doc__)),
        "run it again",
    )
