"""Stored teacher outputs: what the teacher would say online, whole, and of the right things."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export.errors import UserError
from kd.data import Data, DataSettings, join, load_data
from kd.targets import (
    Batch,
    Targets,
    distilled,
    endless,
    join_targets,
    labelled,
    open_targets,
    store_targets,
)
from kd.teacher import Teacher

IDENTITY = {"data": "d1", "teacher": "t1"}


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data(DataSettings(resolution=8, limit=60))


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    torch.manual_seed(0)
    return Teacher(
        nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), (0.3, 0.3, 0.3), (0.2, 0.2, 0.2)
    )


@pytest.fixture(scope="module")
def stored(data: Data, teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Targets:
    folder = tmp_path_factory.mktemp("targets") / "train"
    return store_targets(teacher, data.train, 2, folder, IDENTITY, batch=16)


def test_stored_outputs_equal_the_teacher_online(
    data: Data, teacher: Teacher, stored: Targets
) -> None:
    index = torch.tensor([5, 0, 47])
    for view in (0, 1, None):
        images = torch.stack([data.train.view(view)[int(i)][0] for i in index])
        online = teacher(images).softmax(dim=1)
        rows = stored.rows(view, index)
        assert rows.dtype == torch.float32
        assert torch.equal(rows, online.half().float())
    assert not torch.equal(stored.rows(0, index), stored.rows(1, index))


def test_view_beyond_the_stored_ones_is_a_bug(stored: Targets) -> None:
    assert stored.views == 2
    for view in (2, -1):
        with pytest.raises(AssertionError):
            stored.rows(view, torch.tensor([0]))


def test_stored_outputs_are_found_again(data: Data, teacher: Teacher, tmp_path: Path) -> None:
    first = store_targets(teacher, data.search, 1, tmp_path / "search", IDENTITY)
    again = open_targets(tmp_path / "search", IDENTITY)
    assert np.array_equal(first.parts[0], again.parts[0])
    assert again.parts[0].dtype == np.float16
    assert sorted(p.name for p in tmp_path.iterdir()) == ["search"]
    assert json.loads((tmp_path / "search/targets.json").read_text())["shape"] == [2, 12, 10]


def test_storing_again_replaces(data: Data, teacher: Teacher, tmp_path: Path) -> None:
    store_targets(teacher, data.search, 1, tmp_path / "search", IDENTITY)
    other = {"data": "d2", "teacher": "t1"}
    assert store_targets(teacher, data.search, 2, tmp_path / "search", other).views == 2


def test_interrupted_storing_leaves_nothing(data: Data, teacher: Teacher, tmp_path: Path) -> None:
    calls = itertools.count()

    def stop(*_: object) -> None:
        if next(calls) == 3:
            raise KeyboardInterrupt

    hook = teacher.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        store_targets(teacher, data.train, 1, tmp_path / "train", IDENTITY, batch=16)
    hook.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("identity", "field"),
    [
        ({"data": "d2", "teacher": "t1"}, r"another data \(d1, expected d2\)"),
        ({"data": "d1", "teacher": "t2"}, r"another teacher \(t1, expected t2\)"),
        ({"data": "d1", "teacher": "t1", "views": "3"}, r"another views \(None, expected 3\)"),
    ],
)
def test_foreign_outputs_are_refused(
    data: Data, teacher: Teacher, tmp_path: Path, identity: dict[str, str], field: str
) -> None:
    store_targets(teacher, data.search, 1, tmp_path / "search", IDENTITY)
    with pytest.raises(UserError, match=field):
        open_targets(tmp_path / "search", identity)


def test_outputs_that_are_not_whole_are_refused(
    data: Data, teacher: Teacher, tmp_path: Path
) -> None:
    folder = tmp_path / "search"
    with pytest.raises(UserError, match="cannot be read as JSON"):
        open_targets(folder, IDENTITY)
    store_targets(teacher, data.search, 1, folder, IDENTITY)
    path = folder / "probabilities.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(UserError, match="not whole"):
        open_targets(folder, IDENTITY)
    np.save(path, np.zeros((2, 11, 10), dtype=np.float16))
    with pytest.raises(UserError, match=r"\[2, 11, 10\], expected float16 \[2, 12, 10\]"):
        open_targets(folder, IDENTITY)
    path.unlink()
    with pytest.raises(UserError, match="not whole"):
        open_targets(folder, IDENTITY)


def test_join_keeps_images_and_outputs_together(
    data: Data, teacher: Teacher, stored: Targets, tmp_path: Path
) -> None:
    search = store_targets(teacher, data.search, 2, tmp_path / "search", IDENTITY)
    split, targets = join(data.train, data.search), join_targets(stored, search)
    generator = torch.Generator().manual_seed(0)
    for view in (1, None):
        seen = 0
        for batch in distilled(split, targets, view, 7, generator):
            online = teacher(batch.images).softmax(dim=1)
            assert torch.allclose(batch.probabilities, online, atol=1e-3)
            seen += len(batch.labels)
        assert seen == 60


def test_distilled_keeps_images_labels_and_outputs_together(
    data: Data, teacher: Teacher, stored: Targets
) -> None:
    truth = {data.train.view(1)[i][0].numpy().tobytes(): i for i in range(len(data.train))}
    generator = torch.Generator().manual_seed(0)
    order = []
    for batch in distilled(data.train, stored, 1, 10, generator, drop_last=True):
        found = [truth[image.numpy().tobytes()] for image in batch.images]
        order += found
        assert torch.equal(batch.labels, data.train.labels[found])
        assert torch.equal(batch.probabilities, stored.rows(1, torch.tensor(found)))
    assert len(order) == 40
    assert order != sorted(order)


def test_endless_changes_view_and_order_every_epoch(data: Data, stored: Targets) -> None:
    def steps(seed: int) -> list[torch.Tensor]:
        stream = endless(data.train, stored, 2, 16, torch.Generator().manual_seed(seed))
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


def test_endless_with_too_large_a_batch_stops(data: Data, stored: Targets) -> None:
    with pytest.raises(UserError, match="batch 49: more than the 48 images"):
        next(endless(data.train, stored, 2, 49, torch.Generator()))


def test_labelled_puts_all_probability_on_the_label(data: Data) -> None:
    batch = next(labelled(data.train, 0, 10, 16, None))
    assert torch.equal(batch.probabilities.argmax(dim=1), batch.labels)
    assert torch.equal(batch.probabilities.sum(dim=1), torch.ones(16))
    assert torch.equal(batch.images[3], data.train.view(0)[3][0])


def test_teacher_fingerprint_and_data_fingerprint_make_an_identity(
    data: Data, teacher: Teacher, tmp_path: Path
) -> None:
    identity = {"data": data.fingerprint(), "teacher": teacher.fingerprint()}
    store_targets(teacher, data.search, 1, tmp_path / "search", identity)
    other = load_data(replace(data.settings, seed=1))
    with pytest.raises(UserError, match="another data"):
        open_targets(tmp_path / "search", {**identity, "data": other.fingerprint()})


def test_shares_part_the_batch_in_order() -> None:
    batch = Batch(torch.rand(7, 3, 8, 8), torch.arange(7), torch.rand(7, 10))
    shares = batch.shares(3)
    assert [len(share.labels) for share in shares] == [3, 2, 2]
    for whole, parts in zip(batch, zip(*shares, strict=True), strict=True):
        assert torch.equal(torch.cat(parts), whole)
