"""The samples of one tar shard, by WebDataset's rule for their names."""

import functools
import posixpath
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from torchvision.datasets.folder import IMG_EXTENSIONS

from base.errors import UserError
from kd.layout.litter import is_litter

LABEL = "cls"
# Of a sample's images the first of these is taken: masks and the like are seldom photographs.
IMAGES = ("jpg", "jpeg", *sorted({suffix[1:] for suffix in IMG_EXTENSIONS} - {"jpg", "jpeg"}))
MOST_CLASSES = 1_000_000  # a number beyond is a slip, not a class
UNLABELLED = -1  # in place of a class's number
LONGEST_LABEL = 64  # bytes
BLOCK = 1 << 20
MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

Place = tuple[int, int]  # offset and size in bytes
Fields = Mapping[str, str]  # of a sample: what follows the first dot -> name of the member


class Sample(NamedTuple):
    """One image of a shard."""

    key: str
    label: int  # UNLABELLED where none was asked for
    place: Place
    field: str  # jpg of 000017.jpg
    others: tuple[str, ...]  # fields that are passed over


@dataclass(frozen=True)
class Contents:
    """What lies in a shard: samples such as 000017, with fields jpg and cls, in its order."""

    path: Path
    samples: Mapping[str, Fields]
    places: Mapping[str, Place | str]  # by a member's name: where it lies, or what it links to
    litter: int  # members that nobody means

    def place(self, name: str) -> Place:
        """Return where a member lies, whatever it links to; raise `UserError` for a dead link."""
        seen, at = set(), name
        while isinstance(found := self.places.get(at), str) and at not in seen:
            seen.add(at)
            at = found
        if not isinstance(found, tuple):
            raise UserError(
                f"{self.path}: {name} links to {self.places[name]}, which is no file in it; make it"
                " again with tar --dereference"
            )
        return found


def read_contents(path: Path) -> Contents:
    """Read the headers of a shard; raise `UserError` for one that is damaged, or no plain tar."""
    samples: dict[str, dict[str, str]] = defaultdict(dict)
    places: dict[str, Place | str] = {}
    litter = 0
    for member in _members(path):
        name = posixpath.normpath(member.name)
        folder, file = posixpath.split(name)
        if is_litter(file) or _is_inside_litter(folder):
            litter += 1
            continue
        stem, _, field = file.partition(".")
        key, field = posixpath.join(folder, stem), field.lower()
        if field and field in samples[key]:
            raise UserError(
                f"{path}: sample {key} has {field} twice; every sample needs a name of its own"
            )
        samples[key][field] = name
        places[name] = _place_or_link(path, member, name)
    return Contents(path, samples, places, litter)


@functools.cache
def _is_inside_litter(folder: str) -> bool:
    return any(part != ".." and is_litter(part) for part in folder.split("/"))


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    """All files and links of a tar; no end, or more behind it, means that something is lost."""
    try:
        with path.open("rb") as file:
            _refuse_compressed(path, file)
            with tarfile.open(fileobj=file, mode="r:") as shard:
                yield from (member for member in shard if member.isfile() or _is_link(member))
                file.seek(shard.offset)
                end = file.read(tarfile.BLOCKSIZE)
            if len(end) < tarfile.BLOCKSIZE:
                raise UserError(f"{path}: cut off: a tar has an end; make it again")
            while end:
                if end.strip(b"\0"):
                    raise UserError(
                        f"{path}: no whole tar of samples (more behind its end: damaged, or several"
                        " in one file); make it again"
                    )
                end = file.read(BLOCK)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise UserError(f"{path}: no whole tar of samples ({error}); make it again") from error


def _refuse_compressed(path: Path, file: BinaryIO) -> None:
    head = file.read(max(map(len, MAGIC)))
    file.seek(0)
    if kind := next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), None):
        raise UserError(
            f"{path}: compressed with {kind}, but images are read where they lie; unpack it to a "
            "plain .tar, which is hardly larger: images are compressed already"
        )


def _is_link(member: tarfile.TarInfo) -> bool:
    return member.issym() or member.islnk()


def _place_or_link(path: Path, member: tarfile.TarInfo, name: str) -> Place | str:
    if member.issparse():
        raise UserError(f"{path}: {name} is sparse; make it again without tar --sparse")
    if member.issym():
        return posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
    if member.islnk():
        return posixpath.normpath(member.linkname)
    return member.offset_data, member.size


def samples_in(
    contents: Contents, wanted: str | None, *, labelled: bool
) -> tuple[list[Sample], list[str]]:
    """Return the images of a shard in its order, and the fields of what is no sample.

    The image of a sample is `wanted`, or the first of `IMAGES`. Raises `UserError` for an image
    without a class where it needs one, for a class without an image, and for a shard without
    images.
    """
    path, images = contents.path, (wanted,) if wanted else IMAGES
    found, no_samples = [], []
    with path.open("rb") as file:
        for key, fields in contents.samples.items():
            field = next((field for field in images if field in fields), None)
            if labelled and not (field and LABEL in fields) and any(map(_is_meant, fields)):
                fault = f"{key} has no image with its .{LABEL}"
                raise UserError(f"{path}: {fault}{_what_is_there(key, fields, wanted)}")
            if field:
                label = _label(contents, file, key) if labelled else UNLABELLED
                others = tuple(other for other in fields if other not in (field, LABEL))
                found.append(Sample(key, label, contents.place(fields[field]), field, others))
            else:
                no_samples += fields
    if not found:
        key, fields = next(iter(contents.samples.items()), ("000017", {}))
        raise UserError(f"{path}: no image in it{_what_is_there(key, fields, wanted)}")
    return found, no_samples


def _is_meant(field: str) -> bool:
    """Whether a field is an image or a class, though perhaps of a sample with dots in its name."""
    return field.rpartition(".")[2] in (*IMAGES, LABEL)


def _what_is_there(key: str, fields: Fields, wanted: str | None) -> str:
    """Say what a sample has in place of an image and its class, and what the mend is likely to be.

    It ends a line.
    """
    there = f", only {', '.join(sorted(fields)[:5])}" if fields else ""
    if wanted and wanted not in fields:
        return f"{there}; --shard-image {wanted} is none of them"
    if dotted := next((f for f in sorted(fields) if "." in f and f.endswith(IMAGES)), None):
        return (
            f"{there}; a sample's name ends at its first dot: name {key} without dots, or take "
            f"{dotted} with --shard-image {dotted}"
        )
    if LABEL not in fields and not fields.keys().isdisjoint(IMAGES):
        return f"{there}; classes are read from {key}.{LABEL}, a text file with a number"
    return f"{there}; expected such as 000017.jpg and 000017.{LABEL}"


def _label(contents: Contents, file: BinaryIO, key: str) -> int:
    name = contents.samples[key][LABEL]
    offset, size = contents.place(name)
    file.seek(offset)
    text = file.read(min(size, LONGEST_LABEL)).decode("utf-8-sig", "replace").strip()
    if not re.fullmatch(r"[+-]?\d+", text, re.ASCII):
        raise UserError(
            f"{contents.path}: {name} holds {text[:20]!r}, expected the number of its class"
        )
    if not 0 <= (label := int(text)) < MOST_CLASSES:
        raise UserError(
            f"{contents.path}: {key} is of class {label}, expected 0 to {MOST_CLASSES - 1}"
        )
    return label
