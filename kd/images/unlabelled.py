"""Images without classes: the teacher alone says what is to be learned of them."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets.folder import IMG_EXTENSIONS

from base.errors import UserError
from kd.images.pixels import Appended, InShards, OnDisk, PackedTexts, Pixels
from kd.images.sources import Source, refuse_loops
from kd.layout.shards import UNLABELLED, image_places, is_pattern, shards_named


def with_unlabelled(source: Source, data: str, name: str) -> tuple[Source, np.ndarray]:
    """Append the images of a folder or of shards to those of `data`; return their positions too.

    Whatever lies below the folder is taken. Raises `UserError` when there is no image, or when the
    labelled images are among them: those of the test split would be learned from.
    """
    own = _paths(name)
    if shared := _first_shared(own, _paths(data)):
        raise UserError(
            f"--unlabelled {name}: {shared} is in --data too, and may be a test image; give other "
            "images"
        )
    images, count = _shards(own) if is_pattern(name) else _folder(Path(name).expanduser(), own)
    labels = np.append(source.labels, np.full(count, UNLABELLED))
    known = len(source.labels)
    appended = replace(source, images=Appended(source.images, known, images), labels=labels)
    return appended, known + np.arange(count)


def _paths(name: str) -> list[Path]:
    """Return the shards that `name` means, or the image files below a folder."""
    if is_pattern(name):
        return shards_named(name)
    root = Path(name).expanduser()
    refuse_loops(root)
    return sorted(_files(root))


def _files(root: Path) -> Iterator[Path]:
    for folder, inside, names in os.walk(root, followlinks=True):  # as torchvision's folders do
        inside[:] = [one for one in inside if not one.startswith(".")]
        for name in names:
            if name.lower().endswith(IMG_EXTENSIONS) and not name.startswith("."):
                yield Path(folder, name)


def _first_shared(own: Sequence[Path], others: Sequence[Path]) -> Path | None:
    known = {path.resolve() for path in others}
    return next((path for path in own if path.resolve() in known), None)


def _folder(root: Path, paths: Sequence[Path]) -> tuple[Pixels, int]:
    if not root.is_dir():
        raise UserError(f"--unlabelled {root}: no such folder; expected a folder or shards")
    if not paths:
        known = ", ".join(IMG_EXTENSIONS)
        raise UserError(f"--unlabelled {root}: no image below it; expected files such as {known}")
    names = PackedTexts.of(str(path.relative_to(root)) for path in paths)
    return OnDisk(root, names), len(paths)


def _shards(paths: Sequence[Path]) -> tuple[Pixels, int]:
    places = image_places(paths)
    return InShards(paths, torch.from_numpy(places)), len(places)
