"""Folders of images as people have them: names of parts, litter, links, twins."""

import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pytest

from base.errors import UserError
from kd.layout.folders import labelled_images

CLASSES = ("ant", "bee")


def write(root: Path, *paths: str) -> Path:
    """Make empty files; nothing opens them."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def parts(*names: str, classes: Iterable[str] = CLASSES) -> list[str]:
    return [f"{name}/{c}/{i}.png" for name in names for c in classes for i in range(2)]


@pytest.mark.parametrize(
    "names",
    [
        {"train": "train", "val": "val", "test": "test"},
        {"train": "Training", "val": "validation", "test": "Testing"},
        {"train": "TRAIN", "val": "valid"},
        {"train": "seg_train", "test": "seg_test"},
        {"train": "training_set", "val": "eval"},
    ],
)
def test_parts_in_any_case(tmp_path: Path, names: dict[str, str]) -> None:
    write(tmp_path, *parts(*names.values()), "labels/notes.txt", "readme.md")
    found = labelled_images(tmp_path)
    assert (found.parts, found.classes) == (names, CLASSES)
    for part, name in names.items():
        expected = {c: [f"{name}/{c}/0.png", f"{name}/{c}/1.png"] for c in CLASSES}
        assert found.images[part] == expected


@pytest.mark.parametrize(
    ("paths", "fault"),
    [
        (parts("valid", "test"), "valid, but no folder called train"),
        (parts("train", "val", "more"), r"more: its images are of no part, beside train, val"),
        (parts("test", "images"), r"images: its images are of no part, beside test"),
        (parts("test", "."), r"ant: its images are of no part, beside test"),
        (parts("train", "valid", "val"), "val and valid are both val; merge"),
        (parts("train", "Train", "val"), "Train and train are both train; merge"),
        (["train/0.png", "test/0.png"], r"train: no folder of a class in it; expected one folder"),
        ([*parts("train"), "test/0.png"], r"test: no folder of a class in it; expected one folder"),
        (["train/0.png", "val/0.png", "more/0.png"], r"more: its images are of no part"),
        (parts("ant", "bee", classes=("train", "test")), r"ant/test: a part inside a class"),
    ],
)
def test_what_nothing_would_use_as_meant_is_refused(
    tmp_path: Path, paths: list[str], fault: str
) -> None:
    with pytest.raises(UserError, match=fault):
        labelled_images(write(tmp_path, *paths))


def test_a_folder_of_shards_is_no_folder_of_classes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"or a pattern such as shards/\{000\.\.146\}\.tar"):
        labelled_images(write(tmp_path, "0.tar", "1.tar"))


@pytest.mark.parametrize("name", ["train", "Test", "valid"])
def test_a_class_may_have_the_name_of_a_part(tmp_path: Path, name: str) -> None:
    paths = [f"{c}/{i}.png" for c in ("bus", "car", name) for i in range(2)]
    found = labelled_images(write(tmp_path, *paths))
    assert (found.parts, set(found.classes)) == ({".": ""}, {"bus", "car", name})


def test_litter_is_no_class_and_no_image(tmp_path: Path) -> None:
    litter = (
        ".ipynb_checkpoints/0-checkpoint.png",
        ".git/x.png",
        "__MACOSX/ant/._0.png",
        "$RECYCLE.BIN/0.png",
        "ant/.ipynb_checkpoints/0-checkpoint.png",
        "ant/@eaDir/0.png/SYNOPHOTO_THUMB_M.jpg",
        "ant/.@__thumb/0.png",
        "ant/._0.png",
        "bee/deep/.0.png",
    )
    meant = [f"{c}/{i}.png" for c in CLASSES for i in range(2)]
    found = labelled_images(write(tmp_path, *litter, *meant))
    assert found.classes == CLASSES
    assert [one for own in found.images["."].values() for one in own] == meant
    assert found.notes == ["left aside: 9 hidden or system images: $RECYCLE.BIN/0.png"]


def test_a_class_of_litter_alone_is_empty(tmp_path: Path) -> None:
    write(tmp_path, *parts("."), "cow/._0.png")
    with pytest.raises(UserError, match="no valid file for the classes cow"):
        labelled_images(tmp_path)


def test_images_of_no_class_are_said(tmp_path: Path) -> None:
    found = labelled_images(write(tmp_path, *parts("train", "val"), "train/0.png", "all.jpg"))
    assert found.notes == ["left aside: 2 images in no class's folder: all.jpg"]


def test_images_of_kinds_that_are_not_read_are_said(tmp_path: Path) -> None:
    write(tmp_path, *parts("."), "ant/a.GIF", "ant/b.jfif", "ant/.c.heic", "ant/d.txt")
    assert labelled_images(tmp_path).notes == ["left aside: 3 images of other kinds: ant/.c.heic"]


def test_the_same_folders_inside_all_classes_are_said(tmp_path: Path) -> None:
    found = labelled_images(write(tmp_path, *parts("apprentissage", "essai")))
    assert found.notes == ["classes are apprentissage, essai; folders inside, ant, bee, are not"]


TWINS = (
    ("Käfer", unicodedata.normalize("NFD", "Käfer")),
    ("ant", "ant "),
    ("ant", "ant\u00a0"),
    ("red ant", "red  ant"),
    ("ant", "a\u200bnt"),
    ("ﬁsh", "fish"),
    ("Straße", "STRASSE"),
)


@pytest.mark.parametrize("twins", TWINS)
@pytest.mark.parametrize("apart", [False, True])
def test_classes_that_look_alike_are_refused(
    tmp_path: Path, twins: tuple[str, str], apart: bool
) -> None:
    names = {"train": (twins[0], "bee"), "val": (twins[1], "bee")} if apart else {".": twins}
    for part, classes in names.items():
        write(tmp_path, *parts(part, classes=classes))
    with pytest.raises(UserError, match=r"differ in (case|blanks or in the Unicode form)"):
        labelled_images(tmp_path)


def test_a_link_to_nothing_is_no_class_that_is_forgotten(tmp_path: Path) -> None:
    write(tmp_path, *parts("."))
    (tmp_path / "cow").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"cow: links to what is not there; mend or remove"):
        labelled_images(tmp_path)


@pytest.mark.parametrize(("link", "to"), [("cow", "ant"), ("bee/again", "ant"), ("cow/a", "bee")])
def test_a_folder_that_is_there_twice_is_refused(tmp_path: Path, link: str, to: str) -> None:
    write(tmp_path, *parts("."))
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(tmp_path / to)
    with pytest.raises(UserError, match=r": is .* too, by a link; remove one of them"):
        labelled_images(tmp_path)


def test_a_part_that_is_another_part_is_refused(tmp_path: Path) -> None:
    write(tmp_path, *parts("train"))
    (tmp_path / "val").symlink_to(tmp_path / "train")
    with pytest.raises(UserError, match=r": is .* too, by a link; remove one of them"):
        labelled_images(tmp_path)
