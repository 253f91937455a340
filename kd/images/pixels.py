"""Where pixels are read: from memory, from image files, from inside tar shards."""

import hashlib
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from base.errors import UserError
from base.size import Size
from kd.layout.content import content_digest, sampled
from kd.layout.rgb import upright_rgb

# From this value on, a camera's height is its picture's width.
ORIENTATION, SIDEWAYS = ExifTags.Base.Orientation, 5
LARGEST_REDUCTION = 0.5  # of a JPEG's sides that its decoder makes


class Picture(Protocol):
    """An image whose size is known before its pixels are decoded."""

    @property
    def size(self) -> Size:
        """Height and width, as it is to be looked at."""
        ...

    def pixels(self, share: float = 1.0) -> Tensor:
        """Return uint8 RGB [3, h, w] with at least this share of each side's pixels, or all."""
        ...


class Pixels(Protocol):
    """All images of a source, by position."""

    def picture(self, position: int) -> Picture:
        """Return the image at `position`."""
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

    def __iter__(self) -> Iterator[str]:
        letters, start = self.letters.numpy().tobytes(), 0
        for end in self.ends.tolist():
            yield letters[start:end].decode("utf-8", "surrogateescape")
            start = end

    def __getitem__(self, position: int) -> str:
        if not 0 <= position < len(self):
            raise IndexError(position)
        start = int(self.ends[position - 1]) if position else 0
        letters = self.letters[start : int(self.ends[position])]
        return letters.numpy().tobytes().decode("utf-8", "surrogateescape")


@dataclass(frozen=True, eq=False)
class Decoded:
    """An image whose pixels are there, uint8 RGB [3, h, w]."""

    whole: Tensor

    @property
    def size(self) -> Size:
        """Height and width."""
        return self.whole.shape[1], self.whole.shape[2]

    def pixels(self, share: float = 1.0) -> Tensor:
        """Return all of them."""
        return self.whole


@dataclass(frozen=True, eq=False)
class Encoded:
    """An image file that Pillow has opened; errors call it `name`."""

    image: Image.Image
    size: Size  # height and width, as it is to be looked at
    name: str

    def pixels(self, share: float = 1.0) -> Tensor:
        """Decode it; of a JPEG no more than a half, a quarter or an eighth where that is enough."""
        with readable(self.name):
            if share <= LARGEST_REDUCTION:
                self.image.draft(
                    None, tuple(math.ceil(share * side - 1e-6) for side in self.image.size)
                )
            return functional.pil_to_tensor(upright_rgb(self.image, self.name))


@dataclass(frozen=True, eq=False)
class InMemory:
    """Images of one size, uint8 [N, 3, h, w]."""

    pixels: Tensor

    def picture(self, position: int) -> Decoded:
        """Return the image at `position`."""
        return Decoded(self.pixels[position])

    def digest(self) -> bytes:
        """Hash of every pixel."""
        return hashlib.sha256(self.pixels.contiguous().numpy().data).digest()


@dataclass(frozen=True, eq=False)
class OnDisk:
    """Image files of any size; `names` [N] are paths relative to `root`."""

    root: Path
    names: PackedTexts

    def picture(self, position: int) -> Encoded:
        """Open the file at `position`."""
        path = self.root / self.names[position]
        try:
            return opened(path.read_bytes(), str(path))
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror}); repair or remove it"
            ) from error

    def digest(self) -> bytes:
        """Hash of names, file sizes and a sample of content: a moved folder is the same data."""
        names = list(self.names)
        sizes = [(self.root / name).stat().st_size for name in names]
        text = "\0".join([*names, *map(str, sizes)])
        places = ((self.root / names[i], 0, sizes[i]) for i in sampled(len(names)))
        content = content_digest(places)
        return hashlib.sha256(text.encode("utf-8", "surrogateescape") + content).digest()


@dataclass(frozen=True, eq=False)
class InShards:
    """Image files inside uncompressed tar files, read where they lie."""

    shards: Sequence[Path]
    places: Tensor  # [N, 3] int64: number of the shard, offset and size in bytes

    def picture(self, position: int) -> Encoded:
        """Open the file at `position`."""
        shard, offset, size = self.places[position].tolist()
        path = self.shards[shard]
        name = f"{path}, image at byte {offset}"
        try:
            with path.open("rb") as file:
                file.seek(offset)
                return opened(file.read(size), name)
        except OSError as error:
            raise UserError(f"{name}: cannot be read ({error.strerror})") from error

    def digest(self) -> bytes:
        """Hash of the shards' names, of where their images lie, and of a sample of content."""
        names = "\0".join(path.name for path in self.shards)
        digest = hashlib.sha256(names.encode("utf-8", "surrogateescape"))
        digest.update(self.places.contiguous().numpy().data)
        places = self.places[sampled(len(self.places))].tolist()
        digest.update(content_digest((self.shards[n], *place) for n, *place in places))
        return digest.digest()


@dataclass(frozen=True, eq=False)
class Appended:
    """The images of one source, `count` of them, and then those of another."""

    first: Pixels
    count: int
    second: Pixels

    def picture(self, position: int) -> Picture:
        """Return the image at `position`."""
        if position < self.count:
            return self.first.picture(position)
        return self.second.picture(position - self.count)

    def digest(self) -> bytes:
        """Hash of both."""
        return hashlib.sha256(self.first.digest() + self.second.digest()).digest()


def opened(content: bytes, name: str) -> Encoded:
    """Read the header of an image file; one that cannot be read raises `UserError`."""
    with readable(name):
        image = Image.open(io.BytesIO(content))
        width, height = image.size
        on_its_side = image.getexif().get(ORIENTATION, 1) >= SIDEWAYS
        return Encoded(image, (width, height) if on_its_side else (height, width), name)


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Say that the image called `name` cannot be decoded, whatever Pillow says: `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # damage leads Pillow anywhere
        # Its message may quote the path again or run over several lines.
        kind = type(error).__name__
        raise UserError(f"{name}: not a readable image ({kind}); repair or remove it") from error
