"""Budget -> student -> ONNX: derive, rank, measure, retrain from scratch, export, verify.

    python search.py --target-latency 20

Works on the folder that train.py made, and writes students/20ms/ there. Exit status: 0 when every
student is within its budget and equal to its ONNX file, 1 when one is not, 2 for what the user can
mend.
"""

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
import tyro
from torch import Tensor

from export.errors import UserError
from export.files import write_json, write_tensors
from export.onnx_file import add_metadata, to_onnx, write_onnx
from export.report import table_text
from export.stopwatch import Timing, timed
from export.student_report import summary_rows, write_student_report
from kd.config import (
    SEARCH_RECIPES,
    SearchConfig,
    TrainConfig,
    option,
    settings_of,
    train_config_of,
)
from kd.data import Data, join, load_data
from kd.evaluate import calibration_images, rate
from kd.fit import FitSettings, fit
from kd.judge import judge
from kd.loss import kd_loss
from kd.prepare import prepare_targets
from kd.run import Metrics, read_config, read_metrics
from kd.targets import Targets, distilled, join_targets
from kd.teacher import Teacher, restore_teacher
from supernet.alpha import Alpha
from supernet.derive import Programme, candidates, check_budget, programme
from supernet.latency import LatencyTable
from supernet.measure import check_device, measure_students, unit_of
from supernet.presets import preset_resolution, preset_space
from supernet.space import Architecture
from supernet.storage import load_supernet
from supernet.student import MEAN, STD, Student, parameters_and_macs
from supernet.supernet import Supernet

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# A finalist leaves its own spread, and at least this share of the budget, to being measured again.
MARGIN = 0.01
ATTEMPTS = 5


@dataclass(frozen=True)
class Trained:
    """What train.py left in the run's folder."""

    config: TrainConfig
    data: Data
    teacher: Teacher
    targets: Targets
    search_targets: Targets
    problem: Programme
    supernet: Supernet
    alpha: Alpha

    @property
    def table(self) -> LatencyTable:
        """The latency table that the programme is made of."""
        return self.problem.table


@dataclass(frozen=True)
class Pick:
    """The architecture chosen for a budget, before it is retrained."""

    architecture: Architecture
    predicted_ms: float
    measured: Timing
    shared_loss: float
    shared_accuracy: float


def main(config: SearchConfig) -> bool:
    """Make one student a budget; return whether all of them kept their promises."""
    trained = load_trained(config.run)
    if not config.target_latency:
        raise UserError("--target-latency is missing; give one or more budgets in milliseconds")
    for target_ms in config.target_latency:
        if check_budget(trained.problem, target_ms):
            print(f"{target_ms:g} ms is more than any student needs; using the best of all")
    with Metrics(config.run, settings_of(config), "search") as metrics:
        kept = [make_student(config, trained, ms, metrics) for ms in config.target_latency]
    return all(kept)


def load_trained(folder: Path) -> Trained:
    """Open the run; what is missing, damaged or foreign raises `UserError`."""
    config = train_config_of(read_config(folder)["settings"], folder)
    data = load_data(config.data_settings(preset_resolution(config.preset)))
    space = preset_space(config.preset, len(data.classes))
    table = LatencyTable.load(folder / "latency.json", space)
    check_device(table, unit_of(table))
    supernet, alpha = load_supernet(folder / "supernet.safetensors", space, table.fingerprint())
    teacher, _ = restore_teacher(folder, len(data.classes))
    targets = prepare_targets(config, teacher.to(DEVICE), data, folder / "targets")
    supernet.to(DEVICE, memory_format=torch.channels_last)
    return Trained(config, data, teacher, *targets, programme(table), supernet, alpha)


def make_student(
    config: SearchConfig, trained: Trained, target_ms: float, metrics: Metrics
) -> bool:
    """Search, retrain, export and verify one student; return whether it kept its promises."""
    name, folder = f"{target_ms:g}ms", config.run / "students" / f"{target_ms:g}ms"
    pick, search_seconds = timed(lambda: search(config, trained, target_ms))
    student, retrain_seconds = timed(lambda: retrain(config, trained, pick, name, metrics))

    onnx_path = folder / "student.onnx"
    measured = ship(config, trained, pick, student, target_ms, onnx_path)
    verdict = judge(trained.teacher, student, onnx_path, trained.data.test, trained.config.batch)
    parameters, macs = parameters_and_macs(trained.table.space, pick.architecture)
    facts = {
        "target_ms": target_ms,
        "predicted_ms": pick.predicted_ms,
        "measured_ms": measured.ms,
        "measured_ms_spread": measured.spread,
        "meets_target": measured.ms <= target_ms,
        "test_accuracy": verdict.test_accuracy,
        "teacher_test_accuracy": verdict.teacher_test_accuracy,
        "teacher_agreement": verdict.teacher_agreement,
        "params": parameters,
        "macs": macs,
        "onnx_max_abs_error": verdict.parity.finite_error,
        "onnx_top1_agreement": verdict.parity.top1_agreement,
        "onnx_parity": verdict.parity.passed,
        "search_seconds": search_seconds,
        "retrain_seconds": retrain_seconds,
        "seed": config.seed,
        "guide": trained.config.guide,
        "retrain_with": config.retrain_with,
        "unit_of_work": trained.table.unit_of_work(),
        "settings": settings_of(config),
    }
    write_json(folder / "metrics.json", facts)
    rows = summary_rows(facts, onnx_path)
    curve = [row for row in read_metrics(config.run) if row["phase"] == f"student_{name}"]
    last = curve[-config.epochs :]  # an earlier search for this budget left its lines too
    write_student_report(folder, facts, rows, pick.architecture.to_json(), last)
    metrics.summary(**{f"{name}/{key}": value for key, value in facts.items()})
    metrics.artifact(onnx_path, f"student-{name}", "model")
    print(f"\n{table_text(rows)}\n")
    return facts["meets_target"] and facts["onnx_parity"]


def search(config: SearchConfig, trained: Trained, target_ms: float) -> Pick:
    """Return the candidate of least KD loss among those measured within the budget.

    Candidates are derived from alpha at the budget and ranked on the search split with shared
    weights and recalibrated BatchNorm. Where the table is too hopeful and none of the finalists is
    within the budget, the table is asked for less.
    """
    table, draws = trained.table, np.random.default_rng(config.seed)
    asked_ms = min(target_ms, trained.problem.range_ms()[1])
    settings, train = trained.config, trained.data.train
    images = calibration_images(train, settings.batch, settings.seed)
    with torch.no_grad():
        log_p = trained.alpha(target_ms)
    for _ in range(ATTEMPTS):
        found = candidates(trained.problem, log_p, asked_ms, config.candidates, draws)
        if not found:
            break
        rated = {a: shared_score(trained, a, images) for a in found}
        finalists = sorted(rated, key=lambda a: rated[a])[: config.finalists]
        models = {str(i): untrained_onnx(trained, a) for i, a in enumerate(finalists)}
        timings = measure_students(models, table, config.measure_rounds, config.seed)
        measured = {a: timings[str(i)] for i, a in enumerate(finalists)}
        for architecture, timing in measured.items():
            if timing.ms * (1 + max(MARGIN, timing.spread)) <= target_ms:
                predicted_ms = table.predicted_ms(architecture)
                return Pick(architecture, predicted_ms, timing, *rated[architecture])
        least = min(t.ms * (1 + max(MARGIN, t.spread)) for t in measured.values())
        asked_ms *= target_ms / least
    raise UserError(
        f"--target-latency {target_ms:g}: no student was measured within it, although the table "
        f"predicts some; the machine may be slower than when {trained.config.run}/latency.json was "
        "measured: try again on a quieter machine, or remove that file and train again"
    )


def untrained_onnx(trained: Trained, architecture: Architecture) -> onnx.ModelProto:
    """Export a student as it will be shipped, but for its weights, which cost no time."""
    space = trained.table.space
    example = torch.zeros(2, 3, space.resolution, space.resolution)
    return to_onnx(Student(space, architecture), example)


def shared_score(
    trained: Trained, architecture: Architecture, images: list[Tensor]
) -> tuple[float, float]:
    """(KD loss, accuracy) on the search split with the supernet's weights.

    BatchNorm's statistics are first recalibrated on `images`.
    """
    config = trained.config
    kd_weight = config.kd_weight if config.guide == "teacher" else 0.0
    return rate(
        trained.supernet.extract(architecture),
        images,
        trained.data.search,
        trained.search_targets,
        partial(kd_loss, kd_temperature=config.kd_temperature, kd_weight=kd_weight),
    )


def retrain(
    config: SearchConfig, trained: Trained, pick: Pick, name: str, metrics: Metrics
) -> Student:
    """Train the student from scratch on the train and the search split; the test split waits."""
    settings, data = trained.config, trained.data
    split = join(data.train, data.search)
    targets = join_targets(trained.targets, trained.search_targets)
    batch = min(settings.batch, len(split))
    order = torch.Generator().manual_seed(config.seed)
    torch.manual_seed(config.seed)
    student = Student(trained.table.space, pick.architecture).to(DEVICE)
    kd_weight = settings.kd_weight if config.retrain_with == "kd" else 0.0
    fit(
        student,
        lambda epoch: distilled(
            split, targets, epoch % settings.views, batch, order, settings.workers, True
        ),
        partial(kd_loss, kd_temperature=settings.kd_temperature, kd_weight=kd_weight),
        FitSettings(config.epochs, config.learning_rate, config.weight_decay),
        len(split) // batch,
        f"student {name}",
        partial(metrics.log, f"student_{name}"),
    )
    return student.cpu().eval()


def ship(
    config: SearchConfig,
    trained: Trained,
    pick: Pick,
    student: Student,
    target_ms: float,
    onnx_path: Path,
) -> Timing:
    """Write architecture, weights and ONNX file, and time the file that ships."""
    folder, table = onnx_path.parent, trained.table
    write_json(folder / "architecture.json", pick.architecture.to_json())
    write_tensors(folder / "student.safetensors", student.state_dict(), {"name": folder.name})
    example = torch.zeros(2, 3, table.space.resolution, table.space.resolution)
    write_onnx(student, example, onnx_path, onnx_metadata(config, trained, pick, target_ms))
    name = folder.name
    measured = measure_students({name: onnx_path}, table, config.measure_rounds, config.seed)[name]
    add_metadata(onnx_path, {"measured_ms": f"{measured.ms:.4f}"})
    return measured


def onnx_metadata(
    config: SearchConfig, trained: Trained, pick: Pick, target_ms: float
) -> dict[str, str]:
    """Return what the file says of itself, all text; lists and settings as JSON."""
    space = trained.table.space
    return {
        "architecture": json.dumps(pick.architecture.to_json()),
        "classes": json.dumps(trained.data.classes),
        "input": f"RGB [batch, 3, {space.resolution}, {space.resolution}], float32 in [0, 1]",
        "normalisation": f"inside the graph: (x - {MEAN}) / {STD}",
        "unit_of_work": trained.table.unit_of_work(),
        "target_ms": f"{target_ms:g}",
        "predicted_ms": f"{pick.predicted_ms:.4f}",
        "train_settings": json.dumps(settings_of(trained.config), default=str),
        "search_settings": json.dumps(settings_of(config), default=str),
        "versions": json.dumps(read_config(config.run)["versions"]),
    }


if __name__ == "__main__":
    try:
        run = Path(option(sys.argv[1:], "--run", "runs/digits"))
        preset = read_config(run)["settings"]["preset"] if (run / "config.json").exists() else ""
        recipe = SEARCH_RECIPES.get(preset, SEARCH_RECIPES["digits"])
        sys.exit(0 if main(tyro.cli(SearchConfig, default=recipe)) else 1)
    except UserError as error:
        print(f"search.py: {error}", file=sys.stderr)
        sys.exit(2)
