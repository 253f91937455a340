"""Rough times, for forecasts and to know about how long something takes: the fastest of a few."""

import time
from collections.abc import Callable
from timeit import repeat

# Images of the first look at how long a step takes.
FEW = 8


def quick_ms(run: Callable[[], object], runs: int = 3) -> float:
    """Return the milliseconds of the fastest of a few runs."""
    return 1e3 * min(repeat(run, timer=time.perf_counter, number=1, repeat=runs))


def scaled_seconds(run: Callable[[int], None], count: int, enough: float = 0.5) -> float:
    """Return roughly the seconds of `run(count)`, from runs of fewer where these take long enough.

    `run` takes a number of images. A few come first; from their time follows how many take `enough`
    seconds, and the time of those is scaled to `count`.
    """
    few = min(count, FEW)
    seconds = quick_ms(lambda: run(few), runs=2) / 1000
    more = min(count, int(few * enough / seconds))
    if more > few:
        few, seconds = more, quick_ms(lambda: run(more), runs=2) / 1000
    return seconds * count / few
