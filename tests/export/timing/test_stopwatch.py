"""The stopwatch against a clock whose machine drifts and stumbles, and against hand arithmetic."""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
import pytest

from base.errors import UserError
from export.timing.stopwatch import (
    Patience,
    Round,
    Timing,
    reference_ms,
    rounds,
    timings,
    timings_beside,
)


class Machine:
    """A machine whose speed drifts by ±30 %, and whose every tenth run takes five times as long.

    `pace` is how many seconds the drift takes for one radian.
    """

    def __init__(self, pace: float = 20.0, drifts: bool = True) -> None:
        self.now = 0.0
        self.pace = pace
        self.drifts = drifts
        self.visited: list[str] = []
        self.chance = random.Random(0)

    def clock(self) -> float:
        return self.now

    def runner(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            stumble = 5 if self.chance.random() < 0.1 else 1
            drift = 1 + 0.3 * math.sin(self.now / self.pace)
            self.now += seconds * (drift * stumble if self.drifts else 1)
            self.visited.append(name)

        return run


SECONDS = {"small": 0.002, "middle": 0.005, "large": 0.04, "middle again": 0.005}
REFERENCE = 0.004


def simulated(
    machine: Machine, seconds: Mapping[str, float] = SECONDS, **more: int
) -> Iterator[Round]:
    runners = {name: machine.runner(name, s) for name, s in seconds.items()}
    reference = machine.runner("reference", REFERENCE)
    return rounds(runners, reference, clock=machine.clock, **more)


def largest_error(found: Mapping[str, float], true: Mapping[str, float]) -> float:
    return max(abs(found[name] / true[name] - 1) for name in true)


def test_true_ratios_survive_drift_and_stumbles() -> None:
    """Between runners: 1 %, although the speed swings by 30 % and every tenth run stumbles."""
    machine = Machine()
    done = list(islice(simulated(machine), 1800))
    assert machine.now > 2 * math.pi * machine.pace  # the drift came full circle
    found = {name: t.ms for name, t in timings(done).items()}
    to_large = {name: ms / found["large"] for name, ms in found.items()}
    assert largest_error(to_large, {name: s / 0.04 for name, s in SECONDS.items()}) < 0.01
    assert found["large"] / reference_ms(done) == pytest.approx(0.04 / REFERENCE, rel=0.01)
    means = {name: np.mean([r.seconds[name] for r in done]) for name in SECONDS}
    to_large = {name: mean / means["large"] for name, mean in means.items()}
    assert largest_error(to_large, {name: s / 0.04 for name, s in SECONDS.items()}) > 0.01


def test_a_spell_that_slows_some_more_than_others_is_left_out() -> None:
    """Two thirds of the time another program takes the caches: large ones suffer more."""
    calm = {"small": 1.0, "large": 10.0}
    slowed = {"small": 1.2, "large": 19.0}
    done = [Round(slowed if 10 <= i < 50 else calm, 0.001, 1.0) for i in range(60)]
    found = timings(done)
    assert {name: t.ms for name, t in found.items()} == pytest.approx(
        {name: 1e3 * seconds for name, seconds in calm.items()}
    )
    medians = {name: np.median([r.seconds[name] for r in done]) for name in calm}
    assert medians["large"] / medians["small"] > 15


def orders(count: int, **more: int) -> list[tuple[str, ...]]:
    """The order of every round, once the warm-up and the reference are left out."""
    machine, runs = Machine(), more.get("runs", 1)
    list(islice(simulated(machine, **more), count))
    visited = [name for name in machine.visited if name != "reference"]
    visits = visited[::runs]
    assert visited == [name for name in visits for _ in range(runs)]
    assert len(visits) == (1 + count) * len(SECONDS)
    warm_up, *found = (tuple(visits[i : i + 4]) for i in range(0, len(visits), 4))
    assert warm_up == tuple(SECONDS)
    return found


@pytest.mark.parametrize("runs", [1, 2, 3])
def test_every_round_visits_every_runner_in_its_own_order(runs: int) -> None:
    found = orders(60, runs=runs)
    assert all(sorted(order) == sorted(SECONDS) for order in found)
    assert len(set(found)) > 12  # of 24
    assert {order.index("large") for order in found} == {0, 1, 2, 3}


def test_the_seed_fixes_the_orders() -> None:
    assert orders(8, seed=1) == orders(8, seed=1)
    assert orders(8, seed=1) != orders(8, seed=2)


@pytest.mark.parametrize("done", [1, 5, 11])
def test_a_continued_stopwatch_keeps_to_the_sequence_of_orders(done: int) -> None:
    whole = orders(12, seed=3)
    assert orders(12 - done, seed=3, done=done) == whole[done:]
    assert whole[done:] != whole[: 12 - done]


def test_one_round_by_hand() -> None:
    machine = Machine(drifts=False)
    runners = {name: machine.runner(name, 4.0) for name in "abc"}
    reference = machine.runner("R", 1.0)
    endless = rounds(runners, reference, runs=2, clock=machine.clock)
    found = next(endless)
    assert machine.visited[:8] == list("RRaabbcc")  # to warm up
    assert machine.visited[8:10] == machine.visited[-2:] == ["R", "R"]
    assert sorted(machine.visited[10:-2]) == list("aabbcc")
    assert found.seconds == pytest.approx(dict.fromkeys("abc", 4.0))
    assert found.reference == pytest.approx(1.0)
    assert found.took == pytest.approx(2 * 2 * 1.0 + 3 * 2 * 4.0)


def test_a_visit_is_its_fastest_run_and_the_warm_up_counts_for_nothing() -> None:
    now = 0.0
    lengths = iter([*(90.0, 90.0), *(7.0, 3.0), *(8.0, 6.0)])
    references = iter([*(9.0, 9.0), *(5.0, 4.0), *(3.0, 2.0), *(2.5, 5.0), *(6.0, 7.0)])

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    runners = {"a": lambda: wait(next(lengths))}
    endless = rounds(runners, lambda: wait(next(references)), runs=2, clock=lambda: now)
    done = list(islice(endless, 2))
    assert [r.seconds["a"] for r in done] == pytest.approx([3.0, 6.0])
    assert [r.reference for r in done] == pytest.approx([2.0, 2.5])


@pytest.mark.parametrize(("names", "runs"), [("", 2), ("a", 0)])
def test_no_runners_or_runs_is_refused(names: str, runs: int) -> None:
    runners = dict.fromkeys(names, lambda: None)
    with pytest.raises(ValueError, match="at least 1"):
        next(rounds(runners, lambda: None, runs))


def history(seconds: Mapping[str, Sequence[float]], took: float = 1.0) -> list[Round]:
    """One round for each number of the columns; every runner's are the same length."""
    rows = zip(*seconds.values(), strict=True)
    return [Round(dict(zip(seconds, row, strict=True)), 0.001, took) for row in rows]


def test_timings_by_hand() -> None:
    """The 0.05 quantile of 21 runs is the second fastest."""
    column = np.arange(1.0, 22.0)
    done = history({"a": column[::-1], "b": 10 * np.roll(column, 7)})
    assert {n: t.ms for n, t in timings(done).items()} == pytest.approx({"a": 2000, "b": 20000})
    assert reference_ms(done) == pytest.approx(1.0)


def test_two_timings_by_hand() -> None:
    """With the 1.2 % of a session errors of 0.5 and 3.5 % are 1.3 and 3.7 %."""
    found = Timing(4.0, 0.005).with_another(Timing(5.0, 0.035))
    mine = (1 / 1.3**2) / (1 / 1.3**2 + 1 / 3.7**2)
    assert found.ms == pytest.approx(4 * mine + 5 * (1 - mine))
    assert found.spread == pytest.approx(((0.005 * mine) ** 2 + (0.035 * (1 - mine)) ** 2) ** 0.5)
    alike = Timing(4.0, 0.03).with_another(Timing(5.0, 0.03))
    assert (alike.ms, alike.spread) == (pytest.approx(4.5), pytest.approx(0.03 / 2**0.5))


def test_what_all_runners_share_is_no_error() -> None:
    """Rounds that are slow for all alike leave no doubt about what is slower than what."""
    speed = 1 + np.arange(24) % 7
    found = timings(history({"a": 2.0 * speed, "b": 3.0 * speed}))
    assert [t.spread for t in found.values()] == pytest.approx([0, 0], abs=1e-12)


@pytest.mark.parametrize("known", [False, True], ids=["alone", "beside known ones"])
def test_the_standard_error_is_about_that_of_repeated_measurements(
    random: np.random.Generator, known: bool
) -> None:
    """300 measurements of the same runners scatter about as much as each of them says."""
    lengths = 1.5 ** np.arange(8)
    known_ms = {str(i): float(length) for i, length in enumerate(lengths) if i}
    errors, found = [], []
    for _ in range(300):
        noise = random.exponential(0.1, size=(48, 8))
        columns = (lengths * np.exp(noise)).T
        done = history({str(i): column for i, column in enumerate(columns)})
        if known:
            timing = timings_beside(done, known_ms)["0"]
            found.append(math.log(timing.ms))
        else:
            timing, *others = timings(done).values()
            found.append(math.log(timing.ms) - np.mean([math.log(t.ms) for t in others]) * 7 / 8)
        errors.append(timing.spread)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(found), rel=0.25)


def test_the_error_of_a_spell_is_not_hidden() -> None:
    """A runner is calm in 8 of 48 rounds: in one spell, which may be luck, or all the time."""
    steady = {f"steady {i}": np.roll(1 + 0.0001 * np.arange(48), 5 * i) for i in range(9)}
    spell = [i in range(20, 28) for i in range(48)]
    scattered = [i % 6 == 0 for i in range(48)]
    in_a_spell, in_all = (
        timings(history({"a": np.where(calm, 1.0, 2.0) + 0.0001 * np.arange(48), **steady}))
        for calm in (spell, scattered)
    )
    assert in_a_spell["a"].ms == pytest.approx(in_all["a"].ms, rel=0.01)
    assert in_a_spell["a"].spread > 0.1 > 0.01 > in_all["a"].spread
    assert in_a_spell["a"].spread > 5 * max(in_a_spell[name].spread for name in steady)


def test_the_share_says_whose_spread_counts() -> None:
    steps = {"calm": 0, "typical": 2, "restless": 9}
    done = history({name: [100 + step * i for i in range(12)] for name, step in steps.items()})
    smallest, typical, largest = sorted(t.spread for t in timings(done).values())
    assert 0 < smallest < typical < largest
    for share, counts in [(0.5, typical), (1.0, largest)]:
        for bound, settled in [(counts * 1.001, True), (counts * 0.999, False)]:
            patience = Patience(bound, 100.0, share)
            assert patience.spread_of(timings(done)) == counts
            assert patience.is_settled(done) is patience.is_over(done) is settled


def test_patience_follows_the_estimate_that_it_is_given() -> None:
    done = history({"a": [1.0] * 12})
    sure, unsure = ({"a": Timing(1.0, spread)} for spread in (0.01, 0.2))
    patience = Patience(0.1, 100.0)
    assert patience.is_over(done, lambda _: sure)
    assert not patience.is_over(done, lambda _: unsure)


def test_what_is_enough_ends_it_after_the_least_rounds() -> None:
    """However large the spread, and whatever patience is left."""
    done, patience = history({"a": [1.0] * 12}), Patience(0.1, 100.0, least_rounds=10)
    unsure = {"a": Timing(1.0, 0.2)}
    assert patience.is_over(done[:10], lambda _: unsure, lambda found: found == unsure)
    assert not patience.is_over(done[:9], lambda _: unsure, lambda found: found == unsure)
    assert not patience.is_over(done, lambda _: unsure, lambda found: found != unsure)


def test_a_small_spread_counts_after_the_least_rounds() -> None:
    done = history({"a": [2.0] * 8})
    patience = Patience(0.5, 100.0, least_rounds=8)
    assert [patience.is_over(done[:n]) for n in range(9)] == [False] * 8 + [True]


@pytest.mark.parametrize(("seconds", "made"), [(0.0, 2), (4.0, 2), (8.0, 4), (30.0, 12)])
def test_slow_rounds_take_no_more_than_twice_the_time(seconds: float, made: int) -> None:
    """Rounds of 4 s, of which there should be 12: two in any case, or nothing can be said."""
    done = history({"a": range(1, 21)}, took=4.0)
    patience = Patience(1e-6, seconds)
    assert [n for n in range(20) if not patience.is_over(done[:n])] == list(range(made))


def test_patience_ends_when_another_round_would_take_too_long() -> None:
    """Rounds of 3 s, 20 s in all: six are 18 s, and a seventh would end at 21 s."""
    done = history({"a": range(1, 13), "b": range(12, 0, -1)}, took=3.0)
    patience = Patience(1e-6, 20.0, least_rounds=2)
    assert [n for n in range(13) if not patience.is_over(done[:n])] == list(range(6))
    assert not patience.is_settled(done)


def test_progress_says_how_far_it_is() -> None:
    done = history({"a": [1, 2, 3, 4, 5], "b": [5, 3, 4, 2, 1]}, took=2.5)
    patience = Patience(0.02, 60.0)
    spread = f"{100 * patience.spread_of(timings(done)):.1f}%"
    assert patience.progress(done) == f"spread {spread} (until 2.0%), 12 of at most 60 s"


@pytest.mark.parametrize("bounds", [(math.nan, 1.0), (0.1, math.nan), (-0.1, 1.0), (0.1, -1.0)])
def test_patience_without_an_end_is_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(UserError, match="expected numbers"):
        Patience(*bounds)
