"""A space so small that every student of it can be trained: what ground_truth and regret share."""

from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.world import World, open_world
from supernet.choice.programme import Programme
from supernet.presets import fused, mbconv
from supernet.space import Architecture, SearchSpace, StageSpace

SPACE = SearchSpace(
    name="small world",
    resolution=(16, 16),
    classes=10,
    stem_stride=1,
    stem_widths=(8,),
    stages=(
        StageSpace(2, (8, 24), (1,), (mbconv((3, 5), (4,)), fused(1))),
        StageSpace(2, (16, 48), (1, 2), (mbconv((3,), (4,)), fused(1, 2))),
    ),
    head_widths=(0, 64),
)
BUDGETS = 10


def architectures() -> list[Architecture]:
    """All 288 students of the space, in a fixed order; every kind of decision occurs."""
    decisions = SPACE.decisions()
    picked = product(*(range(len(d.choices)) for d in decisions))
    named = (dict(zip([d.name for d in decisions], one, strict=True)) for one in picked)
    return list(dict.fromkeys(map(SPACE.architecture, named)))


def small_world(data: str, limit: int, run: Path) -> World:
    """Train teacher and measure table, or find them in `run`."""
    return open_world(data, limit, run, SPACE)


def budgets_ms(problem: Programme, count: int) -> list[float]:
    """Return budgets between the fastest and the slowest student, each in the same ratio."""
    return np.geomspace(*problem.range_ms(), count + 2)[1:-1].tolist()
