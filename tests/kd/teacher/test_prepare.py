"""The teacher's outputs are the same stored, online and in_place, and belong to one teacher."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from base.errors import UserError
from base.phase import Phase
from kd.batches import Batch, LoaderSettings, distillation_batches
from kd.fit import FitSettings
from kd.images.loader import shuffled
from kd.images.splits import Data, load_data
from kd.loss import kd_loss
from kd.run.train_config import TrainConfig
from kd.teacher import prepare
from kd.teacher.load import TeacherSource
from kd.teacher.model import Ensemble, Teacher
from kd.teacher.outputs import TeacherOutputs, prepare_outputs
from kd.teacher.prepare import (
    CheckedTeacher,
    open_teacher,
    prepare_teacher,
    reload_teacher,
    train_teacher,
)

CPU = torch.device("cpu")
NAMES = ("python:mine:near", "python:mine:far")


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return TrainConfig(limit=300, views=2, batch=64, teacher=NAMES[:1])


@pytest.fixture(scope="module")
def data(config: TrainConfig) -> Data:
    return load_data(config.data_settings((16, 16)))


@pytest.fixture(autouse=True)
def teachers(data: Data, monkeypatch: pytest.MonkeyPatch) -> dict[str, Teacher]:
    """Two that answer with the class whose mean image is nearest, sure of it or less so."""
    images = torch.stack([data.train.view(None)[i][0] for i in range(len(data.train))])
    means = torch.stack([images[data.train.labels == k].mean(dim=0) for k in range(10)]).flatten(1)
    made = {}
    for name, sharpness in zip(NAMES, (0.3, 0.1), strict=True):
        linear = nn.Linear(means.shape[1], 10)
        linear.weight.data = sharpness * means
        linear.bias.data = -sharpness * means.square().sum(dim=1) / 2
        made[name] = Teacher(nn.Sequential(nn.Flatten(), linear))

    def load(source: TeacherSource, classes: tuple[str, ...], size: tuple[int, int]) -> Teacher:
        assert (tuple(classes), size) == (data.classes, (16, 16))
        return made[source.name]

    monkeypatch.setattr(prepare, "load_teacher", load)
    return made


def never() -> Teacher:
    raise AssertionError("the teacher is not needed")


def opened(config: TrainConfig, data: Data) -> CheckedTeacher | None:
    return open_teacher(config.teacher_request(), data, config.loader(), CPU)


def prepared(
    config: TrainConfig, given: CheckedTeacher, data: Data, folder: Path
) -> CheckedTeacher:
    request, loader = config.teacher_request(), config.loader()
    return prepare_teacher(request, given, data, loader, folder, CPU, never)


def outputs(
    config: TrainConfig,
    given: CheckedTeacher,
    data: Data,
    folder: Path,
    load: Callable[[], Teacher] | None = None,
) -> TeacherOutputs:
    settings, load = replace(config.output_settings(), folder=folder), load or (lambda: given.model)
    return prepare_outputs(settings, given.fingerprint, load, data, config.loader())


def first_batch(found: TeacherOutputs, data: Data, view: int | None) -> Batch:
    return next(
        distillation_batches(data.train, found.train, view, 32, shuffled(len(data.train), 0))
    )


@pytest.mark.parametrize("view", [0, 1, None])
def test_online_and_stored_give_the_same_loss(
    config: TrainConfig, data: Data, tmp_path: Path, view: int | None
) -> None:
    given = opened(config, data)
    stored = outputs(config, given, data, tmp_path / "targets")
    online = outputs(replace(config, teacher_outputs="online"), given, data, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    batches = [first_batch(found, data, view) for found in (stored, online)]
    assert torch.equal(batches[0].images, batches[1].images)
    assert torch.equal(batches[0].labels, batches[1].labels)
    torch.testing.assert_close(
        batches[0].probabilities, batches[1].probabilities, atol=5e-4, rtol=1e-3
    )
    logits = torch.randn(32, 10, generator=torch.Generator().manual_seed(1))
    losses = [kd_loss(logits, batch, kd_temperature=4.0, kd_weight=0.9) for batch in batches]
    torch.testing.assert_close(*losses, atol=1e-4, rtol=1e-4)


def test_a_teacher_is_trained_on_none_of_the_views_that_its_outputs_are_stored_for(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, epochs, batch = set(), 3, 32
    images, views = len(data.train) // batch * batch, 5

    def watched(model: nn.Module, batches_from: Callable, *_: object) -> None:
        drawn = batches_from(0)
        for _ in range(epochs * images // batch):
            trained.update(image.numpy().tobytes() for image in next(drawn).images)

    monkeypatch.setattr(prepare, "fit", watched)
    source = TeacherSource("small_resnet18:1")
    recipe = FitSettings(epochs, 0.1), LoaderSettings(batch, views), CPU, Phase("teacher")
    train_teacher(source, data, *recipe)
    assert len(trained) > images
    stored = {
        data.train.view(view)[i][0].numpy().tobytes()
        for view in range(views)
        for i in range(len(data.train))
    }
    assert len(trained & stored) < 0.02 * len(stored)  # by chance a view moves nothing


def test_outputs_are_made_once(config: TrainConfig, data: Data, tmp_path: Path) -> None:
    given = opened(config, data)
    first = outputs(config, given, data, tmp_path)
    again = outputs(config, given, data, tmp_path, never)
    index = torch.arange(len(data.test))
    assert torch.equal(first.test.rows(None, index), again.test.rows(None, index))
    joined = again.joined(["train", "search"]).rows(1, torch.tensor([0, len(data.train)]))
    assert torch.equal(joined[:1], again.train.rows(1, torch.tensor([0])))
    assert torch.equal(joined[1:], again.search.rows(1, torch.tensor([0])))


def test_an_ensemble_averages_probabilities(
    config: TrainConfig, data: Data, teachers: dict[str, Teacher]
) -> None:
    both = replace(config, teacher=NAMES, teacher_weight=(3.0, 1.0))
    given = opened(both, data)
    assert isinstance(given.model, Ensemble)
    images = torch.rand(5, 3, 16, 16)
    near, far = (teachers[name](images).exp() for name in NAMES)
    torch.testing.assert_close(given.model(images, images).exp(), 0.75 * near + 0.25 * far)
    equal = opened(replace(both, teacher_weight=()), data)
    torch.testing.assert_close(equal.model(images, images).exp(), (near + far) / 2)
    assert len({given.fingerprint, equal.fingerprint}) == 2


def test_stored_outputs_stand_for_their_teacher(
    config: TrainConfig, data: Data, tmp_path: Path
) -> None:
    given = opened(config, data)
    own = outputs(config, given, data, tmp_path / "targets")
    in_place = replace(config, teacher=(f"stored:{tmp_path / 'targets'}",))
    alone = opened(in_place, data)
    assert (alone.model, alone.fingerprint) == (None, given.fingerprint)
    assert alone.check.accuracy == given.check.accuracy
    found = outputs(in_place, alone, data, tmp_path / "none", never)
    index = torch.arange(20)
    for name in ("train", "search", "test"):
        pair = [getattr(one, name).rows(None, index) for one in (own, found)]
        assert torch.equal(*pair)
    assert not (tmp_path / "none").exists()
    facts = prepared(in_place, alone, data, tmp_path / "run")
    assert facts.model is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda config: replace(config, views=3), "holds 2 views, expected 3; give --views 2"),
        (lambda config: replace(config, seed=1), "outputs of another data"),
        (lambda config: replace(config, mix="mixup"), "outputs of another data"),
        (lambda config: replace(config, augment="crop_flip"), "outputs of another data"),
    ],
    ids=["views", "splits", "mixture", "augmentation"],
)
def test_outputs_for_something_else_are_refused(
    config: TrainConfig,
    data: Data,
    tmp_path: Path,
    change: Callable[[TrainConfig], TrainConfig],
    text: str,
) -> None:
    outputs(config, opened(config, data), data, tmp_path)
    other = replace(change(config), teacher=(f"stored:{tmp_path}",))
    with pytest.raises(UserError, match=text):
        opened(other, load_data(other.data_settings((16, 16))))


def test_a_run_keeps_its_teacher(config: TrainConfig, data: Data, tmp_path: Path) -> None:
    given = opened(config, data)
    prepared(config, given, data, tmp_path)
    assert (
        reload_teacher(config.teacher_request(), data, tmp_path, CPU).fingerprint()
        == given.fingerprint
    )
    other = replace(config, teacher=NAMES[1:])
    with pytest.raises(UserError, match="begun with another teacher"):
        prepared(other, opened(other, data), data, tmp_path)
    with pytest.raises(UserError, match="begun with another teacher"):
        reload_teacher(other.teacher_request(), data, tmp_path, CPU)


def test_a_run_keeps_a_teacher_whose_files_do_not_tell(
    config: TrainConfig, data: Data, tmp_path: Path, teachers: dict[str, Teacher]
) -> None:
    """Its answers to a few images do."""
    teachers[NAMES[0]].remembered = [0.0, -1.0, -2.0]
    given = opened(config, data)
    prepared(config, given, data, tmp_path)
    teachers[NAMES[0]].remembered = [0.001, -1.0, -2.001]
    prepared(config, given, data, tmp_path)
    reload_teacher(config.teacher_request(), data, tmp_path, CPU)
    teachers[NAMES[0]].remembered = [-1.0, 0.0, -2.0]
    with pytest.raises(UserError, match="its files are the same, its answers are not"):
        prepared(config, given, data, tmp_path)
    with pytest.raises(UserError, match="its files are the same, its answers are not"):
        reload_teacher(config.teacher_request(), data, tmp_path, CPU)


def test_stored_outputs_cannot_run_in_every_step(config: TrainConfig, data: Data) -> None:
    both = replace(config, teacher=("stored:elsewhere",), teacher_outputs="online")
    with pytest.raises(UserError, match="needs a teacher"):
        opened(both, data)


def test_outputs_that_lack_only_their_name_are_not_made_again(
    config: TrainConfig, data: Data, tmp_path: Path
) -> None:
    """The writer was stopped between its last save and the renaming."""
    given = opened(config, data)
    outputs(config, given, data, tmp_path)
    (tmp_path / "search").rename(tmp_path / ".search.partial")
    loaded = Teacher(nn.Sequential(nn.Flatten(), nn.Linear(1, 1)))  # fails when it is run
    again = outputs(config, given, data, tmp_path, lambda: loaded)
    assert again.search.views == 2
    assert not (tmp_path / ".search.partial").exists()
