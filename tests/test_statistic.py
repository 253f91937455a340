"""A budget of plain runs, from search.py's command line to its exit status."""

import json
from pathlib import Path

import pytest

from tests.smoke import QUICK_SEARCH, middle_ms, run


def test_a_budget_of_medians_is_kept_or_said_to_be_broken(trained_copy: Path) -> None:
    target_ms = f"{middle_ms(trained_copy) + 0.002:g}"
    options = ("--target-latency", target_ms, *QUICK_SEARCH, "--latency-statistic", "median")
    done = run("search.py", "--run", trained_copy, *options)
    assert done.returncode in (0, 1), done.stderr
    student = trained_copy / "students" / f"{target_ms}ms-median"
    facts = json.loads((student / "metrics.json").read_text())
    assert facts["latency_statistic"] == "median"
    kept = facts["plain_runs"]["median_ms"] <= float(target_ms)
    assert facts["meets_target"] is kept
    assert facts["measured_ms"] is not None
    assert f"the median is {'within budget' if kept else 'OVER BUDGET'}" in done.stdout
    if not kept:
        assert done.returncode == 1


@pytest.mark.parametrize("wrong", ["mean", "p99"])
def test_an_unknown_statistic_is_one_line(trained_copy: Path, wrong: str) -> None:
    options = ("--target-latency", "1", "--latency-statistic", wrong)
    done = run("search.py", "--run", trained_copy, *options)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "latency-statistic" in done.stderr
