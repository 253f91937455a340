"""The teacher of a run and its outputs: made once, then found again."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from export.checkpoint import Keeper
from export.errors import UserError
from export.precision import Precision, arithmetic
from export.processes import is_first
from kd.config import TrainConfig
from kd.data import Data, Split
from kd.evaluate import predict
from kd.fit import FitSettings, fit
from kd.loss import label_loss
from kd.networks import build_network
from kd.run import AnyMetrics
from kd.store import (
    Shape,
    Targets,
    join_targets,
    open_targets,
    shape_of,
    store_targets,
    stored_identity,
)
from kd.targets import Labels, Online, Outputs, endless
from kd.teacher import (
    Ensemble,
    Teacher,
    load_teacher,
    read_facts,
    save_teacher,
    saved_teacher,
    write_facts,
)
from kd.teacher_check import Check, check_input, check_outputs

AnyTeacher = Teacher | Ensemble


@dataclass(frozen=True)
class Given:
    """A teacher that was checked; `model` is None where only its stored outputs are at hand."""

    fingerprint: str
    check: Check
    model: AnyTeacher | None


@dataclass(frozen=True)
class Teaching:
    """The teacher's outputs for the splits of a run; nobody may know those for the test split."""

    train: Outputs
    search: Outputs
    test: Outputs | None

    def joined(self) -> Outputs:
        """Outputs for the train and the search split as one."""
        if isinstance(self.train, Targets) and isinstance(self.search, Targets):
            return join_targets(self.train, self.search)
        return self.train


def given_teacher(config: TrainConfig, data: Data, device: torch.device) -> Given | None:
    """Return the teacher that the user brings, checked before anything is written.

    None when it is to be trained here. Raises `UserError` when it cannot be loaded, only guesses,
    or would be far better with another input or order of classes.
    """
    sources = config.teacher_sources()
    if config.stored_outputs:
        return _stored(config, data)
    if config.trains_teacher:
        build_network(sources[0].name, len(data.classes))
        return None
    teachers = [_checked(config, i, data, device) for i in range(len(sources))]
    if len(teachers) == 1:
        return teachers[0]
    weights = config.teacher_weight or (1.0,) * len(teachers)
    model = Ensemble([teacher.model for teacher in teachers], weights).to(device)
    return Given(model.fingerprint(), _check(model, config, data), model)


def _checked(config: TrainConfig, place: int, data: Data, device: torch.device) -> Given:
    """Load and check one teacher, alone or of an ensemble."""
    source = config.teacher_sources()[place]
    model = load_teacher(source, data.classes, data.settings.resolution).to(device)
    check_input(
        model,
        data.search,
        config.batch,
        config.workers,
        own_resolution=source.resolution is None,
        own_values=source.mean is None and source.std is None,
    )
    return Given(model.fingerprint(), _check(model, config, data), model)


def _check(model: AnyTeacher, config: TrainConfig, data: Data) -> Check:
    plain = data.search.view(None)
    log_p, labels = predict(model, plain, config.batch, config.workers, "teacher's check")
    return check_outputs(log_p, labels, data.classes)


def _stored(config: TrainConfig, data: Data) -> Given:
    """Check the outputs that the user brings in place of a teacher."""
    folder = config.stored_outputs
    teacher = stored_identity(folder / "search").get("teacher")
    identity = {"data": data.fingerprint(), "teacher": str(teacher)}
    for name in ("train", "search"):
        found = open_targets(folder / name, identity)
        if found.views < config.views:
            raise UserError(
                f"{folder}: holds {found.views} views, expected {config.views}; give --views "
                f"{found.views}"
            )
    rows = found.rows(None, torch.arange(len(data.search)))
    return Given(str(teacher), check_outputs(rows.log(), data.search.labels, data.classes), None)


def prepare_teacher(
    config: TrainConfig,
    given: Given | None,
    data: Data,
    folder: Path,
    metrics: AnyMetrics,
    device: torch.device,
    checkpoint: Keeper,
) -> Given:
    """Return the run's teacher: given, found in `folder`, or trained now; write what it is.

    Raises `UserError` when the run was begun with another teacher, and for one that only guesses.
    """
    begun = (folder / "teacher.json").exists()
    if given is None and begun:
        model = run_teacher(config, data, folder, device)
        given = Given(model.fingerprint(), _check(model, config, data), model)
    elif given is None:
        model = _trained(config, data, metrics, device, checkpoint)
        given = Given(model.fingerprint(), _check(model, config, data), model)
        if is_first():
            save_teacher(model, config.teacher_sources()[0], folder)
    elif begun:
        _refuse_another(read_facts(folder)["fingerprint"], given.fingerprint, folder)
    check = given.check
    facts = {
        "teachers": _described(config, given.model),
        "fingerprint": given.fingerprint,
        "classes": list(data.classes),
        "search_accuracy": check.accuracy,
        "calibration_error": check.calibration_error,
        "confusions": [list(confusion) for confusion in check.confusions],
    }
    if is_first():
        write_facts(folder, facts)
    metrics.summary(
        teacher_search_accuracy=check.accuracy, teacher_calibration_error=check.calibration_error
    )
    return given


def run_teacher(config: TrainConfig, data: Data, folder: Path, device: torch.device) -> AnyTeacher:
    """Load the teacher that a run was begun with; `UserError` when it is no longer the same."""
    if config.trains_teacher:
        model = saved_teacher(config.teacher_sources()[0], folder, len(data.classes))
    else:
        sources, resolution = config.teacher_sources(), data.settings.resolution
        teachers = [load_teacher(source, data.classes, resolution) for source in sources]
        weights = config.teacher_weight or (1.0,) * len(teachers)
        model = teachers[0] if len(teachers) == 1 else Ensemble(teachers, weights)
    model.to(device)
    _refuse_another(read_facts(folder)["fingerprint"], model.fingerprint(), folder)
    return model


def _described(config: TrainConfig, model: AnyTeacher | None) -> list[dict]:
    """Say of every teacher where it is from, and what it wants to see."""
    members = list(model.teachers) if isinstance(model, Ensemble) else [model]
    return [
        source.facts() | (asdict(member.wants) if member else {})
        for source, member in zip(config.teacher_sources(), members, strict=True)
    ]


def _refuse_another(stored: str, found: str, folder: Path) -> None:
    if stored != found:
        raise UserError(
            f"{folder}: begun with another teacher ({stored}, now {found}); bring that one back or "
            "give another --run"
        )


def _trained(
    config: TrainConfig,
    data: Data,
    metrics: AnyMetrics,
    device: torch.device,
    checkpoint: Keeper,
) -> Teacher:
    torch.manual_seed(config.seed)
    name, classes = config.teacher_sources()[0].name, len(data.classes)
    network = build_network(name, classes).to(device)
    labels, epochs = Labels(data.train, classes), config.teacher_epochs
    fit(
        network,
        partial(endless, data.train, labels, epochs, config.batch, config.seed, config.workers),
        label_loss,
        FitSettings(
            config.teacher_epochs,
            config.teacher_learning_rate,
            precision=config.precision,
            accumulate=config.accumulate,
        ),
        steps_per_epoch(data, config.batch),
        "teacher",
        partial(metrics.log, "teacher"),
        checkpoint,
    )
    return Teacher(network)


def steps_per_epoch(data: Data, batch: int) -> int:
    """Count the whole batches of the train split, at least one."""
    return max(1, len(data.train) // batch)


def at_once_of(config: TrainConfig, batch: int, processes: int) -> int:
    """Count the images of a batch that pass a network at once, in one process."""
    return batch // (processes * config.accumulate)


def stored_shapes(config: TrainConfig, data: Data) -> dict[str, tuple[Split, Shape]]:
    """What is stored of every split; the test images have no views, and wait for the report."""
    classes, most = len(data.classes), config.most_classes
    return {
        "train": (data.train, shape_of(data.train, config.views, classes, most)),
        "search": (data.search, shape_of(data.search, config.views, classes, most)),
        "test": (data.test, shape_of(data.test, 0, classes, most)),
    }


def prepare_outputs(
    config: TrainConfig,
    fingerprint: str,
    load: Callable[[], AnyTeacher],
    data: Data,
    folder: Path,
) -> Teaching:
    """Return the outputs of the teacher called `fingerprint`, stored in `folder` if they are not.

    `load` is called only where the teacher itself is needed.
    """
    if config.teacher_outputs == "online":
        online = Online(_probabilities(load(), config.precision))
        return Teaching(online, online, online)
    identity = {"data": data.fingerprint(), "teacher": fingerprint}
    if brought := config.stored_outputs:
        train, search = (open_targets(brought / name, identity) for name in ("train", "search"))
        known = (brought / "test").exists()
        return Teaching(train, search, open_targets(brought / "test", identity) if known else None)
    found, teacher = {}, None
    for name, (split, shape) in stored_shapes(config, data).items():
        place = folder / name
        if place.exists():
            found[name] = open_targets(place, identity)
            continue
        teacher = teacher or _probabilities(load(), config.precision)
        description = f"teacher's outputs, {name}"
        found[name] = store_targets(
            *(teacher, split, shape, place, identity),
            *(config.batch, config.workers, description),
        )
    return Teaching(**found)


def _probabilities(
    model: AnyTeacher, precision: Precision
) -> Callable[[torch.Tensor], torch.Tensor]:
    device = next(model.buffers()).device

    def run(images: torch.Tensor) -> torch.Tensor:
        with arithmetic(device, precision):
            return model(images.to(device)).exp()

    return run
