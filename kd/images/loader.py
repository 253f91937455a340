"""Batches of images, decoded here or by worker processes."""

import math
import os
import re
import shutil
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from base.errors import UserError
from base.size import Size
from kd.images.splits import Split

# Where workers put their batches, and how many each of them has ready.
SHARED, AHEAD = Path("/dev/shm"), 2
MOST_UNASKED = 16  # workers
ENDED = re.compile(r"^DataLoader worker .*(killed|exited)|unable to .* shared memory", re.DOTALL)
MORE_MEMORY = "give fewer --workers, a smaller --batch, or more of it (docker run --shm-size 8g)"


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


def usable_workers(wanted: int | None) -> int:
    """Return how many processes can decode images at once: as many as wanted, at most one a core.

    More would only wait for each other, and PyTorch warns of them. Where nothing is wanted, every
    GPU has its share of the cores; a network that trains on the CPU needs all of them itself.
    """
    cores, gpus = len(os.sched_getaffinity(0)), torch.cuda.device_count()
    if wanted is not None:
        return min(wanted, cores)
    return min(cores // gpus, MOST_UNASKED) if gpus else 0


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
    except RuntimeError as error:
        if not ENDED.search(str(error)):
            raise
        error.__traceback__ = None
        raise UserError(
            f"--workers {workers}: one was ended by the system; memory, or {_shared_memory()} may "
            f"be full; {MORE_MEMORY}"
        ) from None


def check_shared_memory(batch: int, size: Size, channels: int, workers: int) -> None:
    """Raise `UserError` where workers could not hand over batches of images [B, C, H, W].

    Each has up to two of them ready.
    """
    needed = workers * AHEAD * batch * channels * math.prod(size) * torch.float32.itemsize
    if workers and SHARED.is_dir() and shutil.disk_usage(SHARED).free < needed:
        raise UserError(
            f"--workers {workers}: their batches of {batch} images take {needed / 2**20:.0f} MiB, "
            f"and {_shared_memory()} is too small; {MORE_MEMORY}"
        )


def _shared_memory() -> str:
    usage = shutil.disk_usage(SHARED)
    return f"{SHARED}, with {usage.free / 2**20:.0f} of {usage.total / 2**20:.0f} MiB free,"


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
