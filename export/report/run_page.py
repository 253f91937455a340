"""What a person sees of a finished run of train.py: three pictures, and report.html."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.report.figures import Point, choices_figure, curves_figure, front_figure
from export.report.page import Section, drawing_last, fact_rows, write_report

CURVES = (
    ("teacher", "accuracy"),
    ("w", "slow"),
    ("w", "fair"),
    ("w", "fast"),
    ("alpha", "search_loss"),
    ("alpha", "expected_over_target"),
    ("alpha", "entropy"),
    ("alpha", "lambda"),
    ("alpha", "tau"),
)
FLATTERED = (
    "The picture's line is a little flattered: alpha chose its students on the images that judge "
    "them here, and the random ones were not chosen."
)


@dataclass(frozen=True)
class RunReport:
    """What the report shows; `probabilities` are those of each choice at `middle_ms`."""

    rows: Sequence[tuple[str, str]]
    front: Sequence[Point]
    survey: Sequence[Point]
    unit_of_work: str
    middle_ms: float
    probabilities: Mapping[str, Mapping[str, float]]
    metrics: Sequence[Mapping[str, object]]
    provenance: Mapping[str, object]
    settings: Mapping[str, object]
    quality: str  # of the points
    images: int  # that it was found on


def write_run_report(run: Path, report: RunReport) -> None:
    """Write front.png, curves.png, choices.png and report.html into the folder of a run.

    What cannot be drawn is said.
    """
    with drawing_last(run / "report.html", "; the same command with --resume draws it"):
        told = (report.quality, "on the search split, shared weights", report.images)
        points = (report.front, report.survey, report.unit_of_work)
        front_figure(run / "front.png", *points, *told)
        curves_figure(run / "curves.png", report.metrics, CURVES)
        choices_figure(run / "choices.png", report.probabilities)
        preferred = f"What alpha prefers at {report.middle_ms:.1f} ms"
        sections = [
            Section("Result", FLATTERED, report.rows, pictures=[run / "front.png"]),
            Section(preferred, pictures=[run / "choices.png"]),
            Section("How the search went", pictures=[run / "curves.png"]),
            Section("Latency table", table=list(fact_rows(report.provenance))),
            Section("Settings", table=list(fact_rows(report.settings))),
        ]
        write_report(run / "report.html", f"Oyster: {run.name}", sections)
