"""The latency table of a run: given, found in its folder, or measured on this machine."""

import sys
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

from base.errors import UserError
from base.files import first_difference, read_json
from base.processes import is_main_process
from base.size import pixels_text
from export.runtimes.runtime import check_answers, this_machine
from export.timing.measurement import Measurement, measure, new_measurement, resume_measurement
from export.timing.stopwatch import Patience
from export.timing.unit_of_work import UnitOfWork
from supernet.latency.fit import fit_table
from supernet.latency.plan import TimingPlan, part_name, timing_plan
from supernet.latency.runners import part_runner, student_runner, unit_of_table
from supernet.latency_table import LatencyTable
from supernet.space import SearchSpace

MOST_ERROR = 0.1  # of a table that is used without a word


def measure_plan(plan: TimingPlan, unit: UnitOfWork, patience: Patience, path: Path) -> Measurement:
    """Time all of the plan, interleaved, until patience is over; go on from `path` if it is there.

    Raises `UserError` when the measurement there is of something else or of another machine.
    """
    done = resume_measurement(
        path, new_measurement(plan.fingerprint(), plan.seed, unit, this_machine(unit))
    )
    if patience.is_over(done.rounds):
        return done
    # A student first: it exports all structures at once, and parts find them.
    reference = student_runner(plan.space, plan.reference, unit)
    runners = {part_name(place): part_runner(part, unit) for place, part in plan.parts.items()}
    runners |= {name: student_runner(plan.space, a, unit) for name, a in plan.networks.items()}
    with tqdm(desc="latency table", unit="round", initial=len(done.rounds)) as bar:
        for latest in measure(runners, reference, done, patience, path):
            bar.set_postfix_str(patience.progress(latest.rounds))
            bar.update()
    if not patience.is_settled(latest.rounds):
        progress = patience.progress(latest.rounds)
        print(f"latency table: {progress}; the machine is busy, more time helps", file=sys.stderr)
    return latest


def find_or_measure_table(
    folder: Path,
    space: SearchSpace,
    unit: UnitOfWork,
    patience: Patience,
    seed: int,
    given: LatencyTable | None = None,
) -> LatencyTable:
    """Return the table in the run's `folder`, or the given one, or one that is measured now.

    A measurement that was interrupted is continued. A table of another space, unit of work or
    machine raises `UserError`.
    """
    path = folder / "latency.json"
    if path.exists():
        table = LatencyTable.load(path, space)
        check_table(table, unit, path)
        _refuse_without_biases(table, path)
        return table
    if given is None:
        plan = timing_plan(space, seed)
        table = fit_table(plan, measure_plan(plan, unit, patience, folder / "measurement.json"))
    else:
        table = replace(given, provenance={**given.provenance, "brought": True})
    table.save(path)
    _warn(table)
    return table


def load_given_table(path: Path, space: SearchSpace) -> LatencyTable:
    """Read a table that the user gives: a run's latency.json, or a device's measurement.json.

    It may come from another machine. Raises `UserError` when it is of another space or damaged, or
    of a runtime or precision in which nothing can be answered here.
    """
    if "rounds" in read_json(path):
        measurement = Measurement.load(path)
        table = fit_table(timing_plan(space, measurement.seed), measurement)
    else:
        table = LatencyTable.load(path, space)
    _refuse_without_biases(table, path)
    check_answers(unit_of_table(table))
    shape = unit_of_table(table).shape
    if shape != space.image_shape:
        raise UserError(
            f"{path}: table of images of {pixels_text(shape)}, expected "
            f"{pixels_text(space.image_shape)}; measure it for {space.name}"
        )
    _warn(table)
    return table


def _refuse_without_biases(table: LatencyTable, path: Path) -> None:
    """Raise `UserError` for OpenVINO tables of an older Oyster: students are slower than they say.

    OpenVINO leaves out biases of zeros, and networks that were timed had no others then.
    """
    if unit_of_table(table).runtime == "openvino" and not table.provenance.get("biases"):
        raise UserError(
            f"{path}: a table of OpenVINO by an older version, up to 6 % too fast; measure it anew "
            "in another run"
        )


def machine_difference(table: LatencyTable) -> str | None:
    """Name what of the table's machine is not this one's; None when students can be timed here."""
    ours, theirs = this_machine(unit_of_table(table)), table.provenance["machine"]
    fields = ("cpu", "device", "onnxruntime", "openvino", "torch")
    fields = [f for f in fields if f in theirs]  # older tables do not name a GPU
    theirs, ours = ({f: m[f] for f in fields if f in m} for m in (theirs, ours))
    return first_difference(theirs, ours, "machine")


def check_table(table: LatencyTable, unit: UnitOfWork, path: Path) -> None:
    """Raise `UserError` when the table is of another unit of work or of another machine."""
    differs = first_difference(asdict(unit_of_table(table)), asdict(unit), "unit of work")
    if not table.provenance.get("brought"):
        differs = differs or machine_difference(table)
    if differs:
        raise UserError(
            f"{path}: {differs}; remove the file to measure here, or give it as --latency-table "
            "if it is the device that counts"
        )


def load_run_table(folder: Path, space: SearchSpace) -> LatencyTable:
    """Read the table of a run; `UserError` when it is foreign, damaged or of another machine.

    Likewise for a runtime or precision in which nothing can be answered here.
    """
    path = folder / "latency.json"
    if not path.exists():
        raise UserError(
            f"{path}: no latency table here, train.py measures one; where --architecture was taken "
            "to, none is: name the run that it was searched in"
        )
    table = LatencyTable.load(path, space)
    check_table(table, unit_of_table(table), path)
    _refuse_without_biases(table, path)
    check_answers(unit_of_table(table))
    _warn(table)
    return table


def describe_table(table: LatencyTable, range_ms: tuple[float, float]) -> list[tuple[str, str]]:
    """Say which budgets are feasible, of what, and how good the table is."""
    fastest_ms, slowest_ms = range_ms
    device = table.provenance["machine"]
    return [
        ("latency of the space", f"{fastest_ms:.2f} to {slowest_ms:.2f} ms"),
        ("one unit of work", table.unit_of_work()),
        ("measured on", f"{device.get('device', device['cpu'])}, {table.provenance['date']}"),
        ("table's error", describe_check(table)),
        *(("ALARM", alarm) for alarm in [table_alarm(table)] if alarm),
    ]


def describe_check(table: LatencyTable) -> str:
    """Say how well the table predicts networks that its fit has not seen."""
    check = table.provenance.get("check", {})
    if "error" not in check:
        return "not known: no networks were left to check it on"
    return (
        f"{check['error']:.1%} (mean) on {check['networks']} networks not seen before, "
        f"rank correlation {check['spearman']:.3f}, repeatability {check['repeatability']:.1%}"
    )


def table_alarm(table: LatencyTable) -> str | None:
    """Say that a table predicts too badly to keep a budget, if it does."""
    error = table.provenance.get("check", {}).get("error", 0)
    if error <= MOST_ERROR:
        return None
    return (
        f"the latency table is {error:.0%} off on networks that its fit has not seen, more than "
        f"{MOST_ERROR:.0%}: measure it anew on a quiet machine, or with more --latency-seconds"
    )


def _warn(table: LatencyTable) -> None:
    if (alarm := table_alarm(table)) and is_main_process():
        print(f"ALARM: {alarm}", file=sys.stderr)
