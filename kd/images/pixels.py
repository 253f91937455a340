"""Where pixels are read: from memory, from image files, from inside tar shards."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, Self

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional

from base.errors import UserError


class Pixels(Protocol):
    """All images of a source, by position."""

    def __getitem__(self, position: int) -> Tensor:
        """The image at `position`, uint8 RGB [3, h, w]."""
        ...

    def digest(self) -> bytes:
        """Return a hash that changes when the images do."""
        ...


@dataclass(frozen=True, eq=False)
class PackedTexts:
    """Many texts as two tensors: workers share their memory, whatever way they are started."""

    letters: Tensor  # [bytes] uint8
    ends: Tensor  # [N] int64

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """Keep `texts`."""
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        letters = np.frombuffer(b"".join(encoded), dtype=np.uint8).copy()
        ends = np.cumsum([len(one) for one in encoded], dtype=np.int64)
        return cls(torch.from_numpy(letters), torch.from_numpy(ends))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, position: int) -> str:
        if not 0 <= position < len(self):
            raise IndexError(position)
        start = int(self.ends[position - 1]) if position else 0
        letters = self.letters[start : int(self.ends[position])]
        return letters.numpy().tobytes().decode("utf-8", "surrogateescape")


@dataclass(frozen=True, eq=False)
class InMemory:
    """Images of one size, uint8 [N, 3, h, w]."""

    pixels: Tensor

    def __getitem__(self, position: int) -> Tensor:
        return self.pixels[position]

    def digest(self) -> bytes:
        """Hash of every pixel."""
        return hashlib.sha256(self.pixels.contiguous().numpy().data).digest()


@dataclass(frozen=True, eq=False)
class OnDisk:
    """Image files of any size; `names` [N] are paths relative to `root`."""

    root: Path
    names: PackedTexts

    def __getitem__(self, position: int) -> Tensor:
        path = self.root / self.names[position]
        try:
            with path.open("rb") as file:
                return decoded(file, str(path))
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror}); repair or remove it"
            ) from error

    def digest(self) -> bytes:
        """Hash of names and file sizes, so that a moved folder stays the same data."""
        sizes = [str((self.root / name).stat().st_size) for name in self.names]
        text = "\0".join([*self.names, *sizes])
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


@dataclass(frozen=True, eq=False)
class InShards:
    """Image files inside uncompressed tar files, read where they lie."""

    shards: Sequence[Path]
    places: Tensor  # [N, 3] int64: number of the shard, offset and size in bytes

    def __getitem__(self, position: int) -> Tensor:
        shard, offset, size = self.places[position].tolist()
        path = self.shards[shard]
        name = f"{path}, image at byte {offset}"
        try:
            with path.open("rb") as file:
                file.seek(offset)
                return decoded(io.BytesIO(file.read(size)), name)
        except OSError as error:
            raise UserError(f"{name}: cannot be read ({error.strerror})") from error

    def digest(self) -> bytes:
        """Hash of the shards' names and of where their images lie."""
        digest = hashlib.sha256("\0".join(path.name for path in self.shards).encode())
        digest.update(self.places.contiguous().numpy().data)
        return digest.digest()


@dataclass(frozen=True, eq=False)
class Appended:
    """The images of one source, `count` of them, and then those of another."""

    first: Pixels
    count: int
    second: Pixels

    def __getitem__(self, position: int) -> Tensor:
        if position < self.count:
            return self.first[position]
        return self.second[position - self.count]

    def digest(self) -> bytes:
        """Hash of both."""
        return hashlib.sha256(self.first.digest() + self.second.digest()).digest()


def decoded(file: BinaryIO, name: str) -> Tensor:
    """Decode the image in `file` as it is to be looked at, uint8 RGB [3, h, w].

    Raises `UserError`, which calls it `name`, when it cannot be decoded.
    """
    try:
        with Image.open(file) as image:
            return functional.pil_to_tensor(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # damage leads Pillow anywhere
        # Its message may quote the path again or run over several lines.
        kind = type(error).__name__
        raise UserError(f"{name}: not a readable image ({kind}); repair or remove it") from error
