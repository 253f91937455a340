"""The teacher's outputs are the same stored, online and brought, and belong to one teacher."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from export.checkpoint import NoCheckpoint
from export.errors import UserError
from kd import prepare
from kd.config import TrainConfig
from kd.data import Data, load_data, shuffled
from kd.loss import kd_loss
from kd.prepare import (
    Given,
    Teaching,
    given_teacher,
    prepare_outputs,
    prepare_teacher,
    run_teacher,
)
from kd.targets import Batch, distilled
from kd.teacher import Ensemble, Teacher, TeacherSource

CPU = torch.device("cpu")
NAMES = ("python:mine:near", "python:mine:far")


class Silent:
    """Stands for the metrics of a run."""

    def summary(self, **values: object) -> None:
        """Keep nothing."""


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return TrainConfig(limit=300, views=2, batch=64, teacher=NAMES[:1])


@pytest.fixture(scope="module")
def data(config: TrainConfig) -> Data:
    return load_data(config.data_settings(16))


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

    def load(source: TeacherSource, classes: tuple[str, ...], resolution: int) -> Teacher:
        assert (tuple(classes), resolution) == (data.classes, 16)
        return made[source.name]

    monkeypatch.setattr(prepare, "load_teacher", load)
    return made


def never() -> Teacher:
    raise AssertionError("the teacher is not needed")


def outputs(config: TrainConfig, given: Given, data: Data, folder: Path) -> Teaching:
    return prepare_outputs(config, given.fingerprint, lambda: given.model, data, folder)


def first_batch(taught: Teaching, data: Data, view: int | None) -> Batch:
    return next(distilled(data.train, taught.train, view, 32, shuffled(len(data.train), 0)))


@pytest.mark.parametrize("view", [0, 1, None])
def test_online_and_stored_give_the_same_loss(
    config: TrainConfig, data: Data, tmp_path: Path, view: int | None
) -> None:
    given = given_teacher(config, data, CPU)
    stored = outputs(config, given, data, tmp_path / "targets")
    online = outputs(replace(config, teacher_outputs="online"), given, data, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    batches = [first_batch(taught, data, view) for taught in (stored, online)]
    assert torch.equal(batches[0].images, batches[1].images)
    assert torch.equal(batches[0].labels, batches[1].labels)
    torch.testing.assert_close(
        batches[0].probabilities, batches[1].probabilities, atol=5e-4, rtol=1e-3
    )
    logits = torch.randn(32, 10, generator=torch.Generator().manual_seed(1))
    losses = [kd_loss(logits, batch, kd_temperature=4.0, kd_weight=0.9) for batch in batches]
    torch.testing.assert_close(*losses, atol=1e-4, rtol=1e-4)


def test_outputs_are_made_once(config: TrainConfig, data: Data, tmp_path: Path) -> None:
    given = given_teacher(config, data, CPU)
    first = outputs(config, given, data, tmp_path)
    again = prepare_outputs(config, given.fingerprint, never, data, tmp_path)
    index = torch.arange(len(data.test))
    assert torch.equal(first.test.rows(None, index), again.test.rows(None, index))
    joined = again.joined().rows(1, torch.tensor([0, len(data.train)]))
    assert torch.equal(joined[:1], again.train.rows(1, torch.tensor([0])))
    assert torch.equal(joined[1:], again.search.rows(1, torch.tensor([0])))


def test_an_ensemble_averages_probabilities(
    config: TrainConfig, data: Data, teachers: dict[str, Teacher]
) -> None:
    both = replace(config, teacher=NAMES, teacher_weight=(3.0, 1.0))
    given = given_teacher(both, data, CPU)
    assert isinstance(given.model, Ensemble)
    images = torch.rand(5, 3, 16, 16)
    near, far = (teachers[name](images).exp() for name in NAMES)
    torch.testing.assert_close(given.model(images).exp(), 0.75 * near + 0.25 * far)
    equal = given_teacher(replace(both, teacher_weight=()), data, CPU)
    torch.testing.assert_close(equal.model(images).exp(), (near + far) / 2)
    assert len({given.fingerprint, equal.fingerprint}) == 2


def test_stored_outputs_stand_for_their_teacher(
    config: TrainConfig, data: Data, tmp_path: Path
) -> None:
    given = given_teacher(config, data, CPU)
    own = outputs(config, given, data, tmp_path / "targets")
    brought = replace(config, teacher=(f"stored:{tmp_path / 'targets'}",))
    alone = given_teacher(brought, data, CPU)
    assert (alone.model, alone.fingerprint) == (None, given.fingerprint)
    assert alone.check.accuracy == given.check.accuracy
    taught = prepare_outputs(brought, alone.fingerprint, never, data, tmp_path / "none")
    index = torch.arange(20)
    for name in ("train", "search", "test"):
        pair = [getattr(one, name).rows(None, index) for one in (own, taught)]
        assert torch.equal(*pair)
    assert not (tmp_path / "none").exists()
    facts = prepare_teacher(brought, alone, data, tmp_path / "run", Silent(), CPU, NoCheckpoint())
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
    outputs(config, given_teacher(config, data, CPU), data, tmp_path)
    other = replace(change(config), teacher=(f"stored:{tmp_path}",))
    with pytest.raises(UserError, match=text):
        given_teacher(other, load_data(other.data_settings(16)), CPU)


def test_a_run_keeps_its_teacher(config: TrainConfig, data: Data, tmp_path: Path) -> None:
    given = given_teacher(config, data, CPU)
    prepare_teacher(config, given, data, tmp_path, Silent(), CPU, NoCheckpoint())
    assert run_teacher(config, data, tmp_path, CPU).fingerprint() == given.fingerprint
    other = replace(config, teacher=NAMES[1:])
    with pytest.raises(UserError, match="begun with another teacher"):
        prepare_teacher(
            other, given_teacher(other, data, CPU), data, tmp_path, Silent(), CPU, NoCheckpoint()
        )
    with pytest.raises(UserError, match="begun with another teacher"):
        run_teacher(other, data, tmp_path, CPU)


def test_stored_outputs_cannot_run_in_every_step(config: TrainConfig, data: Data) -> None:
    both = replace(config, teacher=("stored:elsewhere",), teacher_outputs="online")
    with pytest.raises(UserError, match="needs a teacher"):
        given_teacher(both, data, CPU)


def test_outputs_that_lack_only_their_name_are_not_made_again(
    config: TrainConfig, data: Data, tmp_path: Path
) -> None:
    """The writer was stopped between its last save and the renaming."""
    given = given_teacher(config, data, CPU)
    outputs(config, given, data, tmp_path)
    (tmp_path / "search").rename(tmp_path / ".search.partial")
    loaded = Teacher(nn.Sequential(nn.Flatten(), nn.Linear(1, 1)))  # fails when it is run
    again = prepare_outputs(config, given.fingerprint, lambda: loaded, data, tmp_path)
    assert again.search.views == 2
    assert not (tmp_path / ".search.partial").exists()
