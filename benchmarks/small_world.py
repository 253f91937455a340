"""A space so small that every student of it can be trained: what ground_truth and regret share.

192 architectures in which every kind of decision occurs, CIFAR-10 images at 16 pixels, a teacher
that is trained here, and a latency table. All of it is kept in memory or in one folder.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from export.device import UnitOfWork
from export.stopwatch import Patience
from kd.config import TrainConfig
from kd.data import Data, Split, load_data, shuffled
from kd.prepare import prepare_outputs, prepare_teacher
from kd.run import Metrics
from kd.store import Targets
from kd.targets import Batch
from supernet.latency import LatencyTable
from supernet.measure import obtain_table
from supernet.space import Architecture, SearchSpace, StageSpace

BATCH, VIEWS = 64, 8
SPACE = SearchSpace(
    name="small world",
    resolution=16,
    classes=10,
    stem_width=8,
    stem_stride=1,
    head_width=64,
    stages=(
        StageSpace(2, (8, 24), (1,), (3, 5), (1, 4), (False, True)),
        StageSpace(2, (16, 48), (1, 2), (3,), (1, 4), (False,)),
    ),
)


@dataclass(frozen=True)
class Images:
    """A split in memory: every view of it, plain images last, and the teacher's outputs."""

    images: Tensor  # [V + 1, N, 3, R, R]
    labels: Tensor  # [N, K], one-hot
    probabilities: Tensor | None  # [V + 1, N, K]

    def epoch(self, view: int, batch: int, order: Sequence[int] | None = None) -> Iterator[Batch]:
        """Batches of one view, -1 for plain images, in `order` or as they stand."""
        places = range(len(self.labels)) if order is None else order
        for index in torch.tensor(places).split(batch):
            images = self.images[view][index].contiguous(memory_format=torch.channels_last)
            taught = self.labels if self.probabilities is None else self.probabilities[view]
            yield Batch(images, self.labels[index], taught[index])

    def endless(self, batch: int, seed: int, start: int = 0) -> Iterator[Batch]:
        """Whole batches of epochs without end, each in the next view."""
        assert start == 0
        count = len(self.labels) // batch * batch
        for epoch in itertools.count():
            order = shuffled(len(self.labels), seed, epoch)[:count]
            yield from self.epoch(epoch % (len(self.images) - 1), batch, order)


@dataclass(frozen=True)
class World:
    """Everything that a small student is trained, timed and judged with."""

    train: Images
    search: Images
    test: Images
    table: LatencyTable
    teacher: str


def architectures() -> list[Architecture]:
    """All students of the space, in a fixed order."""
    decisions = SPACE.decisions()
    picked = product(*(range(len(d.choices)) for d in decisions))
    named = (dict(zip([d.name for d in decisions], one, strict=True)) for one in picked)
    return list(dict.fromkeys(map(SPACE.architecture, named)))


def small_world(data: str, limit: int, run: Path) -> World:
    """Train teacher and measure table, or find them in `run`."""
    config = TrainConfig(
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
    )
    found = load_data(config.data_settings(SPACE.resolution))
    with Metrics(run, {}, "small world") as metrics:
        teacher = prepare_teacher(
            *(config, None, found, run, metrics, torch.device("cpu")),
            metrics.checkpoint("teacher"),
        )
    taught = prepare_outputs(
        config, teacher.fingerprint, lambda: teacher.model, found, run / "targets"
    )
    unit = UnitOfWork(batch=32, resolution=SPACE.resolution)
    table = obtain_table(run, SPACE, unit, Patience(0.01, 60), config.seed)
    return World(*_splits(found, taught.train, taught.search), table, str(teacher.check))


def _splits(data: Data, train: Targets, search: Targets) -> Iterator[Images]:
    for split, targets in ((data.train, train), (data.search, search), (data.test, None)):
        views = [*range(VIEWS if targets else 0), None]
        yield Images(
            torch.stack([_stacked(split.view(view)) for view in views]),
            one_hot(split.labels, len(data.classes)).float(),
            None if targets is None else _probabilities(targets, len(split), views),
        )


def _stacked(split: Split) -> Tensor:
    return torch.stack([split[i][0] for i in range(len(split))])


def _probabilities(targets: Targets, count: int, views: list[int | None]) -> Tensor:
    return torch.stack([targets.rows(view, torch.arange(count)) for view in views])
