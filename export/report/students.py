"""The students of a run and one latency table: read, listed, drawn, and shown on one page."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from base.errors import UserError
from base.files import read_json
from base.streams import in_columns
from export.report.figures import Point, students_figure
from export.report.page import Section, drawing_last, write_report

NUMBERS = (
    "target_ms",
    "predicted_ms",
    "measured_ms",
    "test_accuracy",
    "teacher_test_accuracy",
    "params",
    "macs",
)
# How a broken promise is said beside the accuracy, by its field.
BROKEN = {"onnx_parity": "NO PARITY", "precision_kept": "TOO MUCH LOST"}
# Unknown where the device, or the teacher, is not at hand.
MAY_BE_UNKNOWN = ("measured_ms", "teacher_test_accuracy")
RUN = ("report of train.py", "teacher, latency table, what alpha prefers")
HEADER = ("student", "target", "predicted", "measured", "accuracy", "parameters", "MACs")


def read_students(folder: Path, table: str) -> dict[str, dict]:
    """Read every student in `folder` that was searched with latency `table`, fastest first.

    One that is damaged raises `UserError`.
    """
    found = {path: read_json(path) for path in folder.glob("*/metrics.json")}
    own = {path: facts for path, facts in found.items() if facts.get("table") == table}
    for path, facts in own.items():
        _check(path, facts)
    named = {path.parent.name: facts for path, facts in own.items()}
    return dict(sorted(named.items(), key=lambda item: milliseconds(item[1])))


def _check(path: Path, facts: Mapping) -> None:
    for field in NUMBERS:
        value = facts.get(field, "missing")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number and not (field in MAY_BE_UNKNOWN and value is None):
            raise UserError(f"{path}: damaged: {field} {value!r}, expected a number; search again")
    for field in ("test_accuracy", "teacher_test_accuracy"):
        if facts[field] is not None and not 0 <= facts[field] <= 1:
            raise UserError(f"{path}: damaged: {field} {facts[field]} is no share; search again")
    if facts.get("meets_target", "missing") not in (True, False, None):
        raise UserError(f"{path}: damaged: no meets_target; search again")


def milliseconds(facts: Mapping) -> float:
    """Return a student's measured milliseconds, or the predicted ones where there are none."""
    return facts["predicted_ms"] if facts["measured_ms"] is None else facts["measured_ms"]


def budget_kept(facts: Mapping) -> bool:
    """Whether the student was not measured over its budget."""
    return facts["meets_target"] is not False


def promises_kept(facts: Mapping) -> bool:
    """Whether budget, parity with PyTorch and accuracy in the precision that ships were kept."""
    return budget_kept(facts) and facts["onnx_parity"] and facts["precision_kept"]


def students_text(students: Mapping[str, Mapping]) -> str:
    """List the students in columns, for the terminal."""
    if not students:
        return "no students yet; next: python search.py --target-latency MS"
    header, rows = students_table(students)
    return in_columns([header, *rows])


def students_table(
    students: Mapping[str, Mapping],
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the header and a row for every student."""
    return HEADER, [_row(name, facts) for name, facts in students.items()]


def _row(name: str, facts: Mapping) -> tuple[str, ...]:
    measured = "not here" if facts["measured_ms"] is None else f"{facts['measured_ms']:.2f} ms"
    broken = [said for field, said in BROKEN.items() if not facts.get(field, True)]
    return (
        name,
        f"{facts['target_ms']:g} ms",
        f"{facts['predicted_ms']:.2f} ms",
        measured if budget_kept(facts) else f"{measured}, OVER",
        ", ".join([f"{facts['test_accuracy']:.2%}", *broken]),
        f"{facts['params']:,}",
        f"{facts['macs']:,}",
    )


def write_students_report(folder: Path, students: Mapping[str, Mapping], unit: str) -> None:
    """Write pareto.png and report.html: `students`, which lie in `folder`, with their reports.

    The picture shows accuracy against latency, beside their teacher's accuracy. What cannot be
    drawn is said.
    """
    assert students, "a search has found at least one"
    path = folder / "pareto.png"
    with drawing_last(path, "; the next search draws it"):
        points = {
            name: Point(milliseconds(facts), facts["test_accuracy"])
            for name, facts in students.items()
        }
        teachers = [facts["teacher_test_accuracy"] for facts in students.values()]
        students_figure(path, points, pareto(list(points.values())), teachers[0], unit)
    with drawing_last(folder / "report.html", "; the next search draws it"):
        pictures = [path] if path.is_file() else []
        header, rows = students_table(students)
        links = {
            name: f"{quote(os.fsencode(name))}/report.html"
            for name in students
            if (folder / name / "report.html").is_file()
        }
        sections = [
            Section("Students", f"Of one latency table: {unit}.", rows, header, pictures, links)
        ]
        if (folder.parent / "report.html").exists():
            sections.append(Section("More", table=[RUN], links={RUN[0]: "../report.html"}))
        write_report(folder / "report.html", f"Oyster: students of {folder.parent.name}", sections)


def pareto(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other one beats in both latency and accuracy, fastest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.ms, -p.quality)):
        if not best or point.quality > best[-1].quality:
            best.append(point)
    return best
