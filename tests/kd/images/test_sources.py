"""Where images come from: folders, CIFAR-10, and their faults."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import kd.images.sources
from base.errors import UserError
from kd.images.loader import batches
from kd.images.splits import DataSettings, Split, load_data


def write_classes(folder: Path, counts: dict[str, int], size: int = 12) -> None:
    """Image j of class number c is of colour (40 c, j, 0) everywhere."""
    for c, (name, count) in enumerate(sorted(counts.items())):
        (folder / name).mkdir(parents=True)
        for j in range(count):
            colour = Image.new("RGB", (size + j % 3, size), (40 * c, j, 0))
            colour.save(folder / name / f"{j:03d}.png")


def colours(split: Split) -> list[tuple[int, int, int]]:
    """(red, green, label) of every plain image of a folder made by `write_classes`."""
    found = []
    for image, label, _ in split:
        red, green, _ = (image[:, 0, 0] * 255).round().int().tolist()
        found.append((red, green, label))
    return found


def test_preset_without_data_of_its_own_asks_for_a_folder() -> None:
    with pytest.raises(UserError, match="--data is missing"):
        load_data(DataSettings(source=""))


def test_one_folder_is_split_by_seed(tmp_path: Path) -> None:
    write_classes(tmp_path / "set", {"ant": 10, "bee": 20})
    settings = DataSettings(str(tmp_path / "set"), search_fraction=0.25)
    data = load_data(settings)
    assert data.classes == ("ant", "bee")
    found = [colours(split) for split in (data.train, data.search, data.test)]
    assert [len(f) for f in found] == [18, 6, 6]
    assert all(red == 40 * label for part in found for red, _, label in part)
    assert len({c for part in found for c in part}) == 30
    fingerprint = data.fingerprint()
    (tmp_path / "set").rename(tmp_path / "moved")
    moved = load_data(replace(settings, source=str(tmp_path / "moved")))
    assert moved.fingerprint() == fingerprint
    Image.new("RGB", (50, 50)).save(tmp_path / "moved" / "ant" / "000.png")
    assert load_data(moved.settings).fingerprint() != fingerprint


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        ({"train": 10, "val": 3, "test": 4}, (20, 6, 8)),
        ({"train": 10, "val": 3}, (16, 4, 6)),
        ({"train": 10, "test": 4}, (16, 4, 8)),
        ({"train": 10}, (12, 4, 4)),
    ],
)
def test_split_folders(tmp_path: Path, parts: dict[str, int], sizes: tuple[int, int, int]) -> None:
    for name, count in parts.items():
        write_classes(tmp_path / name, {"ant": count, "bee": count})
    data = load_data(DataSettings(str(tmp_path)))
    splits = (data.train, data.search, data.test)
    assert tuple(len(split) for split in splits) == sizes
    kept = [{data.train.images.names[p].split("/")[0] for p in s.positions} for s in splits]
    test = "test" if "test" in parts else "val" if "val" in parts else "train"
    search = "val" if {"val", "test"} <= parts.keys() else "train"
    assert kept == [{"train"}, {search}, {test}]
    said = str(data)
    assert all(f"{2 * count} in {name}/ for " in said for name, count in parts.items())
    assert ("in val/ for test" in said) == (test == "val")
    assert all(red == 40 * label for split in splits for red, _, label in colours(split))


def test_cifar10_is_downloaded_only_when_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fake(root: Path, train: bool, download: bool = False) -> SimpleNamespace:
        calls.append(download)
        if not download and not (root / "there").exists():
            raise RuntimeError("Dataset not found or corrupted.")
        (root / "there").touch()
        count = 100 if train else 20
        pixels = np.arange(count * 3072, dtype=np.uint32).astype(np.uint8).reshape(-1, 32, 32, 3)
        targets = [i % 10 for i in range(count)]
        return SimpleNamespace(data=pixels, targets=targets, classes=list("abcdefghij"))

    monkeypatch.setattr(kd.images.sources, "CIFAR10", fake)
    settings = DataSettings("cifar10", tmp_path, resolution=(32, 32), augment="crop_flip")
    data = load_data(settings)
    assert calls == [False, True, True]
    assert [len(data.train), len(data.search), len(data.test)] == [80, 20, 20]
    calls.clear()
    load_data(settings)
    assert calls == [False, False]
    image, label, _ = data.test[13]
    assert label == 3
    expected = fake(tmp_path, False).data[13].astype(np.float32) / 255
    assert np.allclose(image.permute(1, 2, 0), expected)


def test_failed_download_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(root: Path, train: bool, download: bool = False) -> None:
        raise OSError("no network") if download else RuntimeError("not found")

    monkeypatch.setattr(kd.images.sources, "CIFAR10", fake)
    with pytest.raises(UserError, match=r"cannot be downloaded.*cifar-10-python\.tar\.gz"):
        load_data(DataSettings("cifar10", tmp_path))


@pytest.mark.parametrize("workers", [0, 1])
def test_corrupt_image_is_named_in_one_line(tmp_path: Path, workers: int) -> None:
    write_classes(tmp_path, {"ant": 10, "bee": 10})
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:40])
    data = load_data(DataSettings(str(tmp_path)))
    with pytest.raises(UserError) as caught:
        list(batches(data.train, 4, None, workers))
    assert str(caught.value).startswith(str(tmp_path))
    assert ".png: not a readable image" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder; expected digits, cifar10 or"):
        load_data(DataSettings(str(tmp_path / "nowhere")))


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected one folder of images for every class"):
        load_data(DataSettings(str(tmp_path)))


def test_class_without_images(tmp_path: Path) -> None:
    write_classes(tmp_path, {"ant": 10, "bee": 10, "cow": 0})
    with pytest.raises(UserError, match="no valid file for the classes cow;"):
        load_data(DataSettings(str(tmp_path)))


def test_one_class(tmp_path: Path) -> None:
    write_classes(tmp_path, {"ant": 10})
    with pytest.raises(UserError, match=r"one class \(ant\), expected two"):
        load_data(DataSettings(str(tmp_path)))


def test_class_lists_must_agree(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"ant": 10, "bee": 10})
    write_classes(tmp_path / "val", {"ant": 10, "cow": 10})
    with pytest.raises(UserError, match="bee, cow not in both train and val"):
        load_data(DataSettings(str(tmp_path)))


def test_too_few_images_to_split(tmp_path: Path) -> None:
    write_classes(tmp_path, {"ant": 2, "bee": 2})
    with pytest.raises(UserError, match=r"test_fraction 0\.2 of 4 images: too few for 2 classes"):
        load_data(DataSettings(str(tmp_path)))
