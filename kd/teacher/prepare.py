"""The run's teacher: opened and checked, or trained, or found in the run's folder."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from base.errors import UserError
from base.phase import Phase
from base.processes import is_main_process
from kd.batches import LabelOutputs, LoaderSettings, endless, steps_per_epoch
from kd.evaluate import predict
from kd.fit import FitSettings, fit
from kd.images.splits import Data
from kd.loss import label_loss
from kd.networks import build_network
from kd.stored_outputs import open_outputs, stored_identity
from kd.teacher.answers import same_answers
from kd.teacher.check import Check, check_input, check_outputs
from kd.teacher.check_vectors import VectorCheck, check_vectors
from kd.teacher.load import load_embedder, load_teacher, vector_size
from kd.teacher.model import AnyTeacher, Ensemble, Teacher
from kd.teacher.request import TeacherRequest, TeacherSource
from kd.teacher.saved import load_saved_teacher, read_facts, save_teacher, write_facts

OTHER_VIEWS = 1  # is added to the seed of views


@dataclass(frozen=True)
class CheckedTeacher:
    """A teacher that was checked; `model` is None where only its stored outputs are at hand."""

    fingerprint: str
    check: Check | VectorCheck
    model: AnyTeacher | None


def with_vector(request: TeacherRequest, data: Data) -> Data:
    """Return the data with the size of the teacher's vector, where pairs are verified by it."""
    if data.pairs is None:
        return data
    teacher = _network(request.sources[0], data)
    return replace(data, vector=vector_size(teacher, data.settings.resolution))


def open_teacher(
    request: TeacherRequest, data: Data, loader: LoaderSettings, device: torch.device
) -> CheckedTeacher | None:
    """Return the teacher that the user gives, checked before anything is written.

    None when it is to be trained here. Raises `UserError` when it cannot be loaded, only guesses,
    or would be far better with another input or order of classes.
    """
    if request.stored:
        return _stored(request.stored, data, loader.views)
    if request.trained_here and data.pairs is None:
        build_network(request.name, len(data.classes))
        return None
    teachers = [_loaded(source, data, loader, device) for source in request.sources]
    if len(teachers) == 1:
        return teachers[0]
    model = Ensemble([teacher.model for teacher in teachers], request.weights)
    return _checked(model.to(device), data, loader)


def load_unchecked(request: TeacherRequest, data: Data, device: torch.device) -> AnyTeacher | None:
    """Load the teacher that the user gives, for a preview; None when no network is given."""
    if request.stored or request.trained_here:
        return None
    return _model(request, data).to(device)


def _model(request: TeacherRequest, data: Data) -> AnyTeacher:
    teachers = [_network(source, data) for source in request.sources]
    return teachers[0] if len(teachers) == 1 else Ensemble(teachers, request.weights)


def _network(source: TeacherSource, data: Data) -> Teacher:
    """Load one teacher, as what the data asks of it: a vector, or its classes."""
    if data.pairs is not None:
        return load_embedder(source, data.settings.resolution)
    return load_teacher(source, data.classes, data.settings.resolution)


def _loaded(
    source: TeacherSource, data: Data, loader: LoaderSettings, device: torch.device
) -> CheckedTeacher:
    """Load and check one teacher, alone or of an ensemble."""
    model = _network(source, data).to(device)
    if data.pairs is None:
        check_input(
            model,
            data.search,
            loader.batch,
            loader.workers,
            own_resolution=source.resolution is None,
            own_values=source.mean is None and source.std is None,
        )
    return _checked(model, data, loader)


def _checked(model: AnyTeacher, data: Data, loader: LoaderSettings) -> CheckedTeacher:
    if data.pairs is not None:
        check = check_vectors(model, data.search, loader.batch, loader.workers)
        return CheckedTeacher(model.fingerprint(), check, model)
    plain = data.search.view(None).shown_in(model.frames(data.search.frame))
    log_p, labels = predict(model, plain, loader.batch, loader.workers, "teacher's check")
    check = check_outputs(log_p, labels, data.classes)
    return CheckedTeacher(model.fingerprint(), check, model)


def _stored(folder: Path, data: Data, views: int) -> CheckedTeacher:
    """Check the outputs that the user gives in place of a teacher."""
    teacher = stored_identity(folder / "search").get("teacher")
    identity = {"data": data.fingerprint(), "teacher": str(teacher)}
    for name in ("train", "search"):
        found = open_outputs(folder / name, identity)
        if found.views < views:
            raise UserError(
                f"{folder}: holds {found.views} views, expected {views}; give --views {found.views}"
            )
    rows = found.rows(None, torch.arange(len(data.search)))
    check = check_outputs(rows.log(), data.search.labels, data.classes)
    return CheckedTeacher(str(teacher), check, None)


def prepare_teacher(
    request: TeacherRequest,
    opened: CheckedTeacher | None,
    data: Data,
    loader: LoaderSettings,
    folder: Path,
    device: torch.device,
    train: Callable[[], Teacher],
) -> CheckedTeacher:
    """Return the run's teacher: the opened one, that in `folder`, or one trained now; write facts.

    Raises `UserError` when the run was begun with another teacher, and for one that only guesses.
    """
    begun = (folder / "teacher.json").exists()
    if opened is None and begun:
        teacher = _checked(reload_teacher(request, data, folder, device), data, loader)
    elif opened is None:
        teacher = _checked(train().to(device), data, loader)
        if is_main_process():
            save_teacher(teacher.model, request.sources[0], folder)
    else:
        teacher = opened
        if begun:
            _refuse_another(teacher.fingerprint, teacher.model, folder)
    if is_main_process():
        write_facts(folder, _facts(request, teacher, data))
    return teacher


def _facts(request: TeacherRequest, teacher: CheckedTeacher, data: Data) -> dict[str, object]:
    """Say what the teacher is, how good, and for which classes."""
    model = teacher.model
    members = list(model.teachers) if isinstance(model, Ensemble) else [model]
    return {
        "teachers": [
            _described(source, member)
            for source, member in zip(request.sources, members, strict=True)
        ],
        "fingerprint": teacher.fingerprint,
        "answers": _answers(model),
        "classes": list(data.classes),
        **teacher.check.facts(),
    }


def _described(source: TeacherSource, member: Teacher | None) -> Mapping[str, object]:
    return source.facts() | (asdict(member.input_format) if member else {})


def reload_teacher(
    request: TeacherRequest, data: Data, folder: Path, device: torch.device
) -> AnyTeacher:
    """Load the teacher that a run was begun with; `UserError` when it is no longer the same."""
    if request.trained_here:
        model = load_saved_teacher(request.sources[0], folder, len(data.classes))
    else:
        model = _model(request, data)
    model.to(device)
    _refuse_another(model.fingerprint(), model, folder)
    return model


def _refuse_another(fingerprint: str, model: AnyTeacher | None, folder: Path) -> None:
    """Raise `UserError` unless the run in `folder` was begun with this teacher.

    What is in a teacher's files may stay the same where its answers do not.
    """
    begun = read_facts(folder)
    if begun["fingerprint"] != fingerprint:
        raise UserError(
            f"{folder}: begun with another teacher ({begun['fingerprint']}, now {fingerprint});"
            " bring that one back or give another --run"
        )
    before, now = begun["answers"], _answers(model)
    if len(before) != len(now) or not all(map(same_answers, before, now)):
        raise UserError(
            f"{folder}: begun with another teacher: its files are the same, its answers are not;"
            " bring that one back or give another --run"
        )


def _answers(model: AnyTeacher | None) -> list[list[float]]:
    """Return what each teacher has answered to the images that are always the same."""
    members = model.teachers if isinstance(model, Ensemble) else [model] if model else []
    return [member.remembered for member in members]


def train_teacher(
    source: TeacherSource,
    data: Data,
    settings: FitSettings,
    loader: LoaderSettings,
    device: torch.device,
    phase: Phase,
) -> Teacher:
    """Train a teacher on the labels of the train split, every epoch on another view.

    None is a view that its answers will be stored for: of those it would be surer than of others.
    """
    torch.manual_seed(loader.seed)
    classes = len(data.classes)
    network = build_network(source.name, classes).to(device)
    own = replace(loader, views=settings.epochs)
    # It takes colours, as every network of a library does: grey ones where images are grey.
    frame, seed = replace(data.train.frame, channels=3), data.train.seed + OTHER_VIEWS
    split = replace(data.train, frame=frame, seed=seed)
    fit(
        network,
        partial(endless, split, LabelOutputs(split, classes), own, device),
        label_loss,
        settings,
        steps_per_epoch(len(split), loader.batch),
        phase,
    )
    return Teacher(network, name=source.name)
