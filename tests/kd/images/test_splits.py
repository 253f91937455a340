"""Splits, views that replay, folders of images, and their faults."""

import hashlib
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from base.errors import UserError
from kd.images import splits
from kd.images.loader import batches, defer_signals, shuffled
from kd.images.pixels import InMemory
from kd.images.sources import Source
from kd.images.splits import Data, DataSettings, join, load_data
from tests.smoke import ROOT

DIGITS = DataSettings()


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data(DIGITS)


def first_views(settings: DataSettings) -> str:
    split = load_data(settings).train
    images = [split.view(v)[i][0] for v in range(3) for i in range(8)]
    return hashlib.sha256(torch.stack(images).numpy().tobytes()).hexdigest()


def test_splits_are_disjoint_and_cover_the_source(digits: Data) -> None:
    parts = [digits.train.positions, digits.search.positions, digits.test.positions]
    together = torch.cat(parts)
    assert torch.equal(together.sort().values, torch.arange(1797))
    assert [len(p) for p in parts] == [1149, 288, 360]


def test_splits_are_stratified(digits: Data) -> None:
    whole = torch.cat([s.labels for s in (digits.train, digits.search, digits.test)])
    for split in (digits.train, digits.search, digits.test):
        expected = whole.bincount() * len(split) / len(whole)
        assert (split.labels.bincount() - expected).abs().max() <= 1


def test_splits_follow_the_seed(digits: Data) -> None:
    assert torch.equal(load_data(DIGITS).train.positions, digits.train.positions)
    other = load_data(replace(DIGITS, seed=1))
    assert not torch.equal(other.train.positions, digits.train.positions)


def test_images_are_float_rgb_in_unit_range(digits: Data) -> None:
    for split in (digits.train, digits.train.view(0)):
        image, label, index = split[5]
        assert image.shape == (3, 16, 16)
        assert image.dtype == torch.float32
        assert image.min() >= 0
        assert 0.5 < image.max() <= 1
        assert (label, index) == (int(digits.train.labels[5]), 5)


def test_digits_show_the_digit_of_their_label() -> None:
    data = load_data(replace(DIGITS, resolution=(8, 8)))
    grey, labels = load_digits(return_X_y=True)
    for i in (0, 7, 300):
        position = int(data.train.positions[i])
        image, label, _ = data.train[i]
        assert label == labels[position]
        assert torch.allclose(
            image[1].flatten() * 16, torch.tensor(grey[position]).float(), atol=0.04
        )


def few_of_one_class(counts: Sequence[int]) -> Source:
    """A source with so many images of every class."""
    labels = np.repeat(np.arange(len(counts)), counts)
    images = InMemory(torch.zeros(len(labels), 3, 8, 8, dtype=torch.uint8))
    names = tuple("abcdef"[: len(counts)])
    return Source(images, labels, names, np.arange(len(labels)), None, None)


@pytest.mark.parametrize("rare", [3, 4, 7])
@pytest.mark.parametrize("seed", range(5))
def test_a_rare_class_is_in_every_split(
    rare: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "read_source", lambda *_: few_of_one_class((200, 300, rare)))
    data = load_data(replace(DIGITS, seed=seed))
    parts = [data.train, data.search, data.test]
    assert torch.equal(
        torch.cat([p.positions for p in parts]).sort().values, torch.arange(500 + rare)
    )
    for part in parts:
        assert part.labels.bincount(minlength=3).min() >= 1
        assert torch.equal(part.positions, part.positions.sort().values)


@pytest.mark.parametrize("rare", [1, 2])
def test_a_class_of_fewer_images_than_splits_is_named(
    rare: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splits, "read_source", lambda *_: few_of_one_class((200, 300, rare)))
    with pytest.raises(UserError, match=r"^c: too few images for the (search|test) split"):
        load_data(DIGITS)


def test_limit_is_balanced_and_seeded() -> None:
    data = load_data(replace(DIGITS, limit=100))
    again = load_data(replace(DIGITS, limit=100))
    assert [len(data.train), len(data.search), len(data.test)] == [80, 20, 100]
    assert (data.train.labels.bincount() + data.search.labels.bincount() == 10).all()
    assert (data.test.labels.bincount() == 10).all()
    assert torch.equal(data.train.positions, again.train.positions)


@pytest.mark.parametrize("augment", ["affine", "crop_flip", "resized_crop_flip"])
def test_views_differ_replay_and_leave_the_global_generator_alone(augment: str) -> None:
    split = load_data(replace(DIGITS, augment=augment, limit=60)).train
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    once = [split.view(1)[i][0] for i in range(len(split))]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(4)
    again = [split.view(1)[i][0] for i in reversed(range(len(split)))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    other = [split.view(2)[i][0] for i in range(len(split))]
    differing = [not torch.equal(a, b) for a, b in zip(once, other, strict=True)]
    assert sum(differing) > len(split) // 2


def test_views_replay_in_a_worker_and_in_another_process() -> None:
    settings = replace(DIGITS, augment="resized_crop_flip", limit=60)
    split = load_data(settings).train.view(2)
    here = torch.cat([images for images, _, _ in batches(split, 16, None)])
    worker = torch.cat([images for images, _, _ in batches(split, 16, None, workers=1)])
    assert torch.equal(here, worker)
    code = (
        "from tests.kd.images.test_splits import *; "
        "print(first_views(replace(DIGITS, augment='resized_crop_flip', limit=60)))"
    )
    root = ROOT
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    assert out.strip() == first_views(settings)


def test_augmentation_seed_changes_the_views() -> None:
    split = load_data(replace(DIGITS, limit=100)).train
    other = replace(split, seed=1)
    pairs = [(split.view(0)[i][0], other.view(0)[i][0]) for i in range(len(split))]
    assert sum(not torch.equal(a, b) for a, b in pairs) > len(split) // 2


def test_join_keeps_order_labels_and_views(digits: Data) -> None:
    whole = join([digits.train, digits.search])
    assert len(whole) == len(digits.train) + len(digits.search)
    for index in (0, 1148, 1149, 1436):
        a = index < len(digits.train)
        split, inner = (digits.train, index) if a else (digits.search, index - len(digits.train))
        for view in (None, 0, 3):
            image, label, position = whole.view(view)[index]
            expected, expected_label, _ = split.view(view)[inner]
            assert torch.equal(image, expected)
            assert (label, position) == (expected_label, index)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_come_in_the_order_given(digits: Data, workers: int) -> None:
    def seen(order: list[int] | None) -> list[int]:
        epoch = batches(digits.test, 50, order, workers)
        return torch.cat([index for _, _, index in epoch]).tolist()

    state = torch.random.get_rng_state()
    assert seen(None) == list(range(360))
    assert seen([7, 300, 7, 12]) == [7, 300, 7, 12]
    assert seen(shuffled(360, 1)) == shuffled(360, 1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_order_is_decided_by_its_key_alone() -> None:
    assert sorted(shuffled(360, 1, 2)) == list(range(360))
    assert shuffled(360, 1, 2) == shuffled(360, 1, 2)
    orders = {tuple(shuffled(360, *key)) for key in ((1,), (2,), (1, 0), (1, 2), (2, 1), (0, 12))}
    assert len(orders) == 5  # a trailing 0 is no difference


def test_batches_drop_the_last_only_when_asked(digits: Data) -> None:
    assert [len(i) for _, _, i in batches(digits.test, 250, None)] == [250, 110]
    assert [len(i) for _, _, i in batches(digits.test, 250, None, drop_last=True)] == [250]
    with pytest.raises(UserError, match="batch 361: more than the 360 images"):
        next(batches(digits.test, 361, None, drop_last=True))


def test_fingerprint_tells_data_apart(digits: Data) -> None:
    changes = (
        *({"seed": 1}, {"augment": "crop_flip"}, {"resolution": (8, 8)}, {"limit": 900}),
        *({"mix": "mixup"}, {"mix": "cutmix"}),
    )
    prints = [load_data(replace(DIGITS, **change)).fingerprint() for change in changes]
    assert len({digits.fingerprint(), *prints}) == 7
    assert load_data(DIGITS).fingerprint() == digits.fingerprint()


@pytest.mark.parametrize(
    "change",
    [{"search_fraction": 0}, {"test_fraction": 1.5}, {"limit": -5}],
)
def test_settings_out_of_range(change: dict[str, float]) -> None:
    (name,) = change
    with pytest.raises(UserError, match=f"{name} {change[name]}: expected"):
        load_data(replace(DIGITS, **change))


@pytest.mark.parametrize("size", [(4, 4), (16, 7)])
def test_images_of_a_few_pixels_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=f"resolution {size[0]}×{size[1]}: expected 8 pixels"):
        load_data(replace(DIGITS, resolution=size))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_waits_until_workers_are_forked(number: int) -> None:
    stopping = (signal.SIGINT, signal.SIGTERM)
    before = {s: signal.signal(s, signal.default_int_handler) for s in stopping}
    reached = []

    def fork() -> None:
        with defer_signals():
            signal.raise_signal(number)
            reached.append("the end")

    try:
        with pytest.raises(KeyboardInterrupt):
            fork()
        assert reached == ["the end"]
        assert all(signal.getsignal(s) is signal.default_int_handler for s in stopping)
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
