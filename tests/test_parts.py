"""The parts of the table are the parts of the students."""

from supernet.parts import assemble, parts
from supernet.space import Architecture, SearchSpace
from supernet.student import Student


def test_parts_have_the_students_parameters(
    space: SearchSpace, every_architecture: list[Architecture]
) -> None:
    """A table of parameter counts predicts every student's parameter count."""
    counts = {
        place: float(sum(p.numel() for p in part.module.parameters()))
        for place, part in parts(space).items()
    }
    table = assemble(space, counts, {})
    for architecture in every_architecture[::37]:
        whole = sum(p.numel() for p in Student(space, architecture).parameters())
        assert table.predicted_ms(architecture) == whole


def test_elements_are_those_that_go_in_and_out(space: SearchSpace) -> None:
    found = parts(space)
    assert found[("stem",)].elements() == (3 + 4) * 8 * 8
    # Stage 2 (stride 2), from width 6 to width 8.
    assert found[("first", 1, 1, 1, 0, 0, 0)].elements() == 6 * 8 * 8 + 8 * 4 * 4
    assert found[("rest", 1, 0, 0, 1, 1)].elements() == 2 * 6 * 4 * 4
    assert found[("head", 1)].elements() == 8 * 4 * 4 + 3
