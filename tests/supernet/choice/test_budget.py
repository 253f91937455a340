"""What of a student's runs has to keep a budget, and what is searched for it."""

from dataclasses import replace

import pytest

import supernet.choice.budget as own
import supernet.latency.students as students
from base.errors import UserError
from export.timing.stopwatch import PlainRuns, Timing
from supernet.choice.budget import Budget, budget_here, feasible_budget
from supernet.choice.programme import programme
from supernet.latency.students import slowdown
from supernet.latency_table import LatencyTable
from supernet.space import Architecture
from tests.tiny import refuse


@pytest.mark.parametrize(
    ("statistic", "met"), [("undisturbed", True), ("median", True), ("p95", False)]
)
def test_the_statistic_that_was_asked_for_keeps_the_budget(statistic: str, met: bool) -> None:
    budget = Budget(20.0, statistic, 1.25)
    assert budget.is_met(Timing(19.0, 0.01), PlainRuns(19.9, 20.1, 100)) is met
    over = PlainRuns(20.1, 30.0, 100)
    assert budget.is_met(Timing(19.0, 0.01), over) is (statistic == "undisturbed")
    assert not budget.is_met(Timing(20.1, 0.01), over)


def test_slower_runs_leave_students_less(
    measured: LatencyTable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(own, "slowdown", lambda *_: 1.25)
    budget = budget_here(20.0, "p95", measured)
    assert budget == Budget(20.0, "p95", 1.25)
    assert budget.undisturbed_ms == 16.0
    said = capsys.readouterr().out
    assert "20 ms in the 95th percentile" in said
    assert "students of 16.00 ms" in said


def test_undisturbed_budgets_run_nothing(
    measured: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own, "slowdown", refuse)
    assert budget_here(20.0, "undisturbed", measured) == Budget(20.0)


def test_of_another_device_only_undisturbed_runs_are_known(measured: LatencyTable) -> None:
    machine = {**measured.provenance["machine"], "cpu": "another"}
    table = replace(measured, provenance={**measured.provenance, "machine": machine})
    with pytest.raises(UserError, match="--latency-statistic median"):
        budget_here(20.0, "median", table)
    assert budget_here(20.0, "undisturbed", table).undisturbed_ms == 20.0


def test_budgets_are_feasible_by_what_is_left_of_them(
    measured: LatencyTable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = programme(measured)
    fastest_ms, slowest_ms = problem.range_ms()
    monkeypatch.setattr(own, "slowdown", lambda *_: 2.0)
    with pytest.raises(UserError, match="too fast"):
        feasible_budget(1.5 * fastest_ms, "median", problem)
    assert feasible_budget(1.5 * fastest_ms, "undisturbed", problem).slowdown == 1.0
    capsys.readouterr()
    feasible_budget(1.5 * slowest_ms, "median", problem)
    assert "more than any" not in capsys.readouterr().out
    feasible_budget(2.5 * slowest_ms, "median", problem)
    assert "more than any" in capsys.readouterr().out


@pytest.mark.parametrize("statistic", ["median", "p95"])
def test_the_most_slowed_of_the_nearest_networks_counts(
    measured: LatencyTable, monkeypatch: pytest.MonkeyPatch, statistic: str
) -> None:
    """Each network's runs take its own multiple of what is known of it."""
    known = {
        Architecture.from_json(a["architecture"]): a["ms"] for a in measured.provenance["anchors"]
    }
    by_ms = sorted(known, key=known.__getitem__)
    times = {a: 1.5 + 0.1 * i for i, a in enumerate(by_ms)}
    monkeypatch.setattr(students, "student_runner", lambda space, a, unit: a)

    def plain_runs(runner: Architecture, seconds: float) -> PlainRuns:
        ms = times[runner] * known[runner]
        return PlainRuns(ms, 2 * ms, 40)

    monkeypatch.setattr(students, "plain_runs", plain_runs)
    nearest = by_ms[: students.SLOWED]
    expected = max(times[a] for a in nearest) * (2 if statistic == "p95" else 1)
    assert slowdown(measured, known[by_ms[0]] / 2, statistic) == pytest.approx(expected)
