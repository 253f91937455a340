"""The architecture for a budget: derived, ranked by the surrogate, and measured whole."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from base.errors import UserError
from base.files import PARSE_ERRORS, read_json, write_json
from base.processes import from_main_process, is_main_process
from export.timing.stopwatch import Timing
from supernet.choice.evidence import MARGIN, Answered, Window, are_known, margin, times_off
from supernet.choice.programme import BUDGET_USES, Programme, candidates
from supernet.space import Architecture, Choices

# A finalist should use this much, its margin added: 97 % without it. Where none does, the one using
# most is taken.
MIN_BUDGET_USE = 0.982
ATTEMPTS = 4

# Return architectures that the table predicts to fill a budget of so many milliseconds.
Propose = Callable[[float], Sequence[Architecture]]
PredictLoss = Callable[[Architecture], float]
# Time architectures until it is enough.
Measure = Callable[[Sequence[Architecture], Answered], Mapping[Architecture, Timing]]


@dataclass(frozen=True)
class Proposal:
    """What a pick chooses from.

    `propose` gives architectures for a budget, of which `asked_ms` is the first that it is asked
    for; `expect` gives the loss of one. What is picked should use `least_use` of the budget.
    """

    propose: Propose
    asked_ms: float
    expect: PredictLoss
    least_use: float = MIN_BUDGET_USE


@dataclass(frozen=True)
class Pick:
    """The architecture chosen for a budget, before it is retrained.

    `measured` is None where students of the table cannot be timed.
    """

    architecture: Architecture
    predicted_ms: float
    measured: Timing | None


def cached_pick(path: Path, identity: Mapping[str, str], find: Callable[[], Pick]) -> Pick:
    """Return the pick kept at `path` for the same `identity`, or find one and keep it.

    What was measured is not measured again when a retraining is resumed. Of several processes one
    looks: another one's look might fall behind its writing. Raises `UserError` for a damaged file.
    """
    if kept := from_main_process(partial(_kept_pick, path, dict(identity))):
        return kept
    pick = find()
    if is_main_process():
        write_json(path, {"identity": dict(identity), "pick": asdict(pick)})
    return pick


def _kept_pick(path: Path, identity: dict[str, str]) -> Pick | None:
    if not path.exists() or (stored := read_json(path)).get("identity") != identity:
        return None
    try:
        own = {**stored["pick"]}
        own["architecture"] = Architecture.from_json(own["architecture"])
        own["measured"] = Timing(**own["measured"]) if own["measured"] else None
        return Pick(**own)
    except PARSE_ERRORS as error:
        raise UserError(f"{path}: damaged ({error}); remove it and search again") from error


def alphas_proposal(
    problem: Programme,
    log_p: Choices,
    count: int,
    seed: int,
    expect: PredictLoss,
    asked_ms: float,
) -> Proposal:
    """Propose `count` candidates a time by alpha's log-probabilities; a seed gives the same."""
    draws = np.random.default_rng(seed)
    propose = partial(candidates, problem, log_p, count=count, generator=draws)
    return Proposal(propose, asked_ms, expect)


def budget_asked(problem: Programme, target_ms: float) -> float:
    """Return what to ask of the table for a budget, so that what is measured is within it.

    For one that is nearly too fast, the fastest student is asked for: measured, it may be within.
    """
    fastest_ms, slowest_ms = problem.range_ms()
    return min(max(target_ms / (1 + MARGIN), fastest_ms), slowest_ms)


def budget_calibrated(
    problem: Programme, own: Proposal, target_ms: float, count: int, measure: Measure
) -> float:
    """Return what to ask of the table for a budget, after some proposed students were measured."""
    students = sorted(own.propose(own.asked_ms), key=own.expect)[:count]
    return _rescaled(problem, measure(students, are_known), target_ms / (1 + MARGIN))


def _rescaled(
    problem: Programme, timings: Mapping[Architecture, Timing], wanted_ms: float
) -> float:
    """Ask the table for so much more or less than is wanted as it was off."""
    off = times_off(problem.table.predicted_ms, timings, max(MARGIN, table_error(problem)))
    fastest_ms, slowest_ms = problem.range_ms()
    return min(max(wanted_ms / off, fastest_ms), slowest_ms)


def pick_measured(
    problem: Programme, own: Proposal, target_ms: float, finalists: int, measure: Measure
) -> Pick:
    """Return the proposed architecture of least loss among those measured within the budget.

    The `finalists` of least loss are measured in every attempt. They tell how far the table is off
    near this budget, and the next attempt asks the table for that much more or less. Raises
    `UserError` when nothing was measured within the budget.
    """
    slowest_ms, asked_ms = problem.range_ms()[1], own.asked_ms
    timings: dict[Architecture, Timing] = {}
    twice: set[Architecture] = set()
    best = None
    for _ in range(ATTEMPTS):
        fresh = [a for a in own.propose(asked_ms) if a not in timings]
        if not fresh:
            break
        window = Window(own.least_use * target_ms if asked_ms < slowest_ms else 0.0, target_ms)
        enough = partial(window.is_answered, own.expect)
        timed = measure(sorted(fresh, key=own.expect)[:finalists], enough)
        timings |= timed
        best = _confirmed(timings, twice, own.expect, window, measure)
        if best is not None:
            break
        latest = {a: timings[a] for a in timed}
        asked_ms = _rescaled(problem, latest, target_ms / (1 + margin(latest)))
    for fill in BUDGET_USES:
        window = Window(fill * target_ms, target_ms)
        best = best or _confirmed(timings, twice, own.expect, window, measure)
    if best is None:
        raise UserError(
            f"--target-latency {target_ms:g}: no student was measured within it, although the "
            "table predicts some; the table may be from a quieter hour: try again, or remove it "
            "and train again"
        )
    return Pick(best, problem.table.predicted_ms(best), timings[best])


def _confirmed(
    timings: dict[Architecture, Timing],
    twice: set[Architecture],
    expect: PredictLoss,
    window: Window,
    measure: Measure,
) -> Architecture | None:
    """Return the architecture of least loss within the window, also when it is timed once more.

    The fastest of several is flattered by chance; so it is timed again, in a session of its own,
    until the mean of both timings is sure, and is one of those timed `twice`. The mean is kept.
    """
    while fitting := [a for a in timings if window.holds(timings[a])]:
        best = min(fitting, key=expect)
        if best in twice:
            return best
        first = timings[best]
        is_sure = partial(_is_sure_with, window, best, first)
        timings[best] = first.with_another(measure([best], is_sure)[best])
        twice.add(best)
    return None


def _is_sure_with(
    window: Window, best: Architecture, first: Timing, found: Mapping[Architecture, Timing]
) -> bool:
    """Whether it is sure with another timing, which is exact, too: the first may be flattered."""
    mean = first.with_another(found[best])
    return found[best].spread <= MARGIN and window.verdict(mean) is not None


def pick_predicted(problem: Programme, own: Proposal, target_ms: float) -> Pick:
    """Return the proposed architecture of least loss, for a device that is not here.

    What is asked of the table should leave its error free, as `budget_predicted` does. Raises
    `UserError` when nothing is predicted within the rest.
    """
    found = own.propose(own.asked_ms)
    if not found:
        error = table_error(problem)
        raise UserError(
            f"--target-latency {target_ms:g}: no student is predicted within it with the table's "
            f"error of {error:.1%} to spare; ask for a little more"
        )
    best = min(found, key=own.expect)
    return Pick(best, problem.table.predicted_ms(best), None)


def budget_predicted(problem: Programme, target_ms: float) -> float:
    """Return what to ask of the table for a budget, where its own error is to be left free."""
    return min(target_ms * (1 - table_error(problem)), problem.range_ms()[1])


def table_error(problem: Programme) -> float:
    """Return by how much the table was off where it was checked."""
    return float(problem.table.provenance.get("check", {}).get("error", MARGIN))
