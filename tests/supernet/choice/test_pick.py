"""What is picked for a budget, on made-up devices that the table knows more or less well."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pytest
import torch

from base.errors import UserError
from export.timing.stopwatch import Timing
from supernet.alpha import Alpha
from supernet.choice.evidence import MARGIN, Answered
from supernet.choice.pick import (
    MIN_BUDGET_USE,
    PredictLoss,
    Proposal,
    alphas_proposal,
    budget_asked,
    budget_calibrated,
    budget_predicted,
    pick_measured,
    pick_predicted,
)
from supernet.choice.programme import BUDGET_USES, Programme, candidates, check_budget, programme
from supernet.latency_table import LatencyTable, table_shapes
from supernet.presets import preset_space
from supernet.space import Architecture, Choices

FINALISTS = 2


@dataclass
class Device:
    """Takes `bias` times what the table says, each time `noise` more or less; keeps the timings."""

    table: LatencyTable
    bias: float
    noise: float = 0.01
    spread: float = 0.003
    calls: list[list[Architecture]] = field(default_factory=list)
    timed: dict[Architecture, list[float]] = field(default_factory=dict)

    def measure(
        self, architectures: Sequence[Architecture], _: Answered
    ) -> dict[Architecture, Timing]:
        self.calls.append(list(architectures))
        for a in architectures:
            before = self.timed.setdefault(a, [])
            seed = zlib.crc32(f"{a} {len(before)}".encode())
            factor = 1 + np.random.default_rng(seed).normal(0, self.noise)
            before.append(self.table.predicted_ms(a) * self.bias * factor)
        return {a: Timing(self.timed[a][-1], self.spread) for a in architectures}


def expect(architecture: Architecture) -> float:
    """A loss that has nothing to do with the latency."""
    return zlib.crc32(repr(architecture.to_json()).encode()) / 2**32


def proposing(
    problem: Programme,
    log_p: Choices,
    draws: np.random.Generator,
    target_ms: float,
    count: int = 3,
    budget: Callable[[Programme, float], float] = budget_asked,
    expect: PredictLoss = expect,
) -> Proposal:
    propose = partial(candidates, problem, log_p, count=count, generator=draws)
    return Proposal(propose, budget(problem, target_ms), expect)


@pytest.fixture(scope="module")
def problem() -> Programme:
    """The digits space, where everything larger takes longer."""
    space, draws = preset_space("digits", 10), np.random.default_rng(0)

    def monotone(shape: tuple[int, ...]) -> torch.Tensor:
        ms = draws.uniform(0.005, 0.015, shape)
        for axis in range(len(shape)):
            ms = ms.cumsum(axis)
        return torch.tensor(ms)

    shapes = table_shapes(space)
    parts = (tuple(map(monotone, shapes.first)), tuple(map(monotone, shapes.rest)))
    provenance = {"unit_of_work": "made up", "check": {"error": 0.03}}
    stem, head = monotone(shapes.stem), monotone(shapes.head)
    return programme(LatencyTable(space, stem, *parts, head, provenance))


@pytest.fixture(scope="module")
def alpha(problem: Programme) -> Alpha:
    alpha = Alpha(problem.table.space, *problem.range_ms(), 3)
    torch.nn.init.normal_(alpha.logits, generator=torch.Generator().manual_seed(0))
    return alpha.requires_grad_(False)


@pytest.mark.parametrize("bias", [0.9, 1.0, 1.1])
def test_picks_keep_the_budget_and_fill_it(
    problem: Programme, alpha: Alpha, bias: float, random: np.random.Generator
) -> None:
    """Whatever the table is off by; there are students in plenty near each of the ten budgets."""
    fastest_ms, slowest_ms = problem.range_ms()
    for target_ms in np.geomspace(1.5 * bias * fastest_ms, 0.9 * bias * slowest_ms, 10):
        device = Device(problem.table, bias)
        own = proposing(problem, alpha(target_ms), random, target_ms, 8)
        pick = pick_measured(problem, own, target_ms, 4, device.measure)
        mean_ms = {a: sum(timings) / len(timings) for a, timings in device.timed.items()}
        assert len(device.timed[pick.architecture]) == 2
        assert pick.measured.ms == pytest.approx(mean_ms[pick.architecture])
        assert pick.measured.spread == pytest.approx(0.003 / 2**0.5)
        assert 0.97 * target_ms <= pick.measured.ms <= target_ms / (1 + MARGIN)
        assert pick.predicted_ms == problem.table.predicted_ms(pick.architecture)
        # Its spread is small, so the margin alone is added to what was measured.
        safe_ms = {a: ms * (1 + MARGIN) for a, ms in mean_ms.items()}
        fill = (
            MIN_BUDGET_USE
            if pick.measured.ms * (1 + MARGIN) >= MIN_BUDGET_USE * target_ms
            else BUDGET_USES[0]
        )
        fitting = [a for a, ms in safe_ms.items() if fill * target_ms <= ms <= target_ms]
        assert pick.architecture == min(fitting, key=expect)


def test_only_the_best_expected_are_measured(
    problem: Programme, alpha: Alpha, random: np.random.Generator
) -> None:
    target_ms, device, again = 0.8, Device(problem.table, 1.0), np.random.default_rng(0)
    log_p = alpha(target_ms)
    own = proposing(problem, log_p, random, target_ms, 6)
    pick_measured(problem, own, target_ms, 2, device.measure)
    first = candidates(problem, log_p, target_ms / (1 + MARGIN), 6, again)
    assert device.calls[0] == sorted(first, key=expect)[:2]


def test_a_flattered_student_is_not_taken(
    problem: Programme, alpha: Alpha, random: np.random.Generator
) -> None:
    """The first to be timed again seemed to be within the budget, and is not."""
    target_ms, device = 0.8, Device(problem.table, 1.0, noise=0.0)
    slower: list[Architecture] = []

    def flattering(
        architectures: Sequence[Architecture], enough: Answered
    ) -> dict[Architecture, Timing]:
        timings = device.measure(architectures, enough)
        again = [a for a in architectures if len(device.timed[a]) > 1]
        slower.extend(again if not slower else [])
        return timings | {a: Timing(1.05 * timings[a].ms, 0.0) for a in again if a in slower}

    own = proposing(problem, alpha(target_ms), random, target_ms)
    pick = pick_measured(problem, own, target_ms, FINALISTS, flattering)
    (flattered,) = slower
    assert device.timed[flattered][0] * (1 + MARGIN) <= target_ms
    assert len(device.timed[flattered]) == 2
    assert pick.architecture != flattered
    assert pick.measured.ms <= target_ms / (1 + MARGIN)


def test_uncertain_timings_keep_their_distance(
    problem: Programme, alpha: Alpha, random: np.random.Generator
) -> None:
    """The standard error is left of the budget, where that is more than the margin."""
    device = Device(problem.table, 1.0, noise=0.0, spread=0.04)
    own = proposing(problem, alpha(0.8), random, 0.8)
    pick = pick_measured(problem, own, 0.8, FINALISTS, device.measure)
    assert MIN_BUDGET_USE * 0.8 <= pick.measured.ms * 1.04 <= 0.8


def test_nothing_measured_within_the_budget_is_an_error(
    problem: Programme, alpha: Alpha, random: np.random.Generator
) -> None:
    """The device is so slow that the fastest student is not within it either."""
    target_ms = 1.5 * problem.range_ms()[0]
    device = Device(problem.table, 2.0)
    own = proposing(problem, alpha(target_ms), random, target_ms)
    with pytest.raises(UserError, match=r"--target-latency .*no student was measured within it"):
        pick_measured(problem, own, target_ms, FINALISTS, device.measure)
    assert device.timed


def test_a_generous_budget_gets_one_of_the_slowest_that_the_space_has(
    problem: Programme, alpha: Alpha, random: np.random.Generator
) -> None:
    slowest_ms = problem.range_ms()[1]
    device = Device(problem.table, 1.0)
    own = proposing(problem, alpha(3 * slowest_ms), random, 3 * slowest_ms)
    pick = pick_measured(problem, own, 3 * slowest_ms, FINALISTS, device.measure)
    assert pick.predicted_ms >= BUDGET_USES[2] * slowest_ms
    assert pick.architecture == min(device.timed, key=expect)
    # One attempt is enough, and the pick is timed once more.
    assert device.calls == [device.calls[0], [pick.architecture]]


def test_unmeasured_picks_leave_the_tables_error_free(problem: Programme, alpha: Alpha) -> None:
    fastest_ms, slowest_ms = problem.range_ms()
    for target_ms in np.geomspace(1.5 * fastest_ms, 0.9 * slowest_ms, 5):
        log_p = alpha(target_ms)
        draws, again = np.random.default_rng(3), np.random.default_rng(3)
        own = proposing(problem, log_p, draws, target_ms, 4, budget_predicted)
        pick = pick_predicted(problem, own, target_ms)
        within_ms = 0.97 * target_ms
        assert 0.97 * within_ms <= pick.predicted_ms <= within_ms
        assert pick.measured is None
        found = candidates(problem, log_p, within_ms, 4, again)
        assert pick.architecture == min(found, key=expect)


def test_unchecked_tables_leave_the_margin(problem: Programme, alpha: Alpha) -> None:
    table = replace(problem.table, provenance={"unit_of_work": "made up", "check": {"networks": 1}})
    unchecked, draws = replace(problem, table=table), np.random.default_rng(3)
    own = proposing(unchecked, alpha(0.8), draws, 0.8, budget=budget_predicted)
    pick = pick_predicted(unchecked, own, 0.8)
    assert 0.97 * 0.8 * (1 - MARGIN) <= pick.predicted_ms <= 0.8 * (1 - MARGIN)


def test_nothing_predicted_within_the_rest_is_an_error(
    problem: Programme, alpha: Alpha, random: np.random.Generator
) -> None:
    """The fastest student is within the budget, but not by the table's error of 3 %."""
    target_ms = 1.01 * problem.range_ms()[0]
    own = proposing(problem, alpha(target_ms), random, target_ms, budget=budget_predicted)
    with pytest.raises(UserError, match=r"error of 3\.0% to spare"):
        pick_predicted(problem, own, target_ms)


def test_a_sure_alpha_gets_its_way(problem: Programme, random: np.random.Generator) -> None:
    """Where one student is far more probable than all others and fits, it is among the timed."""
    space = problem.table.space
    wanted = space.middle()
    log_p = {name: (p + 1e-9).log() * 5 for name, p in space.one_hot(wanted).items()}
    target_ms = 1.012 * problem.table.predicted_ms(wanted)
    device = Device(problem.table, 1.0, noise=0.0)

    def favour(architecture: Architecture) -> float:
        return float(architecture != wanted)

    own = proposing(problem, log_p, random, target_ms, expect=favour)
    pick = pick_measured(problem, own, target_ms, FINALISTS, device.measure)
    assert pick.architecture == wanted


@pytest.mark.parametrize("bias", [0.9, 1.0, 1.1])
def test_a_calibrated_budget_asks_for_what_is_measured_within_it(
    problem: Programme, alpha: Alpha, bias: float, random: np.random.Generator
) -> None:
    """What the table predicts to fill it, the device does, but for its noise and the margin."""
    target_ms, device = 0.8, Device(problem.table, bias)
    own = proposing(problem, alpha(target_ms), random, target_ms, 8)
    asked_ms = budget_calibrated(problem, own, target_ms, 4, device.measure)
    (timed,) = device.calls
    assert len(timed) == 4
    assert asked_ms == pytest.approx(target_ms / bias / (1 + MARGIN), rel=0.01)
    filling = candidates(problem, alpha(target_ms), asked_ms, 4, random)
    exact = [bias * problem.table.predicted_ms(a) for a in filling]
    assert all(0.95 * target_ms < ms < target_ms for ms in exact)


@pytest.mark.parametrize("budget", [budget_asked, budget_predicted])
def test_no_more_is_asked_than_the_slowest_needs(
    problem: Programme, budget: Callable[[Programme, float], float]
) -> None:
    slowest_ms = problem.range_ms()[1]
    assert budget(problem, 5 * slowest_ms) == slowest_ms


def test_a_budget_that_only_the_fastest_may_meet_asks_for_it(
    problem: Programme, alpha: Alpha
) -> None:
    """Less than the margin above it: measured, it is within the budget or not."""
    fastest_ms = problem.range_ms()[0]
    target_ms = 1.005 * fastest_ms
    assert check_budget(problem, target_ms) is False
    own = alphas_proposal(problem, alpha(target_ms), 4, 0, expect, budget_asked(problem, target_ms))
    assert own.propose(own.asked_ms) == [problem.fastest()]

    def measure(students: Sequence[Architecture], _: Answered) -> dict[Architecture, Timing]:
        return {a: Timing(0.98 * problem.table.predicted_ms(a), 0.001) for a in students}

    assert pick_measured(problem, own, target_ms, 4, measure).architecture == problem.fastest()


def test_alpha_proposes_the_same_for_the_same_seed(problem: Programme, alpha: Alpha) -> None:
    """Whatever was asked of another proposal before; again it proposes others."""
    own = partial(alphas_proposal, problem, alpha(0.8), 4)
    one, other, third = (own(seed, expect, 0.8) for seed in (1, 1, 2))
    first = one.propose(0.8)
    assert (
        first
        == other.propose(0.8)
        == candidates(problem, alpha(0.8), 0.8, 4, np.random.default_rng(1))
    )
    assert first != third.propose(0.8)
    assert first != one.propose(0.8)
