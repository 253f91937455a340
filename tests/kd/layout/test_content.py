"""A change in what files hold is seen; how they were copied, and when, does not matter."""

import os
from itertools import pairwise
from pathlib import Path

import pytest

from base.errors import UserError
from kd.layout.content import PIECE, SAMPLED, content_digest, sampled


def test_all_of_few_are_looked_at_and_an_even_sample_of_many() -> None:
    assert sampled(SAMPLED) == list(range(SAMPLED))
    assert sampled(0) == []
    many = sampled(1_200_000)
    assert len(set(many)) == SAMPLED
    assert (many[0], many[-1]) == (0, 1_199_999)
    gaps = {after - before for before, after in pairwise(many)}
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("size", [1, PIECE, PIECE + 1, 3 * PIECE, 9 * PIECE])
def test_a_turned_bit_at_start_middle_and_end_is_seen(tmp_path: Path, size: int) -> None:
    path, content = tmp_path / "a", os.urandom(size)
    found = set()
    for place in (None, 0, size // 2, size - 1):
        changed = bytearray(content)
        if place is not None:
            changed[place] ^= 1
        path.write_bytes(b"before" + changed + b"behind")
        found.add(content_digest([(path, 6, size)]))
    assert len(found) == len({None, 0, size // 2, size - 1})


def test_every_byte_of_a_small_image_counts(tmp_path: Path) -> None:
    path, content, found = tmp_path / "a", bytes(3 * PIECE), set()
    for place in range(0, 3 * PIECE, 997):
        changed = bytearray(content)
        changed[place] = 1
        path.write_bytes(changed)
        found.add(content_digest([(path, 0, len(content))]))
    assert len(found) == len(range(0, 3 * PIECE, 997))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png: cannot be read \(No such file or directory\)"):
        content_digest([(tmp_path / "gone.png", 0, 1)])
