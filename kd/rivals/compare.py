"""Rivals beside a student: those within its milliseconds, trained as it was, and who is best."""

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from export.onnx_file import write_model
from export.timing.stopwatch import Patience
from export.timing.unit_of_work import UnitOfWork
from kd.evaluate import accuracy, balanced_accuracy
from kd.rivals.rival import AUTO, Outline, build_rivals, ladders
from kd.student.retraining import Retrainer, Retraining, Trained

# Milliseconds of every network, timed together for so long.
Measure = Callable[[Patience, Mapping[str, nn.Module]], Mapping[str, float]]
# A ladder's rungs are far apart: a look is enough to choose one.
ROUGHLY, WITHIN = Patience(0.02, 4, share=1.0, least_rounds=6), 0.98
# Logits [N, K] and labels [N] of the test split.
Answers = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Comparison:
    """A rival beside the student; one slower than the budget has milliseconds alone.

    `ahead` is the share of the test images by which the rival is better, negative where it is
    worse, `ahead_error` its standard error over these images, which both answer. `trained` is the
    rival as it ships.
    """

    name: str
    measured_ms: float
    params: int
    test_accuracy: float | None = None
    ahead: float | None = None
    ahead_error: float | None = None
    trained: Trained | None = None
    test_balanced_accuracy: float | None = None

    def facts(self) -> dict[str, str | float | int | None]:
        """Return the numbers of metrics.json."""
        return {field: value for field, value in vars(self).items() if field != "trained"}


def fill_budget(
    outline: Outline, target_ms: float, measure: Measure, seed: int
) -> dict[str, nn.Module]:
    """Return of every family the slowest rival within the budget, or its fastest where none is.

    A ladder is halved again and again, so about four networks of each family are timed.
    """
    found = {}
    for names in ladders(outline).values():
        fits, over = -1, len(names)
        while over - fits > 1:
            middle = (fits + over) // 2
            rival = build_rivals(names[middle : middle + 1], (), outline, seed)
            within = measure(ROUGHLY, rival)[names[middle]] <= WITHIN * target_ms
            fits, over = (middle, over) if within else (fits, middle)
        slowest = max(fits, 0)
        found |= build_rivals(names[slowest : slowest + 1], (), outline, seed)
    return found


def compare_rivals(
    rivals: Mapping[str, nn.Module],
    outline: Outline,
    own: Retraining,
    student: Trained,
    target_ms: float,
    measure: Measure,
    retrainer: Retrainer,
) -> list[Comparison]:
    """Time rivals, train those within the budget, and compare their answers with a student's.

    Where the search asks for `auto`, those that fill the budget are added to `rivals`. `own` is the
    student's training, `student` what came of it. The best comes first, those left out last.
    """
    config, found = retrainer.config, []
    if AUTO in config.rivals:
        rivals = {**rivals, **fill_budget(outline, target_ms, measure, config.seed)}
    if not rivals:
        return []
    told = retrainer.test_answers(student)
    measured_ms = measure(config.patience(), rivals)
    for name, start in rivals.items():
        params = sum(p.numel() for p in start.parameters())
        known = Comparison(name, measured_ms[name], params)
        if known.measured_ms <= target_ms:
            path, network = f"{own.name}-{file_name(name)}", copy.deepcopy(start)
            trained = retrainer.train(Retraining(path, name, network, own.learns_from))
            answers = retrainer.test_answers(trained)
            ahead, error = paired_difference(answers, told)
            known = replace(
                known,
                test_accuracy=accuracy(*answers),
                test_balanced_accuracy=balanced_accuracy(*answers),
                ahead=ahead,
                ahead_error=error,
                trained=trained,
            )
        found.append(known)
    return sorted(found, key=lambda c: (c.test_accuracy is None, -(c.test_accuracy or 0)))


def ship_rivals(
    found: Sequence[Comparison], folder: Path, unit: UnitOfWork, metadata: Mapping[str, str]
) -> None:
    """Write the trained rivals as ONNX files under their names, in the precision that ships."""
    for rival in found:
        if rival.trained is not None:
            measured = {"unit_of_work": str(unit), "measured_ms": f"{rival.measured_ms:.4f}"}
            facts = {**metadata, "rival": rival.name, **measured}
            write_model(rival.trained.model(unit), folder / f"{file_name(rival.name)}.onnx", facts)


def file_name(rival: str) -> str:
    """Return a rival's name as that of a file: letters, digits and what is harmless."""
    return re.sub(r"[^\w.-]+", "-", rival)


def paired_difference(rival: Answers, student: Answers) -> tuple[float, float]:
    """Return how much more of the same images the rival tells right, and the standard error."""
    apart = _right(rival) - _right(student)
    return apart.mean().item(), apart.std().item() / math.sqrt(len(apart))


def _right(answers: Answers) -> Tensor:
    logits, labels = answers
    return (logits.argmax(1) == labels).double()


def rivals_facts(found: Sequence[Comparison], target_ms: float) -> dict[str, object]:
    """Return what metrics.json says of rivals, and of who is best where there are any."""
    said = verdict(found, target_ms) if found else None
    return {"rivals": [rival.facts() for rival in found], "verdict": said}


def verdict(found: Sequence[Comparison], target_ms: float) -> str:
    """Say who is best for these milliseconds."""
    ran = [c for c in found if c.ahead is not None]
    if not ran:
        return f"no rival is within {target_ms:g} ms: the student has none"
    best = max(ran, key=lambda c: c.ahead)
    apart = f"{100 * abs(best.ahead):.2f} ± {100 * best.ahead_error:.2f} points of the test split"
    if abs(best.ahead) < 2 * best.ahead_error:
        apart += ", which may be chance,"
    if best.ahead > 0:
        return (
            f"RIVAL IS BETTER: {best.name} by {apart} within {target_ms:g} ms; take its file, or "
            "search longer (more --w-epochs) or another space (--preset)"
        )
    if best.ahead == 0:
        return f"the student and {best.name} are equal within {target_ms:g} ms"
    return f"the student is best: {apart} ahead of {best.name}, the best rival"
