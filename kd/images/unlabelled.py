"""Images without classes: the teacher alone says what is to be learned of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets.folder import IMG_EXTENSIONS

from base.errors import UserError
from kd.images.pixels import Appended, InShards, OnDisk, PackedTexts, Pixels
from kd.images.sources import Source
from kd.layout.shards import image_index, is_pattern, shards_named
from kd.layout.tar_samples import UNLABELLED
from kd.layout.tree import read_tree


def with_unlabelled(
    source: Source, name: str, shard_image: str | None = None
) -> tuple[Source, np.ndarray]:
    """Append the images of a folder or of shards to those of `source`; return their positions too.

    Whatever lies below the folder is taken, and `shard_image` of every sample of shards. Raises
    `UserError` when there is no image, or when the labelled images are among them: those of the
    test split would be learned from.
    """
    read = _shards(name, shard_image) if is_pattern(name) else _folder(Path(name).expanduser())
    images, count, notes = read
    if shared := _first_shared(_files(images), _files(source.images)):
        raise UserError(
            f"--unlabelled {name}: {shared} is in --data too, and may be a test image; give other "
            "images"
        )
    labels = np.append(source.labels, np.full(count, UNLABELLED))
    known = len(source.labels)
    notes = (*source.notes, *(f"unlabelled: {note}" for note in notes))
    images = Appended(source.images, known, images)
    return replace(source, images=images, labels=labels, notes=notes), known + np.arange(count)


def _files(images: Pixels) -> list[Path]:
    """Return the files that images lie in."""
    match images:
        case OnDisk(root, names):
            return [root / name for name in names]
        case InShards(shards):
            return list(shards)
    return []


def _first_shared(own: Sequence[Path], others: Sequence[Path]) -> Path | None:
    known = {path.resolve() for path in others}
    return next((path for path in own if path.resolve() in known), None)


def _folder(root: Path) -> tuple[Pixels, int, list[str]]:
    if not root.is_dir():
        raise UserError(f"--unlabelled {root}: no such folder; expected a folder or shards")
    tree = read_tree(root)
    if not (names := sorted(tree.images(""), key=lambda name: name.split("/"))):
        known = ", ".join(IMG_EXTENSIONS)
        raise UserError(f"--unlabelled {root}: no image below it; expected files such as {known}")
    return OnDisk(root, PackedTexts.of(names)), len(names), tree.left_aside()


def _shards(pattern: str, wanted: str | None) -> tuple[Pixels, int, list[str]]:
    paths = shards_named(pattern)
    index = image_index(paths, wanted)
    places = torch.from_numpy(index.places)
    return InShards(paths, places), len(places), index.left_aside()
