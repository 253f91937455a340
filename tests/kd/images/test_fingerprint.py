"""What tells the images of a run from others: their content, wherever they are and since when."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import kd.layout.content
from kd.images.splits import DataSettings, load_data
from tests.kd.images.test_shards import cache, shard  # noqa: F401

COUNT, SIDE = 30, 12


def write(root: Path, count: int = COUNT) -> Path:
    """Two classes of images whose files are of one size, whatever they show."""
    draws = np.random.default_rng(0)
    for index in range(count):
        path = root / f"{index % 2}" / f"{index:04d}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
    return root


def print_of(source: Path) -> str:
    return load_data(DataSettings(str(source), resolution=(8, 8))).fingerprint()


def change(path: Path) -> None:
    """Invert the last pixels of an image; its file keeps size and time."""
    content, before = bytearray(path.read_bytes()), path.stat()
    content[-6:] = bytes(255 - value for value in content[-6:])
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("changed", [(0,), (COUNT - 1,), tuple(range(COUNT))])
def test_images_replaced_in_place_are_other_images(
    tmp_path: Path, changed: tuple[int, ...]
) -> None:
    before = print_of(write(tmp_path))
    for index in changed:
        change(tmp_path / f"{index % 2}" / f"{index:04d}.bmp")
    assert print_of(tmp_path) != before


def touched(root: Path, _: Path) -> Path:
    for path in root.rglob("*"):
        os.utime(path, (1, 1))
    return root


def copied(root: Path, elsewhere: Path) -> Path:
    return Path(shutil.copytree(root, elsewhere, copy_function=shutil.copyfile))


def linked(root: Path, elsewhere: Path) -> Path:
    elsewhere.symlink_to(root)
    return elsewhere


@pytest.mark.parametrize("treat", [touched, copied, linked, shutil.move])
def test_what_leaves_the_content_leaves_the_fingerprint(
    tmp_path: Path, treat: Callable[[Path, Path], Path]
) -> None:
    root = write(tmp_path / "data")
    before = print_of(root)
    assert print_of(Path(treat(root, tmp_path / "elsewhere"))) == before


def test_of_many_images_a_sample_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kd.layout.content, "SAMPLED", 10)
    before = print_of(write(tmp_path))
    for path in sorted(tmp_path.rglob("*.bmp"))[:6]:
        change(path)
    assert print_of(tmp_path) != before


def test_shards_replaced_in_place_are_other_images(tmp_path: Path) -> None:
    path = shard(tmp_path / "0.tar", range(24))
    before, first = print_of(path), load_data(DataSettings(str(path))).train.images.places[0]
    content, stat = bytearray(path.read_bytes()), path.stat()
    place = int(first[1] + first[2]) - 1
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert print_of(path) != before
    content[place] ^= 1
    path.write_bytes(content)
    assert print_of(path) == before


def test_classes_exchanged_in_a_shard_are_seen_whatever_its_time(tmp_path: Path) -> None:
    path = shard(tmp_path / "0.tar", range(24))
    before, stat = print_of(path), path.stat()
    content = path.read_bytes().replace(b"0\n\0", b"x\n\0").replace(b"1\n\0", b"0\n\0")
    path.write_bytes(content.replace(b"x\n\0", b"1\n\0"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert print_of(path) != before
