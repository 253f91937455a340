"""The only place where time is measured."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from export.errors import UserError

Runner = Callable[[], None]
Clock = Callable[[], float]
Result = TypeVar("Result")

# The reference is visited again when this many times its own visit has gone by.
REFERENCE_EVERY = 10
# Visits of the reference on either side whose median is its speed at a moment.
NEIGHBOURS = 2
LOW_QUANTILE, MEDIAN = 0.25, 0.5
# Standard error of a normal sample's quantile, in units of its standard deviation over √n.
ERROR_OF_QUANTILE = {LOW_QUANTILE: 1.363, MEDIAN: 1.253}
IQR_OF_NORMAL = 1.349
# As many of the runners of known milliseconds tell how to scale another one.
NEAREST_KNOWN = 6


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one run, and their relative standard error."""

    ms: float
    spread: float


@dataclass(frozen=True)
class Round:
    """One visit to every runner: its time in units of the reference's at that moment.

    `reference` is the reference's own time in this round and `took` that of the round, in seconds.
    """

    ratios: Mapping[str, float]
    reference: float
    took: float


@dataclass(frozen=True)
class Patience:
    """How long to go on: until the spread is at most `spread`, but never beyond `seconds`.

    The spread that counts is the `share` quantile over the runners (0.5 is the typical runner's, 1
    the worst one's) of the error of their `quantile` over the rounds. Raises `UserError` for bounds
    that are negative or not numbers.
    """

    spread: float
    seconds: float
    share: float = 0.5
    quantile: float = LOW_QUANTILE
    least_rounds: int = 8

    def __post_init__(self) -> None:
        # Not a number would never be over.
        if not (self.spread >= 0 and self.seconds >= 0):
            raise UserError(
                f"spread {self.spread} and {self.seconds} seconds of measuring: expected numbers, "
                "0 or more"
            )

    def is_over(self, done: Sequence[Round]) -> bool:
        """Whether the rounds done are enough, or all that there is time for."""
        took = sum(r.took for r in done)
        another = took / max(1, len(done))
        return self.is_settled(done) or (
            len(done) >= self.least_rounds and took + another > self.seconds
        )

    def progress(self, done: Sequence[Round]) -> str:
        """Say how far it is: the spread, its bound, and the time."""
        return (
            f"spread {self.spread_of(done):.1%} (until {self.spread:.1%}), "
            f"{sum(r.took for r in done):.0f} of at most {self.seconds:.0f} s"
        )

    def is_settled(self, done: Sequence[Round]) -> bool:
        """Whether the spread is within the bound."""
        return len(done) >= self.least_rounds and self.spread_of(done) <= self.spread

    def spread_of(self, done: Sequence[Round]) -> float:
        """Relative standard error that counts."""
        errors = [timing.spread for timing in timings(done, 1.0, self.quantile).values()]
        return float(np.quantile(errors, self.share))


def rounds(
    runners: Mapping[str, Runner],
    reference: Runner,
    runs: int = 2,
    seed: int = 0,
    done: int = 0,
    clock: Clock = time.perf_counter,
) -> Iterator[Round]:
    """Endless rounds, each of which visits every runner once, in a fresh random order.

    Networks timed one after the other differ by 14-17 % between repeats on a busy machine.
    Interleaved, and divided by a reference network that is timed all through the round, drift falls
    on all alike. A visit is the best of `runs` runs, which leaves out cold caches and
    interruptions. `done` rounds are taken as done, so that a measurement can be continued. `clock`
    returns seconds. Raises `ValueError` for no runners or no runs.
    """
    if not runners or runs < 1:
        raise ValueError(f"{len(runners)} runners, runs={runs}: expected at least 1 of each")
    names = list(runners)
    for runner in (reference, *runners.values()):
        _visit(runner, runs, clock)
    while True:
        order = np.random.default_rng((seed, done)).permutation(len(names))
        yield _round({names[i]: runners[names[i]] for i in order}, reference, runs, clock)
        done += 1


def _round(runners: Mapping[str, Runner], reference: Runner, runs: int, clock: Clock) -> Round:
    start = clock()
    moments, references = [start], [_visit(reference, runs, clock)]
    visits: dict[str, tuple[float, float]] = {}
    for name, runner in runners.items():
        if clock() - moments[-1] > REFERENCE_EVERY * runs * references[-1]:
            moments.append(clock())
            references.append(_visit(reference, runs, clock))
        visits[name] = (clock(), _visit(runner, runs, clock))
    moments.append(clock())
    references.append(_visit(reference, runs, clock))
    smooth = _running_median(np.array(references))
    ratios = {
        name: float(seconds / np.interp(moment, moments, smooth))
        for name, (moment, seconds) in visits.items()
    }
    return Round(ratios, float(np.median(references)), clock() - start)


def _running_median(values: np.ndarray) -> np.ndarray:
    return np.array(
        [np.median(values[max(0, i - NEIGHBOURS) : i + NEIGHBOURS + 1]) for i in range(len(values))]
    )


def _visit(runner: Runner, runs: int, clock: Clock) -> float:
    """Seconds of the fastest of `runs` runs."""
    best = float("inf")
    for _ in range(runs):
        start = clock()
        runner()
        best = min(best, clock() - start)
    return best


def reference_ms(done: Sequence[Round]) -> float:
    """Milliseconds of the reference at the speed that the machine has when nothing disturbs it."""
    return 1e3 * float(np.quantile([r.reference for r in done], LOW_QUANTILE))


def timings(
    done: Sequence[Round], reference_ms: float, quantile: float = LOW_QUANTILE
) -> dict[str, Timing]:
    """Timing of every runner on a machine where the reference takes `reference_ms`.

    `ms` is a quantile of the ratios over the rounds, the lower quartile or the median, and `spread`
    its standard error in a normal sample with the same interquartile range.
    """
    found = {}
    for name in done[0].ratios:
        ratios = [r.ratios[name] for r in done]
        low, middle, high = np.quantile(ratios, (LOW_QUANTILE, quantile, 1 - LOW_QUANTILE))
        error = ERROR_OF_QUANTILE[quantile] * (high - low) / IQR_OF_NORMAL / np.sqrt(len(done))
        found[name] = Timing(ms=float(middle * reference_ms), spread=float(error / middle))
    return found


def in_known_ms(one: Round, known_ms: Mapping[str, float]) -> Round:
    """Return the round in milliseconds of the day on which `known_ms` of some runners were found.

    A machine that shares its caches and memory slows large networks otherwise than small ones. So
    each runner is scaled as the known ones of about its length are: by a line through the six
    nearest, in the logarithm of their time. The known runners themselves are left out.
    """
    now = np.log([one.ratios[name] for name in known_ms])
    scale = np.log(list(known_ms.values())) - now
    ms = {
        name: float(ratio * np.exp(_line_through_nearest(now, scale, np.log(ratio))))
        for name, ratio in one.ratios.items()
        if name not in known_ms
    }
    return Round(ms, one.reference, one.took)


def _line_through_nearest(xs: np.ndarray, ys: np.ndarray, x: float) -> float:
    nearest = np.argsort(np.abs(xs - x))[:NEAREST_KNOWN]
    line = np.polyfit(xs[nearest] - x, ys[nearest], deg=min(1, len(nearest) - 1))
    return line[-1]


def quick_ms(runner: Runner, runs: int = 3) -> float:
    """Milliseconds of the fastest of a few runs, for a preview."""
    return 1e3 * _visit(runner, runs, time.perf_counter)


def timed(call: Callable[[], Result]) -> tuple[Result, float]:
    """(what `call` returns, the seconds it took)."""
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start
