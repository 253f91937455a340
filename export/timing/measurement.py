"""A measurement as a file that grows by a round at a time and can be continued."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from base.errors import UserError
from base.files import PARSE_ERRORS, first_difference, read_json, write_json
from export.timing.stopwatch import Patience, Round, Runner, rounds, timings
from export.timing.unit_of_work import UnitOfWork, unit_of_work

DIGITS = 6
# Names of the networks that the table is fitted to, and how many of them later timings lean on.
CALIBRATION, ANCHORS = "calibration/", 16


@dataclass(frozen=True)
class Measurement:
    """Rounds of the stopwatch over the runners of one plan, on one machine.

    `plan` is a fingerprint of all that is timed; `seed` decides the order of the visits.
    """

    plan: str
    seed: int
    unit: UnitOfWork
    machine: Mapping[str, str]
    date: str
    rounds: tuple[Round, ...]

    def save(self, path: Path) -> None:
        """Write as JSON: the names once, every round's seconds in their order."""
        names = list(self.rounds[0].seconds)
        write_json(
            path,
            {
                "plan": self.plan,
                "seed": self.seed,
                "unit": asdict(self.unit),
                "machine": dict(self.machine),
                "date": self.date,
                "names": names,
                "rounds": [
                    {
                        "reference": r.reference,
                        "took": r.took,
                        "seconds": [r.seconds[name] for name in names],
                    }
                    for r in self.rounds
                ],
            },
            indent=None,
        )

    @classmethod
    def load(cls, path: Path) -> "Measurement":
        """Read a measurement; one that is missing, damaged or not finite raises `UserError`."""
        value = read_json(path)
        try:
            names = value["names"]
            done = tuple(
                Round(
                    dict(zip(names, map(_positive, r["seconds"]), strict=True)),
                    _positive(r["reference"]),
                    _positive(r["took"]),
                )
                for r in value["rounds"]
            )
            if not done or not names or len(set(names)) < len(names):
                raise ValueError("no rounds, or a name twice")
            return cls(
                str(value["plan"]),
                int(value["seed"]),
                unit_of_work(value["unit"]),
                {str(field): str(text) for field, text in value["machine"].items()},
                str(value["date"]),
                done,
            )
        except PARSE_ERRORS as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{path}: damaged measurement ({reason}); measure again") from error


def _positive(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{value} is not above 0")
    return float(value)


def new_measurement(
    plan: str, seed: int, unit: UnitOfWork, machine: Mapping[str, str]
) -> Measurement:
    """Return a measurement of a machine without rounds, of this moment."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
    return Measurement(plan, seed, unit, machine, now, ())


def measure(
    runners: Mapping[str, Runner],
    reference: Runner,
    so_far: Measurement,
    patience: Patience,
    path: Path | None = None,
) -> Iterator[Measurement]:
    """Go on from `so_far` until patience is over; every round is written to `path`, then yielded.

    Yields nothing when it is over already.
    """
    endless = rounds(runners, reference, seed=so_far.seed, done=len(so_far.rounds))
    while not patience.is_over(so_far.rounds):
        so_far = replace(so_far, rounds=(*so_far.rounds, _rounded(next(endless))))
        if path is not None:
            so_far.save(path)
        yield so_far


def _rounded(one: Round) -> Round:
    """Keep as many digits as were measured: the file is short, and says all that is known."""
    seconds = {name: float(f"{value:.{DIGITS}g}") for name, value in one.seconds.items()}
    return replace(one, seconds=seconds)


def resume_measurement(path: Path, fresh: Measurement) -> Measurement:
    """Return the measurement at `path`, which can go on here, or `fresh` when there is none.

    One of another plan, order, unit of work or machine raises `UserError` naming the difference.
    """
    if not path.exists():
        return fresh
    stored = Measurement.load(path)
    theirs, ours = (asdict(replace(m, rounds=(), date="")) for m in (stored, fresh))
    differs = first_difference(theirs, ours)
    if differs:
        raise UserError(f"{path}: cannot be continued here: {differs}; remove it or name another")
    return stored


def timed_ms(measurement: Measurement) -> dict[str, float]:
    """Return the milliseconds of all that was timed, by name."""
    return {name: timing.ms for name, timing in timings(measurement.rounds).items()}


def anchor_ms(measurement: Measurement) -> dict[str, float]:
    """Return a few whole networks' milliseconds in about equal ratios, fastest first, by name.

    They are timed again beside whatever is to be compared with this measurement later.
    """
    ms = {n: t for n, t in timed_ms(measurement).items() if n.startswith(CALIBRATION)}
    if not ms:
        return {}
    spread = np.geomspace(min(ms.values()), max(ms.values()), ANCHORS)
    near = dict.fromkeys(min(ms, key=lambda n: abs(math.log(ms[n] / at))) for at in spread)
    return {name: ms[name] for name in near}
