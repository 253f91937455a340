"""The precision that is asked for, in the form that is fastest here."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from base.files import read_json
from base.processes import timed_now
from export.runtimes.faster import FP32, Ratios, compare_forms, refuse_slower
from export.runtimes.runtime import check_unit, runtime_of
from export.timing.unit_of_work import UnitOfWork
from supernet.latency.runners import student_runner
from supernet.space import Architecture, SearchSpace

RANDOM_STUDENTS = 3


def settle_precision(
    folder: Path, space: SearchSpace, asked: UnitOfWork, seed: int, slower_too: bool
) -> tuple[UnitOfWork, Ratios | None]:
    """Return the unit of work in the form that the run's table has, or that is fastest here.

    Beside it stands how it compares with fp32, where that was measured now. Raises `UserError` when
    nothing here can run it, or fp32 is faster and slower ones are not wanted, too.
    """
    check_unit(asked)
    if asked.precision == FP32:
        return asked, None
    forms = runtime_of(asked).FORMS[asked.precision]
    if known := _known_precision(folder):
        return (replace(asked, precision=known) if known in forms else asked), None
    students, fp32 = compared_students(space, seed), replace(asked, precision=FP32)
    units = {form: replace(fp32, precision=form) for form in (FP32, *forms)}
    timed_now(f"fp32 and {', '.join(forms)}")
    ratios = compare_forms(
        {form: [student_runner(space, a, unit) for a in students] for form, unit in units.items()}
    )
    if not slower_too:
        refuse_slower(ratios, "--latency-slower")
    return units[ratios.fastest], ratios


def compared_students(space: SearchSpace, seed: int) -> list[Architecture]:
    """Return students from the smallest to the largest, on which precisions are compared."""
    draws = np.random.default_rng(seed)
    ends = [space.smallest(), space.middle(), space.largest()]
    return list(dict.fromkeys([*ends, *(space.random(draws) for _ in range(RANDOM_STUDENTS))]))


def _known_precision(folder: Path) -> str | None:
    """Name the precision of the table, or of the measurement for it, that a run has begun."""
    for path in (folder / "latency.json", folder / "measurement.json"):
        if path.exists():
            value = read_json(path)
            value = value if path.name == "measurement.json" else value.get("provenance")
            if isinstance(value, dict) and isinstance(value.get("unit"), dict):
                return str(value["unit"].get("precision"))
    return None
