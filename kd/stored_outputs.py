"""Stored teacher outputs: for every view of every image its seed and the teacher's probabilities.

A step with them costs no teacher (FKD: Shen & Xing 2021, arXiv:2112.01528; TinyViT: Wu et al. 2022,
arXiv:2207.10666). They belong to one teacher, one data set and one augmentation, which are named
beside them.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tokenize import TokenError

import numpy as np
import torch
from torch import Tensor

from base.errors import UserError
from base.files import read_json
from kd.images.rendering import Frame
from kd.images.splits import Split

Arrays = dict[str, np.memmap]


def size_text(size: int) -> str:
    """Say bytes in the unit that suits them."""
    for unit in ("KiB", "MiB"):
        size /= 1024
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} GiB"


@dataclass(frozen=True)
class StoredShape:
    """What is stored: `kept` of `classes` probabilities, for every view and for the plain image.

    Where not all are kept they are the largest ones, and their classes are stored beside them.
    """

    views: int
    images: int
    classes: int
    kept: int

    def arrays(self) -> dict[str, tuple[type, tuple[int, ...]]]:
        """Return dtype and shape of every file; the plain images are the last row."""
        rows = (self.views + 1, self.images, self.kept)
        found = {
            "probabilities": (np.float16, rows),
            "seeds": (np.uint32, (self.views, self.images)),
        }
        if self.kept < self.classes:
            found["classes"] = (np.uint16 if self.classes <= 2**16 else np.uint32, rows)
        return found

    @property
    def size(self) -> int:
        """Size of all arrays in bytes."""
        arrays = self.arrays().values()
        return sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in arrays)

    def __str__(self) -> str:
        """Say the size and what is in it."""
        kept = "" if self.kept == self.classes else f"the {self.kept} largest of "
        return (
            f"{size_text(self.size)}: {self.views} views of {self.images} images and the plain "
            f"ones, {kept}{self.classes} numbers each"
        )


def stored_shape(split: Split, views: int, classes: int, most: int) -> StoredShape:
    """Return what is stored of `split` when at most `most` probabilities of an image are kept."""
    return StoredShape(views, len(split), classes, min(classes, most))


@dataclass(frozen=True, eq=False)
class StoredOutputs:
    """Opened outputs of one split, or of several that were joined."""

    shapes: tuple[StoredShape, ...]
    arrays: tuple[Arrays, ...]
    frames: tuple[Frame, ...] = ()

    @property
    def views(self) -> int:
        """How many augmented versions of every image are stored."""
        return self.shapes[0].views

    def rows(self, view: int | None, index: Tensor, shown: Sequence[Tensor] = ()) -> Tensor:
        """Return probabilities [B, K] float32 of images `index` [B] in version `view`.

        What was not kept is spread evenly over the other classes. No image is looked at.
        """
        row = self.views if view is None else view
        assert view is None or 0 <= view < self.views, f"view {view} of {self.views}"
        positions, classes = index.numpy(), self.shapes[0].classes
        found = np.empty((len(positions), classes), dtype=np.float32)
        start = 0
        for shape, arrays in zip(self.shapes, self.arrays, strict=True):
            inside = (positions >= start) & (positions < start + shape.images)
            found[inside] = _whole(arrays, shape, row, positions[inside] - start)
            start += shape.images
        assert len(positions) == 0 or positions.max() < start
        return torch.from_numpy(found)


def _whole(arrays: Arrays, shape: StoredShape, row: int, positions: np.ndarray) -> np.ndarray:
    kept = arrays["probabilities"][row, positions].astype(np.float32)
    if shape.kept == shape.classes:
        return kept
    rest = np.clip(1 - kept.sum(axis=1, keepdims=True), 0, None) / (shape.classes - shape.kept)
    whole = np.repeat(rest, shape.classes, axis=1)
    np.put_along_axis(whole, arrays["classes"][row, positions].astype(np.int64), kept, axis=1)
    return whole


def join_outputs(parts: Sequence[StoredOutputs]) -> StoredOutputs:
    """Join the rows of all parts, as `kd.images.splits.join` numbers the images."""
    assert len({part.views for part in parts}) == 1
    shapes, arrays = zip(*((part.shapes, part.arrays) for part in parts), strict=True)
    return StoredOutputs(tuple(chain.from_iterable(shapes)), tuple(chain.from_iterable(arrays)))


def stored_identity(folder: Path) -> dict[str, str]:
    """Return what stored outputs depend on; raise `UserError` where they do not say it."""
    identity = read_json(folder / "targets.json").get("identity")
    if not isinstance(identity, dict):
        raise UserError(f"{folder}: damaged: no identity in targets.json; remove the folder")
    return identity


def open_outputs(folder: Path, identity: Mapping[str, str]) -> StoredOutputs:
    """Open stored outputs; raise `UserError` if they are of something else, damaged or not whole.

    All of them are read once, so that a bit that has turned is noticed.
    """
    facts, stored = read_json(folder / "targets.json"), stored_identity(folder)
    for field in sorted(stored.keys() | identity.keys()):
        if stored.get(field) != identity.get(field):
            raise UserError(
                f"{folder}: teacher outputs of another {field} ({stored.get(field)}, expected"
                f" {identity.get(field)}); remove the folder or use another --run"
            )
    try:
        shape = StoredShape(**facts["shape"])
        arrays = map_arrays(folder, shape, "r")
        digests = digests_of(folder, shape)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: not whole ({error}); remove the folder") from error
    if facts.get("sha256") != digests:
        raise UserError(f"{folder}: damaged, not what was written there; remove the folder")
    return StoredOutputs((shape,), (arrays,))


def map_arrays(folder: Path, shape: StoredShape, mode: str) -> Arrays:
    """Map every file; one that is empty, or of another dtype or shape, raises `ValueError`."""
    arrays = {}
    for name, (dtype, size) in shape.arrays().items():
        try:
            array = np.load(folder / f"{name}.npy", mmap_mode=mode, allow_pickle=False)
        except EOFError as error:
            raise ValueError(f"{name}.npy is empty") from error
        except (SyntaxError, TokenError) as error:
            raise ValueError(f"{name}.npy has no NumPy header") from error
        if (array.dtype, array.shape) != (dtype, size):
            raise ValueError(f"{name}.npy is {array.dtype} {list(array.shape)}")
        arrays[name] = array
    return arrays


def digests_of(folder: Path, shape: StoredShape) -> dict[str, str]:
    """Hash what `map_arrays` would map; NumPy's format would not notice that a bit has turned."""
    found = {}
    for name in shape.arrays():
        with (folder / f"{name}.npy").open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
