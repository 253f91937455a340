"""Write a kit that measures a latency table on a device without Oyster or PyTorch.

    python -m supernet.latency.kit --run runs/digits --out kit.zip

Copy the file to the device and run `python kit.zip` there: it needs Python, numpy and onnxruntime.
It leaves measurement.json, which train.py and search.py take as --latency-table.
"""

import io
import json
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import onnx
import torch
import tyro
from onnx import numpy_helper
from tqdm import tqdm

from base.errors import UserError
from base.exit_status import run_script
from base.files import PARSE_ERRORS, read_json, write_atomic
from export.runtimes.faster import FP32
from export.runtimes.runtime import check_precision, runtime_of
from export.timing.unit_of_work import UnitOfWork, unit_of_work
from supernet.latency.int8_graphs import STEPS
from supernet.latency.plan import TimingPlan, part_name, timing_plan
from supernet.latency.precision import compared_students
from supernet.latency.runners import part_model, student_model
from supernet.space import SearchSpace
from supernet.space_files import given_preset, space_from_json

Precision = Literal["fp32", "bf16", "int8", "int8-signed"]
HOME = Path(__file__).parent.parent.parent
SCRIPT = "export/runtimes/kit_script.py"
# What the script imports: the same stopwatch that measures at home.
MODULES = (
    "base/__init__.py",
    "base/errors.py",
    "base/files.py",
    "base/size.py",
    "base/streams.py",
    "export/__init__.py",
    "export/runtimes/onnx_session.py",
    "export/runtimes/__init__.py",
    "export/runtimes/faster.py",
    "export/runtimes/in_onnxruntime.py",
    "export/runtimes/in_openvino.py",
    "export/runtimes/network.py",
    "export/runtimes/runtime.py",
    "export/timing/__init__.py",
    "export/timing/measurement.py",
    "export/timing/statistic.py",
    "export/timing/stopwatch.py",
    "export/timing/unit_of_work.py",
)
# Weights repeat after so many numbers, so that the kit is small; they cost what others cost.
PERIOD = 1009
REFERENCE, TAKEN = "reference", ("shape", "takes_features", "gives_features")


class NamedGraph(NamedTuple):
    """A graph with its input's shape [C, H, W], and whether features come in and go out."""

    name: str
    graph: onnx.ModelProto
    shape: tuple[int, int, int]
    takes_features: bool = False
    gives_features: bool = False


@dataclass(frozen=True)
class Settings:
    """Which space, and which unit of work."""

    run: Path | None = None
    """A run whose table is to be measured on the device too; it brings space and unit of work."""
    preset: str | None = None
    """Or a preset's space, before there is a run."""
    space: Path | None = None
    """Or that of a TOML file."""
    classes: int = 10
    """Number of classes, with --preset or --space."""
    vector: int | None = None
    """In place of classes, how many numbers a vector has that students answer with."""
    batch: int = 1
    """Images in the unit of work, with --preset or --space."""
    resolution: str | None = None
    """Their pixels, such as 96 or 96x160 (height x width), with --preset; its own when left out."""
    channels: Literal[1, 3] = 3
    """Their channels, with --preset or --space."""
    threads: int | None = None
    provider: str | None = None
    """ONNX Runtime execution provider, or openvino:CPU; the kit's own --provider can still change
    it."""
    precision: Precision | None = None
    """fp32, bf16, int8 with unsigned activations, or int8-signed; the run's own, or fp32, when left
    out."""
    seed: int = 0
    out: Path = Path("kit.zip")


def main(settings: Settings) -> None:
    """Write the kit and say what to do with it."""
    space, unit = space_and_unit(settings)
    torch.manual_seed(settings.seed)
    plan = timing_plan(space, settings.seed)
    write_kit(settings.out, plan, unit)
    size = settings.out.stat().st_size / 2**20
    print(f"{settings.out} ({size:.1f} MiB): copy it to the device and run there")
    print(f"    python {settings.out.name}")
    print("then bring measurement.json back, as --latency-table of train.py or search.py")


def space_and_unit(settings: Settings) -> tuple[SearchSpace, UnitOfWork]:
    """Return what the run or the preset asks for; `UserError` when neither is given, or both."""
    given = (settings.run, settings.preset, settings.space)
    if sum(one is not None for one in given) != 1:
        raise UserError("give either --run, or --preset or --space with --classes and --batch")
    if settings.run is None:
        own = given_preset(settings.preset or "", settings.space)
        size, vector = own.size(settings.resolution), settings.vector
        space = own.space(vector or settings.classes, size, settings.channels, vector is not None)
        unit = UnitOfWork(settings.batch, space.resolution, channels=space.channels)
    else:
        space, unit = of_run(settings.run)
    fields = ("threads", "provider", "precision")
    asked = {field: getattr(settings, field) for field in fields}
    unit = replace(unit, **{field: value for field, value in asked.items() if value is not None})
    if unit.runtime == "torch":
        raise UserError(
            f"provider {unit.provider}: a kit runs ONNX files; name one of ONNX Runtime's "
            "execution providers, or openvino:CPU, as --provider"
        )
    check_precision(unit)
    return space, unit


def of_run(run: Path) -> tuple[SearchSpace, UnitOfWork]:
    """Return the space and the unit of work of a run's table."""
    path = run / "latency.json"
    if not path.exists():
        raise UserError(f"{path}: no table there yet; run train.py first, or give --preset")
    table = read_json(path)
    try:
        space = space_from_json(table["space"])
        return space, unit_of_work(table["provenance"]["unit"])
    except PARSE_ERRORS as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: damaged latency table ({reason}); measure it again") from error


def write_kit(path: Path, plan: TimingPlan, unit: UnitOfWork) -> None:
    """Write the zip: graphs, a manifest, the script as __main__.py, and what it imports."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as kit:
        # A student first: it exports all structures at once, and parts find them.
        reference = student_model(plan.space, plan.reference, unit), plan.space.image_shape
        graphs = add_graphs(kit, "graphs", tqdm(list_graphs(plan, unit), desc="kit", unit="model"))
        compared = {
            form: list(add_graphs(kit, form, students).values())
            for form, students in list_compared(plan, unit)
        }
        manifest = {
            "plan": plan.fingerprint(),
            "seed": plan.seed,
            "unit": asdict(unit),
            "graphs": graphs,
            **add_graphs(kit, REFERENCE, [NamedGraph(REFERENCE, *reference)]),
            "compared": compared,
        }
        add(kit, "manifest.json", json.dumps(manifest, indent=1).encode())
        add(kit, "__main__.py", (HOME / SCRIPT).read_bytes())
        for module in MODULES:
            add(kit, module, (HOME / module).read_bytes())
    write_atomic(path, content.getvalue())


def add_graphs(
    kit: zipfile.ZipFile, folder: str, graphs: Iterable[NamedGraph]
) -> dict[str, dict[str, object]]:
    """Write graphs into a folder of the kit; return each one's file and what it takes."""
    entries = {}
    for name, graph, *taken in graphs:
        file = f"{folder}/{len(entries)}.onnx"
        entries[name] = {"file": file, **dict(zip(TAKEN, taken, strict=True))}
        add(kit, file, with_repeated_weights(graph).SerializeToString())
    return entries


def list_graphs(plan: TimingPlan, unit: UnitOfWork) -> Iterator[NamedGraph]:
    """Yield everything that is timed: name, graph and shape of the input."""
    for place, part in plan.parts.items():
        features = part.takes_features, part.gives_features
        yield NamedGraph(part_name(place), part_model(part, unit), part.shape, *features)
    for name, architecture in plan.networks.items():
        graph = student_model(plan.space, architecture, unit)
        yield NamedGraph(name, graph, plan.space.image_shape)


def list_compared(plan: TimingPlan, unit: UnitOfWork) -> Iterator[tuple[str, Iterator[NamedGraph]]]:
    """Yield the forms of int8, and fp32, each with students to say on the device which is fast."""
    if unit.is_int8:
        for form in (FP32, *runtime_of(unit).FORMS["int8"]):
            own = replace(unit, precision=form)
            yield (
                form,
                (
                    NamedGraph(str(i), student_model(plan.space, a, own), plan.space.image_shape)
                    for i, a in enumerate(compared_students(plan.space, plan.seed))
                ),
            )


def with_repeated_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace large weights by a short run of random numbers, over and over."""
    pool = np.random.default_rng(0).standard_normal(PERIOD)
    for initializer in model.graph.initializer:
        array = numpy_helper.to_array(initializer)
        if array.dtype in (np.float32, np.int8) and array.size > PERIOD:
            numbers = pool * array.std()
            if array.dtype == np.int8:
                numbers = numbers.round().clip(-STEPS, STEPS)
            repeated = np.resize(numbers.astype(array.dtype), array.shape)
            initializer.CopyFrom(numpy_helper.from_array(repeated, initializer.name))
    return model


def add(kit: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Add a file, the same bytes each time."""
    kit.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    run_script("device_kit", lambda: main(tyro.cli(Settings)), "run it again")
