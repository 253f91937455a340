"""Names of the numbers in shards: read as people write them, none without images."""

from pathlib import Path

import numpy as np
import pytest

from base.errors import UserError
from kd.layout.classes import named_classes

LABELS = np.array([0, 1, 2, 2, 1, 0])


@pytest.mark.parametrize(
    "content",
    [
        b"cat\ndog\nfish\n",
        b"cat\ndog\nfish",
        b"cat\n\ndog\n\n\nfish\n\n",
        b"\xef\xbb\xbfcat\r\ndog \r\n\tfish\r\n",
        "cat\ndog\nfish".encode("utf-16"),
    ],
)
def test_files_as_people_write_them(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "classes.txt").write_bytes(content)
    assert named_classes([tmp_path], LABELS, LABELS) == ("cat", "dog", "fish")
    assert named_classes([tmp_path / "none", tmp_path], LABELS, LABELS) == ("cat", "dog", "fish")


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        ([1, 2, 3], "no training image of class 0; number the classes from 0 on without gaps"),
        ([0, 2, 20_000], "of class 1, 3, 4, 5, 6 and 19993 more; number"),
        ([2, 2], r"classes \[2\]; expected two or more"),
    ],
)
def test_numbers_without_images_are_no_classes(
    tmp_path: Path, labels: list[int], fault: str
) -> None:
    with pytest.raises(UserError, match=fault):
        named_classes([tmp_path], np.array(labels), np.array(labels))


def test_a_name_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\ndog\nfish\ncow\n")
    with pytest.raises(UserError, match=r"classes\.txt: no training image of class 3 \(cow\);"):
        named_classes([tmp_path], LABELS, LABELS)


def test_a_class_of_test_images_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no training image of class 2;"):
        named_classes([tmp_path], LABELS, LABELS[:2])
