"""Students that are as fast as the search's own and that nobody searched: it has to beat them."""

from dataclasses import replace

import numpy as np

from supernet.choice.programme import Programme, programme
from supernet.latency.parts import assemble, parts
from supernet.latency_table import LatencyTable
from supernet.sampling import fair_sampler, random_as_fast
from supernet.space import Architecture, SearchSpace, StageSpace

RANDOM, UNGATED, LARGEST = "random", "ungated", "largest"


def students_as_fast(
    problem: Programme, own: Architecture, draws: np.random.Generator
) -> dict[str, Architecture]:
    """Return students that are predicted to take no longer than `own`, by what they are.

    One is random; one is random among those without gates, where the space leaves gates a choice,
    for a random student has many of these, which cost more than they bring; one has most
    multiply-accumulates. What is `own` itself is left out.
    """
    most_ms = problem.table.predicted_ms(own)
    found = {RANDOM: _random(problem, most_ms, own, draws)}
    if has_choice_of_gates(problem.table.space):
        ungated = programme(without_gates(problem.table))
        if ungated.range_ms()[0] < most_ms:
            found[UNGATED] = _random(ungated, most_ms, own, draws)
    found[LARGEST] = most_macs(problem, most_ms)
    return {name: student for name, student in found.items() if student != own}


def _random(
    problem: Programme, most_ms: float, own: Architecture, draws: np.random.Generator
) -> Architecture:
    sampler = fair_sampler(problem.table, *problem.range_ms())
    return random_as_fast(sampler, most_ms, own, draws)


def most_macs(problem: Programme, most_ms: float) -> Architecture:
    """Return the student of most multiply-accumulates within `most_ms`, exactly."""
    space = problem.table.space
    macs = {place: part.costs.macs / 1e6 for place, part in parts(space).items()}
    return problem.greatest(programme(assemble(space, macs, {})).ms, most_ms)


def has_choice_of_gates(space: SearchSpace) -> bool:
    """Whether there are gates, and every stage can do without."""
    gated = [{layer.squeeze_excite for layer in stage.layers} for stage in space.stages]
    return any(True in own for own in gated) and all(False in own for own in gated)


def without_gates(table: LatencyTable) -> LatencyTable:
    """Return the table of the same space without its gates."""
    stages = table.space.stages
    kept = [[not layer.squeeze_excite for layer in stage.layers] for stage in stages]
    first = tuple(own[..., keep] for own, keep in zip(table.first, kept, strict=True))
    rest = tuple(own[..., keep] for own, keep in zip(table.rest, kept, strict=True))
    space = replace(table.space, stages=tuple(map(_without_gates, stages)))
    return replace(table, space=space, first=first, rest=rest)


def _without_gates(stage: StageSpace) -> StageSpace:
    can_do = (o for o in stage.operations if False in o.squeeze_excite)
    return replace(stage, operations=tuple(replace(o, squeeze_excite=(False,)) for o in can_do))
