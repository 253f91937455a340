"""Stored teacher outputs: one row of probabilities for every image and every view.

A step with them costs no teacher (FKD: Shen & Xing 2021; TinyViT: Wu et al. 2022), and they belong
to one data set and one teacher, so both fingerprints are kept beside them.
"""

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from export.errors import UserError
from export.files import read_json, write_json
from kd.data import Split, batches
from kd.teacher import Teacher


class Batch(NamedTuple):
    """What one step learns from."""

    images: Tensor  # [B, 3, R, R]
    labels: Tensor  # [B]
    probabilities: Tensor  # [B, K], the teacher's at temperature 1

    def shares(self, count: int) -> list["Batch"]:
        """Part the batch into `count` batches of as equal a size as can be."""
        parts = zip(*(tensor.tensor_split(count) for tensor in self), strict=True)
        return [Batch(*part) for part in parts]


@dataclass(frozen=True, eq=False)
class Targets:
    """Teacher probabilities, float16 [views + 1, n, K] for each part; the last row is plain."""

    parts: tuple[np.ndarray, ...]

    @property
    def views(self) -> int:
        """How many augmented versions of every image are stored."""
        return len(self.parts[0]) - 1

    def rows(self, view: int | None, index: Tensor) -> Tensor:
        """Probabilities [B, K] float32 of images `index` [B] in version `view`."""
        row = self.views if view is None else view
        assert view is None or 0 <= view < self.views, f"view {view} of {self.views}"
        starts = np.cumsum([0, *(part.shape[1] for part in self.parts)])
        positions = index.numpy()
        found = np.empty((len(positions), self.parts[0].shape[2]), dtype=np.float32)
        assert len(positions) == 0 or positions.max() < starts[-1]
        for part, start in zip(self.parts, starts, strict=False):
            inside = (positions >= start) & (positions < start + part.shape[1])
            found[inside] = part[row, positions[inside] - start]
        return torch.from_numpy(found)


def store_targets(
    teacher: Teacher,
    split: Split,
    views: int,
    folder: Path,
    identity: dict[str, str],
    batch: int = 256,
    workers: int = 0,
    description: str | None = None,
) -> Targets:
    """Run the teacher on every view of `split` into `folder`, written whole or not at all.

    `identity` says what the outputs depend on, such as the fingerprints of data and teacher.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    device = next(teacher.parameters()).device
    bar = tqdm(total=(views + 1) * len(split), desc=description, disable=description is None)
    with bar, tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        whole = Path(scratch) / folder.name
        whole.mkdir()
        stored = None
        for row, view in enumerate([*range(views), None]):
            for images, _, index in batches(split.view(view), batch, None, workers):
                probabilities = teacher(images.to(device)).softmax(dim=1).half().cpu().numpy()
                if stored is None:
                    shape = (views + 1, len(split), probabilities.shape[1])
                    path = whole / "probabilities.npy"
                    stored = np.lib.format.open_memmap(path, "w+", np.float16, shape)
                stored[row, index.numpy()] = probabilities
                bar.update(len(index))
        stored.flush()
        write_json(whole / "targets.json", {"identity": identity, "shape": list(stored.shape)})
        shutil.rmtree(folder, ignore_errors=True)
        whole.rename(folder)
    return open_targets(folder, identity)


def open_targets(folder: Path, identity: dict[str, str]) -> Targets:
    """Open stored outputs; raise `UserError` if they are of something else or not whole."""
    facts = read_json(folder / "targets.json")
    stored = facts.get("identity", {})
    for field in sorted(stored.keys() | identity.keys()):
        if stored.get(field) != identity.get(field):
            raise UserError(
                f"{folder}: teacher outputs of another {field} ({stored.get(field)}, expected"
                f" {identity.get(field)}); remove the folder or use another --run"
            )
    try:
        probabilities = np.load(folder / "probabilities.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: probabilities.npy is not whole; remove the folder") from error
    if probabilities.dtype != np.float16 or list(probabilities.shape) != facts.get("shape"):
        raise UserError(
            f"{folder}: probabilities.npy is {probabilities.dtype} {list(probabilities.shape)},"
            f" expected float16 {facts.get('shape')}; remove the folder"
        )
    return Targets((probabilities,))


def join_targets(a: Targets, b: Targets) -> Targets:
    """Rows of `a` then of `b`, as `kd.data.join` numbers the images."""
    assert a.views == b.views
    return Targets(a.parts + b.parts)


def distilled(
    split: Split,
    targets: Targets,
    view: int | None,
    batch: int,
    generator: torch.Generator | None,
    workers: int = 0,
    drop_last: bool = False,
) -> Iterator[Batch]:
    """One epoch of `split` in version `view`, with the teacher's outputs for that version."""
    epoch = batches(split.view(view), batch, generator, workers, drop_last)
    for images, labels, index in epoch:
        yield Batch(images, labels, targets.rows(view, index))


def endless(
    split: Split,
    targets: Targets,
    views: int,
    batch: int,
    generator: torch.Generator,
    workers: int = 0,
    drop_last: bool = True,
) -> Iterator[Batch]:
    """Epochs without end, each in a new order and in the next of `views` versions."""
    for epoch in itertools.count():
        view = epoch % views
        yield from distilled(split, targets, view, batch, generator, workers, drop_last)


def labelled(
    split: Split,
    view: int | None,
    classes: int,
    batch: int,
    generator: torch.Generator | None,
    workers: int = 0,
    drop_last: bool = False,
) -> Iterator[Batch]:
    """One epoch without a teacher: the labels, one-hot, stand for its probabilities."""
    for images, labels, _ in batches(split.view(view), batch, generator, workers, drop_last):
        yield Batch(images, labels, torch.nn.functional.one_hot(labels, classes).float())


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Move a batch, its images in channels-last order."""
    images = batch.images.to(device, memory_format=torch.channels_last, non_blocking=True)
    return Batch(images, batch.labels.to(device), batch.probabilities.to(device))
