"""Batches to learn from: images, labels and the teacher's probabilities."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from base.errors import UserError
from base.processes import rank_slice
from kd.images.loader import AnyView, batches, drawn, shuffled
from kd.images.rendering import Frame
from kd.images.splits import Split


class Batch(NamedTuple):
    """One batch to learn from."""

    images: Tensor  # [B, C, H, W]
    labels: Tensor  # [B, K], one-hot, shares where images are mixed, 0 where there is no label
    probabilities: Tensor  # [B, K], the teacher's at temperature 1, or its vectors of length 1

    def chunk(self, count: int) -> list["Batch"]:
        """Split the batch into `count` batches of as equal a size as can be."""
        parts = zip(*(tensor.tensor_split(count) for tensor in self), strict=True)
        return [Batch(*part) for part in parts]


class Outputs(Protocol):
    """A teacher's answers: stored (`kd.stored_outputs.Targets`) or computed (`OnlineOutputs`)."""

    @property
    def frames(self) -> tuple[Frame, ...]:
        """What has to be shown for an answer: nothing where answers are stored."""
        ...

    def rows(self, view: int | None, index: Tensor, shown: Sequence[Tensor] = ()) -> Tensor:
        """Return probabilities [B, K] for images number `index` [B] in a view.

        `shown` are these images [B, 3, H, W] in every one of the `frames`.
        """
        ...


@dataclass(frozen=True, eq=False)
class OnlineOutputs:
    """The teacher itself, run in every step: it maps images in its frames to probabilities."""

    probabilities: Callable[..., Tensor]
    frames: tuple[Frame, ...]

    def rows(self, view: int | None, index: Tensor, shown: Sequence[Tensor] = ()) -> Tensor:
        """Return probabilities [B, K] of the images, whatever their view, where the teacher is."""
        return self.probabilities(*shown)


@dataclass(frozen=True, eq=False)
class LabelOutputs:
    """The labels of `split` in place of a teacher's probabilities, mixed as the images are."""

    split: Split
    classes: int
    frames: tuple[Frame, ...] = ()

    def rows(self, view: int | None, index: Tensor, shown: Sequence[Tensor] = ()) -> Tensor:
        """Return the labels [B, K] of images number `index` [B] in version `view`."""
        return self.split.view(view).label_shares(index, self.classes)


def distillation_batches(
    split: Split,
    outputs: Outputs,
    view: int | None,
    batch: int,
    order: Sequence[int] | None,
    workers: int = 0,
    drop_last: bool = False,
) -> Iterator[Batch]:
    """Draw one epoch of `split` in version `view`, with the teacher's outputs for that version."""
    version = split.view(view).shown_in((split.frame, *outputs.frames))
    for item in batches(version, batch, order, workers, drop_last):
        yield _batch(version, outputs, item)


def _batch(version: Split, outputs: Outputs, item: Sequence[Tensor]) -> Batch:
    """Give a batch of one version of the images its labels and the teacher's outputs."""
    images, *shown, _, index = item
    probabilities = outputs.rows(version.version, index, shown)
    return Batch(images, version.label_shares(index, probabilities.shape[1]), probabilities)


@dataclass(frozen=True)
class LoaderSettings:
    """How a training draws its batches from a split."""

    batch: int  # images, of all processes together
    views: int  # augmented versions of every image, one an epoch, in turn
    seed: int = 0  # of the order
    workers: int = 0  # processes that decode images


def endless(
    split: Split,
    outputs: Outputs,
    loader: LoaderSettings,
    device: torch.device,
    start: int = 0,
) -> Iterator[Batch]:
    """Draw epochs without end, each in a new order and in the next of the views.

    Only whole batches; `start` of them are left out, as if they had been drawn before. Of every
    batch each of several processes sees its own share. Batches are on `device`, images in
    channels-last order. The workers that decode live as long as the stream. Raises `UserError` for
    a batch larger than the split.
    """
    if len(split) < loader.batch:
        raise UserError(
            f"batch {loader.batch}: more than the {len(split)} images; give a smaller batch"
        )
    shown = split.shown_in((split.frame, *outputs.frames))
    views, chunks = itertools.tee(_chunks(len(split), loader, start))
    items = drawn(AnyView(shown), _keys(chunks), loader.workers)
    for (view, _), item in zip(views, items, strict=True):
        yield on_device(_batch(shown.view(view), outputs, item), device)


def _chunks(count: int, loader: LoaderSettings, start: int) -> Iterator[tuple[int, list[int]]]:
    """Yield this process's share of every batch, from number `start` on: view, and images."""
    an_epoch, own = count // loader.batch, rank_slice(loader.batch)
    for epoch in itertools.count(start // an_epoch):
        order = shuffled(count, loader.seed, epoch)
        for step in range(start % an_epoch, an_epoch):
            whole = order[step * loader.batch : (step + 1) * loader.batch]
            yield epoch % loader.views, whole[own]
        start = 0


def _keys(chunks: Iterator[tuple[int, list[int]]]) -> Iterator[list[tuple[int, int]]]:
    for view, images in chunks:
        yield [(view, image) for image in images]


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch, its images in channels-last order; no GPU is waited for."""
    images = batch.images.to(device, memory_format=torch.channels_last, non_blocking=True)
    rest = (batch.labels, batch.probabilities)
    return Batch(images, *(_pinned(t, device).to(device, non_blocking=True) for t in rest))


def _pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy what goes from the CPU to a GPU to pinned memory, as the loader does with images."""
    goes = device.type == "cuda" and tensor.device.type == "cpu"
    return tensor.pin_memory() if goes else tensor


def steps_per_epoch(images: int, batch: int) -> int:
    """Count the whole batches in a split of so many images, at least one."""
    return max(1, images // batch)


def micro_batch(batch: int, processes: int, accumulate: int) -> int:
    """Return how many images of a batch pass a network at once, in one process."""
    return batch // (processes * accumulate)
