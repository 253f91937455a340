"""What a user gives: an ONNX classifier, and images as it takes them."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np
import onnx
from PIL import Image, ImageOps
from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension
from tqdm import tqdm

from base.errors import UserError
from export.runtimes.network import random_images
from export.runtimes.onnx_session import onnx_session

INT8_OPERATIONS = {"QuantizeLinear", "DequantizeLinear", "QLinearConv"}
MODES = {1: "L", 3: "RGB"}
RANDOM = 64  # images, where none are given


@dataclass(frozen=True)
class ModelFile:
    """A file whose one input takes images of `shape` [C, H, W], `batch` of them where it says so.

    `class_count` is None where the file does not say it.
    """

    path: Path
    batch: int | None
    shape: tuple[int, int, int]
    class_count: int | None
    is_int8: bool
    metadata: Mapping[str, str]

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the classes, where the metadata have a JSON list of them."""
        try:
            names = json.loads(self.metadata.get("classes", "null"))
        except ValueError:
            return None
        return tuple(map(str, names)) if isinstance(names, list) else None

    @property
    def gives_vectors(self) -> bool:
        """Whether the metadata say that it answers with vectors, and not with classes."""
        return self.metadata.get("output", "").startswith("vector")

    @property
    def architecture(self) -> str | None:
        """The architecture of a student."""
        return self.metadata.get("architecture")

    def batch_for(self, asked: int | None) -> int:
        """Return the images that are asked for, or the file's, or 1; `UserError` if they differ."""
        if self.batch and asked not in (None, self.batch):
            raise UserError(
                f"batch {asked}: {self.path} takes {self.batch} images at a time, and no other "
                f"number; give --batch {self.batch}, or export it with a free batch"
            )
        return self.batch or (1 if asked is None else asked)


def read_model_file(path: Path) -> ModelFile:
    """Read an ONNX file; `UserError` for one that is none, or does not class images of one size."""
    session = onnx_session(path)
    taken, *others = session.get_inputs()
    if others or taken.type != "tensor(float)" or len(taken.shape) != 4:
        inputs = ", ".join(f"{one.name} {one.type} {one.shape}" for one in session.get_inputs())
        raise UserError(f"{path}: takes {inputs}; expected one input, float images [B, C, H, W]")
    batch, *shape = taken.shape
    if not all(isinstance(side, int) for side in shape):
        raise UserError(
            f"{path}: takes images {taken.shape}, of any size; fix it with python -m "
            "onnxruntime.tools.make_dynamic_shape_fixed"
        )
    answers = session.get_outputs()[0].shape
    if len(answers) != 2:
        raise UserError(f"{path}: answers with {answers}, expected [batch, classes]")
    nodes = onnx.load(path, load_external_data=False).graph.node
    return ModelFile(
        path,
        batch if isinstance(batch, int) else None,
        tuple(shape),
        answers[1] if isinstance(answers[1], int) else None,
        not INT8_OPERATIONS.isdisjoint(node.op_type for node in nodes),
        session.get_modelmeta().custom_metadata_map,
    )


@dataclass(frozen=True)
class GivenImages:
    """Images, uint8 [N, C, H, W], and the numbers of their classes [N] where these are known.

    `source` says where they are from, `note` what is to be known about their classes.
    """

    source: str
    pixels: np.ndarray
    labels: np.ndarray | None = None
    note: str | None = None
    is_random: bool = False

    def __len__(self) -> int:
        return len(self.pixels)

    def part(self, chosen: slice) -> "GivenImages":
        """Return some of the images."""
        labels = None if self.labels is None else self.labels[chosen]
        return replace(self, pixels=self.pixels[chosen], labels=labels)

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Yield float32 [size, C, H, W] in [0, 1]; the first images come again to fill the last."""
        for start in range(0, len(self), size):
            rows = np.arange(start, start + size) % len(self)
            yield self.pixels[rows].astype(np.float32) / 255


def random_pixels(file: ModelFile) -> GivenImages:
    """Return random images of the file's shape, the same each time."""
    pixels = random_images((RANDOM, *file.shape), np.uint8)
    return GivenImages("random numbers", pixels, is_random=True)


def read_images(folder: Path, file: ModelFile, most: int) -> GivenImages:
    """Read at most `most` images below a folder, drawn alike from all, the same each time.

    Of each, the largest part in the middle that has the shape of the file's input is brought to its
    size. Raises `UserError` for a folder with fewer than two images, and for what cannot be read.
    """
    names = sorted(_names(folder))
    if len(names) < 2:
        raise UserError(
            f"{folder}: {len(names)} images below it ({', '.join(IMG_EXTENSIONS)}), expected two "
            "or more, in folders of classes or not"
        )
    if file.shape[0] not in MODES:
        raise UserError(
            f"{file.path}: takes images of {file.shape[0]} channels, expected [batch, 1 or 3, "
            "height, width]; leave --images out"
        )
    if most < 2:
        raise UserError(f"--most-images {most}: expected 2 or more")
    index, note = _class_index(names, file)
    drawn = [names[i] for i in np.random.default_rng(0).permutation(len(names))[:most]]
    pixels = [_read(folder / name, file.shape) for name in tqdm(drawn, "images", unit="image")]
    labels = np.array([index[_class_of(name)] for name in drawn]) if index else None
    return GivenImages(str(folder), np.stack(pixels), labels, note)


def _names(folder: Path) -> Iterator[str]:
    """Yield every image file below a folder, links followed, what is hidden left aside."""
    for place, _, files in os.walk(folder, followlinks=True):
        for file in files:
            name = (Path(place) / file).relative_to(folder)
            hidden = any(part.startswith(".") for part in name.parts)
            if has_file_allowed_extension(file, IMG_EXTENSIONS) and not hidden:
                yield str(name)


def _class_of(name: str) -> str:
    """Return the topmost folder of an image, or nothing for one that is in none."""
    folder, *file = PurePath(name).parts
    return folder if file else ""


def _class_index(names: Sequence[str], file: ModelFile) -> tuple[dict[str, int], str | None]:
    """Return the number of every class by its folder; none, and why, where a folder is no class."""
    folders = sorted({_class_of(name) for name in names})
    if folders == [""]:
        return {}, "no accuracy: the images are in no folders of classes"
    if file.classes is None and "" not in folders and len(folders) == file.class_count:
        note = "the file names no classes: the folders, in alphabetical order, are taken for them"
        return {name: i for i, name in enumerate(folders)}, note
    known = {name: i for i, name in enumerate(file.classes or ())}
    if unknown := [name for name in folders if name not in known]:
        first = f"folder {unknown[0]}" if unknown[0] else "an image in no folder"
        told = f"knows {', '.join(list(known)[:5])}, …" if known else "names none"
        return {}, f"no accuracy: {first} is of no class of the file, which {told}"
    return known, None


def _read(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """Return an image as uint8 [C, H, W]."""
    channels, height, width = shape
    try:
        with Image.open(path) as image:
            if image.mode in ("I", "F") or image.mode.startswith("I;16"):
                raise UserError(f"{path}: more than 8 bits a colour; save it with 8, or remove it")
            upright = ImageOps.exif_transpose(image).convert(MODES[channels])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read as an image ({reason}); remove it") from error
    fitted = ImageOps.fit(upright, (width, height), Image.Resampling.BILINEAR)
    return np.asarray(fitted).reshape(height, width, channels).transpose(2, 0, 1)
