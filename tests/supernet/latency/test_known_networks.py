"""Networks of known milliseconds bring others to the speed of the day when they were timed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from export.timing.measurement import anchor_ms, new_measurement, timed_ms
from export.timing.stopwatch import Round, timings_beside
from export.timing.unit_of_work import UnitOfWork

MEASUREMENT = new_measurement("plan 1", 3, UnitOfWork(8, (16, 16)), {})


def beside(seconds: Mapping[str, float], known_ms: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds of the others when every round is the same."""
    done = [Round(seconds, 0.001, 1.0)] * 12
    return {name: timing.ms for name, timing in timings_beside(done, known_ms).items()}


def test_known_milliseconds_scale_runners_of_their_length() -> None:
    """By 1/2 at 2 ms, by 1 at 8, halfway in the logarithm by 1/√2, and beyond on that line."""
    seconds = {"large": 0.008, "small": 0.002, "tiny": 0.0005, "middle": 0.004, "huge": 0.032}
    found = beside(seconds, {"large": 8.0, "small": 1.0})
    assert found == pytest.approx({"tiny": 0.125, "middle": 4 / math.sqrt(2), "huge": 64.0})


def test_a_single_known_network_scales_all_alike() -> None:
    found = beside({"a": 2.0, "b": 3.0, "c": 5.0}, {"b": 30.0})
    assert found == pytest.approx({"a": 20.0, "c": 50.0})


def test_known_networks_of_the_same_length_give_their_mean() -> None:
    found = beside({"a": 2.0, "b": 3.0, "c": 3.0}, {"b": 30.0, "c": 120.0})
    assert found == pytest.approx({"a": 40.0})


def test_only_known_networks_of_about_a_runners_length_count() -> None:
    """Below 1000 the machine is twice as fast as on the known day, above it as fast."""
    known = {f"{i}": 2.0 * (1 + i) for i in range(6)} | {f"1{i}": 1e4 * (1 + i) for i in range(6)}
    now = {name: 1e-3 * (ms / 2 if ms < 1000 else ms) for name, ms in known.items()}
    found = beside({**now, "small": 3.3e-3, "large": 22.0}, known)
    assert found == pytest.approx({"small": 6.6, "large": 2.2e4})


def test_the_scale_is_that_of_a_fitted_line(random: np.random.Generator) -> None:
    """Six known networks that lie on no line, against numpy's least squares."""
    seconds, known_ms = random.lognormal(size=6), random.lognormal(size=6)
    now, scale = np.log(1e3 * seconds), np.log(known_ms) - np.log(1e3 * seconds)
    line = np.polyfit(now, scale, deg=1)
    known = {str(i): ms for i, ms in enumerate(known_ms)}
    found = beside({**{str(i): s for i, s in enumerate(seconds)}, "a": 1.7}, known)
    assert found == pytest.approx({"a": 1700 * np.exp(np.polyval(line, np.log(1700)))})


def test_a_machine_that_slows_all_alike_gives_the_known_days_milliseconds(
    random: np.random.Generator,
) -> None:
    true = {str(i): ms for i, ms in enumerate(random.lognormal(0, 2, size=20))}
    known = {name: true[name] for name in list(true)[::4]}
    found = beside({name: 3.7e-3 * ms for name, ms in true.items()}, known)
    assert found == pytest.approx({n: ms for n, ms in true.items() if n not in known})


@pytest.mark.parametrize(("networks", "places"), [(31, range(0, 31, 2)), (3, range(3)), (0, ())])
def test_anchors_reach_from_the_fastest_network_to_the_slowest(
    random: np.random.Generator, networks: int, places: Sequence[int]
) -> None:
    """Networks in equal ratios, from 3 ms on, beside a block: every other is taken."""
    ms = {f"calibration/{name}": 3.0 * 1.1**name for name in random.permutation(networks)}
    seconds = {"block": 0.0015, **{name: 1e-3 * value for name, value in ms.items()}}
    measurement = replace(MEASUREMENT, rounds=(Round(seconds, 0.007, 1.0),) * 3)
    assert timed_ms(measurement) == pytest.approx({"block": 1.5, **ms})
    found = anchor_ms(measurement)
    assert found == pytest.approx({f"calibration/{i}": 3.0 * 1.1**i for i in places})
    assert list(found) == [f"calibration/{i}" for i in places]


def test_anchors_are_spread_although_networks_crowd() -> None:
    """Fifty networks of 10 ms or a little more, and one of 20 and 40 each."""
    ms = {f"calibration/{i}": 10 + i / 100 for i in range(50)}
    ms |= {"calibration/50": 20.0, "calibration/51": 40.0}
    seconds = {name: 1e-3 * value for name, value in ms.items()}
    measurement = replace(MEASUREMENT, rounds=(Round(seconds, 0.007, 1.0),) * 3)
    names = [f"calibration/{i}" for i in (0, 49, 50, 51)]
    assert list(anchor_ms(measurement)) == names
