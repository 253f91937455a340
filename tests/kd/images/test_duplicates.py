"""Test images that are learned from too: counted, wherever they lie."""

import shutil
from pathlib import Path

import pytest

from base.errors import UserError
from kd.images import duplicates
from kd.images.splits import DataSettings, load_data
from tests.kd.images.test_shards import CLASSES, cache, image, write_shard  # noqa: F401

COUNT = 12


def folders(root: Path, part: str, first: int) -> Path:
    for i in range(COUNT):
        path = root / part / f"{i % CLASSES}" / f"{first + i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(first + i))
    return root / part


def duplicates_said(capsys: pytest.CaptureFixture, source: Path, more: Path | None = None) -> str:
    capsys.readouterr()
    load_data(DataSettings(str(source), resolution=(8, 8), unlabelled=str(more) if more else None))
    return "".join(capsys.readouterr().out.splitlines())


def test_duplicates_are_counted_wherever_they_lie(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    train, test = (folders(tmp_path / "data", *part) for part in (("train", 0), ("test", 50)))
    more = folders(tmp_path, "more", 100)
    assert duplicates_said(capsys, tmp_path / "data", more) == ""
    shutil.copy(test / "1/51.png", more / "x.png")
    expected = "duplicates: 1 of 12 test images are learned from too, byte for byte, for one in "
    expected += str(test)
    assert duplicates_said(capsys, tmp_path / "data", more).startswith(f"{expected}/1/51.png;")
    shutil.copy(train / "0/3.png", test / "2/99.png")  # of another class there
    assert "2 of 13 test images" in duplicates_said(capsys, tmp_path / "data", more)
    assert "1 of 13 test images" in duplicates_said(capsys, tmp_path / "data")


def test_copies_in_shards_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name, numbers in (("train", range(COUNT)), ("val", range(COUNT - 2, 2 * COUNT))):
        samples = {}
        for i in numbers:
            samples |= {f"{i}.png": image(i), f"{i}.cls": f"{i % CLASSES}".encode()}
        write_shard(tmp_path / f"{name}.tar", samples)
    assert "2 of 14 test images" in duplicates_said(capsys, tmp_path / "{train,val}.tar")


def test_copies_in_one_folder_are_counted_when_it_is_split(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = folders(tmp_path, "data", 0)
    for path in sorted(folder.rglob("*.png")):
        shutil.copy(path, path.with_stem(f"{path.stem} (1)"))
    assert "test images are learned from too" in duplicates_said(capsys, folder)


def test_what_is_not_compared_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders(tmp_path, "train", 0)
    folders(tmp_path, "val", 0)
    assert "12 of 12 test images" in duplicates_said(capsys, tmp_path)
    monkeypatch.setattr(duplicates, "MOST_READ", 5)
    said = duplicates_said(capsys, tmp_path)
    assert "duplicates: 1 of 12" in said or "duplicates: 2 of 12" in said
    assert said.endswith("accuracy on them says nothing (5 of 24 files of like size were read)")
    monkeypatch.setattr(duplicates, "MOST_BYTES", 100)
    assert duplicates_said(capsys, tmp_path) == ""


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    folder = folders(tmp_path, "train", 0)
    (folder / "0" / "x.png").symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(UserError, match=r"0/x\.png: cannot be read \(No such file or directory\)"):
        load_data(DataSettings(str(folders(tmp_path, "val", 50).parent), resolution=(8, 8)))
