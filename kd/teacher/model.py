"""The teacher as a network: frozen, normalises for itself; alone or an ensemble."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torchvision.transforms.v2.functional import rgb_to_grayscale

from kd.images.rendering import Frame
from kd.networks import InputFormat
from kd.teacher.answers import TeacherFault, answers

MEND = (
    "mend it to take any number of images, or give another --batch, a smaller one where memory ends"
)


class Teacher(nn.Module):
    """A frozen network in eval mode, always: batch statistics would change the teacher.

    `identity` stands for the weights where they cannot be seen; `remembered` are then its answers
    to a few images, of which `kd.teacher.answers` tells whether they are the same. Errors call it
    `name`. Its `ending` makes log-probabilities of what the network answers, or `UnitLength`.
    """

    def __init__(
        self,
        network: nn.Module,
        input_format: InputFormat | None = None,
        identity: str | None = None,
        name: str = "",
        remembered: Sequence[float] = (),
        ending: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.ending = ending or nn.LogSoftmax(dim=1)
        self.input_format, self.identity = input_format or InputFormat(), identity
        self.name, self.remembered = name, list(remembered)
        self.network = network.requires_grad_(False)
        self.register_buffer("mean", torch.tensor(self.input_format.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(self.input_format.std).view(3, 1, 1))
        self.train()

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in eval mode whatever `mode` says."""
        return super().train(False)

    def frames(self, own: Frame) -> tuple[Frame]:
        """Return what it has to be shown where students are shown `own`."""
        wanted = self.input_format
        if wanted.resolution is None:
            return (replace(own, channels=3),)
        resize, size = wanted.resize, wanted.resolution
        if resize is None and own.resize is not None:
            resize = round(size * own.resize / min(own.size))
        cut = resize or None
        return (Frame((size, size), wanted.interpolation, cut, grey=own.grey),)

    # no_grad and not inference_mode: the outputs enter losses that autograd follows.
    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, 3, H, W] in [0, 1] to log-probabilities or vectors [B, K], no gradient.


        Raises `TeacherFault` for a batch on which the network fails.
        """
        if self.input_format.channels == "bgr":
            images = images.flip(dims=(1,))
        if self.input_format.channels == "grey":
            images = rgb_to_grayscale(images, num_output_channels=3)
        shown = (images - self.mean) / self.std
        try:
            return self.ending(answers(self.network, shown, self.name).float())
        except TeacherFault as fault:
            raise TeacherFault(f"{fault}; {MEND}") from fault

    def fingerprint(self) -> str:
        """Hash of all that its outputs depend on."""
        digest = hashlib.sha256(f"{asdict(self.input_format)}{self.identity}".encode())
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

    def frames(self, own: Frame) -> tuple[Frame, ...]:
        """Return what each teacher has to be shown where students are shown `own`."""
        return tuple(frame for teacher in self.teachers for frame in teacher.frames(own))

    @torch.no_grad()
    def forward(self, *shown: Tensor) -> Tensor:
        """Map images [B, 3, H, W] in [0, 1], those of each teacher, to log Σ_i w_i p_i, [B, K]."""
        weighed = [
            log_w + teacher(images)
            for log_w, teacher, images in zip(self.weights.log(), self.teachers, shown, strict=True)
        ]
        return torch.stack(weighed).logsumexp(dim=0)

    def fingerprint(self) -> str:
        """Hash of all that its outputs depend on."""
        parts = [teacher.fingerprint() for teacher in self.teachers]
        return hashlib.sha256(f"{parts}{self.weights.tolist()}".encode()).hexdigest()[:32]


AnyTeacher = Teacher | Ensemble


def shown_frames(model: AnyTeacher | None, own: Frame) -> tuple[Frame, ...]:
    """Return in which frames images are shown, where students see `own` and there is a teacher."""
    return (own, *(model.frames(own) if model else ()))


class UnitLength(nn.Module):
    """Vectors [B, D] brought to length 1."""

    def forward(self, vectors: Tensor) -> Tensor:
        """Divide by the length; a vector of zeros stays."""
        return normalize(vectors)


class LogOutputs(nn.Module):
    """A network whose outputs are probabilities, made to answer with their logarithms."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Map images to log-probabilities; 0 is taken as the smallest number above it."""
        return self.network(images).float().clamp(min=torch.finfo().tiny).log()


class SelectClasses(nn.Module):
    """A network of other classes: the data's are taken from among them, in their order."""

    def __init__(self, network: nn.Module, order: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("order", torch.tensor(order))

    def forward(self, images: Tensor) -> Tensor:
        """Map images to outputs [B, K] of the data's classes."""
        return self.network(images)[:, self.order]
