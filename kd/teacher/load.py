"""A teacher loaded from wherever it is, made to answer with the data's classes."""

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from base.errors import UserError
from base.files import read_names
from base.size import Size
from kd.networks import InputFormat, OneChannel, published_input, with_weights
from kd.teacher.answers import TeacherFault, answers, fixed_images, remembered, same_answers
from kd.teacher.black_boxes import file_fingerprint, python_network
from kd.teacher.model import LogOutputs, SelectClasses, Teacher, UnitLength
from kd.teacher.onnx_network import OnnxNetwork, onnx_fingerprint
from kd.teacher.program_file import Program
from kd.teacher.request import TeacherSource

# Rows of probabilities sum to 1 within this, half precision included.
SUM_TOLERANCE = 5e-3
ROUNDED = 1e-6  # smaller probabilities are not compared
WITH_OWN_WEIGHTS = ("onnx", "program", "python")
USUAL = (224, 32, 64, 96, 128, 256, 288, 299, 384, 448, 512, 28)  # pixels that teachers take


def load_teacher(source: TeacherSource, classes: Sequence[str], size: Size) -> Teacher:
    """Load the teacher for data of these `classes`, whose images students see at `size`.

    Raises `UserError` for an unknown name, unreadable or unfitting weights, a failed download, and
    for a network that does not answer a batch of images with one row a class.
    """
    known = source.classes or tuple(classes)
    network, input_format, identity = _opened(source, len(known), size)
    input_format = _as_asked(input_format, source)
    bare = Teacher(network, input_format, identity, source.name)
    # What cannot be seen into is asked twice: it may answer at random.
    asked = [probe(bare, len(known), size) for _ in range(1 if identity is None else 2)]
    if all(_are_probabilities(outputs) for outputs in asked):
        network = LogOutputs(network)
        asked = [outputs.clamp(min=ROUNDED).log() for outputs in asked]
    kept = [remembered(outputs.log_softmax(dim=1)) for outputs in asked]
    _refuse_random(source.name, kept)
    if source.classes:
        network = SelectClasses(network, class_order(source.classes, classes))
    return Teacher(network, input_format, identity, source.name, kept[0])


def load_embedder(source: TeacherSource, size: Size) -> Teacher:
    """Load a teacher that answers with a vector, whose images students see at `size`.

    Raises `UserError` for a network that is none of `WITH_OWN_WEIGHTS`, that cannot be read, or
    does not answer a batch of images with a vector each.
    """
    if source.name.partition(":")[0] not in WITH_OWN_WEIGHTS:
        raise UserError(
            f"teacher {source.name}: --task embedding needs a network that answers with a vector; "
            "give onnx:FILE, program:FILE.pt2 or python:MODULE:FACTORY"
        )
    network, input_format, identity = _opened(source, None, size)
    own, vectors = (_as_asked(input_format, source), identity, source.name), UnitLength()
    teacher = Teacher(network, *own, ending=vectors)
    kept = [remembered(vectors(probe(teacher, None, size))) for _ in range(2)]
    _refuse_random(source.name, kept)
    return Teacher(network, *own, kept[0], vectors)


def vector_size(teacher: Teacher, size: Size) -> int:
    """Return how many numbers a loaded teacher's vector has."""
    return probe(teacher, None, size).shape[1]


def _refuse_random(name: str, kept: Sequence[list[float]]) -> None:
    if not same_answers(kept[0], kept[-1]):
        raise UserError(
            f"teacher {name}: answers the same images differently each time; switch off what is "
            "random in it, as eval() does"
        )


def _are_probabilities(outputs: Tensor) -> bool:
    return bool(outputs.min() >= 0 and (outputs.sum(dim=1) - 1).abs().max() < SUM_TOLERANCE)


def _as_asked(known: InputFormat, source: TeacherSource) -> InputFormat:
    """Return what is known of the input, but for what the user says of it."""
    resolution = known.resolution if source.resolution is None else source.resolution or None
    resize = known.resize
    if resize and resolution and resolution != known.resolution:
        resize = round(resize * resolution / known.resolution)
    if source.resize is not None:
        resize = source.resize
    if resize and resolution and resize < resolution:
        raise UserError(
            f"teacher {source.name}: --teacher-resize {resize} leaves no {resolution} pixels to cut"
            f" out; give {resolution} or more, or 0 to squeeze whole images"
        )
    return InputFormat(
        source.mean or known.mean,
        source.std or known.std,
        resolution,
        source.interpolation or known.interpolation,
        resize,
        known.channels if source.channels == "rgb" else source.channels,
    )


def _opened(
    source: TeacherSource, classes: int | None, size: Size
) -> tuple[nn.Module, InputFormat, str | None]:
    """Return network, input format, and what stands for weights that cannot be seen."""
    kind, _, reference = source.name.partition(":")
    if source.checkpoint and kind in WITH_OWN_WEIGHTS:
        raise UserError(f"teacher {source.name}: holds its own weights; leave --teacher-checkpoint")
    match kind:
        case "onnx":
            network = OnnxNetwork(Path(reference), classes, source.output)
            if network.takes_pixels and (source.mean or source.std):
                raise UserError(
                    f"teacher {source.name}: takes whole numbers from 0 to 255, so it normalises"
                    " for itself; leave --teacher-mean and --teacher-std"
                )
            return network, network.input_format, onnx_fingerprint(Path(reference))
        case "program":
            network = Program(Path(reference))
            input_format = InputFormat(resolution=network.resolution)
            return network, input_format, file_fingerprint(Path(reference))
        case "python":
            network, code = python_network(reference)
            return network, InputFormat(), file_fingerprint(code)
        case _:
            side, key = source.resolution, source.checkpoint_key
            wanted = None if side is None else (side, side) if side else size
            network = with_weights(source.name, source.checkpoint, classes, key, wanted)
            channels = "grey" if isinstance(network, OneChannel) else "rgb"
            return network, replace(published_input(source.name), channels=channels), None


def probe(teacher: Teacher, classes: int | None, size: Size) -> Tensor:
    """Return the bare network's outputs [2, K] for two images; `UserError` without any.

    Where `classes` is None they may be any vectors.
    """
    side = teacher.input_format.resolution
    try:
        outputs = _outputs(teacher, classes, (side, side) if side else size)
    except TeacherFault as fault:
        takes = next((side for side in USUAL if _takes(teacher, classes, side)), None)
        mend = f"it takes {takes} pixels: give --teacher-resolution {takes}"
        wanted = "give a classifier of images" if classes else "give one that makes vectors"
        raise UserError(f"{fault}; {mend if takes else wanted}") from fault
    if classes is None and outputs.shape[1] < 2:
        raise UserError(f"teacher {teacher.name}: answers with one number, expected a vector")
    if classes is not None and outputs.shape[1] != classes:
        raise UserError(
            f"teacher {teacher.name}: answers {outputs.shape[1]} classes, expected {classes}; give"
            " a teacher of these classes, or name its own in order with --teacher-classes FILE"
        )
    return outputs.float()


@torch.no_grad()
def _outputs(teacher: Teacher, classes: int | None, size: Size) -> Tensor:
    shown = (fixed_images(size) - teacher.mean) / teacher.std
    return answers(teacher.network, shown, teacher.name, classes or "numbers")


def _takes(teacher: Teacher, classes: int | None, side: int) -> bool:
    try:
        _outputs(teacher, classes, (side, side))
    except TeacherFault:
        return False
    return True


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read names in a text file, one a line; `UserError` when it is unreadable or repeats one."""
    names = read_names(path)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path}: holds {twice[0]} more than once; expected each class once")
    return names


def class_order(known: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Return the positions of the data's `classes` among the teacher's.

    Raises `UserError` naming one that it does not know.
    """
    places = {name: i for i, name in enumerate(known)}
    if missing := [name for name in classes if name not in places]:
        close = difflib.get_close_matches(missing[0], known, n=1)
        hint = f", did you mean {close[0]}?" if close else ""
        raise UserError(
            f"--teacher-classes: lacks {len(missing)} of the data's {len(classes)} classes, such as"
            f" {missing[0]}{hint}"
        )
    return [places[name] for name in classes]
