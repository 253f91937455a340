"""The teacher: any classifier, frozen, that resizes and normalises for itself."""

import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.transforms.v2.functional import rgb_to_grayscale

from export.errors import UserError
from export.files import read_json, write_json
from export.tensor_files import read_tensors, write_tensors
from kd.black_boxes import OnnxNetwork, file_fingerprint, python_network
from kd.networks import (
    RGB,
    SMALL,
    Channels,
    Input,
    build_network,
    load_weights,
    published_input,
    with_weights,
)
from kd.program_file import Program

# Rows of probabilities sum to 1 within this, half precision included.
SUM_TOLERANCE = 5e-3


@dataclass(frozen=True)
class TeacherSource:
    """Which teacher, with whose weights, and what it wants to see.

    `name` is small_resnet18:STRIDE, torchvision:NAME, timm:NAME, onnx:FILE, program:FILE.pt2 or
    python:MODULE:FACTORY. What is None comes from the library's metadata or the file.
    `resolution` 0 takes images as they are. `classes` names the teacher's own classes in order.
    """

    name: str = "small_resnet18:2"
    checkpoint: Path | None = None
    mean: RGB | None = None
    std: RGB | None = None
    resolution: int | None = None
    channels: Channels = "rgb"
    classes: tuple[str, ...] | None = None

    @property
    def trained_here(self) -> bool:
        """Whether nobody has trained this teacher yet."""
        return self.name.startswith(SMALL) and self.checkpoint is None

    def facts(self) -> dict[str, object]:
        """Return it as plain values."""
        checkpoint = None if self.checkpoint is None else str(self.checkpoint)
        return {**asdict(self), "checkpoint": checkpoint}


class Teacher(nn.Module):
    """A frozen network in eval mode, always: batch statistics would change the teacher.

    `identity` stands for the weights where they cannot be seen.
    """

    def __init__(
        self, network: nn.Module, wants: Input | None = None, identity: str | None = None
    ) -> None:
        super().__init__()
        self.wants, self.identity = wants or Input(), identity
        self.network = network.requires_grad_(False)
        self.register_buffer("mean", torch.tensor(self.wants.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(self.wants.std).view(3, 1, 1))
        self.train()

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in eval mode whatever `mode` says."""
        return super().train(False)

    # no_grad and not inference_mode: the outputs enter losses that autograd follows.
    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> log-probabilities [B, K], without gradient."""
        size = self.wants.resolution or images.shape[-1]
        if images.shape[-1] != size:
            mode = self.wants.interpolation
            images = interpolate(images, (size, size), mode=mode, antialias=True).clamp(0, 1)
        if self.wants.channels == "bgr":
            images = images.flip(dims=(1,))
        if self.wants.channels == "grey":
            images = rgb_to_grayscale(images, num_output_channels=3)
        return self.network((images - self.mean) / self.std).float().log_softmax(dim=1)

    def fingerprint(self) -> str:
        """Hash of all that its outputs depend on."""
        digest = hashlib.sha256(f"{asdict(self.wants)}{self.identity}".encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:32]


class Ensemble(nn.Module):
    """Several teachers whose probabilities are averaged, with weights that sum to 1."""

    def __init__(self, teachers: Sequence[Teacher], weights: Sequence[float]) -> None:
        super().__init__()
        self.teachers = nn.ModuleList(teachers)
        self.register_buffer("weights", torch.tensor(weights) / sum(weights))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> log Σ_i w_i p_i, [B, K], without gradient."""
        weighed = [
            log_w + teacher(images)
            for log_w, teacher in zip(self.weights.log(), self.teachers, strict=True)
        ]
        return torch.stack(weighed).logsumexp(dim=0)

    def fingerprint(self) -> str:
        """Hash of all that its outputs depend on."""
        parts = [teacher.fingerprint() for teacher in self.teachers]
        return hashlib.sha256(f"{parts}{self.weights.tolist()}".encode()).hexdigest()[:32]


class Logarithm(nn.Module):
    """A network whose outputs are probabilities, made to answer with their logarithms."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Images -> log-probabilities; 0 is taken as the smallest number that is none."""
        return self.network(images).float().clamp(min=torch.finfo().tiny).log()


class Reordered(nn.Module):
    """A network that knows other classes: the data's are taken from among them, in their order."""

    def __init__(self, network: nn.Module, order: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("order", torch.tensor(order))

    def forward(self, images: Tensor) -> Tensor:
        """Images -> outputs [B, K] of the data's classes."""
        return self.network(images)[:, self.order]


def load_teacher(source: TeacherSource, classes: Sequence[str], resolution: int) -> Teacher:
    """The teacher for data of these `classes`, images of `resolution` pixels.

    Raises `UserError` for an unknown name, unreadable or unfitting weights, a failed download, and
    for a network that does not answer a batch of images with one row a class.
    """
    known = source.classes or tuple(classes)
    network, wants, identity = _opened(source, len(known))
    wants = replace(
        wants,
        mean=source.mean or wants.mean,
        std=source.std or wants.std,
        resolution=wants.resolution if source.resolution is None else source.resolution or None,
        channels=source.channels,
    )
    teacher = Teacher(network, wants, identity)
    outputs = probe(teacher, source.name, len(known), resolution)
    if outputs.min() >= 0 and (outputs.sum(dim=1) - 1).abs().max() < SUM_TOLERANCE:
        network = Logarithm(network)
    if source.classes:
        network = Reordered(network, class_order(source.classes, classes))
    return Teacher(network, wants, identity)


def _opened(source: TeacherSource, classes: int) -> tuple[nn.Module, Input, str | None]:
    """(network, what it wants to see, what stands for weights that cannot be seen)."""
    kind, _, reference = source.name.partition(":")
    if source.checkpoint and kind in ("onnx", "program", "python"):
        raise UserError(f"teacher {source.name}: holds its own weights; leave --teacher-checkpoint")
    match kind:
        case "onnx":
            network = OnnxNetwork(Path(reference))
            return network, Input(resolution=network.resolution), file_fingerprint(Path(reference))
        case "program":
            network = Program(Path(reference))
            return network, Input(resolution=network.resolution), file_fingerprint(Path(reference))
        case "python":
            network, code = python_network(reference)
            return network, Input(), file_fingerprint(code)
        case _:
            network = with_weights(source.name, source.checkpoint, classes)
            return network, published_input(source.name), None


def probe(teacher: Teacher, name: str, classes: int, resolution: int) -> Tensor:
    """Outputs [2, K] of the bare network for two images of noise; `UserError` when it has none."""
    noise = torch.rand(2, 3, resolution, resolution, generator=torch.Generator().manual_seed(0))
    size = teacher.wants.resolution or resolution
    images = (interpolate(noise, (size, size)) - teacher.mean) / teacher.std
    try:
        with torch.no_grad():
            outputs = teacher.network(images)
    except Exception as error:  # the network may raise anything
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"teacher {name}: fails on images of {size} pixels ({type(error).__name__}: {reason});"
            " see --teacher-resolution"
        ) from error
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != 2:
        found = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise UserError(
            f"teacher {name}: answers 2 images with {found}, expected [2, {classes}]: a row of"
            " logits or probabilities an image"
        )
    if outputs.shape[1] != classes:
        raise UserError(
            f"teacher {name}: answers {outputs.shape[1]} classes, expected {classes}; give a"
            " teacher of these classes, or name its own in order with --teacher-classes FILE"
        )
    return outputs.float()


def read_class_names(path: Path) -> tuple[str, ...]:
    """Names in a text file, one a line; raise `UserError` when it is unreadable or repeats one."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read; expected one class name a line") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path}: holds {twice[0]} more than once; expected each class once")
    return names


def class_order(known: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Places of the data's `classes` among those that the teacher knows.

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


def save_teacher(teacher: Teacher, source: TeacherSource, folder: Path) -> None:
    """Write the weights of a teacher that was trained here: they are nowhere else."""
    metadata = {"name": source.name}
    write_tensors(folder / "teacher.safetensors", teacher.network.state_dict(), metadata)


def saved_teacher(source: TeacherSource, folder: Path, classes: int) -> Teacher:
    """The teacher that was trained in this run; `UserError` when its file does not fit."""
    path = folder / "teacher.safetensors"
    weights, _ = read_tensors(path)
    network = build_network(source.name, classes)
    load_weights(network, weights, classes, path)
    # As it was trained: convolutions in another order of memory round otherwise.
    network.to(memory_format=torch.channels_last)
    return Teacher(network, published_input(source.name))


def write_facts(folder: Path, facts: dict) -> None:
    """Write `teacher.json`: what the teacher is, how good, and for which classes."""
    write_json(folder / "teacher.json", facts)


def read_facts(folder: Path) -> dict:
    """Read `teacher.json`; `UserError` when train.py has not come so far, or it is damaged."""
    path = folder / "teacher.json"
    if not path.exists():
        raise UserError(f"{folder}: no teacher here; run train.py to its end first")
    facts = read_json(path)
    kinds = {"classes": list, "fingerprint": str, "search_accuracy": int | float}
    for name, kind in kinds.items():
        if not isinstance(facts.get(name), kind):
            raise UserError(f"{path}: damaged: {name} is missing or odd; train the teacher again")
    return facts
