"""A pick that was kept is not searched again."""

from dataclasses import replace
from pathlib import Path

import pytest

from export.timing.stopwatch import Timing
from supernet.choice import pick
from supernet.choice.pick import Pick, cached_pick
from supernet.choice.programme import Programme, programme
from supernet.latency_table import LatencyTable
from tests.tiny import refuse


@pytest.fixture
def problem(table: LatencyTable) -> Programme:
    return programme(table)


def test_one_process_looks_for_a_kept_pick(
    tmp_path: Path, problem: Programme, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that looked for itself might see the file of one that is ahead, and go on alone."""
    fastest = problem.fastest()
    kept = Pick(fastest, 1.0, Timing(1.0, 0.01), 0.5)
    path = tmp_path / "pick.json"
    assert cached_pick(path, {"a": "b"}, lambda: kept) == kept
    assert cached_pick(path, {"a": "b"}, refuse) == kept
    # As in a process that is not the first, whose first one has found nothing.
    monkeypatch.setattr(pick, "from_main_process", lambda _: None)
    other = replace(kept, predicted_ms=2.0)
    assert cached_pick(path, {"a": "b"}, lambda: other) == other
