"""What a pick asks of its timings, and how much each of them counts."""

from collections.abc import Sequence

import pytest

from base.errors import UserError
from export.timing.stopwatch import Timing
from supernet.choice.evidence import Answered
from supernet.choice.pick import Proposal, budget_calibrated, pick_measured, table_error
from supernet.choice.programme import Programme, programme
from supernet.latency_table import LatencyTable
from supernet.space import Architecture, SearchSpace

TARGET_MS = 10.0
WITHIN, UNSURE, OVER = Timing(9.8, 0.001), Timing(9.8, 0.011), Timing(11.0, 0.001)


@pytest.fixture
def problem(table: LatencyTable) -> Programme:
    return programme(table)


@pytest.fixture
def students(space: SearchSpace) -> list[Architecture]:
    """Two, the one of less loss first."""
    return [space.smallest(), space.largest()]


def proposal(students: Sequence[Architecture], least_use: float) -> Proposal:
    return Proposal(lambda _: students, 5.0, students.index, least_use)


def test_it_ends_when_one_surely_keeps_the_budget_also_when_it_is_timed_again(
    problem: Programme, students: list[Architecture]
) -> None:
    asked: list[tuple[list[Architecture], Answered]] = []

    def measure(timed: Sequence[Architecture], enough: Answered) -> dict[Architecture, Timing]:
        asked.append((list(timed), enough))
        return dict.fromkeys(timed, WITHIN)

    pick_measured(problem, proposal(students, 0.95), TARGET_MS, 2, measure)
    (both, for_both), (one, for_one) = asked
    assert (both, one) == (students, students[:1])
    first, second = students
    assert for_both({first: WITHIN, second: UNSURE})
    assert for_both({first: OVER, second: OVER})
    assert not for_both({first: UNSURE, second: WITHIN})
    # Of too little of the budget used: 9.3 · 1.012 = 9.41.
    assert not for_both({first: Timing(9.3, 0.001), second: UNSURE})
    # Beside the first timing, of 9.8 ms. As exact, of 10.2 ms: the mean's 10.0 · 1.012 is over 10.
    assert for_one({first: WITHIN})
    assert for_one({first: Timing(10.2, 0.001)})
    assert not for_one({first: Timing(9.8, 0.013)}), "too rough, although the mean is sure"


def test_a_rough_second_timing_does_not_do(
    problem: Programme, students: list[Architecture]
) -> None:
    """After a rough first one, whose student is the only one."""
    timed: list[Timing] = [Timing(9.6, 0.02), Timing(9.7, 0.004)]

    def measure(_: Sequence[Architecture], enough: Answered) -> dict[Architecture, Timing]:
        if len(timed) == 1:
            assert not enough({students[0]: Timing(9.7, 0.02)})
            assert enough({students[0]: timed[0]})
        return {students[0]: timed.pop(0)}

    own = proposal(students[:1], 0.95)
    picked = pick_measured(problem, own, TARGET_MS, 1, measure)
    weights = [1 / (0.02**2 + 0.012**2), 1 / (0.004**2 + 0.012**2)]
    mean = (9.6 * weights[0] + 9.7 * weights[1]) / sum(weights)
    assert picked.measured.ms == pytest.approx(mean)


def test_calibrating_ends_when_the_mean_is_known(
    problem: Programme, students: list[Architecture]
) -> None:
    def measure(timed: Sequence[Architecture], enough: Answered) -> dict[Architecture, Timing]:
        first, second = timed
        assert enough({first: OVER, second: Timing(9.8, 0.02)})
        assert not enough({first: OVER, second: Timing(9.8, 0.03)})
        return {first: OVER, second: Timing(1.0, 0.03)}

    asked_ms = budget_calibrated(problem, proposal(students, 0.95), TARGET_MS, 2, measure)
    # The rough timing counts less: by its 3 % beside the table's error.
    error = max(0.012, table_error(problem))
    weights = [1 / (0.001**2 + error**2), 1 / (0.03**2 + error**2)]
    first, second = (problem.table.predicted_ms(student) for student in students)
    off = 1.012 * (11.0 / first * weights[0] + 1.0 / second * weights[1]) / sum(weights)
    fastest_ms, slowest_ms = problem.range_ms()
    assert asked_ms == pytest.approx(min(max(TARGET_MS / off, fastest_ms), slowest_ms))


def test_no_less_is_asked_than_the_fastest_student_needs(
    problem: Programme, students: list[Architecture]
) -> None:
    """However slow the device is: the fastest one may still be within the budget."""

    def measure(timed: Sequence[Architecture], _: Answered) -> dict[Architecture, Timing]:
        return dict.fromkeys(timed, Timing(1000.0, 0.001))

    asked_ms = budget_calibrated(problem, proposal(students, 0.95), TARGET_MS, 2, measure)
    assert asked_ms == problem.range_ms()[0]


def test_a_rough_timing_counts_less_than_an_exact_one(
    problem: Programme, students: list[Architecture]
) -> None:
    """Measuring ended when the first student was sure, who then failed; the second was rough."""

    def measure(timed: Sequence[Architecture], _: Answered) -> dict[Architecture, Timing]:
        first, second = students
        if len(timed) == 2:
            return {first: Timing(9.7, 0.001), second: Timing(9.55, 0.03)}
        # The mean of 9.55 and 10.02 would be within the budget, if both weighed alike.
        return {first: Timing(10.5, 0.001), second: Timing(10.02, 0.001)}

    with pytest.raises(UserError, match="no student was measured within it"):
        pick_measured(problem, proposal(students, 0.95), TARGET_MS, 2, measure)
