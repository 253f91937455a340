"""Which runtime is best for this file, here?

    python -m export.runtimes runs/digits/students/20ms/student.onnx --images photos/test

Times an ONNX classifier in every runtime, precision and number of threads that there is, all in the
same rounds, and compares their answers with those of the file in fp32.

Images are turned as their camera says; the largest part in the middle that has the shape of the
file's input is cut out, brought to its size (bilinear), and given in [0, 1]. Folders with the names
of the file's classes tell the accuracy.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from tyro.conf import Positional

from base.errors import UserError
from base.exit_status import run_script
from base.size import pixels_text
from export.runtimes.contest import (
    MOST_CALIBRATION,
    Verdict,
    int8_models,
    judge,
    open_all,
    time_together,
    units_here,
)
from export.runtimes.faster import FP32
from export.runtimes.given import (
    GivenImages,
    ModelFile,
    random_pixels,
    read_images,
    read_model_file,
)
from export.runtimes.runtime import runtime_of, this_machine
from export.timing.stopwatch import Patience, Timing
from export.timing.unit_of_work import UnitOfWork, check_threads, usable_cores

HEADER = ("runtime", "precision", "threads", "ms", "spread", "× fp32")
JUDGED = ("same answers", "largest difference", "accuracy")
SPREAD = 0.01


@dataclass(frozen=True)
class Settings:
    """An ONNX file, and how it is used."""

    model: Positional[Path]
    """A student.onnx, or any ONNX classifier in fp32 with one input of images."""
    batch: int | None = None
    """Images in a run; what the file fixes, or 1, when left out."""
    threads: tuple[int, ...] = ()
    """Numbers of CPU threads, beside 1; all cores when left out."""
    images: Path | None = None
    """Folder of images, best of the test split: folders of classes, or images alone. Without it the
    answers to random images are compared."""
    int8: Path | None = None
    """The file in int8, such as the student.int8.onnx that is taken where it lies beside the file.
    Without it the file is quantised on half of the images, and judged on the others."""
    most_images: int = 1000
    """No more images are read; which, chance says."""
    seconds: float = 3.0
    """Of timing, at most, for each row of the table."""


def main(settings: Settings) -> None:
    """Print the table, and below it what it rests on and what could not be timed."""
    file = read_model_file(settings.model)
    if file.is_int8:
        raise UserError(f"{file.path}: is in int8; name the fp32 file, and this one as --int8")
    batch = file.batch_for(settings.batch)
    baseline = UnitOfWork(batch, file.shape[1:], channels=file.shape[0])
    threads = sorted({1, *(settings.threads or [usable_cores()])})
    for count in threads:
        check_threads(replace(baseline, threads=count))
    patience = Patience(SPREAD, settings.seconds, share=1)
    int8, folder = int8_file(settings, file), settings.images
    images = read_images(folder, file, settings.most_images) if folder else random_pixels(file)
    half = 0 if int8 else len(images) // 2
    seen, judged = images.part(slice(min(half, MOST_CALIBRATION))), images.part(slice(half, None))
    in_int8, unquantised = ({"int8": int8}, []) if int8 else int8_models(file, seen)
    units, missing = units_here(baseline, threads)
    models = {FP32: file.path, **in_int8}
    runners, unopened = open_all(models, units)
    if baseline not in runners:
        raise UserError(f"{file.path}: {unopened[0]}; export it again")
    verdicts = judge(models, runners, baseline, judged, file.gives_vectors)
    patience = replace(patience, seconds=settings.seconds * len(runners))
    timings = time_together(runners, baseline, patience)
    knows_ranges = bool(int8 or folder)
    print(f"\n{heading(file, batch, timings)}\n")
    print(table(timings, verdicts, baseline, knows_ranges, file.gives_vectors))
    notes = list(image_notes(file, judged))
    notes += unquantised or int8_notes(int8, seen, knows_ranges)
    print("", *notes, *missing, *unopened, *how(timings), sep="\n")


def int8_file(settings: Settings, file: ModelFile) -> Path | None:
    """Return the given file in int8, or the one that lies beside; `UserError` for another kind."""
    beside = file.path.with_name(f"{file.path.stem}.int8.onnx")
    path = settings.int8 or (beside if beside.exists() else None)
    if path is None:
        return None
    int8 = read_model_file(path)
    if not int8.is_int8:
        raise UserError(f"--int8 {path}: has no 8-bit integers; leave it out, to quantise the file")
    for field in ("batch", "shape", "class_count", "classes", "architecture"):
        if (found := getattr(int8, field)) != (expected := getattr(file, field)):
            raise UserError(
                f"{path}: {field} {found}, but {expected} in {file.path}; give the int8 file of "
                "that network as --int8"
            )
    return path


def heading(file: ModelFile, batch: int, units: Iterable[UnitOfWork]) -> str:
    """Say what was timed, and on which machine."""
    facts = {key: value for unit in units for key, value in this_machine(unit).items()}
    images = "1 image" if batch == 1 else f"{batch} images"
    machine = ", ".join(f"{name} {value}" for name, value in facts.items())
    return f"{file.path}, batch of {images} at {pixels_text(file.shape)}; {machine}"


def table(
    timings: Mapping[UnitOfWork, Timing],
    verdicts: Mapping[tuple[str, str], Verdict],
    baseline: UnitOfWork,
    knows_ranges: bool,
    gives_vectors: bool = False,
) -> str:
    """Return the rows as Markdown, the fastest first.

    Where int8 does not know its ranges from images, its answers say nothing and are left out.
    """
    rows = []
    for unit, timing in sorted(timings.items(), key=lambda item: item[1].ms):
        verdict = verdicts[unit.provider, unit.precision]
        is_judged = knows_ranges or not unit.is_int8
        rows.append(
            (
                unit.runtime_text(),
                unit.precision,
                str(unit.threads),
                f"{timing.ms:.3f}",
                f"{timing.spread:.1%}",
                f"{timing.ms / timings[baseline].ms:.2f}",
                *(_judged(verdict, gives_vectors) if is_judged else ("", "", "")),
            )
        )
    first, *others = JUDGED
    rows = [(*HEADER, "mean cosine" if gives_vectors else first, *others), *rows]
    has_accuracy = any(verdict.accuracy is not None for verdict in verdicts.values())
    return _markdown(rows if has_accuracy else [row[:-1] for row in rows])


def _judged(verdict: Verdict, gives_vectors: bool) -> tuple[str, str, str]:
    accuracy = "" if verdict.accuracy is None else f"{verdict.accuracy:.2%}"
    agreement = f"{verdict.agreement:.5f}" if gives_vectors else f"{verdict.agreement:.2%}"
    return agreement, f"{verdict.largest_difference:.2g}", accuracy


def _markdown(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    header, *others = rows
    lines = [header, tuple("-" * width for width in widths), *others]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |"
        for line in lines
    )


def image_notes(file: ModelFile, judged: GivenImages) -> Iterator[str]:
    """Say which images were answered, and how they were given."""
    said = file.metadata.get("input")
    takes = f"as the file says: {said}" if said else "in [0, 1], as the file says nothing else"
    yield (
        f"answers: beside those of the fp32 file in ONNX Runtime, to {len(judged)} images of "
        f"{judged.source}, {takes}"
    )
    if searched := file.metadata.get("unit_of_work"):
        yield f"the file was made for: {searched}"
    if judged.is_random:
        yield (
            "random images tell a broken runtime from a sound one, not what a precision costs; "
            "give --images"
        )
    if judged.note:
        yield judged.note


def int8_notes(given: Path | None, seen: GivenImages, knows_ranges: bool) -> Iterator[str]:
    """Say where int8 is from."""
    if given:
        yield f"int8: {given}"
    elif knows_ranges:
        yield f"int8: quantised here, with the ranges of {len(seen)} other images of {seen.source}"
    else:
        yield "int8: quantised here, with the ranges of random images: its answers say nothing"


def how(timings: Mapping[UnitOfWork, Timing]) -> list[str]:
    """Say, for each number of threads, how a program gets the fewest milliseconds."""
    fastest: dict[int, UnitOfWork] = {}
    for unit in sorted(timings, key=lambda unit: timings[unit].ms):
        fastest.setdefault(unit.threads, unit)
    return [f"fastest: {unit}: {runtime_of(unit).how(unit)}" for unit in fastest.values()]


if __name__ == "__main__":
    run_script(
        "export.runtimes",
        lambda: main(tyro.cli(Settings, prog="python -m export.runtimes", description=__doc__)),
        "run it again",
    )
