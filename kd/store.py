"""Stored teacher outputs: for every view of every image its seed and the teacher's probabilities.

A step with them costs no teacher (FKD: Shen & Xing 2021, arXiv:2112.01528; TinyViT: Wu et al. 2022,
arXiv:2207.10666). They belong to one teacher, one data set and one augmentation, which are named
beside them.
"""

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset
from tqdm import tqdm

from export.errors import UserError
from export.files import first_difference, read_json, write_json
from kd.data import Split, batches

SAVE_EVERY = 50  # batches

Probabilities = Callable[[Tensor], Tensor]
Arrays = dict[str, np.memmap]


def size_text(size: int) -> str:
    """Say bytes in the unit that suits them."""
    for unit in ("KiB", "MiB"):
        size /= 1024
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} GiB"


@dataclass(frozen=True)
class Shape:
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
        """Bytes of all arrays."""
        arrays = self.arrays().values()
        return sum(np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in arrays)

    def __str__(self) -> str:
        """Say the size and what is in it."""
        kept = "" if self.kept == self.classes else f"the {self.kept} largest of "
        return (
            f"{size_text(self.size)}: {self.views} views of {self.images} images and the plain "
            f"ones, {kept}{self.classes} probabilities each"
        )


def shape_of(split: Split, views: int, classes: int, most: int) -> Shape:
    """Return what is stored of `split` when at most `most` probabilities of an image are kept."""
    return Shape(views, len(split), classes, min(classes, most))


@dataclass(frozen=True, eq=False)
class Targets:
    """Opened outputs of one split, or of several that were joined."""

    shapes: tuple[Shape, ...]
    arrays: tuple[Arrays, ...]

    @property
    def views(self) -> int:
        """How many augmented versions of every image are stored."""
        return self.shapes[0].views

    def rows(self, view: int | None, index: Tensor, images: Tensor | None = None) -> Tensor:
        """Probabilities [B, K] float32 of images `index` [B] in version `view`.

        What was not kept is spread evenly over the other classes. The images themselves are not
        looked at.
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


def _whole(arrays: Arrays, shape: Shape, row: int, positions: np.ndarray) -> np.ndarray:
    kept = arrays["probabilities"][row, positions].astype(np.float32)
    if shape.kept == shape.classes:
        return kept
    rest = np.clip(1 - kept.sum(axis=1, keepdims=True), 0, None) / (shape.classes - shape.kept)
    whole = np.repeat(rest, shape.classes, axis=1)
    np.put_along_axis(whole, arrays["classes"][row, positions].astype(np.int64), kept, axis=1)
    return whole


def join_targets(a: Targets, b: Targets) -> Targets:
    """Rows of `a` then of `b`, as `kd.data.join` numbers the images."""
    assert a.views == b.views
    return Targets(a.shapes + b.shapes, a.arrays + b.arrays)


def store_targets(
    probabilities: Probabilities,
    split: Split,
    shape: Shape,
    folder: Path,
    identity: Mapping[str, str],
    batch: int = 256,
    workers: int = 0,
    description: str | None = None,
) -> Targets:
    """Run the teacher, images [B, 3, R, R] -> [B, K], on every view of `split`, and store it.

    `identity` says what the outputs depend on. The folder appears when it is whole, and a writer
    that was interrupted goes on where it was. Raises `UserError` for outputs that are not finite,
    and where the disk has no room.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    facts = {"identity": dict(identity), "shape": asdict(shape), "batch": batch}
    total = (shape.views + 1) * math.ceil(len(split) / batch)
    try:
        done = _begun(partial, facts, shape, split)
        arrays = _open(partial, shape, "r+")
        with tqdm(desc=description, total=total, initial=done, disable=not description) as bar:
            for row, index, found in _outputs(probabilities, split, shape, done, batch, workers):
                _write(arrays, row, index, found)
                bar.update()
                done += 1  # the bar does not count where it is not shown
                if done % SAVE_EVERY == 0:
                    _save(partial, arrays, {**facts, "done": done})
        _save(partial, arrays, facts)
        write_json(partial / "targets.json", {**facts, "sha256": _digests(partial, shape)})
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot hold the teacher's outputs ({error.strerror}), {shape}; make room "
            "and run the same command again, or store fewer: --views, --most-classes"
        ) from error
    return open_targets(folder, identity)


def _begun(partial: Path, facts: Mapping, shape: Shape, split: Split) -> int:
    """Return how many batches are stored already; make room for all when none is."""
    whole = (shape.views + 1) * math.ceil(len(split) / facts["batch"])
    done = _left_by_another(partial, facts, shape, whole)
    if done is not None:
        return done
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, (dtype, size) in shape.arrays().items():
        path = partial / f"{name}.npy"
        np.lib.format.open_memmap(path, "w+", dtype, size)
        # A page of a mapped file that the disk has no room for would kill the process.
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    arrays = _open(partial, shape, "r+")
    for view in range(shape.views):
        arrays["seeds"][view] = split.view(view).view_seeds()
    _save(partial, arrays, {**facts, "done": 0})
    return 0


def _left_by_another(partial: Path, facts: Mapping, shape: Shape, whole: int) -> int | None:
    """Return how many of `whole` batches a writer that was interrupted has left.

    None where there is nothing, or nothing that could be continued.
    """
    try:
        begun = read_json(partial / "targets.json")
        _open(partial, shape, "r")
    except (UserError, OSError, ValueError):
        return None
    # Without "done" all were, and only hashes and the folder's name were still to be given.
    done = begun.pop("done", whole)
    begun.pop("sha256", None)
    same = first_difference(begun, dict(facts)) is None
    return done if same and isinstance(done, int) and 0 <= done <= whole else None


def _outputs(
    probabilities: Probabilities, split: Split, shape: Shape, done: int, batch: int, workers: int
) -> Iterator[tuple[int, np.ndarray, Tensor]]:
    """(row, index [B], probabilities [B, K]) of all batches after the first `done`."""
    a_row = math.ceil(len(split) / batch)
    for row in range(done // a_row, shape.views + 1):
        first = max(0, done - row * a_row) * batch
        view = split.view(row if row < shape.views else None)
        left = Subset(view, range(first, len(split)))
        for images, _, index in batches(left, batch, None, workers):
            found = probabilities(images)
            if not found.isfinite().all():
                raise UserError(
                    f"teacher: its outputs for image {int(index[0])} and those after it are not "
                    "finite; check its checkpoint, --teacher-mean and --teacher-std"
                )
            yield row, index.numpy(), found


def _write(arrays: Arrays, row: int, index: np.ndarray, probabilities: Tensor) -> None:
    if "classes" in arrays:
        probabilities, classes = probabilities.topk(arrays["classes"].shape[2], dim=1)
        arrays["classes"][row, index] = classes.cpu().numpy()
    arrays["probabilities"][row, index] = probabilities.half().cpu().numpy()


def _save(partial: Path, arrays: Arrays, facts: Mapping) -> None:
    """The arrays first: the file that says how much is done must not be ahead of them."""
    for array in arrays.values():
        array.flush()
    write_json(partial / "targets.json", facts)


def stored_identity(folder: Path) -> dict[str, str]:
    """Return what stored outputs depend on; raise `UserError` where they do not say it."""
    identity = read_json(folder / "targets.json").get("identity")
    if not isinstance(identity, dict):
        raise UserError(f"{folder}: damaged: no identity in targets.json; remove the folder")
    return identity


def open_targets(folder: Path, identity: Mapping[str, str]) -> Targets:
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
        shape = Shape(**facts["shape"])
        arrays = _open(folder, shape, "r")
        digests = _digests(folder, shape)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: not whole ({error}); remove the folder") from error
    if facts.get("sha256") != digests:
        raise UserError(f"{folder}: damaged, not what was written there; remove the folder")
    return Targets((shape,), (arrays,))


def _open(folder: Path, shape: Shape, mode: str) -> Arrays:
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


def _digests(folder: Path, shape: Shape) -> dict[str, str]:
    """Hash what `_open` would map; NumPy's format itself would not notice that a bit has turned."""
    found = {}
    for name in shape.arrays():
        with (folder / f"{name}.npy").open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
