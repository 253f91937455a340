"""The only place where networks are timed for a result."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from base.errors import UserError
from export.timing.statistic import PlainStatistic

Runner = Callable[[], None]
Clock = Callable[[], float]

# A shared machine only ever slows a run down, and slows one network more than another. What is near
# the fastest of many runs was not disturbed: this quantile repeats best.
LOW_QUANTILE = 0.05
# Errors are found by drawing stretches of consecutive rounds again: noise comes in spells.
STRETCHES, RESAMPLES = 8, 40
# As many of the runners of known milliseconds tell how to scale another one.
NEAREST_KNOWN = 6
# Rounds without which nothing can be said, and times the seconds that a few more may take.
LEAST, OVERTIME = 2, 2
# Plain runs of which a 95th percentile can be told.
LEAST_PLAIN = 40
# Sessions of one network differ by about this, relatively, however long each is timed.
SESSION = 0.012


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one run, and their relative standard error."""

    ms: float
    spread: float

    def with_another(self, other: "Timing") -> "Timing":
        """Return the mean of two timings in sessions of their own, weighted by their errors.

        That sessions differ counts in the weights, and not in the spread, as in each of both.
        """
        weights = np.array([1 / (t.spread**2 + SESSION**2) for t in (self, other)])
        mine, theirs = map(float, weights / weights.sum())
        spread = math.hypot(mine * self.spread, theirs * other.spread)
        return Timing(mine * self.ms + theirs * other.ms, spread)


@dataclass(frozen=True)
class Round:
    """One visit to every runner, in seconds; `reference` is the reference's, `took` the round's."""

    seconds: Mapping[str, float]
    reference: float
    took: float


Timings = dict[str, Timing]
Estimate = Callable[[Sequence[Round]], Timings]
# Whether timings answer what is asked of them, so that measuring can end.
Enough = Callable[[Timings], bool]


def never(_: object) -> bool:
    """Return False: measuring goes on until patience ends."""
    return False


def rounds(
    runners: Mapping[str, Runner],
    reference: Runner,
    runs: int = 1,
    seed: int = 0,
    done: int = 0,
    clock: Clock = time.perf_counter,
) -> Iterator[Round]:
    """Yield rounds without end; each visits every runner once, in a fresh random order.

    Networks timed one after the other differ by 14-17 % between repeats on a busy machine; visited
    in turn, all have their share of its calm moments. The reference is visited at the start and the
    end of a round. A visit is the best of `runs` runs; more rounds are worth more than more runs.
    `done` rounds are taken as done, so that a measurement can be continued. `clock` returns
    seconds. Raises `ValueError` for no runners or no runs.
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
    before = _visit(reference, runs, clock)
    seconds = {name: _visit(runner, runs, clock) for name, runner in runners.items()}
    after = _visit(reference, runs, clock)
    return Round(seconds, min(before, after), clock() - start)


def _visit(runner: Runner, runs: int, clock: Clock) -> float:
    """Seconds of the fastest of `runs` runs."""
    best = float("inf")
    for _ in range(runs):
        start = clock()
        runner()
        best = min(best, clock() - start)
    return best


def reference_ms(done: Sequence[Round]) -> float:
    """Return the milliseconds of the undisturbed reference."""
    return 1e3 * float(np.quantile([r.reference for r in done], LOW_QUANTILE))


def timings(done: Sequence[Round]) -> Timings:
    """Return every runner's timing on the undisturbed machine: a low quantile of its seconds.

    `spread` is its error beside the other runners: what all share, the speed that the machine had,
    is left out.
    """
    log_ms = _log_ms(done)
    ms = np.exp(_low(log_ms))
    resampled = np.array([_low(log_ms[rows]) for rows in _resamples(len(done))])
    spreads = (resampled - resampled.mean(axis=1, keepdims=True)).std(axis=0)
    return {
        name: Timing(float(m), float(s))
        for name, m, s in zip(done[0].seconds, ms, spreads, strict=True)
    }


def timings_beside(done: Sequence[Round], known_ms: Mapping[str, float]) -> Timings:
    """Return the others' timings at the speed that the machine had when `known_ms` were measured.

    A machine that shares its caches and memory slows large networks otherwise than small ones. So
    each runner is scaled as the known ones of about its length are: by a line through the six
    nearest, in the logarithm of their time.
    """
    names, log_ms = list(done[0].seconds), _log_ms(done)
    is_known = np.array([name in known_ms for name in names])
    log_known = np.log([known_ms[name] for name in names if name in known_ms])
    now = _low(log_ms)
    weights = np.array([_line_weights(now[is_known], x) for x in now[~is_known]])

    def on_that_day(low: np.ndarray) -> np.ndarray:
        return low[~is_known] + weights @ (log_known - low[is_known])

    ms = np.exp(on_that_day(now))
    resampled = [on_that_day(_low(log_ms[rows])) for rows in _resamples(len(done))]
    unknown = [name for name in names if name not in known_ms]
    spreads = np.std(resampled, axis=0)
    return {n: Timing(float(m), float(s)) for n, m, s in zip(unknown, ms, spreads, strict=True)}


def time_beside(
    runners: Mapping[str, Runner],
    beside: Mapping[str, Runner],
    known_ms: Mapping[str, float],
    reference: Runner,
    patience: "Patience",
    seed: int,
    enough: Enough = never,
    clock: Clock = time.perf_counter,
) -> Timings:
    """Time `runners` and those `beside`, of `known_ms`, in turn, until it is over or enough."""
    estimate, done = partial(timings_beside, known_ms=known_ms), []
    for latest in rounds({**runners, **beside}, reference, seed=seed, clock=clock):
        done.append(latest)
        if patience.is_over(done, estimate, enough):
            break
    return estimate(done)


def _log_ms(done: Sequence[Round]) -> np.ndarray:
    """Logarithms [rounds, runners]."""
    return np.log([[1e3 * r.seconds[name] for name in done[0].seconds] for r in done])


def _low(log_ms: np.ndarray) -> np.ndarray:
    return np.quantile(log_ms, LOW_QUANTILE, axis=0)


def _resamples(count: int) -> list[np.ndarray]:
    """Rows of the resampled measurements: a block bootstrap (Künsch 1989)."""
    stretches = np.array_split(np.arange(count), min(count, STRETCHES))
    draws = np.random.default_rng(0)
    picks = draws.integers(len(stretches), size=(RESAMPLES, len(stretches)))
    return [np.concatenate([stretches[i] for i in pick]) for pick in picks]


def _line_weights(xs: np.ndarray, x: float) -> np.ndarray:
    """Weights of the ys whose sum is the value at `x` of the line through the nearest points."""
    nearest = np.argsort(np.abs(xs - x), kind="stable")[:NEAREST_KNOWN]
    centred = xs[nearest] - xs[nearest].mean()
    slope = centred / max(centred @ centred, np.finfo(float).tiny)
    weights = np.zeros(len(xs))
    weights[nearest] = 1 / len(nearest) + (x - xs[nearest].mean()) * slope
    return weights


@dataclass(frozen=True)
class Patience:
    """How long to go on: until the spread is at most `spread`, but not beyond `seconds`.

    For the sake of `least_rounds` it goes on to twice that; two rounds are made in any case.

    The spread that counts is the `share` quantile over the runners: 0.5 is the typical runner's, 1
    the worst one's. Raises `UserError` for bounds that are negative or not numbers.
    """

    spread: float
    seconds: float
    share: float = 0.5
    least_rounds: int = 12

    def __post_init__(self) -> None:
        # Not a number would never be over.
        if not (self.spread >= 0 and self.seconds >= 0):
            raise UserError(
                f"spread {self.spread} and {self.seconds} seconds of measuring: expected numbers, "
                "0 or more"
            )

    def is_over(
        self, done: Sequence[Round], estimate: Estimate = timings, enough: Enough = never
    ) -> bool:
        """Whether the rounds done are enough, or all that there is time for."""
        if len(done) < LEAST:
            return False
        took = sum(r.took for r in done)
        following = took + took / len(done)
        if len(done) < self.least_rounds:
            return following > OVERTIME * self.seconds
        if following > self.seconds:
            return True
        found = estimate(done)
        return self.spread_of(found) <= self.spread or enough(found)

    def is_settled(self, done: Sequence[Round]) -> bool:
        """Whether the spread is within the bound."""
        return len(done) >= self.least_rounds and self.spread_of(timings(done)) <= self.spread

    def spread_of(self, found: Timings) -> float:
        """Return the relative standard error that counts."""
        return float(np.quantile([t.spread for t in found.values()], self.share))

    def progress(self, done: Sequence[Round]) -> str:
        """Say how far it is: the spread, its bound, and the time."""
        return (
            f"spread {self.spread_of(timings(done)):.1%} (until {self.spread:.1%}), "
            f"{sum(r.took for r in done):.0f} of at most {self.seconds:.0f} s"
        )


@dataclass(frozen=True)
class PlainRuns:
    """What a user sees who runs a network `runs` times one after the other, other load included."""

    median_ms: float
    p95_ms: float
    runs: int

    def ms(self, statistic: PlainStatistic) -> float:
        """Return one of both."""
        return self.median_ms if statistic == "median" else self.p95_ms


def plain_runs(
    runner: Runner, seconds: float, least: int = LEAST_PLAIN, clock: Clock = time.perf_counter
) -> PlainRuns:
    """Run a network again and again for so many seconds, and at least so often; the first is free.

    Returns median and 95th percentile in milliseconds, of all runs and of this machine as it is.
    """
    runner()
    taken: list[float] = []
    while len(taken) < least or sum(taken) < seconds:
        start = clock()
        runner()
        taken.append(clock() - start)
    median, slow = 1e3 * np.quantile(taken, (0.5, 0.95))
    return PlainRuns(float(median), float(slow), len(taken))
