"""Where images come from: digits inside scikit-learn, CIFAR-10, folders of images, shards."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10

from base.errors import UserError
from kd.images.pixels import InMemory, InShards, OnDisk, PackedTexts, Pixels
from kd.layout.classes import named_classes
from kd.layout.folders import labelled_images
from kd.layout.parts import around
from kd.layout.shards import is_pattern, read_index, shards_of, shards_text


class Part(NamedTuple):
    """Images that their owner keeps together."""

    name: str  # train, val, test, or "." for all
    place: str  # a folder or shards, as people know it
    count: int


@dataclass(frozen=True, eq=False)
class Source:
    """Every labelled image; `search` and `test` are None where the source sets none apart."""

    images: Pixels
    labels: np.ndarray  # [N] int64
    classes: tuple[str, ...]
    train: np.ndarray  # positions
    search: np.ndarray | None
    test: np.ndarray | None
    parts: tuple[Part, ...] = ()  # of folders and shards
    notes: tuple[str, ...] = ()  # what was left aside

    def parts_text(self) -> str:
        """Say which folder or shard is which part, and how many images it has."""
        here = [name for name in ("search", "test") if getattr(self, name) is None]
        train, val = ", ".join(["train", *here]), "test" if self.search is None else "search"
        used = {"train": train, ".": train, "val": val, "test": "test"}
        return "; ".join(
            f"{part.count} in {part.place} for {used[part.name]}" for part in self.parts
        )


def read_source(name: str, root: Path | None, shard_image: str | None = None) -> Source:
    """Open `digits`, `cifar10`, a folder of images or a pattern of shards.

    `shard_image` is the field of a shard's sample that is its image. Raises `UserError` when the
    source cannot be used.
    """
    if not name:
        raise UserError("--data is missing: this preset has no data of its own; give a folder")
    if name == "digits":
        return _digits()
    if name == "cifar10":
        return _cifar10(root or Path.home() / ".cache" / "torchvision")
    if is_pattern(name):
        return _shards(name, shard_image)
    return _folder(Path(name).expanduser())


def _digits() -> Source:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 in 0..16."""
    grey, labels = load_digits(return_X_y=True)
    grey = torch.from_numpy(np.round(grey * (255 / 16)).astype(np.uint8)).reshape(-1, 1, 8, 8)
    images = grey.expand(-1, 3, -1, -1).contiguous()
    everything = np.arange(len(labels))
    classes = tuple(map(str, range(10)))
    return Source(InMemory(images), labels.astype(np.int64), classes, everything, None, None)


def _cifar10(root: Path) -> Source:
    """CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 images of 32 x 32, fetched when missing."""
    try:
        try:
            parts = [CIFAR10(root, train) for train in (True, False)]
        except RuntimeError:  # torchvision's way to say that the files are not there
            parts = [CIFAR10(root, train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{root}: CIFAR-10 is not there and cannot be downloaded ({type(error).__name__});"
            " put cifar-10-python.tar.gz there, or use --preset digits"
        ) from error
    pixels = torch.from_numpy(np.concatenate([part.data for part in parts])).permute(0, 3, 1, 2)
    labels = np.concatenate([part.targets for part in parts])
    train, test = np.split(np.arange(len(labels)), [len(parts[0].data)])
    images = InMemory(pixels.contiguous())
    return Source(images, labels.astype(np.int64), tuple(parts[0].classes), train, None, test)


def _folder(root: Path) -> Source:
    """`train/<class>/` with `val/` and/or `test/`, or one folder of classes."""
    if not root.is_dir():
        fault = "a file, not a folder or .tar" if root.is_file() else "no such folder"
        raise UserError(f"{root}: {fault}; expected digits, cifar10 or a folder of images")
    found = labelled_images(root)
    names = [one for part in found.images.values() for own in part.values() for one in own]
    counts = [[len(part[name]) for name in found.classes] for part in found.images.values()]
    labels = np.concatenate([np.repeat(np.arange(len(own)), own) for own in counts])
    places = [f"{name or root.resolve().name}/" for name in found.parts.values()]
    parts = [Part(*part) for part in zip(found.parts, places, map(sum, counts), strict=True)]
    images = OnDisk(root, PackedTexts.of(names))
    return _parted(images, labels, found.classes, parts, found.notes)


def _parted(
    images: Pixels,
    labels: np.ndarray,
    classes: tuple[str, ...],
    parts: Sequence[Part],
    notes: Sequence[str],
) -> Source:
    """Part images that stand in the order of `parts`: one, or train with val and/or test."""
    positions = np.split(np.arange(len(labels)), np.cumsum([part.count for part in parts])[:-1])
    found = dict(zip((part.name for part in parts), positions, strict=True))
    val, test = found.get("val"), found.get("test")
    search, test = (None, val) if test is None else (val, test)
    labels = labels.astype(np.int64)
    return Source(images, labels, classes, positions[0], search, test, tuple(parts), tuple(notes))


def _shards(pattern: str, wanted: str | None) -> Source:
    """Shards called train, val and/or test, or one set of shards."""
    named = shards_of(pattern)
    shards = [path for paths in named.values() for path in paths]
    index = read_index(shards, wanted)
    counts = np.bincount(index.places[:, 0], minlength=len(shards))
    shares = np.split(counts, np.cumsum([len(paths) for paths in named.values()])[:-1])
    parts = [
        Part(part, shards_text(paths), int(own.sum()))
        for (part, paths), own in zip(named.items(), shares, strict=True)
    ]
    folders = [shards[0].parent, around(shards)]
    classes = named_classes(folders, index.labels, index.labels[: parts[0].count])
    images = InShards(shards, torch.from_numpy(index.places))
    return _parted(images, index.labels, classes, parts, index.left_aside())
