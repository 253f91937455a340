"""Tar shards in WebDataset's layout: 000017.jpg and 000017.cls are one sample.

Samples are read where they lie, so any order costs the same, stored teacher outputs keep their
places, and nothing is unpacked. Indexing reads the headers once; the index is kept in the user's
cache.
"""

import hashlib
import os
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from braceexpand import UnbalancedBracesError, braceexpand
from torchvision.datasets.folder import IMG_EXTENSIONS
from tqdm import tqdm

from base.errors import UserError
from base.processes import is_main_process
from base.tensor_files import read_tensors, write_tensors

PARTS = ("train", "val", "test")
MOST_CLASSES = 1_000_000  # a number beyond is a slip, not a class
UNLABELLED = -1  # in place of a class's number
Place = tuple[int, int]  # offset and size in bytes
Sample = tuple[int, Place]  # its class, and where its image lies


@dataclass(frozen=True, eq=False)
class Index:
    """Where the images of some shards lie, in the order of the shards."""

    labels: np.ndarray  # [N] int64
    places: np.ndarray  # [N, 3] int64: number of the shard, offset and size in bytes


def is_pattern(name: str) -> bool:
    """Whether `name` means tar files, such as shards/train-{000..146}.tar."""
    return name.endswith(".tar")


def shards_of(pattern: str) -> dict[str, list[Path]]:
    """Return the files that the pattern names, by part: train with val and/or test, or "." alone.

    A shard belongs to the part that its name begins with. Raises `UserError` for what is missing.
    """
    paths = shards_named(pattern)
    parts = {part: [p for p in paths if p.name.startswith(part)] for part in PARTS}
    parts = {part: found for part, found in parts.items() if found}
    if len(parts) == 1 or not parts:
        return {".": paths}
    if left := [path for path in paths if not path.name.startswith(PARTS)]:
        raise UserError(f"{left[0]}: expected a name that begins with {', '.join(parts)}")
    if "train" not in parts:
        raise UserError(f"--data {pattern}: no shard's name begins with train")
    return parts


def shards_named(pattern: str) -> list[Path]:
    """Return the files that the pattern names; raise `UserError` for what is missing."""
    try:
        paths = [Path(path).expanduser() for path in braceexpand(pattern)]
    except (UnbalancedBracesError, ValueError) as error:
        raise UserError(f"{pattern}: {error}; expected such as train-{{000..146}}.tar") from None
    if missing := [path for path in paths if not path.is_file()]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{missing[0]}: no such shard{more}; check the pattern {pattern}")
    return paths


def read_index(shards: Sequence[Path]) -> Index:
    """Index `shards`, or find their index in the cache; raise `UserError` for damaged shards."""
    return _indexed(shards, _samples)


def image_places(shards: Sequence[Path]) -> np.ndarray:
    """Return where the images of `shards` lie [N, 3], as in `Index`; classes are not looked for."""
    return _indexed(shards, _images).places


def _indexed(shards: Sequence[Path], samples_of: Callable[[Path], Iterator[Sample]]) -> Index:
    kept = _cache_of(shards, samples_of.__name__)
    if kept.exists():
        with suppress(UserError, KeyError):
            stored, _ = read_tensors(kept)
            return Index(stored["labels"].numpy(), stored["places"].numpy())
    bar = tqdm(shards, desc="index", unit="shard", disable=not is_main_process())
    numbered = ((n, sample) for n, path in enumerate(bar) for sample in samples_of(path))
    samples = [(label, n, *place) for n, (label, place) in numbered]
    found = np.array(samples, dtype=np.int64).reshape(-1, 4)
    index = Index(found[:, 0].copy(), found[:, 1:].copy())
    try:
        write_tensors(kept, {name: torch.from_numpy(a) for name, a in asdict(index).items()}, {})
    except UserError as error:
        print(f"index of the shards: not kept for the next time: {error}", file=sys.stderr)
    return index


def _cache_of(shards: Sequence[Path], kind: str) -> Path:
    stats = [(str(path.resolve()), (s := path.stat()).st_size, s.st_mtime_ns) for path in shards]
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(repr((kind, stats)).encode()).hexdigest()[:32]
    return root / "oyster" / f"{name}.safetensors"


def _members(path: Path) -> tuple[dict[str, Place], dict[str, int]]:
    """Return images and classes of a shard by the samples' names, in its order."""
    images: dict[str, Place] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                name = PurePosixPath(member.name)
                key = str(name.parent / name.name.split(".")[0])
                if name.suffix.lower() in IMG_EXTENSIONS:
                    images[key] = (member.offset_data, member.size)
                elif name.suffix == ".cls":
                    labels[key] = int(shard.extractfile(member).read(20))
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise UserError(f"{path}: no whole tar of samples ({error}); make it again") from error
    return images, labels


def _images(path: Path) -> Iterator[Sample]:
    """No class and the image of every sample of a shard that has one."""
    images, _ = _members(path)
    if not images:
        raise UserError(f"{path}: no image in it; expected such as 000017.jpg")
    yield from ((UNLABELLED, place) for place in images.values())


def _samples(path: Path) -> Iterator[Sample]:
    """Class and image of every sample of a shard, in its order."""
    images, labels = _members(path)
    if not images or (odd := images.keys() ^ labels.keys()):
        sample = min(odd) if images else "it"
        expected = "expected such as 000017.jpg and 000017.cls"
        raise UserError(f"{path}: {sample} has no image with its .cls; {expected}")
    if wrong := [key for key, label in labels.items() if not 0 <= label < MOST_CLASSES]:
        raise UserError(
            f"{path}: {wrong[0]} is of class {labels[wrong[0]]}, expected 0 to {MOST_CLASSES - 1}"
        )
    yield from ((labels[key], place) for key, place in images.items())


def class_names(folder: Path, labels: np.ndarray) -> tuple[str, ...]:
    """Return the lines of classes.txt beside the shards, or the numbers of the classes.

    Raises `UserError` when it cannot be read or has too few lines, and for fewer than two classes.
    """
    path, count = folder / "classes.txt", int(labels.max()) + 1
    if len(np.unique(labels)) < 2:
        raise UserError(f"{folder}: classes {np.unique(labels)[:5].tolist()}; expected two or more")
    if not path.exists():
        return tuple(map(str, range(count)))
    try:
        names = tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read; expected one class name a line") from error
    if len(names) < count:
        raise UserError(f"{path}: {len(names)} lines, but the shards hold class {count - 1}")
    return names
