"""Which teacher a run asks for: one, an ensemble, or stored outputs in place of one."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from base.errors import UserError
from kd.networks import RGB, SMALL_PREFIX, Channels, Interpolation

STORED_PREFIX, ONNX_PREFIX = "stored:", "onnx:"
PUBLISHED = Path("published")


@dataclass(frozen=True)
class TeacherSource:
    """Which teacher, with whose weights, and its input format.

    `name` is small_resnet18:STRIDE, torchvision:NAME, timm:NAME, onnx:FILE, program:FILE.pt2 or
    python:MODULE:FACTORY. What is None comes from the library's metadata or the file.
    `resolution` 0 takes images as they are; `resize` is that of `InputFormat`. `classes` names the
    teacher's own classes in order, `output` the one of an ONNX file's outputs that answers,
    `checkpoint_key` the one of a checkpoint's state dicts.
    """

    name: str = "small_resnet18:2"
    checkpoint: Path | None = None
    mean: RGB | None = None
    std: RGB | None = None
    resolution: int | None = None
    interpolation: Interpolation | None = None
    resize: int | None = None
    channels: Channels = "rgb"
    classes: tuple[str, ...] | None = None
    output: str | None = None
    checkpoint_key: str | None = None

    @property
    def trained_here(self) -> bool:
        """Whether nobody has trained this teacher yet."""
        return self.name.startswith(SMALL_PREFIX) and self.checkpoint is None

    def facts(self) -> dict[str, object]:
        """Return it as plain values."""
        checkpoint = None if self.checkpoint is None else str(self.checkpoint)
        return {**asdict(self), "checkpoint": checkpoint}


@dataclass(frozen=True)
class TeacherRequest:
    """The teachers that a run asks for; several make an ensemble with these weights."""

    sources: tuple[TeacherSource, ...]
    weights: tuple[float, ...]

    @property
    def name(self) -> str:
        """What the teacher is called in reports."""
        return " + ".join(source.name for source in self.sources)

    @property
    def stored(self) -> Path | None:
        """The folder of outputs that stands for a teacher, if one does."""
        name = self.sources[0].name
        return Path(name.removeprefix(STORED_PREFIX)) if name.startswith(STORED_PREFIX) else None

    @property
    def trained_here(self) -> bool:
        """Whether the teacher is to be trained in this run."""
        return len(self.sources) == 1 and self.sources[0].trained_here


def check_ensemble(
    names: Sequence[str],
    checkpoints: Sequence[Path],
    weights: Sequence[float],
    output: str | None,
    *,
    online: bool,
) -> None:
    """Raise `UserError` for options that do not fit the number of teachers, or their kind."""
    for option, given in (("--teacher-checkpoint", checkpoints), ("--teacher-weight", weights)):
        if given and len(given) != len(names):
            raise UserError(f"{option}: {len(given)} for {len(names)} teachers; give one each")
    if any(not 0 < weight < float("inf") for weight in weights):
        raise UserError(f"--teacher-weight {tuple(weights)}: expected numbers above 0")
    if output and not any(name.startswith(ONNX_PREFIX) for name in names):
        raise UserError(f"--teacher-output {output}: is for a teacher onnx:FILE; leave it")
    if len(names) > 1 and any(name.startswith(STORED_PREFIX) for name in names):
        raise UserError("--teacher stored: stands alone; an ensemble needs its teachers")
    if names[0].startswith(STORED_PREFIX) and online:
        raise UserError("--teacher-outputs online: needs a teacher; --teacher stored: is none")
