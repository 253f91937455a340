"""Shrunken copies of photographs, so that a camera's megapixels are decoded once."""

import hashlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from base.errors import UserError
from base.files import read_json, write_atomic, write_json
from base.size import Size, pixels_text
from kd.images.pixels import Encoded, Picture, Pixels, opened, readable
from kd.images.rendering import Frame
from kd.images.splits import RETRAINED, Data, Split

# A copy has so many times the pixels of what is shown, along a side: the smallest box that a view
# shows has about a quarter of the photograph's side, so a view loses hardly a pixel it could have.
ROOM = 4
# Copies are kept where photographs have so many pixels on average, so many times those of a copy.
PHOTOGRAPH, WORTH = 1_000_000, 4
SAMPLED, A_FOLDER = 16, 1000
PLAN = "copies.json"
QUALITY = {"quality": 95, "subsampling": 0}


@dataclass(frozen=True, eq=False)
class Copy:
    """A copy of a photograph of `size`, in place of which it stands: views are drawn for that."""

    size: Size
    copy: Encoded

    def pixels(self, share: float = 1.0) -> Tensor:
        """Return uint8 RGB [3, h, w] with this share of each side's pixels, or all that it has."""
        enlarged = max(own / kept for own, kept in zip(self.size, self.copy.size, strict=True))
        return self.copy.pixels(min(1.0, share * enlarged))


@dataclass(frozen=True, eq=False)
class Copied:
    """Images, of which those much larger than `shown` are read from copies in `folder`.

    A copy is made when its image is first read, by whichever process reads it. A view is the same
    one with and without copies; its pixels differ by what shrinking and JPEG change.
    """

    originals: Pixels
    folder: Path
    shown: Size  # height and width of the largest frame

    def picture(self, position: int) -> Picture:
        """Return the copy of the image at `position`, or the image itself where it is small."""
        path = self.folder / str(position // A_FOLDER) / f"{position}.jpg"
        try:
            return _opened_copy(path.read_bytes(), path)
        except FileNotFoundError:
            original = self.originals.picture(position)
            if not _is_large(original.size, self.shown):
                return original
            content = _copy_of(original, self.shown)
            write_atomic(path, content)
            return _opened_copy(content, path)

    def digest(self) -> bytes:
        """Hash of the originals: a copy shows what they show."""
        return self.originals.digest()


@dataclass(frozen=True)
class CopyPlan:
    """What copies are kept: for frames of `shown`, of photographs of so many pixels on average."""

    shown: Size
    pixels: float
    size: float  # bytes of all copies, roughly

    def __str__(self) -> str:
        """Say it as the run does."""
        kept = f"copies for views of {pixels_text(self.shown)} are kept in the run's folder"
        return f"{self.pixels / 1e6:.1f} megapixels; {kept}, roughly {self.size / 2**20:.0f} MiB"


def plan_copies(data: Data, frames: Sequence[Frame]) -> CopyPlan | None:
    """Return what copies are worth while where images are shown in `frames`, by a sample of them.

    None where images are no photographs of a camera, or not much larger than what is shown.
    """
    shown = max(frame.size[0] for frame in frames), max(frame.size[1] for frame in frames)
    joined = data.joined(RETRAINED)
    draws = np.random.default_rng(0).permutation(len(joined))[:SAMPLED]
    pictures = [joined.images.picture(int(joined.positions[index])) for index in draws]
    pixels = float(np.mean([math.prod(picture.size) for picture in pictures]))
    kept = float(np.mean([math.prod(_copy_size(picture.size, shown)) for picture in pictures]))
    if pixels < max(PHOTOGRAPH, WORTH * kept):
        return None
    sizes = [len(_copy_of(picture, shown)) for picture in pictures]
    return CopyPlan(shown, pixels, len(joined) * float(np.mean(sizes)))


def with_copies(data: Data, plan: CopyPlan | None, folder: Path) -> Data:
    """Return the data with copies in `folder` of all but the test images, where some are planned.

    A test image is read as it was given: so are those that the student will meet.
    """
    if plan:
        write_json(folder / PLAN, {"shown": plan.shown})
    return found_copies(data, folder)


def found_copies(data: Data, folder: Path) -> Data:
    """Return the data with the copies that `folder` is for, if it is for any.

    Raises `UserError` where the plan of the copies is damaged.
    """
    if not (folder / PLAN).exists():
        return data
    match read_json(folder / PLAN):
        case {"shown": [int(height), int(width)]}:
            shown = (height, width)
        case _:
            raise UserError(f"{folder / PLAN}: damaged; remove {folder}, and train again")
    # Copies of another data set, or for other views, have another place.
    identity = data.train.images.digest() + repr(shown).encode()
    place = folder / hashlib.sha256(identity).hexdigest()[:16]
    images = Copied(data.train.images, place, shown)

    def copied(split: Split | None) -> Split | None:
        return split and replace(split, images=images)

    return replace(data, **{name: copied(getattr(data, name)) for name in RETRAINED})


def _copy_size(image: Size, shown: Size) -> Size:
    """Return an image's size when it has ROOM times what is shown, along its tighter side."""
    share = min(1, ROOM * max(shown[0] / image[0], shown[1] / image[1]))
    return max(1, round(share * image[0])), max(1, round(share * image[1]))


def _is_large(image: Size, shown: Size) -> bool:
    return math.prod(image) >= WORTH * math.prod(_copy_size(image, shown))


def _copy_of(picture: Picture, shown: Size) -> bytes:
    """Return a copy as a JPEG file, which tells the photograph's own size."""
    size = _copy_size(picture.size, shown)
    pixels = picture.pixels(max(size[0] / picture.size[0], size[1] / picture.size[1]))
    small = functional.resize(pixels, list(size), InterpolationMode.BICUBIC, antialias=True)
    content = io.BytesIO()
    of = json.dumps(picture.size)
    Image.fromarray(small.permute(1, 2, 0).numpy()).save(content, "jpeg", comment=of, **QUALITY)
    return content.getvalue()


def _opened_copy(content: bytes, path: Path) -> Copy:
    copy = opened(content, str(path))
    with readable(str(path)):
        height, width = json.loads(copy.image.info["comment"])
        return Copy((height, width), copy)
