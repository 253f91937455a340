"""The teacher's outputs for the splits of a run: made once, then found again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from base.precision import Precision, autocast
from base.processes import from_main_process
from kd.batches import LoaderSettings, OnlineOutputs, Outputs
from kd.images.splits import Data, Split
from kd.outputs_writer import store_outputs
from kd.stored_outputs import StoredOutputs, StoredShape, join_outputs, open_outputs, stored_shape
from kd.teacher.model import AnyTeacher


@dataclass(frozen=True)
class OutputSettings:
    """Where a run's teacher outputs are, or how they are made."""

    folder: Path  # where they are stored
    given: Path | None = None  # a folder of another run's, in place of a teacher
    online: bool = False  # the teacher runs in every step, and nothing is stored
    most_classes: int = 100  # of more classes, only so many of the largest are stored
    precision: Precision = "fp32"


@dataclass(frozen=True)
class TeacherOutputs:
    """The teacher's outputs for the splits of a run.

    Those for the test split may be unknown, and there may be no unlabelled images.
    """

    train: Outputs
    search: Outputs
    test: Outputs | None = None
    unlabelled: Outputs | None = None

    def joined(self, names: Sequence[str]) -> Outputs:
        """Return the outputs for these splits as one, as `kd.images.splits.Data` joins them."""
        found = [outputs for name in names if (outputs := getattr(self, name)) is not None]
        stored = [outputs for outputs in found if isinstance(outputs, StoredOutputs)]
        return join_outputs(stored) if stored else found[0]


def stored_shapes(
    data: Data, views: int, most_classes: int
) -> dict[str, tuple[Split, StoredShape]]:
    """Return what is stored of every split; test images have no views, they only report.

    Of a vector all numbers are.
    """
    most = most_classes if data.vector is None else data.vector
    return {
        name: (split, stored_shape(split, 0 if name == "test" else views, data.answer_size, most))
        for name, split in data.splits().items()
    }


def prepare_outputs(
    settings: OutputSettings,
    fingerprint: str,
    load: Callable[[], AnyTeacher],
    data: Data,
    loader: LoaderSettings,
) -> TeacherOutputs:
    """Return the outputs of the teacher called `fingerprint`, and store them if they are not yet.

    `load` is called only where the teacher itself is needed, and then in all processes, which share
    the work. Raises `UserError` for stored outputs of another teacher or of other data.
    """
    if settings.online:
        model = load()
        frames = model.frames(data.train.frame)
        online = OnlineOutputs(_outputs(model, settings.precision, data), frames)
        return TeacherOutputs(**dict.fromkeys(data.splits(), online))
    identity = {"data": data.fingerprint(), "teacher": fingerprint}
    if settings.given:
        return _given_outputs(settings.given, identity, data)
    found, model = {}, None
    shapes = stored_shapes(data, loader.views, settings.most_classes)
    for name, (split, shape) in shapes.items():
        place = settings.folder / name
        if from_main_process(place.exists):
            found[name] = open_outputs(place, identity)
            continue
        model = model or load()
        found[name] = store_outputs(
            _outputs(model, settings.precision, data),
            split.shown_in(model.frames(split.frame)),
            shape,
            folder=place,
            identity=identity,
            batch=loader.batch,
            workers=loader.workers,
            description=f"teacher's outputs, {name}",
        )
    return TeacherOutputs(**found)


def _given_outputs(folder: Path, identity: dict[str, str], data: Data) -> TeacherOutputs:
    names = [name for name in data.splits() if name != "test" or (folder / name).exists()]
    return TeacherOutputs(**{name: open_outputs(folder / name, identity) for name in names})


def _outputs(model: AnyTeacher, precision: Precision, data: Data) -> Callable[..., torch.Tensor]:
    """Return what maps images in the teacher's frames to its probabilities or vectors [B, K]."""
    device = next(model.buffers()).device

    def run(*shown: torch.Tensor) -> torch.Tensor:
        with autocast(device, precision):
            found = model(*(images.to(device, non_blocking=True) for images in shown))
        return found.exp() if data.vector is None else found

    return run
