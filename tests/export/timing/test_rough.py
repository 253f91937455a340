"""Quick looks at what takes how long."""

import time
from collections.abc import Callable

import pytest

from export.timing import rough
from export.timing.rough import quick_ms


def test_quick_is_the_fastest_of_a_few_on_a_fake_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    lengths = iter([5.0, 3.0, 4.0])

    def run() -> None:
        nonlocal now
        now += next(lengths)

    with monkeypatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: now)
        assert quick_ms(run, runs=3) == pytest.approx(3000.0)


@pytest.mark.parametrize(
    ("count", "an_image", "runs"),
    [(100, 0.01, [8, 50]), (100, 0.001, [8, 100]), (100, 1.0, [8]), (4, 1.0, [4])],
)
def test_a_few_images_are_timed_and_scaled(
    count: int, an_image: float, runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as take half a second, but all where these are fewer, and eight at least."""
    asked: list[int] = []

    def fake(run: Callable[[], None], runs: int) -> float:
        run()
        return 1000 * an_image * asked[-1]

    monkeypatch.setattr(rough, "quick_ms", fake)
    assert rough.scaled_seconds(asked.append, count) == pytest.approx(an_image * count)
    assert asked == runs
