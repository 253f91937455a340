"""A space small enough to enumerate, made-up milliseconds for it, and how it is measured."""

from dataclasses import asdict

import torch

from export.timing.stopwatch import Patience
from export.timing.unit_of_work import UnitOfWork, machine
from supernet.latency_table import LatencyTable, table_shapes
from supernet.space import SearchSpace, StageSpace

UNIT = UnitOfWork(batch=2, resolution=8)
PATIENCE = Patience(1.0, 5.0, least_rounds=2)


def tiny_space(classes: int = 3) -> SearchSpace:
    """Every kind of decision, in 2 x 2 stages' choices."""
    return SearchSpace(
        name="tiny",
        resolution=8,
        classes=classes,
        stem_width=4,
        stem_stride=1,
        head_width=8,
        stages=(
            StageSpace(1, (4, 6), (1, 2), (3, 5), (2,), (False, True)),
            StageSpace(2, (6, 8), (1, 2), (3,), (1, 3), (False, True)),
        ),
    )


def tiny_table(space: SearchSpace) -> LatencyTable:
    """Random positive milliseconds, always the same."""
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


def refuse(*_: object, **__: object) -> None:
    """Stand in for what must not be timed."""
    raise AssertionError("nothing is to be timed")
