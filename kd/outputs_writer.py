"""The writer of stored outputs: it runs the teacher once, and goes on where it was stopped."""

import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm import tqdm

from base.errors import UserError
from base.files import first_difference, read_json, write_json
from base.processes import (
    from_main_process,
    gather_dict,
    is_main_process,
    rank_shard,
    this_process,
)
from kd.images.loader import AnyView, drawn
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
Kept = dict[str, np.ndarray]  # what is kept of a batch, by the array's name
Stored = tuple[int, np.ndarray, Kept]  # row of the view, places of the images [B]


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
    what the outputs depend on. All processes share the batches, and the main one writes. The folder
    appears when it is whole, and a writer that was interrupted goes on where it was. Raises
    `UserError` for outputs that are not finite, and where the disk has no room.
    """
    unfinished = folder.with_name(f".{folder.name}.partial")
    facts = {"identity": dict(identity), "shape": asdict(shape), "batch": batch}
    numbers = range((shape.views + 1) * math.ceil(len(split) / batch))
    try:
        done = from_main_process(partial(_begun, unfinished, facts, shape, split))
        arrays = map_arrays(unfinished, shape, "r+") if is_main_process() else {}
        own = _outputs(probabilities, split, shape, rank_shard(numbers[done:]), batch, workers)
        quiet = not description or not is_main_process()
        with tqdm(desc=description, total=len(numbers), initial=done, disable=quiet) as bar:
            for found in _gathered(own, numbers[done:]):
                bar.update(len(found))
                done += len(found)
                if is_main_process():
                    _write(arrays, found)
                    if done % SAVE_EVERY < len(found):
                        _save(unfinished, arrays, {**facts, "done": done})
        from_main_process(partial(_finish, unfinished, folder, arrays, shape, facts))
    except OSError as error:
        raise UserError(
            f"{folder}: cannot hold the teacher's outputs ({error.strerror}), {shape}; make room "
            "and run the same command again, or store fewer: --views, --most-classes"
        ) from error
    return open_outputs(folder, identity)


def _begun(unfinished: Path, facts: Mapping, shape: StoredShape, split: Split) -> int:
    """Return how many batches are stored already; make room for all when none is."""
    whole = (shape.views + 1) * math.ceil(len(split) / facts["batch"])
    done = _left_by_another(unfinished, facts, shape, whole)
    if done is not None:
        return done
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for name, (dtype, size) in shape.arrays().items():
        path = unfinished / f"{name}.npy"
        np.lib.format.open_memmap(path, "w+", dtype, size)
        # A page of a mapped file that the disk has no room for would kill the process.
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    arrays = map_arrays(unfinished, shape, "r+")
    for view in range(shape.views):
        arrays["seeds"][view] = split.view(view).view_seeds()
    _save(unfinished, arrays, {**facts, "done": 0})
    return 0


def _left_by_another(
    unfinished: Path, facts: Mapping, shape: StoredShape, whole: int
) -> int | None:
    """Return how many of `whole` batches a writer that was interrupted has left.

    None where there is nothing, or nothing that could be continued.
    """
    try:
        begun = read_json(unfinished / "targets.json")
        map_arrays(unfinished, shape, "r")
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
    numbers: Sequence[int],
    batch: int,
    workers: int,
) -> Iterator[Stored]:
    """Yield what is kept of the batches `numbers`, which are counted view by view."""
    a_row = math.ceil(len(split) / batch)
    rows, starts = [n // a_row for n in numbers], [n % a_row * batch for n in numbers]
    chunks = (
        [(row if row < shape.views else None, i) for i in range(len(split))[start : start + batch]]
        for row, start in zip(rows, starts, strict=True)
    )
    items = drawn(AnyView(split), chunks, workers)
    for row, (*shown, _, index) in zip(rows, items, strict=True):
        found = probabilities(*shown)
        if not found.isfinite().all():
            raise UserError(
                f"teacher: its outputs for image {int(index[0])} and those after it are not "
                "finite; check its checkpoint, --teacher-mean and --teacher-std"
            )
        yield row, index.numpy(), _kept(found, shape)


def _kept(probabilities: Tensor, shape: StoredShape) -> Kept:
    """Return the largest probabilities, and their classes where not all are kept."""
    if shape.kept == shape.classes:
        return {"probabilities": probabilities.half().cpu().numpy()}
    largest, classes = probabilities.topk(shape.kept, dim=1)
    return {"probabilities": largest.half().cpu().numpy(), "classes": classes.cpu().numpy()}


def _gathered(own: Iterator[Stored], numbers: Sequence[int]) -> Iterator[list[Stored]]:
    """Yield what all processes have found, in the order of batches: one of each at a time."""
    done, together = 0, this_process().num_processes
    while done < len(numbers):
        mine = {n: next(own) for n in rank_shard(numbers[done : done + together])}
        found = gather_dict(mine)
        done += len(found)
        yield [found[n] for n in sorted(found)]


def _write(arrays: Arrays, found: Sequence[Stored]) -> None:
    for row, index, kept in found:
        for name, values in kept.items():
            arrays[name][row, index] = values


def _save(unfinished: Path, arrays: Arrays, facts: Mapping) -> None:
    """The arrays first: the file that says how much is done must not be ahead of them."""
    for array in arrays.values():
        array.flush()
    write_json(unfinished / "targets.json", facts)


def _finish(
    unfinished: Path, folder: Path, arrays: Arrays, shape: StoredShape, facts: Mapping
) -> None:
    """Give whole outputs their hashes and their folder its name."""
    _save(unfinished, arrays, facts)
    write_json(unfinished / "targets.json", {**facts, "sha256": digests_of(unfinished, shape)})
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
