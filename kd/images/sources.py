"""Where images come from: digits inside scikit-learn, CIFAR-10, folders of images, shards."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, ImageFolder

from base.errors import UserError
from kd.images.pixels import InMemory, InShards, OnDisk, PackedTexts, Pixels
from kd.layout.shards import class_names, is_pattern, read_index, shards_of


@dataclass(frozen=True, eq=False)
class Source:
    """Every labelled image; `search` and `test` are None where the source sets none apart."""

    images: Pixels
    labels: np.ndarray  # [N] int64
    classes: tuple[str, ...]
    train: np.ndarray  # positions
    search: np.ndarray | None
    test: np.ndarray | None


def read_source(name: str, root: Path | None) -> Source:
    """Open `digits`, `cifar10`, a folder of images or a pattern of shards.

    Raises `UserError` when it cannot be used.
    """
    if not name:
        raise UserError("--data is missing: this preset has no data of its own; give a folder")
    if name == "digits":
        return _digits()
    if name == "cifar10":
        return _cifar10(root or Path.home() / ".cache" / "torchvision")
    if is_pattern(name):
        return _shards(name)
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
        raise UserError(f"{root}: no such folder; expected digits, cifar10 or a folder of images")
    split = (root / "train").is_dir()
    names = ["train", *(n for n in ("val", "test") if (root / n).is_dir())] if split else ["."]
    parts = {name: _image_folder(root / name) for name in names}
    classes = parts[names[0]].classes
    for name in names[1:]:
        if differing := sorted(set(classes) ^ set(parts[name].classes)):
            raise UserError(
                f"{root}: {', '.join(differing[:5])} not in both train and {name};"
                " every part needs the same class folders"
            )
    if len(classes) < 2:
        raise UserError(f"{root}: one class ({classes[0]}), expected two or more class folders")
    _refuse_twins(root, classes)
    samples = [sample for part in parts.values() for sample in part.samples]
    paths = PackedTexts.of(str(Path(path).relative_to(root)) for path, _ in samples)
    labels = np.array([label for _, label in samples], dtype=np.int64)
    sizes = [len(part) for part in parts.values()]
    return _parted(OnDisk(root, paths), labels, tuple(classes), names, sizes)


def _parted(
    images: Pixels,
    labels: np.ndarray,
    classes: tuple[str, ...],
    names: Sequence[str],
    sizes: Sequence[int],
) -> Source:
    """Part images that stand in the order of `names`: one, or train with val and/or test."""
    positions = np.split(np.arange(len(labels)), np.cumsum(sizes)[:-1])
    found = dict(zip(names, positions, strict=True))
    val, test = found.get("val"), found.get("test")
    search = None if test is None else val
    return Source(images, labels, classes, positions[0], search, val if test is None else test)


def _shards(pattern: str) -> Source:
    """Shards called train…, val… and/or test…, or one set of shards."""
    parts = shards_of(pattern)
    indices = {name: read_index(paths) for name, paths in parts.items()}
    shards = [path for paths in parts.values() for path in paths]
    labels = np.concatenate([index.labels for index in indices.values()])
    classes = class_names(shards[0].parent, labels)
    sizes = [len(index.labels) for index in indices.values()]
    firsts = np.cumsum([0, *(len(paths) for paths in parts.values())])
    places = [index.places.copy() for index in indices.values()]
    for part, first in zip(places, firsts[:-1], strict=True):
        part[:, 0] += first
    images = InShards(shards, torch.from_numpy(np.concatenate(places)))
    return _parted(images, labels, classes, list(parts), sizes)


def _refuse_twins(root: Path, classes: Sequence[str]) -> None:
    """Raise `UserError` for classes that differ in case only: one of them is a slip."""
    seen: dict[str, str] = {}
    for name in classes:
        if twin := seen.get(name.casefold()):
            raise UserError(
                f"{root}: classes {twin} and {name} differ in case only; merge or rename one"
            )
        seen[name.casefold()] = name


def refuse_loops(path: Path) -> None:
    """Raise `UserError` for a link to a folder that it lies in: its images would come again."""
    for folder, inside, _ in os.walk(path, followlinks=True):
        around = {(here := Path(folder).resolve()), *here.parents}
        for link in (Path(folder, name) for name in inside):
            if link.is_symlink() and link.resolve() in around:
                raise UserError(f"{link}: links to a folder that it lies in; remove the link")


def _image_folder(path: Path) -> ImageFolder:
    refuse_loops(path)
    try:
        return ImageFolder(path)
    except FileNotFoundError as error:
        reason = str(error).split(". Supported")[0].rstrip(".")
        raise UserError(
            f"{path}: {reason}; expected one folder of images for every class"
        ) from error
