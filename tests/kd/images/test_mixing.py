"""Mixed images: replayed anywhere, within their own part, and labelled by their shares."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kd.images.loader import batches
from kd.images.mixing import draw_mixture
from kd.images.pixels import InMemory
from kd.images.splits import DataSettings, Split, join, load_data

MIXES = ["mixup", "cutmix"]
SIDE = 16


# Image i is of the grey 2 i.
GREYS = (2 * torch.arange(20, dtype=torch.uint8)).view(-1, 1, 1, 1)
FLAT = InMemory(GREYS.expand(-1, 3, SIDE, SIDE).contiguous())


def digits(mix: str) -> Split:
    return load_data(DataSettings(resolution=(SIDE, SIDE), limit=60, mix=mix)).train


def flat(mix: str, count: int, first: int = 0, seed: int = 0) -> Split:
    """Images first, first + 1, ... of one grey each, a class each, and no augmentation."""
    split = digits(mix)
    chosen = torch.arange(first, first + count)
    return replace(
        split,
        images=FLAT,
        labels=chosen,
        positions=chosen,
        augment="none",
        seed=seed,
        parts=(count,),
    )


def ingredients(image: Tensor) -> dict[int, int]:
    """Pixels of every original image in a pasted one."""
    numbers, counts = (image[0] * 255 / 2).round().long().unique(return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist(), strict=True))


@pytest.mark.parametrize("mix", MIXES)
def test_mixed_images_replay_in_a_worker_and_in_any_order(mix: str) -> None:
    split = digits(mix).view(1)
    torch.manual_seed(3)
    here = torch.cat([images for images, _, _ in batches(split, 16, None)])
    worker = torch.cat([images for images, _, _ in batches(split, 16, None, workers=1)])
    assert torch.equal(here, worker)
    torch.manual_seed(4)
    again = torch.stack([split[i][0] for i in reversed(range(len(split)))]).flip(0)
    assert torch.equal(here, again)
    unmixed = torch.stack([image for image, _, _ in digits("none").view(1)])
    changed = (here != unmixed).flatten(1).any(dim=1)
    assert changed.double().mean() > 0.8
    assert not torch.equal(here, torch.stack([image for image, _, _ in split.view(2)]))


@pytest.mark.parametrize("mix", MIXES)
def test_joined_splits_keep_their_mixtures(mix: str) -> None:
    data = load_data(DataSettings(resolution=(SIDE, SIDE), limit=60, mix=mix))
    a, b = data.train, data.search
    whole = join([a, b])
    for view in (0, 3, None):
        images = torch.stack([image for image, _, _ in whole.view(view)])
        apart = [image for split in (a, b) for image, _, _ in split.view(view)]
        assert torch.equal(images, torch.stack(apart))
        shares = whole.view(view).label_shares(torch.arange(len(whole)), 10)
        apart = [s.view(view).label_shares(torch.arange(len(s)), 10) for s in (a, b)]
        assert torch.equal(shares, torch.cat(apart))


def test_partners_are_of_the_own_part_however_much_is_joined() -> None:
    sizes = (3, 5, 1, 4)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    parts = [flat("cutmix", size, start) for size, start in zip(sizes, starts, strict=True)]
    whole = join([join(parts[:2]), join(parts[2:])])
    seen = set()
    for view in range(40):
        for image, label, _ in whole.view(view):
            (part,) = (i for i, start in enumerate(starts) if start <= label < start + sizes[i])
            found = ingredients(image)
            assert found.keys() <= set(range(starts[part], starts[part] + sizes[part]))
            seen |= {(label, other) for other in found}
    assert len(seen) == sum(size**2 for size in sizes)  # every pair of a part comes up


@pytest.mark.parametrize("mix", ["none", *MIXES])
def test_label_shares_sum_to_one(mix: str) -> None:
    split = digits(mix)
    for view in (0, 5, None):
        shares = split.view(view).label_shares(torch.arange(len(split)), 10)
        assert shares.shape == (len(split), 10)
        assert shares.min() >= 0
        assert torch.allclose(shares.sum(dim=1), torch.ones(len(split)))
        one_hot = torch.equal(shares, torch.eye(10)[split.labels])
        assert one_hot == (mix == "none" or view is None)


def test_cutmix_labels_are_shares_of_the_pixels() -> None:
    split = flat("cutmix", 12)
    index = torch.tensor([7, 0, 11, 3])
    kinds = set()
    for view in range(100):
        shares = split.view(view).label_shares(index, 12)
        for row, i in zip(shares, index.tolist(), strict=True):
            pixels = ingredients(split.view(view)[i][0])
            counted = torch.zeros(12)
            for number, count in pixels.items():
                counted[number] = count / SIDE**2
            assert torch.allclose(row, counted, atol=1e-6)
            kinds.add((len(pixels), bool(row[i] > 0)))
    assert {(2, True), (1, True)} <= kinds


def test_what_cutmix_pastes_is_one_box() -> None:
    split = flat("cutmix", 12)
    for view in range(30):
        image, label, _ = split.view(view)[5]
        pasted = (image[0] * 255 / 2).round() != label
        rows, columns = pasted.any(dim=1), pasted.any(dim=0)
        assert pasted.sum() == rows.sum() * columns.sum()
        assert torch.equal(pasted, rows[:, None] & columns)
        for line in (rows, columns):
            assert line.int().diff().abs().sum() <= 2


def test_mixup_labels_are_shares_of_every_pixel() -> None:
    split = flat("mixup", 12)
    index = torch.arange(12)
    for view in range(30):
        shares = split.view(view).label_shares(index, 12)
        images = torch.stack([split.view(view)[i][0] for i in range(12)])
        expected = shares @ (2 * torch.arange(12.0) / 255)
        assert torch.allclose(images, expected.view(-1, 1, 1, 1).expand_as(images), atol=1e-6)


@pytest.mark.parametrize("mix", MIXES)
def test_shares_are_spread_over_the_whole_range(mix: str) -> None:
    """mixup: uniform, so a mean of 1/2 and a variance of 1/12. A clipped box is smaller."""
    mixtures = [draw_mixture(mix, seed, 10, (32, 32)) for seed in range(4000)]
    shares = torch.tensor([mixture.share for mixture in mixtures])
    assert 0 <= shares.min() < 0.15
    assert 0.95 < shares.max() <= 1
    if mix == "mixup":
        assert shares.mean().item() == pytest.approx(1 / 2, abs=0.02)
        assert shares.var().item() == pytest.approx(1 / 12, abs=0.005)
    partners = torch.tensor([mixture.partner for mixture in mixtures]).bincount()
    assert len(partners) == 10
    assert partners.min() > 300


def test_the_seed_changes_the_mixture() -> None:
    one, other = flat("cutmix", 12), flat("cutmix", 12, seed=1)
    pairs = [(one.view(0)[i][0], other.view(0)[i][0]) for i in range(12)]
    assert sum(not torch.equal(a, b) for a, b in pairs) > 8
