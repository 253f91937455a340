"""What files hold, told apart by a sample of it, which a copy or a new date does not change."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from base.errors import UserError

SAMPLED = 4096
PIECE = 2**14  # bytes at the start, in the middle and at the end of a large one


def sampled(count: int) -> list[int]:
    """Return the positions, evenly spaced, of those of `count` whose content is looked at."""
    return np.linspace(0, count - 1, min(count, SAMPLED)).astype(int).tolist()


def content_digest(places: Iterable[tuple[Path, int, int]]) -> bytes:
    """Hash what lies at each place: a file, offset and size in bytes.

    Of more than three pieces of 16 KiB, only start, middle and end are read. Raises `UserError`
    for a file that cannot be read.
    """
    digest = hashlib.sha256()
    for path, offset, size in places:
        try:
            with path.open("rb", buffering=0) as file:
                for start in sorted({0, max(0, size - PIECE) // 2, max(0, size - PIECE)}):
                    file.seek(offset + start)
                    digest.update(file.read(min(PIECE, size)))
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror}); repair or remove it"
            ) from error
    return digest.digest()
