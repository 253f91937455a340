"""Everything that small students are trained, timed and judged with, in memory or in one folder."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from base.phase import Phase
from export.timing.stopwatch import Patience
from export.timing.unit_of_work import UnitOfWork
from kd.batches import Batch
from kd.fit import FitSettings, fit
from kd.images.loader import batches, shuffled
from kd.images.splits import Data, Split, load_data
from kd.loss import Loss, kd_loss
from kd.run.metrics import Metrics, open_phase
from kd.run.train_config import TrainConfig
from kd.stored_outputs import StoredOutputs
from kd.teacher.outputs import prepare_outputs
from kd.teacher.prepare import CheckedTeacher, prepare_teacher, train_teacher
from supernet.latency.measurement import find_or_measure_table
from supernet.latency_table import LatencyTable
from supernet.space import Architecture, SearchSpace
from supernet.student import Student

BATCH, VIEWS = 64, 8
CPU = torch.device("cpu")
WORKERS = 8  # that draw views for a GPU
KD_LOSS = partial(kd_loss, kd_temperature=4.0, kd_weight=0.9)


@dataclass(frozen=True)
class Images:
    """A split in memory: every view of it, plain images last, and the teacher's outputs."""

    pixels: Tensor  # [V + 1, N, 3, R, R], uint8
    labels: Tensor  # [N, K], one-hot
    probabilities: Tensor | None  # [V + 1, N, K]

    def to(self, device: torch.device) -> Self:
        """Move it."""
        answers = None if self.probabilities is None else self.probabilities.to(device)
        return type(self)(self.pixels.to(device), self.labels.to(device), answers)

    @torch.no_grad()
    def answered(self, teacher: nn.Module) -> Self:
        """Return the same images with a teacher's answers; it gives log-probabilities [B, K]."""
        parts = torch.arange(len(self.labels)).split(500)
        told = [
            torch.cat([teacher(self.images(view, part)) for part in parts])
            for view in range(len(self.pixels))
        ]
        return replace(self, probabilities=torch.stack(told).exp())

    def images(self, view: int, index: Tensor | slice) -> Tensor:
        """Return images [B, 3, R, R] in [0, 1] of one view, -1 for plain ones."""
        images = self.pixels[view, index].float() / 255
        return images.contiguous(memory_format=torch.channels_last)

    def epoch(self, view: int, batch: int, order: Sequence[int] | None = None) -> Iterator[Batch]:
        """Batches of one view, -1 for plain images, in `order` or as they stand."""
        places = range(len(self.labels)) if order is None else order
        for index in torch.tensor(places, device=self.labels.device).split(batch):
            known = self.labels if self.probabilities is None else self.probabilities[view]
            yield Batch(self.images(view, index), self.labels[index], known[index])

    def endless(self, batch: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """Whole batches of epochs without end, each in the next view; `start` are left out."""
        an_epoch = len(self.labels) // batch
        for epoch in itertools.count(start // an_epoch):
            order = shuffled(len(self.labels), seed, epoch)
            order = order[start % an_epoch * batch : an_epoch * batch]
            yield from self.epoch(epoch % (len(self.pixels) - 1), batch, order)
            start = 0


@dataclass(frozen=True)
class World:
    """Images with one teacher's answers, and the latency table of a space."""

    train: Images
    search: Images
    test: Images
    table: LatencyTable
    teacher: str

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.train.pixels.device

    def facts(self) -> dict[str, object]:
        """Say what it is made of."""
        images = [len(split.labels) for split in (self.train, self.search, self.test)]
        table = {name: v for name, v in self.table.provenance.items() if name != "anchors"}
        return {"teacher": self.teacher, "images": images, "table": table}


def open_world(
    data: str,
    limit: int,
    run: Path,
    space: SearchSpace,
    device: torch.device = CPU,
    table: LatencyTable | None = None,
) -> World:
    """Train the teacher, or find it in `run`; images go to `device`.

    So is the table measured, or found, where none is given.
    """
    config = world_config(data, limit, run, device)
    found = load_data(config.data_settings(space.resolution))
    with Metrics(run, {}, "world") as metrics:
        teacher = trained_here(config, found, metrics, device)
    outputs = prepare_outputs(
        config.output_settings(),
        teacher.fingerprint,
        lambda: teacher.model,
        found,
        config.loader(),
    )
    table = table or world_table(run, space)
    workers = config.loader().workers
    splits = _splits(found, outputs.train, outputs.search, workers)
    return World(*(split.to(device) for split in splits), table, str(teacher.check))


def world_config(data: str, limit: int, run: Path, device: torch.device = CPU) -> TrainConfig:
    """Return how the images are parted and the teacher is trained."""
    return TrainConfig(
        data=data,
        run=run,
        teacher=("small_resnet18:1",),
        teacher_epochs=20,
        teacher_learning_rate=0.05,
        augment="crop_flip",
        search_fraction=0.25,
        limit=limit,
        views=VIEWS,
        batch=BATCH,
        precision="bf16",
        workers=0 if device == CPU else WORKERS,
    )


def with_new_views(world: World, config: TrainConfig, views: int) -> World:
    """Return the world with so many views of the images that `config` trains with, unanswered."""
    split, workers = load_data(config.data_settings(world.table.space.resolution)).train, 0
    labels = one_hot(split.labels, world.train.labels.shape[1]).float()
    pixels = torch.stack([_pixels(split.view(view), workers) for view in [*range(views), None]])
    return replace(world, train=Images(pixels, labels, None).to(world.device))


def world_table(run: Path, space: SearchSpace) -> LatencyTable:
    """Measure the latency table of a space for batches of 32, or find it in `run`."""
    unit = UnitOfWork(batch=32, resolution=space.resolution)
    return find_or_measure_table(run, space, unit, Patience(0.01, 60), seed=0)


def trained_here(
    config: TrainConfig, data: Data, metrics: Metrics, device: torch.device = CPU
) -> CheckedTeacher:
    """Return the teacher that `config` asks for, trained on `device` now or found in its folder."""
    request, loader = config.teacher_request(), config.loader()
    phase = open_phase(metrics, "teacher")
    training = config.teacher_training()
    train = partial(train_teacher, request.sources[0], data, training, loader, device, phase)
    return prepare_teacher(request, None, data, loader, config.run, device, train)


def _splits(
    data: Data, train: StoredOutputs, search: StoredOutputs, workers: int
) -> Iterator[Images]:
    for split, targets in ((data.train, train), (data.search, search), (data.test, None)):
        views = [*range(VIEWS if targets else 0), None]
        yield Images(
            torch.stack([_pixels(split.view(view), workers) for view in views]),
            one_hot(split.labels, len(data.classes)).float(),
            None if targets is None else _probabilities(targets, len(split), views),
        )


def _pixels(split: Split, workers: int) -> Tensor:
    drawn = batches(split, 500, None, workers)
    return torch.cat([(images * 255).round().byte() for images, *_ in drawn])


def _probabilities(targets: StoredOutputs, count: int, views: list[int | None]) -> Tensor:
    return torch.stack([targets.rows(view, torch.arange(count)) for view in views])


def trained_student(
    world: World, architecture: Architecture, loss: Loss, epochs: int, seed: int
) -> nn.Module:
    """Train a student from scratch on the train split."""
    build = partial(Student, world.table.space, architecture)
    return trained_network(world, build, loss, epochs, seed)


def trained_network(
    world: World,
    build: Callable[[], nn.Module],
    loss: Loss,
    epochs: int,
    seed: int,
    learning_rate: float = FitSettings.learning_rate,
) -> nn.Module:
    """Train any network on the train split, as it is built."""
    torch.manual_seed(seed)
    network = build().to(world.device)
    steps = len(world.train.labels) // BATCH
    endless = partial(world.train.endless, BATCH, seed)
    phase = Phase(f"network, seed {seed}")
    fit(network, endless, loss, FitSettings(epochs, learning_rate), steps, phase)
    return network


@torch.no_grad()
def accuracy(student: nn.Module, split: Images) -> float:
    """Share of a split's plain images that are told right."""
    student.eval()
    right = [
        (student(batch.images).argmax(1) == batch.labels.argmax(1)).float()
        for batch in split.epoch(-1, 500)
    ]
    return torch.cat(right).mean().item()
