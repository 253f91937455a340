"""The same image, byte for byte, in the test split and in what is learned from."""

import hashlib
import os
from pathlib import Path

import numpy as np

from base.errors import UserError
from kd.images.pixels import Appended, InShards, OnDisk, Pixels

# Together they keep it below a second.
MOST_SIZED, MOST_READ, MOST_BYTES = 60_000, 3_000, 1 << 27


def leaked(images: Pixels, learned: np.ndarray, test: np.ndarray) -> str | None:
    """Say how many of the images at positions `test` are at positions `learned` too.

    Only files of one size can be, so those are read: of the rarest sizes first, and at most
    `MOST_READ` of them or `MOST_BYTES`. Of more images than `MOST_SIZED` every second, third … is
    looked at. Raises `UserError` for a file that cannot be read.
    """
    step = -(-(len(learned) + len(test)) // MOST_SIZED)
    learned, test = learned[::step], test[::step]
    try:
        alike, sizes = _alike(images, learned, test)
        read = alike[: min(MOST_READ, np.searchsorted(np.cumsum(sizes), MOST_BYTES, side="right"))]
        hashes = {at: _hash(images, at) for at in read.tolist()}
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot be read ({error.strerror}); repair or remove it"
        ) from error
    known = {hashes[at] for at in hashes.keys() & learned.tolist()}
    twice = [at for at in test.tolist() if hashes.get(at) in known]
    if not twice:
        return None
    part = f" ({len(read)} of {len(alike)} files of like size were read)" * (len(read) < len(alike))
    return (
        f"duplicates: {len(twice)} of {len(test)} test images are learned from too, byte for byte, "
        f"for one in {_place(images, twice[0])[0]}; accuracy on them says nothing{part}"
    )


def _alike(images: Pixels, learned: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return positions and sizes of files whose size is on both sides, those of the rarest first.

    Files of one size come from both sides by turns.
    """
    known, asked = _sizes(images, learned), _sizes(images, test)
    both, sizes = np.concatenate([learned, test]), np.concatenate([known, asked])
    shared = np.intersect1d(known, asked)
    kept = np.flatnonzero(np.isin(sizes, shared[shared > 0]))
    _, group, counts = np.unique(sizes[kept], return_inverse=True, return_counts=True)
    turn = np.concatenate([np.linspace(0, 1, len(side)) for side in (known, asked)])
    order = kept[np.lexsort((turn[kept], sizes[kept], counts[group]))]
    return both[order], sizes[order]


def _sizes(images: Pixels, positions: np.ndarray) -> np.ndarray:
    """Return the bytes of the files at `positions`; 0 for those in memory."""
    sizes = np.zeros(len(positions), dtype=np.int64)
    match images:
        case OnDisk(root, names):
            known, folder = list(names), os.open(root, os.O_RDONLY)
            try:
                sizes[:] = [os.stat(known[at], dir_fd=folder).st_size for at in positions.tolist()]
            finally:
                os.close(folder)
        case InShards(_, places):
            sizes[:] = places[positions, 2]
        case Appended(first, count, second):
            own = positions < count
            sizes[own] = _sizes(first, positions[own])
            sizes[~own] = _sizes(second, positions[~own] - count)
    return sizes


def _hash(images: Pixels, at: int) -> bytes:
    path, start, size = _place(images, at)
    with path.open("rb") as file:
        file.seek(start)
        return hashlib.sha256(file.read(size)).digest()


def _place(images: Pixels, at: int) -> tuple[Path, int, int]:
    """Return in which file an image lies, at which byte, and of how many bytes; -1 for the rest."""
    match images:
        case OnDisk(root, names):
            return root / names[at], 0, -1
        case InShards(shards, places):
            shard, start, size = places[at].tolist()
            return shards[shard], start, size
        case Appended(first, count, second):
            return _place(first, at) if at < count else _place(second, at - count)
    raise TypeError(f"{images}: in no file")
