"""The teacher: any classifier, frozen, normalising for itself.

Which network a teacher is, and where its weights come from, is in `kd/networks.py`.
"""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from export.errors import UserError
from export.files import read_json, write_json
from export.tensor_files import read_tensors, write_tensors
from kd.networks import (
    RGB,
    TeacherSource,
    build_network,
    load_weights,
    small_image_resnet18,
    with_weights,
)

__all__ = [
    "RGB",
    "Teacher",
    "TeacherSource",
    "check_teacher",
    "load_teacher",
    "restore_teacher",
    "save_teacher",
    "small_image_resnet18",
]


class Teacher(nn.Module):
    """A frozen network that normalises images with its own mean and std; always in eval mode."""

    def __init__(
        self, network: nn.Module, mean: RGB = (0.0, 0.0, 0.0), std: RGB = (1.0, 1.0, 1.0)
    ) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))
        self.train()

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in eval mode whatever `mode` says: batch statistics would change the teacher."""
        return super().train(False)

    # no_grad and not inference_mode: the outputs enter losses that autograd follows.
    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> logits [B, K], without gradient."""
        return self.network((images - self.mean) / self.std)

    def fingerprint(self) -> str:
        """Hash of weights, statistics and normalisation: what its stored outputs depend on."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:32]


def load_teacher(source: TeacherSource, classes: int) -> Teacher:
    """The teacher with given or published weights for `classes` classes.

    Raises `UserError` for an unknown name, unreadable or unfitting weights, a failed download.
    """
    network, mean, std = with_weights(source, classes)
    return Teacher(network, source.mean or mean, source.std or std)


def save_teacher(teacher: Teacher, source: TeacherSource, folder: Path, facts: dict) -> None:
    """Write `teacher.safetensors`, then `teacher.json`: source, normalisation and `facts`."""
    write_tensors(folder / "teacher.safetensors", teacher.network.state_dict(), {})
    described = {
        "name": source.name,
        "checkpoint": None if source.checkpoint is None else str(source.checkpoint),
        "mean": teacher.mean.flatten().tolist(),
        "std": teacher.std.flatten().tolist(),
    }
    write_json(folder / "teacher.json", {**described, **facts})


def classes_of(folder: Path) -> list[str]:
    """Names of a run's classes; `UserError` when train.py has not come so far."""
    if not (folder / "teacher.json").exists():
        raise UserError(f"{folder}: no teacher here; run train.py to its end first")
    classes = read_json(folder / "teacher.json").get("classes")
    if not isinstance(classes, list) or not classes:
        raise UserError(f"{folder}/teacher.json: lacks classes; train it again")
    return classes


def restore_teacher(folder: Path, classes: int) -> tuple[Teacher, dict]:
    """(teacher, the contents of `teacher.json`); raise `UserError` when they do not fit."""
    facts = read_json(folder / "teacher.json")
    if missing := {"name", "mean", "std"} - facts.keys():
        raise UserError(
            f"{folder}/teacher.json: lacks {', '.join(sorted(missing))}; train it again"
        )
    network = build_network(facts["name"], classes)
    weights, _ = read_tensors(folder / "teacher.safetensors")
    load_weights(network, weights, classes, folder / "teacher.safetensors")
    return Teacher(network, facts["mean"], facts["std"]), facts


def check_teacher(logits: Tensor, labels: Tensor) -> float:
    """Accuracy of logits [N, K] for labels [N]; raise `UserError` when it is that of guessing.

    Guessing is to give the same answers to shuffled images: p = sum_k P(label k) P(answer k), 1/K
    for balanced classes (the chance of Cohen's kappa, 1960). A teacher passes when its accuracy is
    more than 5 binomial standard deviations above p, or half way from p to 1, which decides where
    there are few images.
    """
    count, classes = logits.shape
    if int(labels.max()) >= classes:
        raise UserError(
            f"teacher: {classes} classes, but the data has label {int(labels.max())};"
            " give a teacher of these classes"
        )
    if not (finite := logits.isfinite().all(dim=1)).all():
        raise UserError(
            f"teacher: logits of {int((~finite).sum())} of {count} images are not finite;"
            " check its checkpoint and --teacher-mean/--teacher-std"
        )
    answers = logits.argmax(dim=1)
    accuracy = (answers == labels).double().mean().item()
    shares = [torch.bincount(x, minlength=classes).double() / count for x in (labels, answers)]
    chance = (shares[0] * shares[1]).sum().item()
    needed = min(chance + 5 * (chance * (1 - chance) / count) ** 0.5, (1 + chance) / 2)
    if accuracy <= needed:
        raise UserError(
            f"teacher: accuracy {accuracy:.3f} on {count} images, where guessing gives"
            f" {chance:.3f} and more than {needed:.3f} is expected; check its weights, the order of"
            " its classes, --teacher-mean and --teacher-std"
        )
    return accuracy
