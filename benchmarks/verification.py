"""Students as embeddings: are two images of one identity, where it was never seen in training?

    python -m benchmarks.verification --source digits
    python -m benchmarks.verification --source PATH --held-out 4

Open-set verification without faces: a teacher is trained on some classes; its features, as an ONNX
file, teach students without labels; pairs of images of the held-out classes judge them. train.py
and search.py run as a user runs them, with a random student as fast as a control, for every seed
and weight of the relations. Every student is a line of benchmarks/results/verification_NAME.csv,
and is not made again. With --networks none only images, pairs and teacher are made.
"""

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from torch import nn
from torchvision.utils import save_image

from base.errors import UserError
from base.files import read_json, write_atomic, write_json
from benchmarks.csv_lines import append_lines, read_lines
from benchmarks.differences import difference, mean_std
from benchmarks.provenance import provenance
from benchmarks.world import trained_here
from export.onnx_file import write_onnx
from kd.images.sources import Source, read_source
from kd.images.splits import load_data
from kd.run.metrics import Metrics
from kd.run.train_config import TrainConfig
from kd.teacher.model import Teacher

SEARCHED, RANDOM, TEACHER = "searched", "random as fast", "teacher"
FOLDS = 10


@dataclass(frozen=True)
class Settings:
    """What is made, and how often."""

    source: str = "digits"
    """digits, or a folder train/<class>/ of images."""
    held_out: int = 3
    """Classes, the last ones, that nothing is trained on."""
    limit: int = 6000
    """Images of all classes, at most."""
    pairs: int = 60
    """Pairs of a fold: half of them of one class."""
    augment: str = "affine"
    budgets: tuple[float, ...] = (10.0, 20.0)
    """Milliseconds for a batch of 320 images at 16x16."""
    relation_weights: tuple[float, ...] = (0.0, 1.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    networks: Literal["all", "none"] = "all"
    run: Path = Path("runs/verification")
    out: Path = Path("benchmarks/results/verification_digits.csv")


class Features(nn.Module):
    """What a teacher's classifier sees of images [B, 3, H, W] in [0, 1]."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.network, self.mean, self.std = teacher.network, teacher.mean, teacher.std
        self.network.fc = nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features [B, D]."""
        return self.network((images - self.mean) / self.std)


def main(settings: Settings) -> None:
    """Make what is not there yet, and compare."""
    classes = make_images(settings)
    made = make_teacher(settings)
    if settings.networks == "none":
        return
    for seed, weight in product(settings.seeds, settings.relation_weights):
        for target_ms in settings.budgets:
            make_student(settings, seed, weight, target_ms)
    told = settings if settings.source == "digits" else replace(settings, source="PATH")
    facts = {"classes": classes, "teacher": made} | provenance("verification", told)
    write_json(settings.out.with_suffix(".json"), facts)
    report(read_lines(settings.out))


def make_images(settings: Settings) -> dict[str, int]:
    """Write every image as known/ or images/, identity by identity, and the list of pairs.

    Returns how many images each class has.
    """
    source = read_source(settings.source, None)
    kept = chosen(source, settings.limit)
    counts = {name: len(positions) for name, positions in kept.items()}
    if (settings.run / "pairs.txt").exists():
        return counts
    names = list(counts)
    for name, positions in kept.items():
        for number, position in enumerate(positions, start=1):
            pixels = source.images.picture(int(position)).pixels().float() / 255
            folders = ["images", *(["known"] if name in names[: -settings.held_out] else [])]
            for folder in folders:
                path = settings.run / folder / name / f"{name}_{number:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                save_image(pixels, path)
    held_out = {name: counts[name] for name in names[-settings.held_out :]}
    lines = [f"{FOLDS}\t{settings.pairs // 2}", *drawn_pairs(held_out, settings.pairs // 2)]
    write_atomic(settings.run / "pairs.txt", "\n".join([*lines, ""]).encode())
    return counts


def chosen(source: Source, limit: int) -> dict[str, np.ndarray]:
    """Return positions of as many training images of every class."""
    each = limit // len(source.classes)
    return {
        name: source.train[source.labels[source.train] == label][:each]
        for label, name in enumerate(source.classes)
    }


def drawn_pairs(counts: Mapping[str, int], each: int) -> Iterator[str]:
    """Draw the pairs of every fold: `each` of one class, then as many of two, none twice."""
    draws, names, known = np.random.default_rng(0), list(counts), set()

    def image(name: str) -> tuple[str, int]:
        return name, int(draws.integers(counts[name])) + 1

    for _, same in product(range(FOLDS), (True, False)):
        left = each
        while left:
            first, second = (names[i] for i in draws.choice(len(names), 2, replace=False))
            one, other = sorted((image(first), image(first if same else second)))
            if one == other or (one, other) in known:
                continue
            known.add((one, other))
            words = (*one, other[1]) if same else (*one, *other)
            yield "\t".join(map(str, words))
            left -= 1


def make_teacher(settings: Settings) -> str:
    """Train a classifier on the known classes; write its features as teacher.onnx; judge it."""
    config = TrainConfig(
        data=str(settings.run / "known"),
        run=settings.run / "teacher",
        teacher=("small_resnet18:1",),
        augment=settings.augment,
    )
    data = load_data(config.data_settings((16, 16)))
    with Metrics(config.run, {}, "teacher") as metrics:
        teacher = trained_here(config, data, metrics)
    if not (path := settings.run / "teacher.onnx").exists():
        write_onnx(Features(teacher.model).eval(), torch.zeros(2, 3, 16, 16), path, {})
    return str(teacher.check)


def make_student(settings: Settings, seed: int, weight: float, target_ms: float) -> None:
    """Run train.py and search.py for one student, unless its lines are there."""
    own = {"relation_weight": str(weight), "target_ms": str(target_ms), "seed": str(seed)}
    if any(own.items() <= line.items() for line in read_lines(settings.out)):
        return
    folder = settings.run / f"{weight:g}-{seed}"
    if not (folder / "report.html").exists():
        call(
            *("train.py", "--run", folder, "--resume", "--seed", seed, "--task", "embedding"),
            *("--data", settings.run / "images", "--pairs", settings.run / "pairs.txt"),
            *("--teacher", f"onnx:{settings.run / 'teacher.onnx'}", "--teacher-resolution", "0"),
            *("--augment", settings.augment, "--relation-weight", weight),
        )
    budget = ("--target-latency", target_ms, "--controls", "--seed", seed)
    call("search.py", "--run", folder, *budget)
    facts = read_json(folder / "students" / f"{target_ms:g}ms" / "metrics.json")
    ways = {
        SEARCHED: (facts["test_verification"], facts["measured_ms"]),
        RANDOM: (facts["controls"]["random"]["test_verification"], None),
        TEACHER: (facts["teacher_test_verification"], None),
    }
    cosine = facts["teacher_agreement"]
    lines = [
        own | {"way": way, "measured_ms": ms or "", "cosine": cosine if ms else ""} | found
        for way, (found, ms) in ways.items()
    ]
    append_lines(settings.out, lines)


def call(*words: object) -> None:
    """Run a script; what it cannot do ends the benchmark."""
    done = subprocess.run([sys.executable, *map(str, words)], check=False)
    if done.returncode not in (0, 1):  # 1 is a broken promise, which its metrics say
        raise UserError(f"{json.dumps([*map(str, words)])}: exit status {done.returncode}")


def report(lines: Sequence[Mapping[str, str]]) -> None:
    """Print every way, and how far searched students are ahead of random ones."""
    points: dict[tuple[str, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        place = line["relation_weight"], line["target_ms"], line["way"]
        for field in ("accuracy", "accepted", "auc"):
            points[place][field].append(100 * float(line[field]))
    for (weight, target_ms, way), own in sorted(points.items()):
        told = ", ".join(f"{field} {mean_std(found)} %" for field, found in own.items())
        print(f"relations {weight}, {target_ms} ms: {way:15} {told}")
    for weight, target_ms in sorted({place[:2] for place in points}):
        pairs = [points[weight, target_ms, way]["accuracy"] for way in (SEARCHED, RANDOM)]
        if len(pairs[0]) > 1:
            print(f"relations {weight}, {target_ms} ms: searched ahead by {difference(*pairs)}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings))
    except UserError as error:
        raise SystemExit(f"verification: {error}") from error
