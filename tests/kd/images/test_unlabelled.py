"""Images without classes: found, kept apart from the labelled ones, and never judged."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from base.errors import UserError
from kd.images.splits import LEARNED, RETRAINED, Data, DataSettings, learnable, load_data
from tests.kd.images.test_shards import cache, image, shard, write_shard  # noqa: F401

SHAPE = (12, 10)


def picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image(number))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine images, in folders that say nothing."""
    for number in range(9):
        picture(tmp_path / "more" / f"{number % 2}" / "deep" / f"{number}.png", number)
    (tmp_path / "more" / "notes.txt").write_text("no image")
    picture(tmp_path / "more" / ".thumbnails" / "0.png", 0)
    picture(tmp_path / "more" / "._0.png", 0)
    return tmp_path / "more"


def with_more(unlabelled: Path | None, **settings: object) -> Data:
    more = str(unlabelled) if unlabelled else None
    return load_data(DataSettings(limit=60, resolution=(8, 8), unlabelled=more, **settings))


def test_every_image_below_the_folder_is_one_and_the_labelled_stay_as_they_are(
    folder: Path,
) -> None:
    data, before = with_more(folder), with_more(None)
    assert len(data.unlabelled) == 9
    assert data.unlabelled.labels.tolist() == [-1] * 9
    assert before.unlabelled is None
    for name in ("train", "search", "test"):
        own, former = getattr(data, name), getattr(before, name)
        assert torch.equal(own.positions, former.positions)
        assert torch.equal(own.view(3)[5][0], former.view(3)[5][0])
    assert str(data) == "48 train, 12 search, 9 unlabelled, 60 test"
    assert data.fingerprint() != before.fingerprint()


def test_pixels_are_those_of_the_files(folder: Path) -> None:
    data = with_more(folder)
    found = {data.unlabelled.images.picture(int(p)).size for p in data.unlabelled.positions}
    assert found == {SHAPE}
    paths = sorted(p for p in folder.rglob("*.png") if "/." not in str(p))
    for position, path in zip(data.unlabelled.positions.tolist(), paths, strict=True):
        expected = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)
        found = data.unlabelled.images.picture(position).pixels()
        assert np.array_equal(found.numpy(), expected)


def test_what_is_learned_from_labels_has_labels(folder: Path) -> None:
    data = with_more(folder)
    everything = data.joined(RETRAINED)
    assert len(everything) == 48 + 12 + 9
    shares = everything.label_shares(torch.arange(len(everything)), 10)
    assert torch.equal(shares[:60], torch.eye(10)[everything.labels[:60]])
    assert torch.equal(shares[60:], torch.zeros(9, 10))
    assert len(data.joined(learnable(LEARNED, "teacher"))) == 48 + 9
    assert len(data.joined(learnable(LEARNED, "labels"))) == 48


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixtures_do_not_cross_from_labelled_to_unlabelled(folder: Path, mix: str) -> None:
    everything = with_more(folder, mix=mix).joined(RETRAINED)
    for view in range(6):
        shares = everything.view(view).label_shares(torch.arange(len(everything)), 10)
        assert torch.allclose(shares[:60].sum(dim=1), torch.ones(60))
        assert torch.equal(shares[60:], torch.zeros(9, 10))


def test_shards_need_no_class(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "more.tar", {f"{i}.png": image(i) for i in range(5)})
    shard(tmp_path / "classes.tar", range(6))
    data = with_more(path)
    assert len(data.unlabelled) == 5
    expected = np.asarray(Image.open(_file(tmp_path, 2))).transpose(2, 0, 1)
    found = data.unlabelled.images.picture(int(data.unlabelled.positions[2])).pixels()
    assert np.array_equal(found.numpy(), expected)
    # Classes that stand beside the images are not looked at.
    assert with_more(tmp_path / "classes.tar").unlabelled.labels.tolist() == [-1] * 6


def _file(folder: Path, number: int) -> Path:
    picture(folder / "one.png", number)
    return folder / "one.png"


def test_limit_counts_for_them_too(folder: Path) -> None:
    for number in range(100, 155):
        picture(folder / f"{number}.png", number)
    assert len(with_more(folder).unlabelled) == 60


def test_nothing_to_find_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no image below it; expected files such as"):
        with_more(tmp_path / "empty")
    with pytest.raises(UserError, match=r"nowhere: no such folder"):
        with_more(tmp_path / "nowhere")
    path = write_shard(tmp_path / "texts.tar", {"0.txt": b"words"})
    with pytest.raises(UserError, match=r"texts\.tar: no image in it"):
        with_more(path)


def test_a_link_to_a_folder_around_it_is_refused(folder: Path) -> None:
    (folder / "again").symlink_to(folder.parent)
    with pytest.raises(UserError, match=r"again: links to a folder that it lies in"):
        with_more(folder)


def test_labelled_images_among_them_are_refused(tmp_path: Path) -> None:
    """They may be test images, whichever way the folder is written."""
    for number in range(24):
        picture(tmp_path / "data" / f"{number % 3}" / f"{number}.png", number)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "3").symlink_to(tmp_path / "elsewhere")
    for number in range(24, 32):
        picture(tmp_path / "elsewhere" / f"{number}.png", number)
    for unlabelled in ("data", "data/1", "link/2", "elsewhere", "."):
        with pytest.raises(UserError, match=r"--unlabelled .* is in --data too"):
            load_data(
                DataSettings(
                    str(tmp_path / "data"), resolution=(8, 8), unlabelled=str(tmp_path / unlabelled)
                )
            )
