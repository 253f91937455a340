"""Tar shards: the same data as the same images in folders, damage named, order kept."""

import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from base.errors import UserError
from kd.images.pixels import PackedTexts
from kd.images.splits import DataSettings, load_data
from kd.layout.shards import read_index, shards_of

CLASSES, EACH = 3, 8


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "oyster"


def image(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


def write_shard(path: Path, samples: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as shard:
        for name, content in samples.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    return path


def shard(path: Path, numbers: range) -> Path:
    """Sample i is of class i % CLASSES; its label comes before or after its image."""
    samples = {}
    for i in numbers:
        pair = [(f"s/{i:04d}.png", image(i)), (f"s/{i:04d}.cls", f"{i % CLASSES}\n".encode())]
        samples |= dict(pair if i % 2 else pair[::-1])
    return write_shard(path, samples)


def test_shards_hold_what_folders_hold(tmp_path: Path) -> None:
    count = CLASSES * EACH
    for number in range(2):
        half = range(number * count // 2, (number + 1) * count // 2)
        shard(tmp_path / f"shards/{number:03d}.tar", half)
    for i in range(count):
        folder = tmp_path / f"folders/{i % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:04d}.png").write_bytes(image(i))
    sources = (str(tmp_path / "shards/{000..001}.tar"), str(tmp_path / "folders"))
    in_shards, in_folders = (load_data(DataSettings(s, resolution=(8, 8))) for s in sources)
    assert in_shards.classes == in_folders.classes == ("0", "1", "2")

    def images_of(data: object) -> list:
        splits = (data.train, data.search, data.test)
        found = [(split[i][1], split[i][0]) for split in splits for i in range(len(split))]
        return sorted(found, key=lambda one: (one[0], one[1].flatten().tolist()))

    for (a, x), (b, y) in zip(images_of(in_shards), images_of(in_folders), strict=True):
        assert a == b
        assert torch.equal(x, y)


def test_parts_are_told_by_their_names(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar", range(30))
    shard(tmp_path / "train-1.tar", range(30, 60))
    shard(tmp_path / "val-0.tar", range(60, 72))
    data = load_data(DataSettings(str(tmp_path / "{train-{0..1},val-0}.tar"), resolution=(8, 8)))
    train, val = (f"{tmp_path.name}/{name}" for name in ("train-0.tar to train-1.tar", "val-0.tar"))
    places = f"60 in {train} (2 shards) for train, search; 12 in {val} for test"
    assert str(data) == f"48 train, 12 search, 12 test ({places})"
    expected = torch.from_numpy(np.asarray(Image.open(io.BytesIO(image(60)))).copy())
    assert torch.equal(data.test.images.picture(60).pixels(), expected.permute(2, 0, 1))


def test_the_index_is_kept_and_made_anew_for_other_shards(tmp_path: Path, cache: Path) -> None:
    path = shard(tmp_path / "0.tar", range(6))
    first = read_index([path])
    (kept,) = cache.iterdir()
    assert np.array_equal(read_index([path]).places, first.places)
    whole = kept.read_bytes()
    for bit in range(0, 8 * len(whole), 61):
        turned = bytearray(whole)
        turned[bit // 8] ^= 1 << bit % 8
        kept.write_bytes(turned)
        assert np.array_equal(read_index([path]).places, first.places)
    kept.write_bytes(whole[:-9])
    assert np.array_equal(read_index([path]).places, first.places)
    shard(path, range(9))
    assert len(read_index([path]).labels) == 9


def test_an_index_that_cannot_be_kept_is_said_and_used(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture
) -> None:
    path = shard(tmp_path / "0.tar", range(6))
    cache.parent.write_text("a file where the cache would be")
    assert len(read_index([path]).labels) == 6
    assert "not kept for the next time" in capsys.readouterr().err


def test_names_of_classes(tmp_path: Path) -> None:
    path = str(shard(tmp_path / "0.tar", range(30)))
    (tmp_path / "classes.txt").write_text("cat\ndog\nfish\n")
    assert load_data(DataSettings(path, resolution=(8, 8))).classes == ("cat", "dog", "fish")
    (tmp_path / "classes.txt").write_text("cat\n")
    with pytest.raises(UserError, match=r"classes\.txt: 1 names, but the shards hold class 2"):
        load_data(DataSettings(path, resolution=(8, 8)))
    (tmp_path / "classes.txt").write_bytes("Käfer\nHund\nFisch\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"classes\.txt: cannot be read; expected one class name"):
        load_data(DataSettings(path, resolution=(8, 8)))


def test_missing_shards_are_named(tmp_path: Path) -> None:
    shard(tmp_path / "train-0.tar", range(6))
    with pytest.raises(UserError, match=r"train-1\.tar: no such shard and 1 more"):
        shards_of(str(tmp_path / "train-{0..2}.tar"))
    with pytest.raises(UserError, match=r"expected such as train-\{000\.\.146\}\.tar"):
        shards_of(str(tmp_path / "train-{0..2.tar"))


def test_shards_of_no_part_beside_others(tmp_path: Path) -> None:
    for name in ("train-0", "val-0", "more-0"):
        shard(tmp_path / f"{name}.tar", range(6))
    with pytest.raises(UserError, match=r"more-0\.tar: of no part, but train-0\.tar is of train"):
        shards_of(str(tmp_path / "{train,val,more}-0.tar"))


@pytest.mark.parametrize(
    ("samples", "fault"),
    [
        ({}, "no image in it; expected such as"),
        ({"1.png": b"x"}, "1 has no image with its .cls"),
        ({"1.png": b"x", "1.cls": b"1", "2.cls": b"0"}, "2 has no image with its .cls"),
        ({"1.png": b"x", "1.cls": b"one"}, "1.cls holds 'one', expected the number"),
        ({"1.png": b"x", "1.cls": b"-1"}, "1 is of class -1, expected 0 to 999999"),
        ({"1.png": b"x", "1.cls": 19 * b"9"}, "1 is of class 9999999999999999999, expected"),
    ],
)
def test_odd_samples(tmp_path: Path, samples: dict[str, bytes], fault: str) -> None:
    path = write_shard(tmp_path / "0.tar", samples)
    with pytest.raises(UserError, match=fault):
        read_index([path])


@pytest.mark.parametrize("kept", [100, 700, 3000])
def test_a_shard_that_was_cut_off(tmp_path: Path, kept: int) -> None:
    path = shard(tmp_path / "0.tar", range(12))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"0\.tar: "):
        read_index([path])


def test_an_image_that_is_none_is_named_by_its_place(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "0.tar", {"1.png": b"no image", "1.cls": b"0"})
    places = read_index([path]).places
    assert places.tolist() == [[0, 512, 8]]
    path = str(shard(tmp_path / "1.tar", range(30)))
    data = load_data(DataSettings(path, resolution=(8, 8)))
    broken = data.train.images
    broken.places[4, 2] = 20
    with pytest.raises(UserError, match=r"1\.tar, image at byte \d+: not a readable image"):
        broken.picture(4)


def test_another_image_of_the_samples_can_be_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    samples = {}
    for i in range(30):
        fields = {"jpg": image(i), "seg.png": image(100 + i), "cls": f"{i % CLASSES}".encode()}
        samples |= {f"{i:04d}.{field}": content for field, content in fields.items()}
    settings = DataSettings(str(write_shard(tmp_path / "0.tar", samples)), resolution=(8, 8))
    for wanted, first in ((None, 0), ("seg.png", 100)):
        data = load_data(replace(settings, shard_image=wanted))
        expected = np.asarray(Image.open(io.BytesIO(image(first)))).transpose(2, 0, 1)
        assert np.array_equal(data.train.images.picture(0).pixels().numpy(), expected)
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "left aside in shards: seg.png (30); images are jpg",
        "left aside in shards: jpg (30); images are seg.png",
    ]


def test_a_shards_image_is_of_shards() -> None:
    with pytest.raises(UserError, match="--shard-image png: only shards have such files"):
        load_data(DataSettings("digits", shard_image="png"))


def test_texts_are_tensors_and_come_back() -> None:
    texts = ["a/b.png", "", "ü/日本.jpg", "caf\udce9.png"]
    kept = PackedTexts.of(texts)
    assert list(kept) == texts
    assert len(kept) == 4
    assert all(isinstance(part, torch.Tensor) for part in vars(kept).values())


def test_shards_of_any_name(tmp_path: Path) -> None:
    path = shard(tmp_path / os.fsdecode(b"caf\xe9.tar"), range(CLASSES * EACH))
    assert load_data(DataSettings(str(path), resolution=(8, 8))).fingerprint()
