"""From a measurement to the latency table: the parts' sum fitted to whole networks, and checked."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV

from base.errors import UserError
from export.timing.measurement import Measurement, anchor_ms, timed_ms
from export.timing.stopwatch import Patience, reference_ms, timings
from supernet.latency.parts import assemble
from supernet.latency.plan import TimingPlan, part_name
from supernet.latency_table import LatencyTable, Place, places
from supernet.space import Architecture

# Strengths of the ridge to choose from; 0.04 suits timings good to 0.8 % and corrections of 4 %.
RIDGES = np.geomspace(0.01, 10, 13)
# Columns so large that the ridge does not hold their coefficients back.
FREE = 300.0
FREE_COLUMNS = 4
# No entry falls below this share of what was timed, whatever the fit says.
FLOOR = 0.1


def fit_table(plan: TimingPlan, measurement: Measurement) -> LatencyTable:
    """Turn a measurement of `plan` into its table; one of another plan raises `UserError`.

    A part timed alone converts its input and output to and from the runtime's own layout, as a
    network does only where widths do not suit that layout, and it finds other data in the caches.
    So the sum over parts is fitted to whole networks, on relative errors: a gain, a cost of each
    element that goes into and out of a block, one of each block, and corrections for every width
    into and out of a stage's blocks, held towards zero by a ridge whose strength is chosen by
    leaving networks out.
    (Entries fitted to whole networks: AOWS, arXiv:2006.07987.)
    """
    if measurement.plan != plan.fingerprint():
        raise UserError(
            f"a measurement of plan {measurement.plan}, expected {plan.fingerprint()} "
            f"(space {plan.space.name}, {plan.space.classes} classes, seed {plan.seed}); "
            "measure it for this space, with this version of Oyster"
        )
    done, names = measurement.rounds, plan.names()
    if len(done) < 2 or set(done[0].seconds) != set(names):
        raise UserError(
            f"a measurement of {len(done)} rounds of {len(done[0].seconds)} runners, "
            f"expected 2 rounds or more of {len(names)}; let it go on"
        )
    ms = timed_ms(measurement)
    entry_ms = {place: ms[part_name(place)] for place in plan.parts}
    columns = _columns(plan, entry_ms)
    network_ms = np.array([ms[name] for name in plan.calibration])
    sums = [_summed(plan, a, columns) for a in plan.calibration.values()]
    model = RidgeCV(alphas=RIDGES, fit_intercept=False)
    model.fit(np.array(sums) / network_ms[:, None], np.ones(len(network_ms)))
    fitted = {place: float(column @ model.coef_) for place, column in columns.items()}
    floors = {place: FLOOR * entry_ms[place] for place in fitted}
    entries = {place: max(fitted[place], floors[place]) for place in fitted}
    provenance = {
        **_provenance(plan, measurement),
        "gain": float(FREE * model.coef_[0]),
        "ridge": float(model.alpha_),
        "floored_entries": sum(fitted[place] < floors[place] for place in fitted),
    }
    table = assemble(plan.space, entries, provenance)
    return replace(table, provenance={**provenance, "check": _check(plan, table, measurement)})


def _summed(
    plan: TimingPlan, architecture: Architecture, columns: Mapping[Place, np.ndarray]
) -> np.ndarray:
    return np.sum([columns[place] for place in places(plan.space, architecture)], axis=0)


def _columns(plan: TimingPlan, ms: Mapping[Place, float]) -> dict[Place, np.ndarray]:
    """What each part adds to every column of the fit, all about as large as milliseconds."""
    elements = {place: np.array(part.costs[1:]) for place, part in plan.parts.items()}
    sizes = {place: np.append(elements[place], ms[place]) for place in plan.parts}
    totals = sum(_summed(plan, a, sizes) for a in plan.calibration.values())
    per_element = totals[-1] / totals[:-1]
    per_block = totals[-1] / sum(len(places(plan.space, a)) for a in plan.calibration.values())
    widths = {place: _widths(plan, place) for place in plan.parts}
    at = {width: i for i, width in enumerate(sorted(set(itertools.chain(*widths.values()))))}
    columns = {}
    for place in plan.parts:
        columns[place] = np.zeros(FREE_COLUMNS + len(at))
        columns[place][0] = FREE * ms[place]
        if widths[place]:
            columns[place][1:3] = FREE * per_element * elements[place]
            columns[place][3] = FREE * per_block
        for width in widths[place]:
            columns[place][FREE_COLUMNS + at[width]] = ms[place]
    return columns


def _widths(plan: TimingPlan, place: Place) -> list[tuple[int, str, int]]:
    """Name the widths into and out of a block, by stage; stem and head have none of their own."""
    match place:
        case ("first", s, c_in, c, *_):
            width_in = plan.space.widths_into(s)[c_in]
        case ("rest", s, c, *_):
            width_in = plan.space.stages[s].widths[c]
        case _:
            return []
    return [(s, "in", width_in), (s, "out", plan.space.stages[s].widths[c])]


def _provenance(plan: TimingPlan, measurement: Measurement) -> dict[str, object]:
    done = measurement.rounds
    return {
        "unit_of_work": str(measurement.unit),
        "unit": asdict(measurement.unit),
        "machine": dict(measurement.machine),
        "date": measurement.date,
        "seed": plan.seed,
        "parts": len(plan.parts),
        "calibration_networks": len(plan.calibration),
        "biases": True,
        "rounds": len(done),
        "seconds": sum(r.took for r in done),
        "spread": Patience(0, 0).spread_of(timings(done)),
        "reference_ms": reference_ms(done),
        "anchors": [
            {"ms": ms, "architecture": plan.calibration[name].to_json()}
            for name, ms in anchor_ms(measurement).items()
        ],
    }


def _check(plan: TimingPlan, table: LatencyTable, measurement: Measurement) -> dict[str, object]:
    """How well the table predicts the networks that the fit has not seen."""
    ms = timed_ms(measurement)
    predicted = np.array([table.predicted_ms(a) for a in plan.check.values()])
    measured = np.array([ms[name] for name in plan.check])
    if len(measured) < 3:
        return {"networks": len(measured)}
    errors = np.abs(predicted / measured - 1)
    return {
        "networks": len(measured),
        "error": float(errors.mean()),
        "worst_error": float(errors.max()),
        "bias": float(np.mean(predicted / measured - 1)),
        "spearman": float(spearmanr(predicted, measured).statistic),
        "repeatability": _repeatability(plan.check, measurement),
    }


def _repeatability(names: Sequence[str], measurement: Measurement) -> float:
    """Mean difference between the milliseconds from the odd and from the even rounds alone.

    The difference that all share, of the machine's speed, is left out.
    """
    odd, even = (timings(measurement.rounds[start::2]) for start in (0, 1))
    ratios = np.array([odd[name].ms / even[name].ms for name in names])
    return float(np.mean(np.abs(ratios / np.median(ratios) - 1)))
