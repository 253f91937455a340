"""What a step learns from: images, labels, and what the teacher says of them."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from export.processes import share_of
from kd.data import Split, batches, shuffled


class Batch(NamedTuple):
    """What one step learns from."""

    images: Tensor  # [B, 3, R, R]
    labels: Tensor  # [B, K], one-hot, or shares where images are mixed
    probabilities: Tensor  # [B, K], the teacher's at temperature 1

    def shares(self, count: int) -> list["Batch"]:
        """Part the batch into `count` batches of as equal a size as can be."""
        parts = zip(*(tensor.tensor_split(count) for tensor in self), strict=True)
        return [Batch(*part) for part in parts]


class Outputs(Protocol):
    """A teacher's answers: stored (`kd.store.Targets`) or computed (`Online`)."""

    def rows(self, view: int | None, index: Tensor, images: Tensor) -> Tensor:
        """Probabilities [B, K] for images [B, 3, R, R], number `index` [B], in version `view`."""


@dataclass(frozen=True, eq=False)
class Online:
    """The teacher itself: images [B, 3, R, R] -> probabilities [B, K], run in every step."""

    probabilities: Callable[[Tensor], Tensor]

    def rows(self, view: int | None, index: Tensor, images: Tensor) -> Tensor:
        """Probabilities [B, K] of the images, whatever their version."""
        return self.probabilities(images).cpu()


@dataclass(frozen=True, eq=False)
class Labels:
    """No teacher: the labels of `split` stand for its probabilities, mixed as the images are."""

    split: Split
    classes: int

    def rows(self, view: int | None, index: Tensor, images: Tensor) -> Tensor:
        """Shares of the classes [B, K] of images number `index` [B] in version `view`."""
        return self.split.view(view).label_shares(index, self.classes)


def distilled(
    split: Split,
    outputs: Outputs,
    view: int | None,
    batch: int,
    order: Sequence[int] | None,
    workers: int = 0,
    drop_last: bool = False,
) -> Iterator[Batch]:
    """One epoch of `split` in version `view`, with the teacher's outputs for that version."""
    version = split.view(view)
    for images, _, index in batches(version, batch, order, workers, drop_last):
        probabilities = outputs.rows(view, index, images)
        labels = version.label_shares(index, probabilities.shape[1])
        yield Batch(images, labels, probabilities)


def endless(
    split: Split,
    outputs: Outputs,
    views: int,
    batch: int,
    seed: int,
    workers: int = 0,
    start: int = 0,
) -> Iterator[Batch]:
    """Epochs without end, each in a new order and in the next of `views` versions.

    Only whole batches; `start` of them are left out, as if they had been drawn before. Of every
    batch each of several processes sees its own share.
    """
    own = share_of(batch)
    an_epoch = max(1, len(split) // batch)
    for epoch in itertools.count(start // an_epoch):
        order = shuffled(len(split), seed, epoch)
        whole = [order[i * batch :][:batch][own] for i in range(start % an_epoch, an_epoch)]
        mine = list(itertools.chain.from_iterable(whole))
        size = own.stop - own.start
        yield from distilled(split, outputs, epoch % views, size, mine, workers, drop_last=True)
        start = 0


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch, its images in channels-last order."""
    images = batch.images.to(device, memory_format=torch.channels_last, non_blocking=True)
    return Batch(images, batch.labels.to(device), batch.probabilities.to(device))
