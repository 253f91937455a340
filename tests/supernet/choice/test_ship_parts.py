"""What a shipped student's file of numbers says of its parts."""

import numpy as np
import pytest
import torch

from supernet.choice.ship import parts_facts
from supernet.latency_table import LatencyTable
from supernet.space import SearchSpace
from supernet.student import Student


def test_parts_have_the_sizes_and_milliseconds_of_the_student(
    space: SearchSpace, table: LatencyTable
) -> None:
    """Sizes are those that its modules give; milliseconds sum up to the prediction."""
    draws = np.random.default_rng(0)
    for architecture in (space.smallest(), space.largest(), space.random(draws)):
        student, seen = Student(space, architecture).eval(), []
        blocks = [block for stage in student.stages for block in stage]
        x = torch.rand(1, *space.image_shape)
        with torch.no_grad():
            for module in (student.stem, *blocks):
                x = module(x)
                seen.append(list(x.shape[2:]))
        found = parts_facts(table, architecture)
        assert [part["size"] for part in found] == [*seen, [1, 1]]
        total = sum(part["predicted_ms"] for part in found)
        assert total == pytest.approx(table.predicted_ms(architecture))
