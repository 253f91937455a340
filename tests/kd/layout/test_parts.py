"""Parts by the names that people give them, in folders and in shards."""

from pathlib import Path

import pytest
from braceexpand import braceexpand

from base.errors import UserError
from kd.layout.parts import parts_named
from kd.layout.shards import shards_of


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("train val test", "train val test"),
        ("Training validation TESTING", "train val test"),
        ("Train valid", "train val"),
        ("train eval", "train val"),
        ("01_train 02_validate 03_test", "train val test"),
        ("trainingset validationset", "train val"),
        ("train2017 val2017", "train val"),
        ("training_set test_set", "train test"),
        ("TrainImages TestImages", "train test"),
        ("seg_train seg_test", "train test"),
        ("imagenet-train imagenet-dev", "train val"),
        ("trainval test", "train test"),
        ("train", "train"),
    ],
)
def test_usual_names(names: str, expected: str) -> None:
    assert list(parts_named(names.split()).values()) == expected.split()


@pytest.mark.parametrize(
    "names",
    ["test_tube beaker", "train_station test_tube", "trainer latest", "ant bee", "éval contest"],
)
def test_names_of_classes_are_no_parts(names: str) -> None:
    assert parts_named(names.split()) == {}


def test_a_part_in_the_name_of_every_class_is_refused() -> None:
    with pytest.raises(UserError, match="ant_train and bee_train: class and part in one name"):
        parts_named(["ant_train", "ant_test", "bee_train", "bee_test"])


@pytest.mark.parametrize(
    ("pattern", "parts"),
    [
        ("imagenet1k-{train,validation}-000{1..2}.tar", {"train": 2, "val": 2}),
        ("{Training,Testing}{1..2}.tar", {"train": 2, "test": 2}),
        ("{TRAIN-{0..2},valid-0,test-{0..1}}.tar", {"train": 3, "val": 1, "test": 2}),
        ("{train,eval}/00{0..1}.tar", {"train": 2, "val": 2}),
        ("set-{0..3}.tar", {".": 4}),
        ("train-{0..3}.tar", {".": 4}),
        ("contest-{0..1}.tar", {".": 2}),
    ],
)
def test_parts_of_shards(tmp_path: Path, pattern: str, parts: dict[str, int]) -> None:
    # The folder around them has the name of a part too.
    written(tmp_path / "test" / pattern)
    found = shards_of(str(tmp_path / "test" / pattern))
    assert {part: len(paths) for part, paths in found.items()} == parts


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("{train,holdon}-0.tar", r"holdon-0\.tar: of no part, but train-0\.tar is of train"),
        ("{val,test}-0.tar", "no shard's name says train"),
        ("{train,val-test}-0.tar", r"val-test-0\.tar: named after test and val; rename it"),
    ],
)
def test_shards_of_unclear_parts_are_refused(tmp_path: Path, pattern: str, fault: str) -> None:
    written(tmp_path / pattern)
    with pytest.raises(UserError, match=fault):
        shards_of(str(tmp_path / pattern))


def written(pattern: Path) -> None:
    for name in braceexpand(str(pattern)):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(name.encode())
