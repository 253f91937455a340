"""The stopwatch against a clock whose machine drifts and stumbles, and against hand arithmetic."""

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice, pairwise

import numpy as np
import pytest

from export.errors import UserError
from export.stopwatch import (
    REFERENCE_EVERY,
    Patience,
    Round,
    in_known_ms,
    quick_ms,
    reference_ms,
    rounds,
    timed,
    timings,
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
    """To the reference and between runners: 1.5 %, where raw seconds are more than 15 % off."""
    machine = Machine()
    done = list(islice(simulated(machine), 900))
    assert machine.now > 2 * math.pi * machine.pace  # the drift came full circle
    found = {name: t.ms / 1e3 for name, t in timings(done, REFERENCE * 1e3).items()}
    assert largest_error(found, SECONDS) < 0.015
    to_large = {name: s / found["large"] for name, s in found.items()}
    assert largest_error(to_large, {name: s / 0.04 for name, s in SECONDS.items()}) < 0.015
    raw = {n: float(np.quantile([r.ratios[n] * r.reference for r in done], 0.25)) for n in SECONDS}
    assert largest_error(raw, SECONDS) > 0.15


def test_drift_inside_a_long_round_is_divided_out() -> None:
    """A round in which the speed swings all the way, so that its mean speed fits no runner."""
    machine = Machine(pace=2.0)
    seconds = {f"runner {i}": 0.01 * (1 + i % 9) for i in range(90)}
    done = list(islice(simulated(machine, seconds), 60))
    assert min(r.took for r in done) > machine.pace * math.pi
    found = {name: t.ms / 1e3 for name, t in timings(done, REFERENCE * 1e3).items()}
    assert largest_error(found, seconds) < 0.02
    per_round = [[r.ratios[n] * REFERENCE / seconds[n] for n in seconds] for r in done]
    assert np.median(np.abs(np.array(per_round) - 1)) < 0.01  # the drift's own is 0.21


def orders(count: int, **more: int) -> list[tuple[str, ...]]:
    """The order of every round, once the warm-up and the reference are left out."""
    machine, runs = Machine(), more.get("runs", 2)
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
    """Runs of 4 s after a visit of 2 s to the reference: 20 s are over when three were visited."""
    machine = Machine(drifts=False)
    runners = {name: machine.runner("x", 4.0) for name in "abcdefg"}
    reference = machine.runner("R", 1.0)
    found = next(rounds(runners, reference, runs=2, clock=machine.clock))
    assert "".join(machine.visited[2 * 8 :: 2]) == "RxxxRxxxRxR"
    assert found.ratios == pytest.approx(dict.fromkeys("abcdefg", 4.0))
    assert found.reference == pytest.approx(1.0)
    assert found.took == pytest.approx(4 * 2 * 1.0 + 7 * 2 * 4.0)


def test_a_reference_that_stumbles_once_harms_no_ratio() -> None:
    machine = Machine(drifts=False)
    lengths = iter([1.0] * 2 + [1.0] * 4 + [5.0] * 2 + [1.0] * 99)
    runners = {f"runner {i}": machine.runner("x", 4.0) for i in range(40)}
    reference = machine.runner("R", 1.0)

    def stumbling() -> None:
        reference()
        machine.now += next(lengths) - 1.0

    found = next(rounds(runners, stumbling, runs=2, clock=machine.clock))
    assert found.took == pytest.approx(40 * 8 + 2 * machine.visited[2 * 41 :: 2].count("R") + 8)
    assert found.ratios == pytest.approx(dict.fromkeys(runners, 4.0))
    assert found.reference == pytest.approx(1.0)


def test_the_reference_is_visited_all_through_a_long_round() -> None:
    machine = Machine(drifts=False)
    seconds = {f"runner {i}": 0.001 * (1 + i % 7) for i in range(200)}
    endless = simulated(machine, seconds, runs=1)
    next(endless)
    machine.visited.clear()
    next(endless)
    assert machine.visited[0] == machine.visited[-1] == "reference"
    places = [i for i, name in enumerate(machine.visited) if name == "reference"]
    gaps = [sum(seconds[name] for name in machine.visited[a + 1 : b]) for a, b in pairwise(places)]
    assert max(gaps) <= REFERENCE_EVERY * REFERENCE + max(seconds.values())
    assert min(gaps[:-1]) > (REFERENCE_EVERY - 1) * REFERENCE - 1e-9


def test_a_visit_is_its_fastest_run_and_the_warm_up_counts_for_nothing() -> None:
    now = 0.0
    lengths = iter([*(90.0, 90.0), *(7.0, 3.0), *(8.0, 6.0)])

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    endless = rounds({"a": lambda: wait(next(lengths))}, lambda: wait(2.0), clock=lambda: now)
    assert [r.ratios["a"] for r in islice(endless, 2)] == pytest.approx([1.5, 3.0])


@pytest.mark.parametrize(("names", "runs"), [("", 2), ("a", 0)])
def test_no_runners_or_runs_is_refused(names: str, runs: int) -> None:
    runners = dict.fromkeys(names, lambda: None)
    with pytest.raises(ValueError, match="at least 1"):
        next(rounds(runners, lambda: None, runs))


def history(ratios: Mapping[str, Sequence[float]], took: float = 1.0) -> list[Round]:
    """One round for each number of the columns; every runner's are the same length."""
    rows = zip(*ratios.values(), strict=True)
    return [Round(dict(zip(ratios, row, strict=True)), 0.001, took) for row in rows]


@pytest.mark.parametrize(("quantile", "place", "factor"), [(0.25, 2, 1.363), (0.5, 3, 1.253)])
def test_timings_by_hand(quantile: float, place: int, factor: float) -> None:
    """Quartiles and median of 1 to 5 are 2, 3 and 4; of the tens, ten times as much."""
    done = history({"a": [5, 1, 4, 2, 3], "b": [10, 20, 30, 40, 50]})
    found = timings(done, 0.5, quantile)
    error = factor * ((4 - 2) / 1.349) / math.sqrt(5)
    assert {name: t.ms for name, t in found.items()} == pytest.approx(
        {"a": place / 2, "b": place * 5}
    )
    assert [t.spread for t in found.values()] == pytest.approx([error / place] * 2)
    assert (timings(done, 0.5) == found) is (quantile == 0.25)


@pytest.mark.parametrize("quantile", [0.25, 0.5])
def test_the_standard_error_is_that_of_repeated_measurements(
    random: np.random.Generator, quantile: float
) -> None:
    """2000 measurements of the same runner scatter as much as each of them says."""
    columns = {str(i): 10 + column for i, column in enumerate(random.standard_normal((2000, 64)))}
    found = timings(history(columns), 1.0, quantile).values()
    scatter = np.std([t.ms for t in found])
    assert np.mean([t.spread * t.ms for t in found]) == pytest.approx(scatter, rel=0.05)


def test_the_reference_by_hand() -> None:
    done = [Round({"a": 1.0}, seconds, 1.0) for seconds in (0.005, 0.001, 0.003, 0.002, 0.004)]
    assert reference_ms(done) == pytest.approx(2.0)


@pytest.mark.parametrize("quantile", [0.25, 0.5])
def test_the_share_and_the_quantile_say_whose_spread_counts(quantile: float) -> None:
    steps = {"calm": 0, "typical": 1, "restless": 9}
    done = history({name: [100 + step * i for i in range(8)] for name, step in steps.items()})
    _, typical, restless = (t.spread for t in timings(done, 1.0, quantile).values())
    assert 0 < typical < restless
    for share, counts in [(0.5, typical), (1.0, restless)]:
        for bound, settled in [(counts * 1.001, True), (counts * 0.999, False)]:
            patience = Patience(bound, 100.0, share, quantile, least_rounds=8)
            assert patience.spread_of(done) == counts
            assert patience.is_settled(done) is patience.is_over(done) is settled


@pytest.mark.parametrize("seconds", [0.0, 100.0])
def test_patience_is_never_over_before_the_least_rounds(seconds: float) -> None:
    done = history({"a": [2.0] * 8})
    patience = Patience(0.5, seconds, least_rounds=8)
    assert [patience.is_over(done[:n]) for n in range(9)] == [False] * 8 + [True]


def test_patience_ends_when_another_round_would_take_too_long() -> None:
    """Rounds of 3 s, 20 s in all: six are 18 s, and a seventh would end at 21 s."""
    done = history({"a": range(1, 13)}, took=3.0)
    patience = Patience(1e-6, 20.0, least_rounds=2)
    assert [n for n in range(13) if not patience.is_over(done[:n])] == list(range(6))
    assert not patience.is_settled(done)


def test_progress_says_how_far_it_is() -> None:
    done = history({"a": [1, 2, 3, 4, 5]}, took=2.5)
    error = 1.363 * 2 / 1.349 / math.sqrt(5) / 2
    text = Patience(0.02, 60.0).progress(done)
    assert text == f"spread {100 * error:.1f}% (until 2.0%), 12 of at most 60 s"


def test_known_milliseconds_scale_runners_of_their_length() -> None:
    """By 1/2 at ratio 2, by 1 at 8, halfway in the logarithm by 1/√2, and beyond on that line."""
    ratios = {"large": 8.0, "small": 2.0, "tiny": 0.5, "middle": 4.0, "huge": 32.0}
    found = in_known_ms(Round(ratios, 0.003, 7.0), {"large": 8.0, "small": 1.0})
    expected = {"tiny": 0.125, "middle": 4 / math.sqrt(2), "huge": 64.0}
    assert found.ratios == pytest.approx(expected)
    assert (found.reference, found.took) == (0.003, 7.0)


def test_a_single_known_network_scales_all_alike() -> None:
    found = in_known_ms(Round({"a": 2.0, "b": 3.0, "c": 5.0}, 1.0, 1.0), {"b": 30.0})
    assert found.ratios == pytest.approx({"a": 20.0, "c": 50.0})


def test_only_known_networks_of_about_a_runners_length_count() -> None:
    """Below 1000 the machine is twice as fast as on the known day, above it as fast."""
    known = {f"{i}": 2.0 * (1 + i) for i in range(6)} | {f"1{i}": 1e4 * (1 + i) for i in range(6)}
    ratios = {name: ms / 2 if ms < 1000 else ms for name, ms in known.items()}
    found = in_known_ms(Round({**ratios, "small": 3.3, "large": 2.2e4}, 1.0, 1.0), known)
    assert found.ratios == pytest.approx({"small": 6.6, "large": 2.2e4})


def test_an_error_of_one_known_network_is_shared_out() -> None:
    """Six of the same length, one of them read 6 % slow: by the mean of their logarithms."""
    ratios = {str(i): 1.0 + 1e-4 * (i % 2) for i in range(6)}
    known = {**ratios, "3": ratios["3"] * 1.06}
    found = in_known_ms(Round({**ratios, "a": 1.00005}, 1.0, 1.0), known)
    assert found.ratios["a"] == pytest.approx(1.00005 * 1.06 ** (1 / 6), rel=1e-6)


def test_a_machine_that_slows_all_alike_gives_the_known_days_milliseconds(
    random: np.random.Generator,
) -> None:
    true = {str(i): ms for i, ms in enumerate(random.lognormal(0, 2, size=20))}
    known = {name: true[name] for name in list(true)[::4]}
    found = in_known_ms(Round({name: 3.7 * ms for name, ms in true.items()}, 1.0, 1.0), known)
    assert found.ratios == pytest.approx({n: ms for n, ms in true.items() if n not in known})


def test_quick_and_timed_on_a_fake_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    lengths = iter([5.0, 3.0, 4.0, 9.0])

    def run() -> str:
        nonlocal now
        now += next(lengths)
        return "done"

    with monkeypatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: now)
        quick, result = quick_ms(run, runs=3), timed(run)
    assert quick == pytest.approx(3000.0)
    assert result == ("done", pytest.approx(9.0))


@pytest.mark.parametrize("bounds", [(math.nan, 1.0), (0.1, math.nan), (-0.1, 1.0), (0.1, -1.0)])
def test_patience_without_an_end_is_refused(bounds: tuple[float, float]) -> None:
    with pytest.raises(UserError, match="expected numbers"):
        Patience(*bounds)
