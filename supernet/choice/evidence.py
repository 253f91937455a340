"""What timings say of a budget: that a student keeps it, that it does not, or neither yet.

Measuring ends as soon as they say it, in place of at a fixed precision, in the manner of a
sequential test (Wald, 1945). A timing is sure to two standard errors, which are not corrected for
looking after every round. Where they allow no answer, measuring goes on; what patience ends is
decided by the timing as it is.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from export.timing.stopwatch import SESSION, Timing
from supernet.space import Architecture

# A student leaves this share of its budget, or its own standard error, to being timed again.
MARGIN = SESSION
SURE = 2.0  # standard errors

# Whether timings answer what is asked of them.
Answered = Callable[[Mapping[Architecture, Timing]], bool]


@dataclass(frozen=True)
class Window:
    """The milliseconds that a student may take, with its margin: at least and at most."""

    least_ms: float
    target_ms: float

    def holds(self, timing: Timing) -> bool:
        """Whether a timing as it is lies within."""
        return self.least_ms <= safe_ms(timing) <= self.target_ms

    def verdict(self, timing: Timing) -> bool | None:
        """Return whether a student keeps the budget and uses it; None where that is not sure.

        Only the budget has to be sure: how much of it is used is promised to nobody.
        """
        if timing.spread > MARGIN:
            return None
        error = SURE * timing.spread
        if timing.ms * (1 + max(MARGIN, error)) <= self.target_ms:
            return self.holds(timing)
        return False if timing.ms * (1 + MARGIN) * (1 - error) > self.target_ms else None

    def is_answered(
        self, expect: Callable[[Architecture], float], timings: Mapping[Architecture, Timing]
    ) -> bool:
        """Whether it is sure which student of least loss is within, or that none is."""
        for architecture in sorted(timings, key=expect):
            verdict = self.verdict(timings[architecture])
            if verdict is not False:
                return verdict is True
        return True


def safe_ms(timing: Timing) -> float:
    """Return the milliseconds that another timing is hardly above."""
    return timing.ms * (1 + max(MARGIN, timing.spread))


def are_known(timings: Mapping[Architecture, Timing]) -> bool:
    """Whether the mean of all timings is exact enough to tell by how much a table is off.

    Their errors are taken as independent.
    """
    return math.hypot(*(t.spread for t in timings.values())) / len(timings) <= MARGIN


def margin(timings: Mapping[Architecture, Timing]) -> float:
    """Return the share of a budget that students timed so exactly leave free: the best timed."""
    return max(MARGIN, min(timing.spread for timing in timings.values()))


def times_off(
    predicted_ms: Callable[[Architecture], float],
    timings: Mapping[Architecture, Timing],
    table_error: float,
) -> float:
    """Return how many times their predictions students take.

    It is the mean, weighted by what each may be off: its timing's error and the table's own.
    """
    ratios = [timing.ms / predicted_ms(a) for a, timing in timings.items()]
    weights = [1 / (timing.spread**2 + table_error**2) for timing in timings.values()]
    return float(np.average(ratios, weights=weights))


def is_kept(target_ms: float, timing: Timing) -> bool:
    """Whether it is sure that a finished student keeps the budget.

    One that seems not to is measured on: a promise is not to be called broken by chance.
    """
    return timing.spread <= MARGIN and timing.ms * (1 + SURE * timing.spread) <= target_ms
