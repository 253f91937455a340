"""A pick that was kept is not searched again."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from export.timing.stopwatch import Timing
from supernet.choice import pick
from supernet.choice.evidence import Answered
from supernet.choice.pick import Pick, Proposal, cached_pick, pick_measured
from supernet.choice.programme import Programme, programme
from supernet.latency_table import LatencyTable
from supernet.space import Architecture
from tests.tiny import refuse


@pytest.fixture
def problem(table: LatencyTable) -> Programme:
    return programme(table)


def test_one_process_looks_for_a_kept_pick(
    tmp_path: Path, problem: Programme, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that looked for itself might see the file of one that is ahead, and go on alone."""
    fastest = problem.fastest()
    kept = Pick(fastest, 1.0, Timing(1.0, 0.01))
    path = tmp_path / "pick.json"
    assert cached_pick(path, {"a": "b"}, lambda: kept) == kept
    assert cached_pick(path, {"a": "b"}, refuse) == kept
    # As in a process that is not the first, whose first one has found nothing.
    monkeypatch.setattr(pick, "from_main_process", lambda _: None)
    other = replace(kept, predicted_ms=2.0)
    assert cached_pick(path, {"a": "b"}, lambda: other) == other


def test_a_pick_of_which_nothing_is_expected_is_kept(tmp_path: Path, problem: Programme) -> None:
    """Of few trials nothing is learned, and one that diverged has an infinite loss."""

    def measure(students: Sequence[Architecture], _: Answered) -> dict[Architecture, Timing]:
        return {a: Timing(problem.table.predicted_ms(a), 0.001) for a in students}

    slowest, most_ms = problem.slowest(), problem.range_ms()[1]
    own = Proposal(lambda _: [slowest], most_ms, lambda _: math.inf)
    find = partial(pick_measured, problem, own, 1.1 * most_ms, 1, measure)
    kept = cached_pick(tmp_path / "pick.json", {}, find)
    assert kept.architecture == slowest
    assert cached_pick(tmp_path / "pick.json", {}, refuse) == kept
