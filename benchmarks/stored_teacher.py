"""What does the teacher cost in an epoch: nothing, stored, or run in every step?

    python -m benchmarks.stored_teacher --data PATH

The same student learns from the same images for an epoch in three ways, in turn: from labels only,
from stored outputs, and from the teacher itself. Decoding and augmentation are part of the epoch.
Writes benchmarks/results/stored_teacher.json.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro

from base.files import write_json
from benchmarks.provenance import provenance
from export.timing.stopwatch import reference_ms, rounds
from kd.batches import Batch, LabelOutputs, OnlineOutputs, distillation_batches
from kd.images.loader import shuffled
from kd.images.splits import DataSettings, load_data
from kd.loss import kd_loss, label_loss
from kd.networks import build_network
from kd.outputs_writer import store_outputs
from kd.stored_outputs import size_text, stored_shape
from kd.teacher.model import Teacher
from supernet.presets import preset_space
from supernet.student import Student


@dataclass(frozen=True)
class Settings:
    """What is timed."""

    data: str
    """Folder of images, or cifar10."""
    limit: int = 2000
    """Images of an epoch, about."""
    batch: int = 128
    rounds: int = 9
    seed: int = 0
    out: Path = Path("benchmarks/results/stored_teacher.json")


def main(settings: Settings) -> None:
    """Time the three ways, print them and write them with their provenance."""
    space = preset_space("cifar10", 10)
    data = load_data(
        DataSettings(settings.data, None, space.resolution, "crop_flip", limit=settings.limit)
    )
    torch.manual_seed(settings.seed)
    teacher = Teacher(build_network("small_resnet18:1", len(data.classes)))
    architecture = space.random(np.random.default_rng(settings.seed))
    student = Student(space, architecture).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)
    with tempfile.TemporaryDirectory() as folder:
        shape = stored_shape(data.train, 1, len(data.classes), most=100)
        stored = store_outputs(
            lambda images: teacher(images).exp(),
            data.train,
            shape,
            folder=Path(folder) / "train",
            identity={},
            batch=settings.batch,
            description="teacher's outputs",
        )
        online = OnlineOutputs(lambda images: teacher(images).exp(), (data.train.frame,))
        loss = partial(kd_loss, kd_temperature=4.0, kd_weight=0.9)

        def epoch(batches: Callable[[], Iterator[Batch]], loss: Callable) -> Callable[[], None]:
            def run() -> None:
                for batch in batches():
                    optimizer.zero_grad()
                    images = batch.images.contiguous(memory_format=torch.channels_last)
                    loss(student(images), batch).backward()
                    optimizer.step()

            return run

        rest = (0, settings.batch, shuffled(len(data.train), settings.seed), 0, True)
        labels = LabelOutputs(data.train, len(data.classes))
        ways = {
            "labels": epoch(partial(distillation_batches, data.train, labels, *rest), label_loss),
            "stored": epoch(partial(distillation_batches, data.train, stored, *rest), loss),
            "online": epoch(partial(distillation_batches, data.train, online, *rest), loss),
        }
        endless = rounds(ways, ways["labels"], seed=settings.seed)
        done = [next(endless) for _ in range(settings.rounds)]
    ratios = {name: [one.seconds[name] / one.seconds["labels"] for one in done] for name in ways}
    rows = {
        name: {
            "ratio": float(np.median(values)),
            "ratio_quartiles": np.quantile(values, (0.25, 0.75)).tolist(),
            "seconds": float(np.median([one.seconds[name] for one in done])),
        }
        for name, values in ratios.items()
    }
    for name, row in rows.items():
        print(f"{name:8} {row['ratio']:.3f}x  {row['seconds']:.2f} s an epoch")
    write_json(
        settings.out,
        provenance("stored_teacher", settings)
        | {
            "images": len(data.train),
            "teacher": "small_resnet18:1, random weights (they cost what trained ones cost)",
            "student": architecture.to_json(),
            "stored": f"{size_text(shape.size)}: {shape}",
            "labels_reference_ms": reference_ms(done),
            "epochs": rows,
        },
    )


if __name__ == "__main__":
    main(tyro.cli(Settings))
