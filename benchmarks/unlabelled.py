"""What do images without classes bring, where few have one?

    python -m benchmarks.unlabelled --data PATH --teacher runs/small_world/teacher.safetensors

CIFAR-10 images at 16x16: 2,000 with their classes, 20,000 without. One student learns from labels,
from the teacher on the labelled images, and from the teacher on all of them, each for as many
steps. The teacher is that of benchmarks.ground_truth, which was trained on 6,000 labelled images.
Every training is a line of benchmarks/results/unlabelled.csv, and is not done again.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
import tyro

from base.errors import UserError
from base.files import write_json
from base.phase import Phase
from benchmarks.akd import SPACE
from benchmarks.csv_lines import append_lines, read_lines
from benchmarks.differences import difference, mean_std
from benchmarks.provenance import provenance
from kd.evaluate import accuracy, predict
from kd.fit import FitSettings
from kd.images.splits import Data, load_data
from kd.retrain import retrain
from kd.run.train_config import TrainConfig
from kd.teacher.outputs import prepare_outputs
from kd.teacher.prepare import open_teacher
from supernet.space import Architecture, Layer, Stage
from supernet.student import Student

CPU, WAYS = torch.device("cpu"), ("labels", "labelled images", "all images")
MBCONV = Layer("mbconv", 5, 4, squeeze_excite=False)
STUDENT = Architecture(16, (Stage(32, (MBCONV,)), Stage(64, (MBCONV, MBCONV))), 64)


@dataclass(frozen=True)
class Settings:
    """How many images, and how long."""

    data: str
    """Folder of CIFAR-10 images."""
    teacher: Path
    """Weights of a small_resnet18:1 at 16x16."""
    labelled: int = 2000
    unlabelled: int = 20000
    epochs: int = 12
    """Of all images; the labelled ones alone are seen for as many steps."""
    seeds: tuple[int, ...] = (0, 1, 2)
    run: Path = Path("runs/unlabelled")
    out: Path = Path("benchmarks/results/unlabelled.csv")


def main(settings: Settings) -> None:
    """Train what is not done yet, and compare."""
    settings.run.mkdir(parents=True, exist_ok=True)
    link_images(settings)
    config = TrainConfig(
        data=str(settings.run / "images"),
        unlabelled=str(settings.run / "more"),
        run=settings.run,
        teacher=("small_resnet18:1",),
        teacher_checkpoint=(settings.teacher,),
        augment="crop_flip",
        search_fraction=0.1,
        views=4,
        batch=64,
        precision="bf16",
    )
    data = load_data(config.data_settings(SPACE.resolution))
    teacher = open_teacher(config.teacher_request(), data, config.loader(), CPU)
    for seed, way in product(settings.seeds, WAYS):
        done = {(line["seed"], line["learns_from"]) for line in read_lines(settings.out)}
        if (str(seed), way) not in done:
            found = trained_accuracy(settings, config, data, teacher, seed, way)
            line = {"seed": seed, "learns_from": way, "test_accuracy": found}
            append_lines(settings.out, [line])
    facts = {"images": str(data), "teacher": str(teacher.check)}
    write_json(settings.out.with_suffix(".json"), facts | provenance("unlabelled", settings))
    report(read_lines(settings.out))


def link_images(settings: Settings) -> None:
    """Link the images of `data`: some in their classes, more without, and the test images."""
    root, classes = Path(settings.data).resolve(), SPACE.classes
    for folder in sorted((root / "train").iterdir()):
        paths = sorted(folder.iterdir())
        known = settings.labelled // classes
        more = paths[known:][-settings.unlabelled // classes :]
        places = [(path, f"images/train/{folder.name}") for path in paths[:known]]
        places += [
            (path, f"images/test/{folder.name}") for path in (root / "test" / folder.name).iterdir()
        ]
        for path, place in (*places, *((path, "more") for path in more)):
            link = settings.run / place / f"{folder.name}-{path.name}"
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(path)


def trained_accuracy(
    settings: Settings, config: TrainConfig, data: Data, teacher: object, seed: int, way: str
) -> float:
    """Train a student one way; return its test accuracy."""
    outputs = prepare_outputs(
        config.output_settings(), teacher.fingerprint, lambda: teacher.model, data, config.loader()
    )
    names = ("train", "unlabelled") if way == "all images" else ("train",)
    torch.manual_seed(seed)
    student = Student(SPACE, STUDENT)
    retrain(
        student,
        data.joined(names),
        outputs.joined(names),
        config.loss("labels" if way == "labels" else "teacher"),
        FitSettings(settings.epochs),
        config.loader(),
        Phase(f"{way}, seed {seed}"),
        images=len(data.joined(("train", "unlabelled"))),
    )
    return accuracy(*predict(student, data.test.view(None), 500))


def report(lines: Sequence[dict[str, str]]) -> None:
    """Print mean ± standard deviation in points, and what each step brings."""
    points: dict[str, list[float]] = defaultdict(list)
    for line in sorted(lines, key=lambda line: line["seed"]):
        points[line["learns_from"]].append(100 * float(line["test_accuracy"]))
    for way in WAYS:
        print(f"{way}: {mean_std(points[way])} %")
    for more, fewer in zip(WAYS[1:], WAYS, strict=False):
        print(f"{more} over {fewer}: {difference(points[more], points[fewer])}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings))
    except UserError as error:
        raise SystemExit(f"unlabelled: {error}") from error
