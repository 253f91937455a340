"""Batches of images, decoded here or by worker processes."""

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from base.errors import UserError
from kd.images.splits import Split


@dataclass(frozen=True, eq=False)
class AnyView(Dataset):
    """The images of a split in every view: item (view, index) is image `index` in view `view`."""

    split: Split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor | int, ...]:
        view, index = key
        return self.split.view(view)[index]


def shuffled(count: int, *key: int) -> list[int]:
    """Return 0 to `count` - 1 in an order that `key` alone decides, such as seed and epoch.

    So an epoch is the same whatever came before, and one that was interrupted can be continued.
    """
    return np.random.default_rng(key).permutation(count).tolist()


def usable_workers(wanted: int) -> int:
    """Return how many processes can decode images at once: as many as wanted, at most one a core.

    More would only wait for each other, and PyTorch warns of them.
    """
    return min(wanted, len(os.sched_getaffinity(0)))


def batches(
    dataset: Dataset,
    batch: int,
    order: Sequence[int] | None,
    workers: int = 0,
    drop_last: bool = False,
) -> Iterator[list[Tensor]]:
    """Draw one epoch of [images [B, 3, H, W], labels [B], index [B]], in `order` or as they stand.

    A split that is shown in several frames gives the images of each, first of all. Raises
    `UserError` for an unreadable image, and when `drop_last` would leave no batch at all.
    """
    if drop_last and len(dataset) < batch:
        raise UserError(f"batch {batch}: more than the {len(dataset)} images; give a smaller batch")
    places = range(len(dataset)) if order is None else order
    chunks = [places[i : i + batch] for i in range(0, len(places), batch)]
    if drop_last and len(chunks[-1]) < batch:
        chunks.pop()
    return drawn(dataset, chunks, workers)


def drawn(
    dataset: Dataset, chunks: Iterable[Sequence[object]], workers: int
) -> Iterator[list[Tensor]]:
    """Draw a batch of `dataset` for every chunk of keys, which may go on without end.

    Workers are started once. Raises `UserError` for an unreadable image.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=chunks,
        num_workers=workers,
        generator=torch.Generator(),  # or it would draw on torch's global one
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_end_quietly,
    )
    try:
        yield from _started(loader)
    except UserError as error:
        # A worker's error arrives with its traceback as the message, the error itself last.
        line = str(error).strip().splitlines()[-1]
        error.__traceback__ = None  # it would keep the loader, whose workers then end 5 s late
        raise UserError(line.removeprefix("base.errors.UserError: ")) from None


def _started(loader: DataLoader) -> Iterator[list[Tensor]]:
    with defer_signals():
        return iter(loader)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the end of the block, where workers are forked.

    What interrupts a fork itself, Python drops, and leaves locks held for good. The workers that
    are forked do not see Ctrl-C: whoever started them ends them.
    """
    came: list[int] = []
    stopping = (signal.SIGINT, signal.SIGTERM)
    before = {s: signal.signal(s, lambda number, _: came.append(number)) for s in stopping}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def _end_quietly(_: int) -> None:
    """In a worker: SIGTERM ends it, without a word."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
