"""What does a student gain when its teacher sees the same view at the teacher's own resolution?

    python -m benchmarks.own_view --data PATH

Photographs in folders of classes; a network of timm learns them at 96 pixels and teaches students
that see 32, 64 and 96. One student of each learns from labels, from the teacher that is shown the
student's pixels enlarged to 96, and from the teacher that is shown the same view at 96 itself. The
teacher's accuracy is told beside that in timm's own transform of the files. Every training is a
line of benchmarks/results/own_view.csv, and is not done again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch
import tyro
from PIL import Image
from timm.data import create_transform
from torch import nn

from base.errors import UserError
from base.files import write_json
from base.phase import Phase
from benchmarks.csv_lines import append_lines, read_lines
from benchmarks.differences import difference, mean_std
from benchmarks.provenance import provenance
from benchmarks.world import trained_here
from kd.evaluate import accuracy, predict
from kd.fit import FitSettings
from kd.images.splits import Data, Split, load_data
from kd.retrain import retrain
from kd.run.metrics import Metrics
from kd.run.train_config import TrainConfig
from kd.teacher.model import Teacher
from kd.teacher.outputs import TeacherOutputs, prepare_outputs
from kd.teacher.prepare import open_teacher
from supernet.presets import preset
from supernet.space import Architecture, Layer, Stage
from supernet.student import Student

CPU, SIDE = torch.device("cpu"), 96
LABELS, ENLARGED, OWN = "labels", "enlarged pixels", "own view"
PLAIN, MBCONV = (
    Layer("fused", 3, 1, squeeze_excite=False),
    Layer("mbconv", 3, 3, squeeze_excite=False),
)
STUDENT = Architecture(
    16,
    (Stage(16, (PLAIN,)), *(Stage(width, (MBCONV,)) for width in (24, 48, 96))),
    0,
)


@dataclass(frozen=True)
class Settings:
    """What to learn, and how long."""

    data: str
    """Folder of classes of photographs."""
    teacher: str = "timm:resnet10t"
    teacher_epochs: int = 30
    epochs: int = 30
    sides: tuple[int, ...] = (32, 64, 96)
    seeds: tuple[int, ...] = (0, 1, 2)
    run: Path = Path("runs/own_view")
    out: Path = Path("benchmarks/results/own_view.csv")


def main(settings: Settings) -> None:
    """Train what is not done yet, and compare."""
    config = TrainConfig(
        data=settings.data,
        run=settings.run,
        teacher=(settings.teacher,),
        teacher_mean=(0.0, 0.0, 0.0),
        teacher_std=(1.0, 1.0, 1.0),
        teacher_resolution=SIDE,
        teacher_resize=SIDE,
        teacher_interpolation="bilinear",
        teacher_epochs=settings.teacher_epochs,
        augment="crop_flip",
        views=8,
        batch=64,
        precision="bf16",
    )
    weights = settings.run / "teacher.safetensors"
    if not weights.exists():
        whole = load_data(config.data_settings((SIDE, SIDE)))
        with Metrics(settings.run, {}, "own_view") as metrics:
            trained_here(config, whole, metrics)
    given = replace(config, teacher_checkpoint=(weights,))
    told = {}
    for side in settings.sides:
        data = load_data(config.data_settings((side, side)))
        opened = open_teacher(given.teacher_request(), data, given.loader(), CPU)
        enlarging = enlarged(opened.model, side)
        told[str(side)] = {
            "timm's own transform": of_files(opened.model, data.search),
            OWN: opened.check.accuracy,
            ENLARGED: accuracy(*predict(enlarging, data.search.view(None), 100)),
        }
        print(f"teacher at {side}: {told[str(side)]}", flush=True)
        outputs = {
            OWN: outputs_of(given, data, opened.model, f"{side}/own"),
            ENLARGED: outputs_of(given, data, enlarging, f"{side}/enlarged"),
        }
        train_students(settings, given, data, outputs, side)
    facts = {"images": str(data), "teacher_accuracy": told}
    write_json(settings.out.with_suffix(".json"), facts | provenance("own_view", settings))
    report(settings, read_lines(settings.out))


def enlarged(teacher: Teacher, side: int) -> Teacher:
    """Return the teacher for images of `side` pixels, which it is shown enlarged to its own."""
    grow = nn.Upsample(size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    input_format = replace(teacher.input_format, resolution=None, resize=None)
    return Teacher(nn.Sequential(grow, teacher.network), input_format)


def of_files(teacher: Teacher, split: Split) -> float:
    """Return the teacher's accuracy on the files of a split, as timm opens and transforms them."""
    transform = create_transform(
        SIDE, interpolation="bilinear", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop_pct=1.0
    )
    paths = [split.images.root / split.images.names[i] for i in split.positions.tolist()]
    answers = [
        teacher(transform(Image.open(path).convert("RGB"))[None]).argmax().item() for path in paths
    ]
    return (torch.tensor(answers) == split.labels).float().mean().item()


def outputs_of(config: TrainConfig, data: Data, teacher: Teacher, place: str) -> TeacherOutputs:
    """Return the stored outputs of a teacher in a folder of their own."""
    settings = replace(config.output_settings(), folder=config.run / place)
    return prepare_outputs(settings, teacher.fingerprint(), lambda: teacher, data, config.loader())


def train_students(
    settings: Settings,
    config: TrainConfig,
    data: Data,
    outputs: dict[str, TeacherOutputs],
    side: int,
) -> None:
    """Train the student of a size every way with every seed; keep its test accuracy."""
    space = preset("cifar10").space(len(data.classes), (side, side), 3)
    for seed, way in product(settings.seeds, (LABELS, ENLARGED, OWN)):
        key = {"side": side, "learns_from": way, "seed": seed}
        known = [{name: line[name] for name in key} for line in read_lines(settings.out)]
        if {name: str(value) for name, value in key.items()} in known:
            continue
        torch.manual_seed(seed)
        student = Student(space, STUDENT)
        loss = config.loss("labels" if way == LABELS else "teacher")
        targets = outputs[OWN if way == LABELS else way]
        phase = Phase(f"{side}, {way}, seed {seed}")
        loader, training = replace(config.loader(), seed=seed), FitSettings(settings.epochs)
        retrain(student, data.train, targets.train, loss, training, loader, phase)
        found = accuracy(*predict(student, data.test.view(None), 100))
        append_lines(settings.out, [key | {"test_accuracy": found}])


def report(settings: Settings, lines: Sequence[dict[str, str]]) -> None:
    """Print mean ± standard deviation in points, and what the own view brings."""
    for side in settings.sides:
        points: dict[str, list[float]] = {}
        for way, line in product((LABELS, ENLARGED, OWN), sorted(lines, key=lambda x: x["seed"])):
            if (line["side"], line["learns_from"]) == (str(side), way):
                points.setdefault(way, []).append(100 * float(line["test_accuracy"]))
        told = ", ".join(f"{way} {mean_std(found)} %" for way, found in points.items())
        gain = difference(points[OWN], points[ENLARGED])
        print(f"{side} pixels: {told}; {OWN} over {ENLARGED} {gain}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings))
    except UserError as error:
        raise SystemExit(f"own_view: {error}") from error
