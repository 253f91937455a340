"""What many tests share: a small space and its table, one run at smoke size."""

import subprocess
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from export.device import UnitOfWork, machine
from supernet.derive import programme
from supernet.latency import LatencyTable, table_shapes
from supernet.space import Architecture, SearchSpace, StageSpace
from tests.smoke import QUICK_SEARCH, SMOKE, run, table_of

# Tiny networks gain nothing from threads, and lose much on a busy machine.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def space() -> SearchSpace:
    """Every kind of decision, in 2 x 2 stages' choices; few enough to enumerate."""
    return SearchSpace(
        name="tiny",
        resolution=8,
        classes=3,
        stem_width=4,
        stem_stride=1,
        head_width=8,
        stages=(
            StageSpace(1, (4, 6), (1, 2), (3, 5), (2,), (False, True)),
            StageSpace(2, (6, 8), (1, 2), (3,), (1, 3), (False, True)),
        ),
    )


@pytest.fixture(scope="session")
def every_architecture(space: SearchSpace) -> list[Architecture]:
    """All students of `space`, by brute force over all decisions."""
    decisions = space.decisions()
    grids = np.stack(np.meshgrid(*[range(len(d.choices)) for d in decisions], indexing="ij"), -1)
    names = [d.name for d in decisions]
    rows = grids.reshape(-1, len(names)).tolist()
    return list(dict.fromkeys(space.architecture(dict(zip(names, r, strict=True))) for r in rows))


@pytest.fixture(scope="session")
def table(space: SearchSpace) -> LatencyTable:
    """Random positive milliseconds."""
    generator = torch.Generator().manual_seed(0)

    def random(shape: tuple[int, ...]) -> torch.Tensor:
        return 0.1 + torch.rand(shape, generator=generator, dtype=torch.float64)

    shapes = table_shapes(space)
    return LatencyTable(
        space,
        0.25,
        tuple(map(random, shapes.first)),
        tuple(map(random, shapes.rest)),
        random(shapes.head),
        {
            "unit_of_work": "one made-up unit",
            "unit": asdict(UnitOfWork(batch=2, resolution=8)),
            "machine": machine(),
            "date": "today",
        },
    )


@pytest.fixture
def random() -> np.random.Generator:
    """A fresh generator, the same for every test."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A trained run's folder, and what train.py printed."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    done = run("train.py", "--run", folder, *SMOKE)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture(scope="session")
def searched(trained: tuple[Path, str]) -> tuple[Path, float, subprocess.CompletedProcess]:
    """The student's folder, its budget, and the finished search."""
    folder, _ = trained
    budget = round(float(np.prod(programme(table_of(folder)).range_ms()) ** 0.5), 3)
    done = run("search.py", "--run", folder, "--target-latency", budget, *QUICK_SEARCH)
    return folder / "students" / f"{budget:g}ms", budget, done
