"""What is timed: the same for everyone with the space and the seed, and enough to check on."""

from dataclasses import replace

import numpy as np
import pytest

from supernet.latency.parts import assemble
from supernet.latency.plan import TimingPlan, part_name, timing_plan
from supernet.latency_table import places
from supernet.presets import preset_space
from supernet.space import Architecture, SearchSpace, StageSpace
from tests.tiny import mbconv


@pytest.fixture(scope="module")
def plan() -> TimingPlan:
    return timing_plan(preset_space("digits", 10), 0)


def few_students(widths: tuple[int, ...], kernels: tuple[int, ...]) -> SearchSpace:
    """One layer, whose width and kernel are all there is to choose."""
    stage = StageSpace(1, widths, (1,), (mbconv(kernels, (2,), (False,)),))
    return SearchSpace("few", (8, 8), 3, 1, (4,), (stage,), (8,))


def test_space_and_seed_fix_the_plan(space: SearchSpace) -> None:
    one, two, other = (timing_plan(space, seed) for seed in (0, 0, 1))
    assert (one.calibration, one.check) == (two.calibration, two.check)
    assert one.names() == two.names()
    assert one.fingerprint() == two.fingerprint() != other.fingerprint()
    assert set(one.networks.values()) != set(other.networks.values())


@pytest.mark.parametrize(
    "changed",
    [{"classes": 4}, {"resolution": (16, 16)}, {"head_widths": (9,)}, {"name": "other"}],
    ids=str,
)
def test_fingerprint_changes_with_the_space(space: SearchSpace, changed: dict) -> None:
    other = timing_plan(replace(space, **changed), 0)
    assert other.fingerprint() != timing_plan(space, 0).fingerprint()


def test_networks_are_distinct_and_the_checked_ones_unseen(plan: TimingPlan) -> None:
    calibration, check = set(plan.calibration.values()), set(plan.check.values())
    assert len(calibration) == len(plan.calibration) == 48
    assert len(check) == len(plan.check) >= 30
    assert not calibration & check
    assert {plan.space.smallest(), plan.space.largest()} <= calibration


@pytest.mark.parametrize("preset", ["cifar10", "imagenet"])
def test_every_preset_has_enough_networks_to_check_on(preset: str) -> None:
    plan = timing_plan(preset_space(preset, 10), 0)
    assert len(set(plan.check.values())) >= 30
    assert not set(plan.calibration.values()) & set(plan.check.values())


def test_names_are_those_of_all_parts_and_networks(plan: TimingPlan) -> None:
    names = plan.names()
    assert len(set(names)) == len(names) == len(plan.parts) + len(plan.networks)
    assert part_name(("rest", 1, 0, 2)) == "rest/1/0/2"
    for architecture in plan.networks.values():
        assert {part_name(place) for place in places(plan.space, architecture)} <= set(names)


def test_networks_spread_further_than_uniform_draws(
    plan: TimingPlan, random: np.random.Generator
) -> None:
    """In the logarithm of their work, which budgets are spread over."""

    macs = assemble(plan.space, {at: float(p.costs.macs) for at, p in plan.parts.items()}, {})

    def deviation(architectures: list[Architecture]) -> float:
        return float(np.std([np.log(macs.predicted_ms(a)) for a in architectures]))

    # The two ends are always there; without them the spread is the draws' own.
    ends = {plan.space.smallest(), plan.space.largest()}
    drawn = [a for a in plan.networks.values() if a not in ends]
    uniform = [plan.space.random(random) for _ in range(100)]
    assert deviation(drawn) > 1.3 * deviation(uniform)
    assert deviation([a for a in plan.check.values() if a not in ends]) > deviation(uniform)


@pytest.mark.parametrize(
    ("space", "students", "checked"),
    [
        (few_students((4, 6), (3, 5)), 4, 1),
        (few_students((4, 6, 8, 10), (3, 5, 7)), 12, 4),
        (few_students((4,), (3,)), 1, 0),
    ],
    ids=["4", "12", "1"],
)
def test_small_spaces_are_timed_whole(space: SearchSpace, students: int, checked: int) -> None:
    plan = timing_plan(space, 0)
    assert space.size() == students == len(set(plan.networks.values())) == len(plan.networks)
    assert len(plan.check) == checked
    assert plan.reference == space.smallest()
