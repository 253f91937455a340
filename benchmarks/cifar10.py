"""The whole journey on CIFAR-10 images: teacher, supernet, students at three budgets, controls.

    python -m benchmarks.cifar10 --data PATH --stage teacher
    python -m benchmarks.cifar10 --data PATH

The teacher learns from all training images; train.py and search.py are then run as a user runs
them, on a part of the images, once for every seed. Beside every student stand a random one as fast,
and the same one without the teacher. Every student is a line of benchmarks/results/cifar10.csv, and
is not made again.
"""

import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from base.files import read_json, write_json
from benchmarks.csv_lines import append_lines, read_lines
from benchmarks.provenance import provenance
from benchmarks.world import trained_here
from kd.evaluate import accuracy, predict
from kd.images.splits import load_data
from kd.run.metrics import Metrics
from kd.run.train_config import TrainConfig
from kd.teacher.prepare import CheckedTeacher

RESOLUTION = 32
TEACHER = "small_resnet18:1"


@dataclass(frozen=True)
class Settings:
    """What is trained, and on what."""

    data: str
    """Folder of CIFAR-10 images."""
    stage: Literal["teacher", "students"] = "students"
    """Stop when the teacher is trained, or go on to the end."""
    teacher_epochs: int = 8
    limit: int = 5000
    """Training images of supernet and students, and at most as many test images."""
    w_epochs: int = 20
    alpha_steps: int = 300
    epochs: int = 20
    """Of a student."""
    measure_seconds: float = 15
    """Of a timing of candidates; a noisy machine always takes all of it."""
    budgets: tuple[float, ...] = (4.0, 8.0, 16.0)
    """Milliseconds for the cifar10 preset's unit of work."""
    seeds: tuple[int, ...] = (0, 1, 2)
    run: Path = Path("runs/benchmark")
    out: Path = Path("benchmarks/results/cifar10.csv")


def main(settings: Settings) -> None:
    """Make what is not made yet, and print mean and standard deviation."""
    teacher, test_accuracy = trained_teacher(settings)
    print(f"teacher: {teacher.check}; {test_accuracy:.2%} of the test split", flush=True)
    if settings.stage == "teacher":
        return
    run = settings.run / "supernet"
    weights = settings.run / "teacher" / "teacher.safetensors"
    script(
        *("train.py", "--preset", "cifar10", "--data", settings.data, "--run", run),
        *("--limit", settings.limit, "--teacher", TEACHER, "--teacher-checkpoint", weights),
        *("--w-epochs", settings.w_epochs, "--alpha-steps", settings.alpha_steps),
        *("--views", 4, "--batch", 128, "--alpha-batch", 64),
    )
    for seed in settings.seeds:
        if str(seed) not in {row["seed"] for row in read_lines(settings.out)}:
            script(
                *("search.py", "--run", run, "--seed", seed, "--controls"),
                *("--epochs", settings.epochs, "--measure-seconds", settings.measure_seconds),
                *("--target-latency", *settings.budgets),
            )
            append_lines(
                settings.out, [row for b in settings.budgets for row in found(run, seed, b)]
            )
    found_teacher = {"teacher": f"{TEACHER}: {teacher.check}", "teacher_test": test_accuracy}
    facts = provenance("cifar10", settings) | found_teacher
    write_json(settings.out.with_suffix(".json"), facts)
    report(read_lines(settings.out))


def trained_teacher(settings: Settings) -> tuple[CheckedTeacher, float]:
    """Return the teacher, trained on all images now or found, and its accuracy on the test split.

    The students' search split may hold images that it was trained on, as their train split does.
    """
    config = TrainConfig(
        preset="cifar10",
        data=settings.data,
        run=settings.run / "teacher",
        teacher=(TEACHER,),
        augment="crop_flip",
        search_fraction=0.02,
        batch=128,
        precision="bf16",
        teacher_epochs=settings.teacher_epochs,
        teacher_learning_rate=0.1,
    )
    data = load_data(config.data_settings(RESOLUTION))
    with Metrics(config.run, {}, "teacher") as metrics:
        teacher = trained_here(config, data, metrics)
    return teacher, accuracy(*predict(teacher.model, data.test.view(None), config.batch))


def script(*words: object) -> None:
    """Run one of the two scripts as a user does, and stop where it does."""
    # A student over its budget is exit status 1, and a line like any other here.
    done = subprocess.run([sys.executable, *map(str, words)], check=False)
    if done.returncode not in (0, 1):
        sys.exit(done.returncode)


def found(run: Path, seed: int, target_ms: float) -> list[dict[str, object]]:
    """Return the lines of one searched student and its controls."""
    facts = read_json(run / "students" / f"{target_ms:g}ms" / "metrics.json")
    assert facts["seed"] == seed
    searched = {"kind": "searched", **facts}
    controls = [{"kind": kind, **one} for kind, one in facts["controls"].items()]
    return [
        {
            "seed": seed,
            "target_ms": target_ms,
            "kind": one["kind"],
            "measured_ms": one.get("measured_ms"),
            "predicted_ms": one["predicted_ms"],
            "macs": one.get("macs"),
            "test_accuracy": one["test_accuracy"],
        }
        for one in (searched, *controls)
    ]


def report(lines: list[dict[str, str]]) -> None:
    """Print mean ± standard deviation over the seeds, and of the differences to the controls."""
    shares = defaultdict(dict)
    for row in lines:
        shares[float(row["target_ms"]), row["kind"]][row["seed"]] = float(row["test_accuracy"])
    for (target_ms, kind), by_seed in sorted(shares.items()):
        searched = shares[target_ms, "searched"]
        apart = [100 * (searched[seed] - value) for seed, value in by_seed.items()]
        print(
            f"{target_ms:g} ms  {kind:9} {mean_std([100 * v for v in by_seed.values()])} %"
            f"  searched is {mean_std(apart)} points better"
        )


def mean_std(values: list[float]) -> str:
    """Say mean ± standard deviation."""
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.2f}"


if __name__ == "__main__":
    main(tyro.cli(Settings))
