"""Lists of pairs in the format of Labeled Faces in the Wild."""

from pathlib import Path

import pytest

from base.errors import UserError
from kd.layout.pairs import NamedImage, read_pairs


def written(folder: Path, *lines: str) -> Path:
    (folder / "pairs.txt").write_text("\n".join([*lines, ""]))
    return folder / "pairs.txt"


def test_a_first_line_says_what_a_fold_is(tmp_path: Path) -> None:
    path = written(
        tmp_path, "2\t1", "Ann\t1\t4", "Ann\t2\tBo\t3", "", "Bo\t10\t12", "Cy_D\t1\tAnn\t4"
    )
    found = read_pairs(path)
    assert [str(pair.first) for pair in found] == [
        *("Ann/Ann_0001", "Ann/Ann_0002", "Bo/Bo_0010", "Cy_D/Cy_D_0001")
    ]
    assert [pair.second for pair in found] == [
        *(NamedImage("Ann", 4), NamedImage("Bo", 3), NamedImage("Bo", 12), NamedImage("Ann", 4))
    ]
    assert [pair.same for pair in found] == [True, False, True, False]
    assert [pair.fold for pair in found] == [0, 0, 1, 1]


@pytest.mark.parametrize("header", [(), ("12",)], ids=["none", "one number"])
def test_without_one_pairs_of_each_kind_are_dealt_to_ten_folds(
    tmp_path: Path, header: tuple[str, ...]
) -> None:
    same = [f"Ann {i} {i + 1}" for i in range(12)]
    others = [f"Ann {i} Bo {i}" for i in range(12)]
    found = read_pairs(written(tmp_path, *header, *same, *others))
    assert [pair.fold for pair in found] == [*range(10), 0, 1] * 2


def test_identities_may_be_numbers(tmp_path: Path) -> None:
    """A first line of three numbers is a pair, and no header."""
    same, others = ["0001 1 2", "0002 1 2"] * 2, ["0001 1 0002 1"] * 4
    found = read_pairs(written(tmp_path, *same, *others))
    assert len(found) == 8
    assert found[0].first == NamedImage("0001", 1)


def test_names_with_blanks_are_parted_by_tabs(tmp_path: Path) -> None:
    path = written(tmp_path, "2\t1", *["Ann Lee\t1\t2", "Ann Lee\t1\tBo Y\t2"] * 2)
    assert read_pairs(path)[1].second == NamedImage("Bo Y", 2)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["2 1", "Ann 1"], "line 2 is 'Ann 1'; expected NAME NUMBER NUMBER"),
        (["2 1", "Ann one 2"], "line 2 is 'Ann one 2'"),
        (["Ann 1 2", "a b c d e"], "line 2 is 'a b c d e'"),
        (["3 1", "Ann 1 2", "Ann 1 Bo 2"], "2 pairs; its first line announces 3 folds"),
        (["2 1", "Ann 1 Bo 2", "Ann 1 2", "Ann 2 3", "Ann 2 Bo 3"], "announces 2 folds, each of 1"),
        (["Ann 1 2", "Ann 2 3", "Ann 3 4"], "expected pairs of one identity and of two"),
        (["Ann 1 2", "Ann 2 Bo 1"], "2 pairs; expected pairs of one identity and of two, in two"),
        ([], "no pair in it"),
        (["10 3000000", "Ann 1 2"], "1 pairs; its first line announces 10 folds"),
        (["2 99999999999999999999", "Ann 1 2"], "line 1 is '2 99999999999999999999'"),
        (["Ann 1 9999999999", "Ann 1 Bo 2"], "line 1 is 'Ann 1 9999999999'"),
    ],
)
def test_what_is_no_list_of_pairs_is_one_line(
    tmp_path: Path, lines: list[str], expected: str
) -> None:
    path = written(tmp_path, *lines)
    with pytest.raises(UserError, match=expected) as raised:
        read_pairs(path)
    assert str(raised.value).startswith(f"--pairs {path}: ")


def test_a_list_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.txt: cannot be read"):
        read_pairs(tmp_path / "none.txt")
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"odd\.txt: cannot be read"):
        read_pairs(tmp_path / "odd.txt")
