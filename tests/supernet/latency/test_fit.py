"""The fit against made-up devices whose whole networks are known exactly."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from base.errors import UserError
from export.timing.measurement import Measurement, anchor_ms, timed_ms
from export.timing.stopwatch import Round
from export.timing.unit_of_work import UnitOfWork
from supernet.latency.fit import FLOOR, fit_table
from supernet.latency.parts import assemble
from supernet.latency.plan import TimingPlan, part_name, timing_plan
from supernet.latency_table import LatencyTable, Place, places
from supernet.space import Architecture, SearchSpace, StageSpace
from tests.tiny import mbconv

UNIT = UnitOfWork(batch=2, resolution=(8, 8))
REFERENCE_S = 0.004


@pytest.fixture(scope="module")
def plan(space: SearchSpace) -> TimingPlan:
    return timing_plan(space, 0)


def random_parts(plan: TimingPlan) -> dict[Place, float]:
    draws = np.random.default_rng(0)
    return {place: float(draws.uniform(0.5, 2)) for place in plan.parts}


def measured(
    plan: TimingPlan,
    part_ms: Mapping[Place, float],
    whole_ms: Callable[[Architecture], float],
    noise: Sequence[Mapping[str, float]] = ({}, {}, {}, {}),
) -> Measurement:
    """A round for each of `noise`, which is what the true seconds are multiplied by."""
    ms = {part_name(place): value for place, value in part_ms.items()}
    ms |= {name: whole_ms(a) for name, a in plan.networks.items()}
    done = [
        Round(
            {name: 1e-3 * value * factors.get(name, 1) for name, value in ms.items()},
            REFERENCE_S * factors.get("reference", 1),
            0.5 + i,
        )
        for i, factors in enumerate(noise)
    ]
    machine = {"cpu": "an abacus"}
    return Measurement(plan.fingerprint(), plan.seed, UNIT, machine, "today", tuple(done))


def a_device(
    plan: TimingPlan, part_ms: Mapping[Place, float], corrections: Mapping[tuple, float]
) -> dict[Place, float]:
    """What every part truly adds to a network: gain, elements, and a share of it by width.

    `corrections` are keyed by (stage, "in" or "out", width).
    """
    true_ms = {}
    for place, ms in part_ms.items():
        true_ms[place] = 0.9 * ms
        if place[0] in ("first", "rest"):
            first, s = place[0] == "first", place[1]
            widths = plan.space.stages[s].widths
            c_in = (plan.space.widths_into(s) if first else widths)[place[2]]
            c = widths[place[3 if first else 2]]
            shares = corrections.get((s, "in", c_in), 0) + corrections.get((s, "out", c), 0)
            _, elements_in, elements_out = plan.parts[place].costs
            true_ms[place] += shares * ms - 2e-4 * elements_in + 4e-4 * elements_out
    return true_ms


def sum_of(plan: TimingPlan, ms: Mapping[Place, float]) -> Callable[[Architecture], float]:
    return lambda architecture: sum(ms[place] for place in places(plan.space, architecture))


def test_fit_predicts_networks_that_it_has_not_seen(
    plan: TimingPlan, every_architecture: list[Architecture]
) -> None:
    """Where the sum of the parts as timed alone is far off."""
    part_ms = random_parts(plan)
    corrections = {(0, "out", 6): 0.06, (1, "in", 4): -0.05, (1, "out", 8): 0.08}
    whole_ms = sum_of(plan, a_device(plan, part_ms, corrections))
    table = fit_table(plan, measured(plan, part_ms, whole_ms))
    plain = assemble(plan.space, part_ms, {})
    unseen = [a for a in every_architecture if a not in set(plan.calibration.values())]
    assert len(unseen) == 5760 - 48
    off, plainly_off = (
        np.array([abs(t.predicted_ms(a) / whole_ms(a) - 1) for a in unseen]) for t in (table, plain)
    )
    assert off.max() < 0.005 < 0.03 < plainly_off.mean()
    assert table.provenance["check"]["error"] < 0.005
    assert table.provenance["floored_entries"] == 0


def test_a_device_where_nothing_is_to_be_corrected(plan: TimingPlan) -> None:
    part_ms = random_parts(plan)
    whole_ms = sum_of(plan, {place: 0.8 * ms for place, ms in part_ms.items()})
    table = fit_table(plan, measured(plan, part_ms, whole_ms))
    assert table.provenance["gain"] == pytest.approx(0.8, rel=1e-3)
    for place, ms in part_ms.items():
        assert table.entry(place) == pytest.approx(0.8 * ms, rel=5e-3)


def test_no_entry_falls_below_its_floor(plan: TimingPlan, tmp_path: Path) -> None:
    """Blocks of width 6 to 8 would have to take less than no time."""
    part_ms = random_parts(plan)
    impossible = {(1, "in", 6): -0.7, (1, "out", 8): -0.6}
    true_ms = {**a_device(plan, part_ms, impossible), ("stem",): 40.0}
    assert min(true_ms.values()) < 0
    table = fit_table(plan, measured(plan, part_ms, sum_of(plan, true_ms)))
    at_floor = [p for p, ms in part_ms.items() if table.entry(p) == pytest.approx(FLOOR * ms)]
    assert 0 < len(at_floor) < len(part_ms)
    assert table.provenance["floored_entries"] == len(at_floor)
    assert all(table.entry(p) >= FLOOR * ms * (1 - 1e-12) for p, ms in part_ms.items())
    table.save(tmp_path / "latency.json")
    again = LatencyTable.load(tmp_path / "latency.json", plan.space)
    assert again.fingerprint() == table.fingerprint()


def low_ms(seconds: Sequence[float]) -> float:
    """By hand: of up to 20 runs, a little of the way in logarithms from the fastest to the next."""
    fastest, following, *_ = sorted(seconds)
    return 1e3 * fastest * (following / fastest) ** (0.05 * (len(seconds) - 1))


def ranks(values: np.ndarray) -> np.ndarray:
    return np.array([(values < value).sum() for value in values], dtype=float)


def test_provenance_is_what_the_rounds_say(plan: TimingPlan) -> None:
    """Five noisy rounds, each of its own speed, everything computed again by explicit loops."""
    draws, part_ms = np.random.default_rng(1), random_parts(plan)
    names = [*plan.names(), "reference"]
    speeds = (1.0, 1.3, 0.9, 1.2, 1.1)
    noise = [
        dict(zip(names, speed * draws.uniform(1, 1.1, len(names)), strict=True)) for speed in speeds
    ]
    whole_ms = sum_of(plan, a_device(plan, part_ms, {}))
    measurement = measured(plan, part_ms, whole_ms, noise)
    table = fit_table(plan, measurement)
    done, found = measurement.rounds, table.provenance

    ms = {n: low_ms([r.seconds[n] for r in done]) for n in plan.names()}
    assert timed_ms(measurement) == pytest.approx(ms)
    fastest, following, *_ = sorted(r.reference for r in done)
    assert found["reference_ms"] == pytest.approx(1e3 * (0.8 * fastest + 0.2 * following))

    beside_the_mean = []
    for _ in range(400):
        drawn = [done[i] for i in draws.integers(5, size=5)]
        logs = np.log([low_ms([r.seconds[n] for r in drawn]) for n in plan.names()])
        beside_the_mean.append(logs - logs.mean())
    spread = np.median(np.std(beside_the_mean, axis=0))
    assert found["spread"] == pytest.approx(spread, rel=0.2)

    predicted = np.array([table.predicted_ms(a) for a in plan.check.values()])
    whole = np.array([ms[name] for name in plan.check])
    halves = [
        np.array([low_ms([r.seconds[name] for r in half]) for name in plan.check])
        for half in ([done[0], done[2], done[4]], [done[1], done[3]])
    ]
    ratios = halves[0] / halves[1]
    assert np.median(ratios) < 0.8
    assert found["check"] == {
        "networks": 30,
        "error": pytest.approx(np.mean(np.abs(predicted - whole) / whole)),
        "worst_error": pytest.approx(np.max(np.abs(predicted - whole) / whole)),
        "bias": pytest.approx(np.mean((predicted - whole) / whole)),
        "spearman": pytest.approx(np.corrcoef(ranks(predicted), ranks(whole))[0, 1]),
        "repeatability": pytest.approx(np.mean(np.abs(ratios / np.median(ratios) - 1))),
    }
    slowness = sorted(plan.calibration, key=lambda name: ms[name])
    anchors = [(a["ms"], Architecture.from_json(a["architecture"])) for a in found["anchors"]]
    assert anchors == [(pytest.approx(ms[n]), plan.calibration[n]) for n in anchor_ms(measurement)]
    ends = (slowness[0], slowness[-1])
    assert (anchors[0][1], anchors[-1][1]) == tuple(plan.calibration[name] for name in ends)
    assert (found["rounds"], found["seconds"]) == (5, 0.5 + 1.5 + 2.5 + 3.5 + 4.5)
    assert (found["parts"], found["calibration_networks"], found["seed"]) == (54, 48, 0)
    assert (found["unit"], found["unit_of_work"]) == (asdict(UNIT), str(UNIT))
    assert (found["machine"], found["date"]) == ({"cpu": "an abacus"}, "today")


def test_noise_in_the_check_networks_does_not_reach_the_entries(plan: TimingPlan) -> None:
    """What the table is checked on, its fit never sees."""
    part_ms = random_parts(plan)
    whole_ms = sum_of(plan, a_device(plan, part_ms, {}))
    off = [dict.fromkeys(plan.check, 1.5)] * 4
    clean, spoilt = (
        fit_table(plan, measured(plan, part_ms, whole_ms, noise)) for noise in ([{}] * 4, off)
    )
    assert clean.fingerprint() == spoilt.fingerprint()
    assert spoilt.provenance["check"]["bias"] == pytest.approx(1 / 1.5 - 1, abs=0.005)


def test_measurement_of_another_plan_is_refused(plan: TimingPlan, space: SearchSpace) -> None:
    part_ms = random_parts(plan)
    measurement = measured(plan, part_ms, sum_of(plan, part_ms))
    for other in (timing_plan(space, 1), timing_plan(replace(space, classes=4), 0)):
        names = rf"plan {plan.fingerprint()}, expected {other.fingerprint()} \(space tiny, "
        with pytest.raises(UserError, match=names):
            fit_table(other, measurement)


@pytest.mark.parametrize(
    ("widths", "check"), [((4, 6), {"networks": 1}), ((4,), {"networks": 0})], ids=["4", "2"]
)
def test_spaces_with_few_students_have_a_table(
    widths: tuple[int, ...], check: dict, tmp_path: Path
) -> None:
    stage = StageSpace(1, widths, (1,), (mbconv((3, 5), (2,), (False,)),))
    few = timing_plan(SearchSpace("few", (8, 8), 3, 1, (4,), (stage,), (8,)), 0)
    part_ms = random_parts(few)
    whole_ms = sum_of(few, {place: 0.9 * ms for place, ms in part_ms.items()})
    table = fit_table(few, measured(few, part_ms, whole_ms))
    assert table.provenance["check"] == check
    for architecture in few.networks.values():
        assert table.predicted_ms(architecture) == pytest.approx(whole_ms(architecture), rel=0.02)
    table.save(tmp_path / "latency.json")
    assert LatencyTable.load(tmp_path / "latency.json", few.space).provenance["gain"] > 0
