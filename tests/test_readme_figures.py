"""The README's figures are those of benchmarks/results."""

import json
import re

import numpy as np

from benchmarks.csv_lines import read_lines
from benchmarks.rivals import Points, over_all, points_of
from tests.smoke import ROOT

README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
RESULTS = ROOT / "benchmarks" / "results"
SEARCHED, UNTRIED = "searched", "searched, no trials"
NUMBERS = {6: "six", 7: "seven", 8: "eight"}


def told(accuracies: dict[int, float]) -> str:
    """Mean ± standard deviation, as the README says it."""
    values = list(accuracies.values())
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f} %"


def best_rival(points: Points, epochs: int, target_ms: float) -> dict[int, float]:
    """Accuracies of the family with the best mean at a budget."""
    rivals = [
        own
        for (e, ms, family), own in points.items()
        if (e, ms) == (epochs, target_ms) and family not in (SEARCHED, UNTRIED)
    ]
    return max(rivals, key=lambda own: np.mean(list(own.values())))


def row(title: str) -> list[str]:
    """The cells of a row of the README's table, without its marks."""
    (cells,) = re.findall(rf"\| (?:\*\*)?{re.escape(title)}(?:\*\*)? \|(.*?\|.*?\|.*?)\|", README)
    return [cell.strip(" *") for cell in cells.split("|")]


def test_the_students_and_the_plain_networks() -> None:
    points, budgets = points_of(read_lines(RESULTS / "rivals_trials.csv")), (1.0, 1.6, 2.5)
    assert row("searched student") == [told(points[12, ms, SEARCHED]) for ms in budgets]
    assert row("the same, without trials") == [told(points[12, ms, UNTRIED]) for ms in budgets]
    assert row("best plain network") == [told(best_rival(points, 12, ms)) for ms in budgets]
    pairs, seeds = over_all(points, 12).split("; means of seeds ")
    ahead = re.search(r"[\d.]+ ± [\d.]+", pairs)[0]
    p = float(re.search(r"p = ([\d.]+)", seeds)[1])
    assert f"{ahead} points ahead of the best plain network over nine pairs (p = {p:.2f}" in README


def test_the_students_of_32_pixels() -> None:
    points, budgets = points_of(read_lines(RESULTS / "rivals_cifar10.csv")), (4.0, 8.0, 16.0)
    own = [np.mean(list(points[16, ms, SEARCHED].values())) for ms in budgets]
    rivals = [np.mean(list(best_rival(points, 16, ms).values())) for ms in budgets]
    for values in (own, rivals):
        first, second, third = (f"{value:.1f}" for value in values)
        assert f"{first}, {second} and {third} %" in README


def test_the_budgets_that_were_used() -> None:
    kinds = json.loads((RESULTS / "latency.json").read_text())
    hits = [own for kind in kinds.values() for own in kind["hits"]]
    used = [own["measured_ms"] / own["target_ms"] for own in hits]
    over = [share for share in used if share > 1]
    assert (
        f"in {len(used)} searches of {NUMBERS[len(kinds)]} kinds {100 * min(used):.1f} to "
        f"{100 * max(used):.1f} % of the budget were used, and one was exceeded, by "
        f"{100 * (over[0] - 1):.2f} %" in README
    )
    assert len(over) == 1
