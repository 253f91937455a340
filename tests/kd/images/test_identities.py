"""Images of identities: what is verified, and what is learned from."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from base.errors import UserError
from kd.images.splits import RETRAINED, Data, DataSettings, load_data

COUNTS = {"Ann": 3, "Bo": 2, "Cy": 2, "Dee": 6, "Eve": 1, "Flo": 1}
PAIRS = ("2 1", "Ann 1 2", "Ann 1 Bo 2", "Bo 1 2", "Bo 1 Ann 2")


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """A folder of identities, and pairs of two of them."""
    draws = np.random.default_rng(0)
    for name, count in COUNTS.items():
        for number in range(1, count + 1):
            path = tmp_path / "faces" / name / f"{name}_{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draws.integers(0, 255, (12, 12), dtype=np.uint8)).save(path)
    (tmp_path / "pairs.txt").write_text("\n".join(PAIRS))
    return tmp_path


def settings_of(faces: Path) -> DataSettings:
    return DataSettings(str(faces / "faces"), pairs=faces / "pairs.txt", search_fraction=0.3)


def files(data: Data, name: str) -> list[str]:
    """The files of a split, in its order."""
    split = getattr(data, name)
    return [split.images.names[position] for position in split.positions.tolist()]


def test_images_in_pairs_are_the_test_split_and_their_identities_are_not_learned_from(
    faces: Path, capsys: pytest.CaptureFixture
) -> None:
    data = load_data(settings_of(faces))
    assert files(data, "test") == [f"{n}/{n}_000{i}.png" for n in ("Ann", "Bo") for i in (1, 2)]
    learned = files(data, "train") + files(data, "search")
    expected = [f"{n}/{n}_{i:04d}.png" for n in COUNTS for i in range(1, COUNTS[n] + 1)]
    assert sorted(learned) == [name for name in expected if name[:3] not in ("Ann", "Bo/")]
    assert len(data.search) == 3
    assert "left aside: 1 more images of identities in --pairs" in capsys.readouterr().out
    pairs, tested = data.pairs, files(data, "test")
    named = [(tested[a][:-4], tested[b][:-4]) for a, b in np.stack([pairs.first, pairs.second]).T]
    assert named == [
        ("Ann/Ann_0001", "Ann/Ann_0002"),
        ("Ann/Ann_0001", "Bo/Bo_0002"),
        ("Bo/Bo_0001", "Bo/Bo_0002"),
        ("Bo/Bo_0001", "Ann/Ann_0002"),
    ]
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.folds.tolist() == [0, 0, 1, 1]


def test_nothing_of_a_tested_identity_is_learned_from_wherever_it_lies(
    faces: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in ("Ann/crops/Ann_0009.png", "Ann_0010.png", "more/Bo/Bo_0007.png", "more/x.png"):
        path = faces / "faces" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (12, 12)).save(path)
    data = load_data(settings_of(faces))
    learned = files(data, "train") + files(data, "search")
    assert "more/x.png" in learned
    assert not [name for name in learned if "Ann" in name or "Bo" in name]
    assert "left aside: 4 more images" in capsys.readouterr().out


def test_a_folder_that_is_there_twice_is_refused(faces: Path) -> None:
    (faces / "faces" / "Zed").symlink_to(faces / "faces" / "Ann")
    with pytest.raises(UserError, match=r"(Zed: is .*Ann|Ann: is .*Zed) too, by a link"):
        load_data(settings_of(faces))


def test_identities_are_no_classes(faces: Path) -> None:
    data = load_data(settings_of(faces))
    assert data.classes == ()
    for split in data.splits().values():
        assert set(split.labels.tolist()) == {-1}
    assert not data.train.label_shares(np.arange(3), 5).any()


def test_other_pairs_are_other_data(faces: Path) -> None:
    """Though all splits are the same."""
    before = load_data(settings_of(faces))
    (faces / "pairs.txt").write_text("\n".join(("2 1", *PAIRS[3:], *PAIRS[1:3])))
    after = load_data(settings_of(faces))
    assert files(before, "test") == files(after, "test")
    assert before.fingerprint() != after.fingerprint()
    assert load_data(settings_of(faces)).fingerprint() == after.fingerprint()


def test_a_limit_spares_the_pairs(faces: Path) -> None:
    data = load_data(replace(settings_of(faces), limit=5))
    assert len(data.train) + len(data.search) == 5
    assert len(data.test) == 4


def test_pairs_of_images_that_are_not_there_are_one_line(faces: Path) -> None:
    (faces / "pairs.txt").write_text("\n".join((*PAIRS[:4], "Bo 1 Ann 7")))
    with pytest.raises(
        UserError, match=r"1 of its images are not in .*faces, such as Ann/Ann_0007"
    ):
        load_data(settings_of(faces))


def test_unlabelled_images_are_learned_from_beside_them(faces: Path) -> None:
    (faces / "more").mkdir()
    for number in range(5):
        Image.new("L", (12, 12), number).save(faces / "more" / f"{number}.png")
    data = load_data(replace(settings_of(faces), unlabelled=str(faces / "more")))
    assert len(data.unlabelled) == 5
    assert set(data.joined(RETRAINED).labels.tolist()) == {-1}
    assert len(data.joined(RETRAINED)) == len(data.train) + len(data.search) + 5
    assert len(data.pairs) == 4


def test_somebody_has_to_be_left_to_learn_from(faces: Path) -> None:
    names = list(COUNTS)
    same = [f"{name} 1 2" for name in names if COUNTS[name] > 1]
    others = [f"{one} 1 {two} 1" for one, two in pairwise(names)]
    (faces / "pairs.txt").write_text("\n".join((*same, *others)))
    with pytest.raises(UserError, match=r"every identity of .*faces is in a pair"):
        load_data(settings_of(faces))


def test_an_image_that_is_there_twice_is_one_line(faces: Path) -> None:
    again = faces / "faces" / "more" / "Ann" / "Ann_0001.jpg"
    again.parent.mkdir(parents=True)
    Image.new("L", (12, 12)).save(again)
    with pytest.raises(UserError, match="are both image 1 of Ann; remove or rename one"):
        load_data(settings_of(faces))


def test_pairs_need_a_folder(faces: Path) -> None:
    for source in ("digits", ""):
        with pytest.raises(UserError, match=f"--data {source}: no folder; --pairs names images"):
            load_data(replace(settings_of(faces), source=source))


def test_as_many_identities_as_labeled_faces_in_the_wild(tmp_path: Path) -> None:
    """5,749 identities of 13,233 images, 6,000 pairs; most identities have one image."""
    draws = np.random.default_rng(0)
    counts = [1] * 4069 + [2] * 780 + [8] * 900
    counts[-1] += 13_233 - sum(counts)
    Image.new("L", (8, 8)).save(tmp_path / "one.png")
    content = (tmp_path / "one.png").read_bytes()
    for person, count in enumerate(counts):
        folder = tmp_path / "lfw" / f"P{person}"
        folder.mkdir(parents=True)
        for number in range(1, count + 1):
            (folder / f"P{person}_{number:04d}.png").write_bytes(content)
    several = [person for person, count in enumerate(counts) if count > 1]
    lines = ["10\t300"]
    for _ in range(10):
        lines += [f"P{person}\t1\t2" for person in draws.choice(several, 300, replace=False)]
        chosen = draws.choice(len(counts), (300, 2), replace=False)
        lines += [f"P{one}\t1\tP{two}\t1" for one, two in chosen]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    data = load_data(DataSettings(str(tmp_path / "lfw"), pairs=tmp_path / "pairs.txt"))
    assert len(data.pairs) == 6000
    assert np.unique(data.pairs.folds, return_counts=True)[1].tolist() == [600] * 10
    in_pairs = {word for line in lines[1:] for word in line.split("\t") if word[0] == "P"}
    left = sum(count for i, count in enumerate(counts) if f"P{i}" not in in_pairs)
    assert len(data.train) + len(data.search) == left > 1000
