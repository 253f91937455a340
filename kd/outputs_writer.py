"""The writer of stored outputs: it runs the teacher once, and goes on where it was stopped."""

import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.data import Subset
from tqdm import tqdm

from base.errors import UserError
from base.files import first_difference, read_json, write_json
from kd.images.loader import batches
from kd.images.splits import Split
from kd.stored_outputs import (
    Arrays,
    StoredOutputs,
    StoredShape,
    digests_of,
    map_arrays,
    open_outputs,
)

SAVE_EVERY = 50  # batches


Probabilities = Callable[..., Tensor]


def store_outputs(
    probabilities: Probabilities,
    split: Split,
    shape: StoredShape,
    folder: Path,
    identity: Mapping[str, str],
    batch: int = 256,
    workers: int = 0,
    description: str | None = None,
) -> StoredOutputs:
    """Run the teacher on every view of `split`, shown in the teacher's frames, and store it.

    `probabilities` maps images [B, 3, H, W] of every frame to [B, K]. `identity` says
    what the outputs depend on. The folder appears when it is whole, and a writer that was
    interrupted goes on where it was. Raises `UserError` for outputs that are not finite, and where
    the disk has no room.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    facts = {"identity": dict(identity), "shape": asdict(shape), "batch": batch}
    total = (shape.views + 1) * math.ceil(len(split) / batch)
    try:
        done = _begun(partial, facts, shape, split)
        arrays = map_arrays(partial, shape, "r+")
        with tqdm(desc=description, total=total, initial=done, disable=not description) as bar:
            for row, index, found in _outputs(probabilities, split, shape, done, batch, workers):
                _write(arrays, row, index, found)
                bar.update()
                done += 1  # the bar does not count where it is not shown
                if done % SAVE_EVERY == 0:
                    _save(partial, arrays, {**facts, "done": done})
        _save(partial, arrays, facts)
        write_json(partial / "targets.json", {**facts, "sha256": digests_of(partial, shape)})
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot hold the teacher's outputs ({error.strerror}), {shape}; make room "
            "and run the same command again, or store fewer: --views, --most-classes"
        ) from error
    return open_outputs(folder, identity)


def _begun(partial: Path, facts: Mapping, shape: StoredShape, split: Split) -> int:
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
    arrays = map_arrays(partial, shape, "r+")
    for view in range(shape.views):
        arrays["seeds"][view] = split.view(view).view_seeds()
    _save(partial, arrays, {**facts, "done": 0})
    return 0


def _left_by_another(partial: Path, facts: Mapping, shape: StoredShape, whole: int) -> int | None:
    """Return how many of `whole` batches a writer that was interrupted has left.

    None where there is nothing, or nothing that could be continued.
    """
    try:
        begun = read_json(partial / "targets.json")
        map_arrays(partial, shape, "r")
    except (UserError, OSError, ValueError):
        return None
    # Without "done" all were, and only hashes and the folder's name were still to be given.
    done = begun.pop("done", whole)
    begun.pop("sha256", None)
    same = first_difference(begun, dict(facts)) is None
    return done if same and isinstance(done, int) and 0 <= done <= whole else None


def _outputs(
    probabilities: Probabilities,
    split: Split,
    shape: StoredShape,
    done: int,
    batch: int,
    workers: int,
) -> Iterator[tuple[int, np.ndarray, Tensor]]:
    """(row, index [B], probabilities [B, K]) of all batches after the first `done`."""
    a_row = math.ceil(len(split) / batch)
    for row in range(done // a_row, shape.views + 1):
        first = max(0, done - row * a_row) * batch
        view = split.view(row if row < shape.views else None)
        left = Subset(view, range(first, len(split)))
        for *shown, _, index in batches(left, batch, None, workers):
            found = probabilities(*shown)
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
