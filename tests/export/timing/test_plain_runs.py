"""Plain runs on a fake clock: all of them count, the slow ones too."""

import pytest

from export.timing.stopwatch import plain_runs


@pytest.mark.parametrize(("seconds", "runs"), [(0.0, 40), (0.57, 60)])
def test_plain_runs_are_all_counted_but_the_first(seconds: float, runs: int) -> None:
    """Every tenth run takes three times as long; the first one, which warms up, ever so long."""
    made, now = 0, 0.0

    def run() -> None:
        nonlocal made, now
        now += 9.0 if made == 0 else 0.024 if made % 10 == 0 else 0.008
        made += 1

    found = plain_runs(run, seconds, clock=lambda: now)
    assert (found.runs, made) == (runs, runs + 1)
    assert found.median_ms == pytest.approx(8)
    assert found.p95_ms == pytest.approx(24)
