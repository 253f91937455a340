"""Does the best student depend on the teacher, as AKD says? Kinds of student crossed with teachers.

    python -m benchmarks.matrix --data PATH

32 students of one latency, one of every combination of operation, kernel, gate, depth and place of
the layers, are each trained from scratch with four teachers of opposite bias (a ConvNet, a
transformer, a network of local patches, their ensemble) and with three controls (labels, an
untrained network, the ConvNet's answers to other images of the class). Every training is a line of
benchmarks/results/matrix.csv, and is not done again. For two cores run it twice: --part 0 2 and
--part 1 2. What the lines say: python -m benchmarks.matrix_analysis
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path

import torch
import tyro
from filelock import FileLock
from torch import Tensor, nn
from torchvision.transforms.v2.functional import gaussian_blur

from base.errors import UserError
from base.files import write_json
from benchmarks.csv_lines import append_lines, read_lines
from benchmarks.matrix_students import KINDS, SPACE, Timed, students_of
from benchmarks.matrix_teachers import (
    CONTROLS,
    LABELS,
    TEACHERS,
    Answer,
    answers_of,
    worlds_of,
)
from benchmarks.provenance import provenance
from benchmarks.world import (
    BATCH,
    Images,
    World,
    accuracy,
    open_world,
    trained_student,
    with_new_views,
    world_config,
)
from kd.loss import Loss, kd_loss, label_loss

SHIFT = 3  # pixels by which images are moved, of 16
BLUR = 1.0  # deviation in pixels of the Gaussian that takes fine detail away


@dataclass(frozen=True)
class Settings:
    """What is trained, and how often."""

    data: str
    """Folder of CIFAR-10 images."""
    limit: int = 8000
    """Images to train and search with, and at most as many test images."""
    teacher_limit: int = 32000
    """The same for teachers: theirs may be more."""
    teacher_epochs: int = 12
    target: float = 1.0
    """Milliseconds of every student, for a batch of 32."""
    epochs: int = 12
    """Of a student."""
    kd_weights: tuple[float, ...] = (0.9,)
    """Share of the teacher in the loss; the rest is the labels'."""
    learn_from: tuple[str, ...] = (*TEACHERS, *CONTROLS)
    """Teachers and controls that students are trained with."""
    seeds: tuple[int, ...] = (0, 1, 2)
    part: tuple[int, int] = (0, 1)
    """Which part of how many is trained by this process."""
    run: Path = Path("runs/matrix")
    out: Path = Path("benchmarks/results/matrix.csv")


def main(settings: Settings) -> None:
    """Train what is not done yet."""
    world, students, answers = opened(settings)
    told = {name: classes(answer, world.test, unchanged) for name, answer in answers.items()}
    truth = world.test.labels.argmax(1)
    facts = world.facts() | {"teachers": {name: same(own, truth) for name, own in told.items()}}
    facts |= {"students": [{"ms": ms, "architecture": one.to_json()} for one, ms in students]}
    write_json(settings.out.with_suffix(".json"), facts | provenance("matrix", settings))
    train_all(settings, worlds_of(world, answers), students, told)


def opened(settings: Settings) -> tuple[World, list[Timed], dict[str, Answer]]:
    """Make images, students and teachers, or find them in the run."""
    settings.run.mkdir(parents=True, exist_ok=True)
    with FileLock(settings.run / "preparing"):  # or two processes would find other students
        world = open_world(settings.data, settings.limit, settings.run, SPACE)
        students = students_of(world.table, settings.target, settings.run / "students.json")
        return world, students, teachers(settings, world)


def teachers(settings: Settings, world: World) -> dict[str, Answer]:
    """Train the teachers, or find them in the run."""
    config = world_config(settings.data, settings.teacher_limit, settings.run)
    shown = cache(lambda: with_new_views(world, config, settings.teacher_epochs).train)
    steps = round(settings.teacher_limit * (1 - config.search_fraction)) // BATCH
    return answers_of(SPACE, shown, steps, settings.teacher_epochs, settings.run / "teachers")


def train_all(
    settings: Settings,
    worlds: Mapping[str, World],
    students: list[Timed],
    told: Mapping[str, Tensor],
) -> None:
    """Train this part's students with every teacher and control; leave out what is done."""
    part, parts = settings.part
    numbers = range(len(KINDS))[part::parts]
    for seed, weight, number in product(settings.seeds, settings.kd_weights, numbers):
        for name in settings.learn_from:
            line = {"number": number, "learns_from": name, "kd_weight": weight, "seed": seed}
            known = {k: str(v) for k, v in line.items()}
            if any(known.items() <= done.items() for done in read_lines(settings.out)):
                continue
            loss = loss_of(name, weight)
            own = trained_student(worlds[name], students[number][0], loss, settings.epochs, seed)
            append_lines(settings.out, [line | judged(own, worlds[name], told)])


def loss_of(name: str, weight: float) -> Loss:
    """Return what a student is trained with."""
    return label_loss if name == LABELS else partial(kd_loss, kd_temperature=4.0, kd_weight=weight)


def judged(student: nn.Module, world: World, told: Mapping[str, Tensor]) -> dict[str, float]:
    """Return a student's accuracies, on changed test images too, and with whom it agrees.

    `told` are the classes [N] of the test images by every teacher.
    """
    student.eval()
    own, truth = classes(student, world.test, unchanged), world.test.labels.argmax(1)
    found = {"search_accuracy": accuracy(student, world.search), "test_accuracy": same(own, truth)}
    for name, changed in (("shifted", shifted), ("blurred", blurred)):
        found[name] = same(classes(student, world.test, changed), truth)
    return found | {f"as {name}": same(own, told[name]) for name in TEACHERS}


def shifted(images: Tensor) -> Tensor:
    """Move images [B, C, H, W] to the lower right; what comes in is the border, repeated."""
    moved = nn.functional.pad(images, (SHIFT, 0, SHIFT, 0), mode="replicate")
    return moved[..., : images.shape[-2], : images.shape[-1]]


def blurred(images: Tensor) -> Tensor:
    """Take fine detail away from images [B, C, H, W]."""
    return gaussian_blur(images, 5, BLUR)


@torch.no_grad()
def classes(answer: Answer, split: Images, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the classes [N] that are told for a split's plain images after a change."""
    return torch.cat([answer(change(batch.images)).argmax(1) for batch in split.epoch(-1, 500)])


def unchanged(images: Tensor) -> Tensor:
    """Return images as they are."""
    return images


def same(told: Tensor, other: Tensor) -> float:
    """Return the share of images that two tell alike."""
    return (told == other).float().mean().item()


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings))
    except UserError as error:
        raise SystemExit(f"matrix: {error}") from error
