"""Tar shards in WebDataset's layout: 000017.jpg and 000017.cls are one sample.

Samples are read where they lie, so any order costs the same, stored teacher outputs keep their
places, and nothing is unpacked. Indexing reads the headers once; the index is kept in the user's
cache.
"""

import hashlib
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from braceexpand import UnbalancedBracesError, braceexpand
from tqdm import tqdm

from base.errors import UserError
from base.processes import is_main_process
from base.tensor_files import read_tensors, write_tensors
from kd.layout.parts import part_of_shards
from kd.layout.tar_samples import IMAGES, Sample, read_contents, samples_in

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
MOST_NAMED = 5


@dataclass(frozen=True, eq=False)
class Index:
    """Where the images of some shards lie, in the order of the shards."""

    labels: np.ndarray  # [N] int64
    places: np.ndarray  # [N, 3] int64: number of the shard, offset and size in bytes
    counts: Mapping[str, Mapping[str, int]]  # of fields: those taken, and those passed over

    def left_aside(self) -> list[str]:
        """Say what the shards hold beside the samples' images and classes."""
        if not (others := self.counts["others"]):
            return []
        named = [f"{field} ({count})" for field, count in list(others.items())[:MOST_NAMED]]
        more = ", …" if len(others) > MOST_NAMED else ""
        taken = " or ".join(self.counts["taken"])
        return [f"left aside in shards: {', '.join(named)}{more}; images are {taken}"]


def is_pattern(name: str) -> bool:
    """Whether `name` means tar files, such as shards/train-{000..146}.tar; compressed ones too."""
    return name.lower().endswith((".tar", *COMPRESSED))


def shards_of(pattern: str) -> dict[str, list[Path]]:
    """Return the files that the pattern names, by part: train with val and/or test, or "." alone.

    A shard's name says its part, or that of its folder. Raises `UserError` for what is missing.
    """
    paths = shards_named(pattern)
    parts = part_of_shards(paths)
    if not parts:
        return {".": paths}
    if left := [path for path in paths if path not in parts]:
        known = next(path for path in paths if path in parts)
        raise UserError(
            f"{left[0]}: of no part, but {known.name} is of {parts[known]}; expected train, val or "
            "test in its name"
        )
    if len(named := set(parts.values())) == 1:
        return {".": paths}
    if "train" not in named:
        raise UserError(f"--data {pattern}: no shard's name says train")
    order = ("train", "val", "test")
    return {p: [path for path in paths if parts[path] == p] for p in order if p in named}


def shards_named(pattern: str) -> list[Path]:
    """Return the files that the pattern names; `UserError` for one that is missing, or twice."""
    try:
        paths = [Path(path).expanduser() for path in braceexpand(pattern)]
    except (UnbalancedBracesError, ValueError) as error:
        raise UserError(f"{pattern}: {error}; expected such as train-{{000..146}}.tar") from None
    if missing := [path for path in paths if not path.is_file()]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{missing[0]}: no such shard{more}; check the pattern {pattern}")
    files: dict[tuple[int, int], Path] = {}
    for path in paths:
        status = path.stat()
        if (first := files.setdefault((status.st_dev, status.st_ino), path)) is not path:
            again = f"{first} and {path} are one file" if first != path else f"{path} comes twice"
            raise UserError(f"{pattern}: {again}; name every shard once")
    return paths


def shards_text(paths: Sequence[Path]) -> str:
    """Name shards: the first, the last, and their number."""
    first, last = Path(paths[0].parent.name, paths[0].name), paths[-1].name
    return f"{first}" if len(paths) == 1 else f"{first} to {last} ({len(paths)} shards)"


def read_index(shards: Sequence[Path], wanted: str | None = None) -> Index:
    """Index `shards`, or find their index in the cache; raise `UserError` for damaged shards.

    `wanted` is the field that is the image, where it is not the first of `IMAGES`.
    """
    return _indexed(shards, wanted, labelled=True)


def image_index(shards: Sequence[Path], wanted: str | None = None) -> Index:
    """Index the images of `shards`; classes are not looked for, and are `UNLABELLED`."""
    return _indexed(shards, wanted, labelled=False)


def _indexed(shards: Sequence[Path], wanted: str | None, *, labelled: bool) -> Index:
    wanted = wanted and wanted.lower().removeprefix(".")
    kept = _cache_of(shards, f"{'labelled' if labelled else 'images'} {wanted or IMAGES}")
    if kept.exists():
        with suppress(UserError, KeyError):
            stored, _ = read_tensors(kept)
            counts = json.loads(stored["counts"].numpy().tobytes())
            return Index(stored["labels"].numpy(), stored["places"].numpy(), counts)
    index = _made_index(shards, wanted, labelled=labelled)
    counts = np.frombuffer(json.dumps(index.counts).encode(), dtype=np.uint8)
    arrays = {"labels": index.labels, "places": index.places, "counts": counts.copy()}
    try:
        write_tensors(kept, {name: torch.from_numpy(a) for name, a in arrays.items()}, {})
    except UserError as error:
        print(f"index of the shards: not kept for the next time: {error}", file=sys.stderr)
    return index


def _made_index(shards: Sequence[Path], wanted: str | None, *, labelled: bool) -> Index:
    samples: list[Sample] = []
    sizes: list[int] = []
    others: Counter[str] = Counter()
    for path in tqdm(shards, "index", unit="shard", disable=not is_main_process()):
        contents = read_contents(path)
        found, no_samples = samples_in(contents, wanted, labelled=labelled)
        samples += found
        sizes.append(len(found))
        others.update(no_samples)
        others["hidden"] += contents.litter
    if not wanted:
        _refuse_changing(shards[0].parent, samples)
    others.update(itertools.chain.from_iterable(sample.others for sample in samples))
    taken = Counter(sample.field for sample in samples)
    labels = np.array([sample.label for sample in samples], dtype=np.int64)
    places = np.array([sample.place for sample in samples], dtype=np.int64)
    numbered = np.column_stack([np.repeat(np.arange(len(shards)), sizes), places])
    named = {field or "without suffix": count for field, count in (+others).most_common()}
    return Index(labels, numbered, {"taken": dict(taken.most_common()), "others": named})


def _refuse_changing(folder: Path, samples: Sequence[Sample]) -> None:
    """Raise `UserError` where a field is the image of one sample, and beside that of another."""
    taken = {sample.field: sample.key for sample in samples}
    for sample in samples:
        if field := next((other for other in sample.others if other in taken), None):
            raise UserError(
                f"{folder}: sample {sample.key} has {sample.field} and {field}, {taken[field]} has "
                f"{field} alone; say which is the image: --shard-image {sample.field} or {field}"
            )


def _cache_of(shards: Sequence[Path], kind: str) -> Path:
    stats = [
        # Whoever copies a file may keep the time of its content, but not that of its entry.
        (str(path.resolve()), (s := path.stat()).st_size, s.st_mtime_ns, s.st_ctime_ns)
        for path in shards
    ]
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(repr((kind, stats)).encode()).hexdigest()[:32]
    return root / "oyster" / f"{name}.safetensors"
