"""Write a kit that measures a latency table on a device without Oyster or PyTorch.

    python -m supernet.latency.kit --run runs/digits --out kit.zip

Copy the file to the device and run `python kit.zip` there: it needs Python, numpy and onnxruntime.
It leaves measurement.json, which train.py and search.py take as --latency-table.
"""

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
import tyro
from onnx import numpy_helper
from tqdm import tqdm

from base.errors import UserError
from base.exit_status import run_script
from base.files import PARSE_ERRORS, read_json, write_atomic
from export.timing.unit_of_work import UnitOfWork, unit_of_work
from supernet.latency.graphs import network_graph, part_graph
from supernet.latency.plan import TimingPlan, part_name, timing_plan
from supernet.space import SearchSpace
from supernet.space_files import given_preset, space_from_json

HOME = Path(__file__).parent.parent.parent
SCRIPT = "export/timing/kit_script.py"
# What the script imports: the same stopwatch that measures at home.
MODULES = (
    "base/__init__.py",
    "base/errors.py",
    "base/files.py",
    "base/size.py",
    "base/streams.py",
    "export/__init__.py",
    "export/onnx_session.py",
    "export/timing/__init__.py",
    "export/timing/measurement.py",
    "export/timing/onnx_runner.py",
    "export/timing/stopwatch.py",
    "export/timing/unit_of_work.py",
)
# Weights repeat after so many numbers, so that the kit is small; they cost what others cost.
PERIOD = 1009


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
    batch: int = 1
    """Images in the unit of work, with --preset or --space."""
    resolution: str | None = None
    """Their pixels, such as 96 or 96x160 (height x width), with --preset; its own when left out."""
    channels: Literal[1, 3] = 3
    """Their channels, with --preset or --space."""
    threads: int | None = None
    provider: str | None = None
    """ONNX Runtime execution provider; the kit's own --provider can still change it."""
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
        space = own.space(settings.classes, own.size(settings.resolution), settings.channels)
        unit = UnitOfWork(settings.batch, space.resolution, channels=space.channels)
    else:
        space, unit = of_run(settings.run)
    asked = {"threads": settings.threads, "provider": settings.provider}
    unit = replace(unit, **{field: value for field, value in asked.items() if value is not None})
    if unit.in_torch:
        raise UserError(
            f"provider {unit.provider}: a kit runs ONNX Runtime; name one of its execution "
            "providers as --provider"
        )
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
    content, graphs = io.BytesIO(), {}
    shape = plan.space.image_shape
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as kit:
        for name, graph, own_shape in tqdm(list_graphs(plan), desc="kit", unit="model"):
            graphs[name] = {"file": f"graphs/{len(graphs)}.onnx", "shape": own_shape}
            add(kit, graphs[name]["file"], with_repeated_weights(graph).SerializeToString())
        reference = with_repeated_weights(network_graph(plan.space, plan.reference))
        add(kit, "graphs/reference.onnx", reference.SerializeToString())
        manifest = {
            "plan": plan.fingerprint(),
            "seed": plan.seed,
            "unit": asdict(unit),
            "graphs": graphs,
            "reference": {"file": "graphs/reference.onnx", "shape": shape},
        }
        add(kit, "manifest.json", json.dumps(manifest, indent=1).encode())
        add(kit, "__main__.py", (HOME / SCRIPT).read_bytes())
        for module in MODULES:
            add(kit, module, (HOME / module).read_bytes())
    write_atomic(path, content.getvalue())


def list_graphs(plan: TimingPlan) -> Iterator[tuple[str, onnx.ModelProto, tuple[int, int, int]]]:
    """Yield everything that is timed: name, graph and shape of the input."""
    for place, part in plan.parts.items():
        yield part_name(place), part_graph(part.module, part.size), part.shape
    for name, architecture in plan.networks.items():
        yield name, network_graph(plan.space, architecture), plan.space.image_shape


def with_repeated_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace large weights by a short run of random numbers, over and over."""
    pool = np.random.default_rng(0).standard_normal(PERIOD).astype(np.float32)
    for initializer in model.graph.initializer:
        array = numpy_helper.to_array(initializer)
        if array.dtype == np.float32 and array.size > PERIOD:
            repeated = np.resize(pool * array.std(), array.shape)
            initializer.CopyFrom(numpy_helper.from_array(repeated, initializer.name))
    return model


def add(kit: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Add a file, the same bytes each time."""
    kit.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    run_script("device_kit", lambda: main(tyro.cli(Settings)), "run it again")
