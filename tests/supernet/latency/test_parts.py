"""The parts of the table are the parts of the students."""

import numpy as np

from supernet.latency.parts import Costs, assemble, parts
from supernet.latency_table import places
from supernet.space import Architecture, SearchSpace
from supernet.student import Student, parameters_and_macs


def test_parts_have_the_students_parameters_and_work(
    space: SearchSpace, every_architecture: list[Architecture]
) -> None:
    """Tables of parameters and of multiply-accumulates predict those of every student."""
    found = parts(space)
    counts = {
        place: float(sum(p.numel() for p in part.module.parameters()))
        for place, part in found.items()
    }
    macs = {place: float(part.costs.macs) for place, part in found.items()}
    tables = [assemble(space, values, {}) for values in (counts, macs)]
    for architecture in every_architecture[::37]:
        whole = parameters_and_macs(space, architecture)
        assert [t.predicted_ms(architecture) for t in tables] == list(whole)
        by_hand = sum(p.numel() for p in Student(space, architecture).parameters())
        assert tables[0].predicted_ms(architecture) == by_hand


def test_every_part_is_some_students_and_the_other_way_round(
    space: SearchSpace, every_architecture: list[Architecture]
) -> None:
    used = {place for a in every_architecture for place in places(space, a)}
    assert used == parts(space).keys()


def test_costs_are_work_and_elements_in_and_out(space: SearchSpace) -> None:
    found = parts(space)
    assert found[("stem", 0)].costs == Costs(8 * 8 * 9 * 3 * 4, 3 * 8 * 8, 4 * 8 * 8)
    # Stage 2 (stride 2), from width 6 to width 8. Expansion 1: depthwise, project.
    macs = 4 * 4 * 9 * 6 + 4 * 4 * 6 * 8
    assert found[("first", 1, 1, 1, 0)].costs == Costs(macs, 6 * 8 * 8, 8 * 4 * 4)
    # Expansion 3: expand, depthwise, project.
    macs = 8 * 8 * 6 * 18 + 4 * 4 * 9 * 18 + 4 * 4 * 18 * 8
    assert found[("first", 1, 1, 1, 2)].costs.macs == macs
    # Fused with expansion 2 and a gate: dense, squeeze to 8 channels and back, project.
    macs = 4 * 4 * 9 * 6 * 12 + 2 * 12 * 8 + 4 * 4 * 12 * 8
    assert found[("first", 1, 1, 1, 4)].costs.macs == macs
    # Stage 1, one dense convolution.
    assert found[("rest", 0, 1, 2)].costs.macs == 8 * 8 * 9 * 6 * 6
    assert found[("rest", 1, 0, 1)].costs[1:] == (6 * 4 * 4, 6 * 4 * 4)
    assert found[("head", 1, 1)].costs == Costs(4 * 4 * 8 * 8 + 8 * 3, 8 * 4 * 4, 3)
    assert found[("head", 1, 0)].costs == Costs(8 * 3, 8 * 4 * 4, 3)


def test_costs_do_not_depend_on_the_modules_mode(space: SearchSpace) -> None:
    """Counting is no training: BatchNorm's statistics stay."""
    part = parts(space)[("first", 0, 0, 1, 1)]
    before = {name: tensor.clone() for name, tensor in part.module.state_dict().items()}
    assert part.costs.macs > 0
    after = part.module.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_assembled_table_holds_every_value_at_its_place(
    space: SearchSpace, random: np.random.Generator
) -> None:
    values = {place: float(random.uniform(0.1, 2)) for place in parts(space)}
    table = assemble(space, values, {"unit_of_work": "made up"})
    assert {place: table.entry(place) for place in values} == values
    assert table.unit_of_work() == "made up"
    entries = sum(part.numel() for part in (table.stem, *table.first, *table.rest, table.head))
    assert entries == len(values)
