"""Distances and p by hand, refusals, and the command as a user runs it."""

import json
import math
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from base.errors import UserError
from export.report.compare import (
    Run,
    by_decision,
    distance,
    distances,
    permutation_p,
    read_run,
    within_between,
)
from tests.smoke import ROOT


def preferences(kernel: float, width: float) -> dict[str, dict[str, float]]:
    return {
        "stage1.kernel": {"3": 1 - kernel, "5": kernel},
        "stage1.width": {"8": width, "16": (1 - width) / 2, "24": (1 - width) / 2},
    }


def write_run(folder: Path, guide: str, kernel: float, width: float = 0.2) -> Path:
    folder.mkdir()
    budgets = [preferences(kernel, width), preferences(kernel / 2, width)]
    facts = {"guide": guide, "budgets": budgets}
    (folder / "preferences.json").write_text(json.dumps(facts))
    return folder


def by_hand(p: list[float], q: list[float]) -> float:
    """Square root of the divergence, in bits, from the mean of both."""

    def kl(a: list[float], b: list[float]) -> float:
        return sum(x * math.log2(x / y) for x, y in zip(a, b, strict=True) if x > 0)

    middle = [(x + y) / 2 for x, y in zip(p, q, strict=True)]
    return math.sqrt((kl(p, middle) + kl(q, middle)) / 2)


def test_distance_is_the_mean_over_budgets_and_decisions() -> None:
    a = Run("a", [preferences(0.1, 0.5), preferences(0.9, 0.2)])
    b = Run("b", [preferences(0.6, 0.5), preferences(1.0, 0.3)])
    pairs = [
        *(([0.9, 0.1], [0.4, 0.6]), ([0.5, 0.25, 0.25], [0.5, 0.25, 0.25])),
        *(([0.1, 0.9], [0.0, 1.0]), ([0.2, 0.4, 0.4], [0.3, 0.35, 0.35])),
    ]
    assert distance(a, b) == pytest.approx(np.mean([by_hand(p, q) for p, q in pairs]))
    assert distance(a, a) == pytest.approx(0)
    opposite = by_decision(preferences(0.0, 1.0), preferences(1.0, 1.0))
    assert opposite == {"stage1.kernel": pytest.approx(1), "stage1.width": pytest.approx(0)}


def test_within_and_between() -> None:
    apart = np.array([[0, 1, 2, 3], [1, 0, 4, 5], [2, 4, 0, 6], [3, 5, 6, 0]], dtype=float)
    assert within_between(apart, ["a", "a", "b", "b"]) == ((1 + 6) / 2, (2 + 3 + 4 + 5) / 4)


@pytest.mark.parametrize("seed", range(3))
def test_p_is_the_share_of_all_deals(seed: int) -> None:
    draws = np.random.default_rng(seed)
    half = np.triu(draws.random((6, 6)), 1)
    apart, guides = half + half.T, list("aaabbb")
    gaps = []
    for dealt in permutations(guides):
        within, between = within_between(apart, dealt)
        gaps.append(between - within)
    p, least = permutation_p(apart, guides, draws)
    assert p == pytest.approx(np.mean(np.array(gaps) >= gaps[0] - 1e-12))
    assert least == pytest.approx(0.1)  # 20 ways to deal, and the names do not matter


def test_teachers_that_differ_are_told_apart_and_equal_ones_are_not() -> None:
    draws = np.random.default_rng(0)

    def runs(kernels: tuple[float, float]) -> list[Run]:
        return [
            Run(guide, [preferences(kernel + draws.uniform(-0.05, 0.05), 0.2)])
            for guide, kernel in zip("ab", kernels, strict=True)
            for _ in range(4)
        ]

    guides = list("aaaabbbb")
    apart, _ = permutation_p(distances(runs((0.2, 0.7))), guides, draws)
    same, _ = permutation_p(distances(runs((0.4, 0.4))), guides, draws)
    assert apart < 0.05 < same


def command(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "export.report.compare", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_the_command_prints_and_draws(tmp_path: Path) -> None:
    kernels = {"resnet": (0.12, 0.13, 0.11), "vit": (0.8, 0.84, 0.76)}
    folders = [
        write_run(tmp_path / f"{guide}{i}", guide, kernel)
        for guide, own in kernels.items()
        for i, kernel in enumerate(own)
    ]
    done = command(*folders, "--out", tmp_path / "compare.png")
    assert done.returncode == 0, done.stderr
    lines = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
    assert "0.1 by permutation (0.1 is the least" in lines["p"]
    # The kernel differs most; its mean is over two budgets, the second at half the probability.
    kernel = lines["stage1.kernel"]
    assert "resnet: 3 91%, 5 9%; vit: 3 40%, 5 60%" in kernel
    assert done.stdout.index("stage1.kernel") < done.stdout.index("stage1.width")
    assert (tmp_path / "compare.png").stat().st_size > 5_000


def test_what_cannot_be_compared_is_refused_in_one_line(tmp_path: Path) -> None:
    a, b = (write_run(tmp_path / name, name, 0.5) for name in "ab")
    again = write_run(tmp_path / "again", "a", 0.5)
    for folders, expected in (
        ((a, again), "2 of a: expected two or more runs of each of two or more teachers"),
        ((a, again, b), "2 of a, 1 of b: expected two or more"),
        ((a, tmp_path / "nothing"), "preferences.json"),
    ):
        done = command(*folders)
        assert done.returncode == 2
        assert expected in done.stderr
        assert done.stderr.count("\n") == 1
    facts = json.loads((b / "preferences.json").read_text())
    facts["budgets"][0]["stage1.kernel"] = {"3": 0.5, "7": 0.5}
    (b / "preferences.json").write_text(json.dumps(facts))
    done = command(a, b)
    assert done.returncode == 2
    assert f"{b}: of another space than {a}" in done.stderr


@pytest.mark.parametrize(
    "facts",
    [{}, {"guide": "a", "budgets": 3}, {"guide": "a", "budgets": [{"k": {"3": "much"}}]}],
)
def test_damaged_preferences_are_refused(tmp_path: Path, facts: dict) -> None:
    (tmp_path / "preferences.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"damaged preferences\.json"):
        read_run(tmp_path)
