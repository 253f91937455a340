"""Batches: images, labels and the teacher's outputs stay together, view by view."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from base.errors import UserError
from kd.batches import (
    Batch,
    LabelOutputs,
    LoaderSettings,
    OnlineOutputs,
    distillation_batches,
    endless,
    on_device,
)
from kd.images.loader import shuffled
from kd.images.splits import Data, DataSettings, join, load_data
from kd.networks import InputFormat
from kd.outputs_writer import store_outputs
from kd.stored_outputs import StoredOutputs, join_outputs, stored_shape
from kd.teacher.model import Teacher

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data(DataSettings(resolution=(8, 8), limit=60, mix="mixup"))


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    return Teacher(network, InputFormat((0.3, 0.3, 0.3), (0.2, 0.2, 0.2)))


def stored_of(data: Data, teacher: Teacher, split: str, folder: Path) -> StoredOutputs:
    part = getattr(data, split)
    shape = stored_shape(part, 2, 10, 10)
    return store_outputs(
        *(lambda images: teacher(images).exp(), part, shape, folder / split, {}), batch=16
    )


@pytest.fixture(scope="module")
def stored(data: Data, teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> StoredOutputs:
    return stored_of(data, teacher, "train", tmp_path_factory.mktemp("targets"))


@pytest.mark.parametrize("mix", ["none", "mixup"])
def test_distilled_keeps_images_labels_and_outputs_together(
    data: Data, stored: StoredOutputs, mix: str
) -> None:
    """Stored outputs are looked up by image and view alone, so `mix` changes images and labels."""
    split = load_data(DataSettings(resolution=(8, 8), limit=60, mix=mix)).train
    view = split.view(1)
    truth = {view[i][0].numpy().tobytes(): i for i in range(len(split))}
    order = []
    for batch in distillation_batches(split, stored, 1, 10, shuffled(48, 0), drop_last=True):
        found = [truth[image.numpy().tobytes()] for image in batch.images]
        order += found
        assert torch.equal(batch.labels, view.label_shares(torch.tensor(found), 10))
        one = one_hot(split.labels[found], 10).float()
        assert torch.equal(batch.labels, one) == (mix == "none")
        assert torch.equal(batch.probabilities, stored.rows(1, torch.tensor(found)))
    assert len(order) == 40
    assert order != sorted(order)


def test_join_keeps_images_and_outputs_together(
    data: Data, teacher: Teacher, stored: StoredOutputs, tmp_path: Path
) -> None:
    search = stored_of(data, teacher, "search", tmp_path)
    split, targets = join([data.train, data.search]), join_outputs([stored, search])
    for view in (1, None):
        seen = 0
        for batch in distillation_batches(split, targets, view, 7, shuffled(60, 0)):
            online = teacher(batch.images).exp()
            assert torch.allclose(batch.probabilities, online, atol=1e-3)
            seen += len(batch.labels)
        assert seen == 60


def test_online_outputs_are_the_teachers_of_the_very_images(data: Data, teacher: Teacher) -> None:
    frames = teacher.frames(data.train.frame)
    online = OnlineOutputs(lambda images: teacher(images).exp(), frames)
    for view in (0, 7, None):
        for batch in distillation_batches(data.train, online, view, 16, None):
            assert torch.equal(batch.probabilities, teacher(batch.images).exp())


def test_endless_changes_view_and_order_every_epoch(data: Data, stored: StoredOutputs) -> None:
    def steps(seed: int) -> list[Tensor]:
        stream = endless(data.train, stored, LoaderSettings(16, 2, seed), CPU)
        return [batch.images for batch in itertools.islice(stream, 9)]

    once, again, other = steps(0), steps(0), steps(1)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert not torch.equal(once[0], other[0])
    assert len({images.numpy().tobytes() for images in once}) == 9

    def images(view: int) -> set[bytes]:
        return {data.train.view(view)[i][0].numpy().tobytes() for i in range(len(data.train))}

    for epoch, view in enumerate((0, 1, 0)):
        seen = {x.numpy().tobytes() for x in torch.cat(once[3 * epoch : 3 * epoch + 3])}
        assert seen == images(view)
    assert not torch.equal(torch.cat(once[:3]), torch.cat(once[6:]))


def test_endless_with_too_large_a_batch_stops(data: Data, stored: StoredOutputs) -> None:
    with pytest.raises(UserError, match="batch 49: more than the 48 images"):
        next(endless(data.train, stored, LoaderSettings(49, 2), CPU))


@pytest.mark.parametrize("start", range(8))
def test_endless_goes_on_anywhere_as_if_it_had_never_stopped(
    data: Data, stored: StoredOutputs, start: int
) -> None:
    """48 images in batches of 20: two an epoch, eight left out."""
    loader = LoaderSettings(20, 2, seed=3)
    whole = itertools.islice(endless(data.train, stored, loader, CPU), start, start + 4)
    begun = itertools.islice(endless(data.train, stored, loader, CPU, start), 4)
    for expected, found in zip(whole, begun, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize("view", [0, None])
def test_labels_stand_in_the_teachers_place(data: Data, view: int | None) -> None:
    batch = next(distillation_batches(data.train, LabelOutputs(data.train, 10), view, 16, None))
    assert torch.equal(batch.probabilities, batch.labels)
    assert torch.equal(batch.labels, data.train.view(view).label_shares(torch.arange(16), 10))
    assert torch.allclose(batch.probabilities.sum(dim=1), torch.ones(16))
    assert torch.equal(batch.images[3], data.train.view(view)[3][0])
    plain = one_hot(data.train.labels[:16], 10).float()
    assert torch.equal(batch.labels, plain) == (view is None)


def test_shares_part_the_batch_in_order() -> None:
    batch = Batch(torch.rand(7, 3, 8, 8), torch.rand(7, 10), torch.rand(7, 10))
    shares = batch.chunk(3)
    assert [len(share.labels) for share in shares] == [3, 2, 2]
    for whole, parts in zip(batch, zip(*shares, strict=True), strict=True):
        assert torch.equal(torch.cat(parts), whole)


def test_moving_a_batch_changes_nothing_but_the_order_in_memory() -> None:
    batch = Batch(torch.rand(2, 3, 4, 4), torch.rand(2, 5), torch.rand(2, 5))
    moved = on_device(batch, torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(batch, moved, strict=True))
    assert moved.images.is_contiguous(memory_format=torch.channels_last)


def test_a_gpu_is_sent_pinned_memory_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is there already, nothing is pinned: it would raise."""
    pinned: list[Tensor] = []
    blocking: list[bool] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor)
        return tensor

    def to(tensor: Tensor, *_: object, non_blocking: bool = False, **__: object) -> Tensor:
        blocking.append(not non_blocking)
        return tensor

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    monkeypatch.setattr(Tensor, "to", to)
    labels, there = torch.rand(2, 5), torch.empty(2, 5, device="meta")
    on_device(Batch(torch.rand(2, 3, 4, 4), labels, there), torch.device("cuda"))
    assert [id(tensor) for tensor in pinned] == [id(labels)]
    assert blocking == [False] * 3


def test_an_online_teachers_answers_stay_on_its_device() -> None:
    shown = torch.empty(2, 3, 8, 8, device="meta")
    online = OnlineOutputs(lambda images: images.mean(dim=(2, 3)), ())
    assert online.rows(None, torch.arange(2), [shown]).device == shown.device
