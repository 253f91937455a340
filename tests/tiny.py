"""A space small enough to enumerate, made-up milliseconds for it, and how it is measured."""

from dataclasses import asdict
from functools import partial
from itertools import product

import torch

from export.runtimes.runtime import this_machine
from export.timing.stopwatch import Patience
from export.timing.unit_of_work import UnitOfWork
from supernet.latency_table import LatencyTable, table_shapes
from supernet.space import (
    FUSED,
    MBCONV,
    Architecture,
    OperationSpace,
    SearchSpace,
    Stage,
    StageSpace,
)

mbconv, fused = partial(OperationSpace, MBCONV), partial(OperationSpace, FUSED)
UNIT = UnitOfWork(batch=2, resolution=(8, 8))
PATIENCE = Patience(1.0, 5.0, least_rounds=2)


def tiny_space(classes: int = 3) -> SearchSpace:
    """Every kind of decision, in 2 x 2 stages' choices."""
    return SearchSpace(
        name="tiny",
        resolution=(8, 8),
        classes=classes,
        stem_stride=1,
        stem_widths=(4, 6),
        stages=(
            StageSpace(
                1, (4, 6), (1, 2), (mbconv((3, 5), (2,), (False,)), fused((3,), (1,), (False,)))
            ),
            StageSpace(
                2, (6, 8), (1, 2), (mbconv((3,), (1, 3), (False, True)), fused((3,), (2,), (True,)))
            ),
        ),
        head_widths=(0, 8),
    )


def enumerate_students(space: SearchSpace) -> list[Architecture]:
    """Every student once, by brute force over stems, stages, layers and heads."""
    stages = [
        [
            Stage(width, layers)
            for width in stage.widths
            for depth in stage.depths
            for layers in product(stage.layers, repeat=depth)
        ]
        for stage in space.stages
    ]
    wholes = product(space.stem_widths, product(*stages), space.head_widths)
    return [Architecture(*whole) for whole in wholes]


def tiny_table(space: SearchSpace) -> LatencyTable:
    """Random positive milliseconds, always the same."""
    generator = torch.Generator().manual_seed(0)

    def random(shape: tuple[int, ...]) -> torch.Tensor:
        return 0.1 + torch.rand(shape, generator=generator, dtype=torch.float64)

    shapes = table_shapes(space)
    return LatencyTable(
        space,
        random(shapes.stem),
        tuple(map(random, shapes.first)),
        tuple(map(random, shapes.rest)),
        random(shapes.head),
        {
            "unit_of_work": "one made-up unit",
            "unit": asdict(UnitOfWork(batch=2, resolution=(8, 8))),
            "machine": this_machine(UnitOfWork(1, (8, 8))),
            "date": "today",
        },
    )


def refuse(*_: object, **__: object) -> None:
    """Stand in for what must not be timed."""
    raise AssertionError("nothing is to be timed")
