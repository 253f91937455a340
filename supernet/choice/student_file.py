"""A student as two files, and back as a module: what it is, and its weights."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from base.errors import UserError
from base.files import read_json, write_json
from base.tensor_files import read_tensors, write_tensors
from supernet.space import Architecture, SearchSpace
from supernet.space_files import space_from_json
from supernet.student import MEAN, STD, Student

FORM, WEIGHTS = "architecture.json", "student.safetensors"


class LoadedStudent(Student):
    """A student that knows what it tells apart and what it is shown.

    One that gives vectors tells no `classes` apart.

    It takes images [B, C, H, W] in [0, 1] of `image_shape` [C, H, W] and normalises them itself, by
    `mean` and `std`. A photograph was brought to that as torchvision does: its shorter side resized
    to `resize` pixels (where that is None, the whole image to the shape), and the centre cut out.
    """

    mean, std = MEAN, STD

    def __init__(
        self,
        space: SearchSpace,
        architecture: Architecture,
        classes: tuple[str, ...],
        resize: int | None,
    ) -> None:
        super().__init__(space, architecture)
        self.architecture, self.image_shape = architecture, space.image_shape
        self.classes, self.resize = classes, resize


def write_student(
    folder: Path,
    student: Student,
    architecture: Architecture,
    space: SearchSpace,
    metadata: Mapping[str, str],
) -> None:
    """Write both files; of `metadata`, JSON by name, they keep what `LoadedStudent` knows."""
    shown = {name: json.loads(metadata[name]) for name in ("classes", "resize")}
    write_json(folder / FORM, architecture.to_json() | shown | {"space": space.plain()})
    write_tensors(folder / WEIGHTS, student.state_dict(), {"name": folder.name})


def load_student(folder: str | Path) -> LoadedStudent:
    """Return the student of a folder such as runs/digits/students/20ms, in eval mode, on the CPU.

    Nothing but its two files is read, and nothing in them can run code. Raises `UserError` where
    one is missing, damaged or of something else.
    """
    path, weights = Path(folder) / FORM, Path(folder) / WEIGHTS
    stored = read_json(path)
    tensors, _ = read_tensors(weights)
    try:
        space, architecture = space_from_json(stored["space"]), Architecture.from_json(stored)
        classes, resize = tuple(map(str, stored["classes"])), stored["resize"]
        known = 0 if space.unit_length else space.classes
        if len(classes) != known or not isinstance(resize, int | None):
            raise ValueError(f"{len(classes)} classes for {known}, or no number to resize")
        with torch.device("meta"):  # whatever sizes the file names, nothing is allocated
            student = LoadedStudent(space, architecture, classes, resize)
    except (KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{path}: not what search.py writes ({error}); search again") from error
    if (found := _shapes(tensors)) != _shapes(student.state_dict()):
        raise UserError(
            f"{weights}: {len(found)} tensors that are not those of {path}; search again"
        )
    student.load_state_dict(tensors, assign=True)
    return student.eval()


def take_weights(student: Student, folder: str | Path) -> str:
    """Take the weights of a folder's student wherever name and shape agree; say how many they are.

    Raises `UserError` for a damaged file.
    """
    own, (found, _) = student.state_dict(), read_tensors(Path(folder) / WEIGHTS)
    fits = {n: t for n, t in found.items() if n in own and _shapes({n: t}) == _shapes({n: own[n]})}
    sizes = {name: parameter.numel() for name, parameter in student.named_parameters()}
    taken = sum(sizes.get(name, 0) for name in fits)
    student.load_state_dict(fits, strict=False)
    return f"{taken / sum(sizes.values()):.0%} of its parameters"


def weights_identity(folder: str | Path) -> str:
    """Return what tells a folder's weights from others; `UserError` where there are none."""
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise UserError(
            f"{path}: no weights of a student here; give a folder such as runs/a/students/20ms"
        )
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (tuple(one.shape), str(one.dtype)) for name, one in tensors.items()}
