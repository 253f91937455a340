"""Samples of tar shards as people write them: masks, dots, links, other labels, damage."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from base.errors import UserError
from kd.layout.shards import Index, image_index, read_index, shards_named

File = tarfile.TarInfo | tuple[str, bytes]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, to
    return member


def folder(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = tarfile.DIRTYPE
    return member


def write(path: Path, *members: File, form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as shard:
        for one in members:
            if isinstance(one, tarfile.TarInfo):
                shard.addfile(one)
                continue
            member = tarfile.TarInfo(one[0])
            member.size = len(one[1])
            shard.addfile(member, io.BytesIO(one[1]))
    return path


def images(path: Path, index: Index) -> list[bytes]:
    whole = path.read_bytes()
    return [whole[start : start + size] for _, start, size in index.places.tolist()]


def sample(key: str, **fields: bytes) -> list[tuple[str, bytes]]:
    return [(f"{key}.{name.replace('_', '.')}", content) for name, content in fields.items()]


def test_masks_are_no_images_wherever_they_stand(tmp_path: Path) -> None:
    for number, last in enumerate(("seg_png", "png", "depth_png", "webp", "mask_jpg")):
        fields = {last: b"mask", "jpg": b"image", "cls": b"1", "json": b"{}"}
        turned = dict(reversed(fields.items()))
        members = sample("a", **fields) + sample("b", **turned)
        path = write(tmp_path / f"{number}.tar", *members)
        index = read_index([path])
        assert images(path, index) == [b"image", b"image"]
        name = last.replace("_", ".")
        assert index.left_aside() == [
            (f"left aside in shards: {name} (2), json (2); images are jpg")
        ]
        assert images(path, image_index([path])) == [b"image", b"image"]


def test_another_image_can_be_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "0.tar", *sample("a", jpg=b"1", rgb_png=b"2", cls=b"0"))
    for wanted in ("rgb.png", ".RGB.png"):
        assert images(path, read_index([path], wanted)) == [b"2"]
    with pytest.raises(UserError, match=r"a has no image .*only cls, jpg, rgb\.png; --shard-image"):
        read_index([path], "png")


def test_an_image_that_is_a_mask_elsewhere_is_refused(tmp_path: Path) -> None:
    both, alone = sample("a", jpg=b"1", png=b"mask", cls=b"0"), sample("b", png=b"mask", cls=b"1")
    path = write(tmp_path / "0.tar", *both, *alone)
    with pytest.raises(UserError, match="sample a has jpg and png, b has png alone; say which"):
        read_index([path])
    mixed = write(tmp_path / "1.tar", *sample("a", jpg=b"1", cls=b"0"), *alone)
    assert images(mixed, read_index([mixed])) == [b"1", b"mask"]


@pytest.mark.parametrize("labelled", [True, False])
def test_names_with_dots_are_refused_not_overwritten(tmp_path: Path, labelled: bool) -> None:
    members = [
        pair
        for number in range(20)
        for pair in sample(f"s/digit{number % 2}.{number:04d}", png=b"x", cls=b"1")
    ]
    path = write(tmp_path / "0.tar", *members)
    with pytest.raises(UserError, match=r"only 0000\.cls, 0000\.png.* ends at its first dot: name"):
        (read_index if labelled else image_index)([path])


def test_what_is_no_sample_is_said(tmp_path: Path) -> None:
    members = [("README", b""), ("index.json", b"{}"), *sample("a", jpg=b"1", cls=b"0")]
    path = write(tmp_path / "0.tar", *members)
    said = "left aside in shards: without suffix (1), json (1); images are jpg"
    assert read_index([path]).left_aside() == [said]
    path = write(tmp_path / "1.tar", ("a.b.png", b"1"), ("c.png", b"2"))
    index = image_index([path])
    assert images(path, index) == [b"2"]
    assert index.left_aside() == ["left aside in shards: b.png (1); images are png"]


def test_folders_with_dots_are_part_of_the_key(tmp_path: Path) -> None:
    folders = ("v1.0", "v1.1", "../up", "/root")
    members = [m for name in folders for m in sample(f"{name}/a", jpg=name.encode(), cls=b"0")]
    path = write(tmp_path / "0.tar", *members)
    assert images(path, read_index([path])) == [name.encode() for name in folders]


@pytest.mark.parametrize("again", ["a.jpg", "a.JPG", "./a.jpg"])
def test_a_key_that_comes_twice_is_refused(tmp_path: Path, again: str) -> None:
    path = write(tmp_path / "0.tar", *sample("a", jpg=b"1", cls=b"0"), (again, b"2"))
    for read in (read_index, image_index):
        with pytest.raises(UserError, match=r"0\.tar: sample a has jpg twice"):
            read([path])


def test_a_shard_that_comes_twice_is_refused(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"{number}.tar", *sample("a", jpg=b"1", cls=b"0"))
    with pytest.raises(UserError, match=r"1\.tar comes twice; name every shard once"):
        shards_named(str(tmp_path / "{{0..1},{1..2}}.tar"))
    (tmp_path / "soft.tar").symlink_to(tmp_path / "0.tar")
    (tmp_path / "hard.tar").hardlink_to(tmp_path / "0.tar")
    for other in ("soft", "hard"):
        with pytest.raises(UserError, match=rf"0\.tar and .*{other}\.tar are one file"):
            shards_named(str(tmp_path / f"{{0,{other}}}.tar"))
    # Shards may number their samples alike.
    assert len(read_index(shards_named(str(tmp_path / "{0..2}.tar"))).labels) == 3


def test_links_lead_to_what_they_mean(tmp_path: Path) -> None:
    members = [
        folder("s"),
        folder("s/a.jpg.d"),
        folder("photos.jpg"),
        ("s/a.jpg", b"image"),
        ("s/a.cls", b"3"),
        link("s/b.jpg", "s/a.jpg", tarfile.LNKTYPE),
        link("s/b.cls", "./s/a.cls", tarfile.LNKTYPE),
        link("t/c.jpg", "../s/d.jpg"),
        ("t/c.cls", b"4"),
        link("s/d.jpg", "b.jpg"),
        link("s/d.cls", "a.cls"),
        link("s/d.json", "/nowhere"),
    ]
    path = write(tmp_path / "0.tar", *members)
    index = read_index([path])
    assert images(path, index) == [b"image"] * 4
    assert index.labels.tolist() == [3, 3, 4, 3]


@pytest.mark.parametrize(
    ("name", "to"), [("b.jpg", "/data/b.jpg"), ("b.jpg", "b.jpg"), ("b.cls", "c.cls")]
)
def test_links_to_nothing_are_named(tmp_path: Path, name: str, to: str) -> None:
    members = {one: content for one, content in sample("b", jpg=b"1", cls=b"0") if one != name}
    path = write(tmp_path / "0.tar", *members.items(), link(name, to))
    with pytest.raises(UserError, match=rf"{name} links to {to}, which is no file in it"):
        read_index([path])


def test_litter_is_no_sample(tmp_path: Path) -> None:
    litter = (
        "._a.jpg",
        "__MACOSX/._a.jpg",
        ".ipynb_checkpoints/a.jpg",
        "@eaDir/a.cls",
        ".DS_Store",
    )
    members = [*((name, b"x") for name in litter), *sample("a", jpg=b"1", cls=b"0")]
    path = write(tmp_path / "0.tar", *members)
    index = read_index([path])
    assert images(path, index) == [b"1"]
    assert index.left_aside() == ["left aside in shards: hidden (5); images are jpg"]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_any_form_of_tar_and_case_of_suffix(tmp_path: Path, form: int) -> None:
    key = f"{'f' * 90}/{'n' * 90}"
    members = [("README", b""), (f"{key}.JPEG", b"image"), (f"{key}.CLS", b"\xef\xbb\xbf 12\r\n")]
    path = write(tmp_path / "0.tar", *members, form=form)
    index = read_index([path])
    assert (images(path, index), index.labels.tolist()) == ([b"image"], [12])


@pytest.mark.parametrize(
    "label", [b"", b"cat", b"1.0", b"1_0", b"3 4", b"\xff\xfe1", b"{}", b"0x1"]
)
def test_labels_that_are_no_number_are_shown(tmp_path: Path, label: bytes) -> None:
    path = write(tmp_path / "0.tar", *sample("a", jpg=b"1", cls=label))
    with pytest.raises(UserError, match=r"0\.tar: a\.cls holds .*, expected the number of its"):
        read_index([path])


@pytest.mark.parametrize("other", ["txt", "json", "label"])
def test_other_labels_are_named(tmp_path: Path, other: str) -> None:
    path = write(tmp_path / "0.tar", *sample("a", jpg=b"1", **{other: b"1"}))
    expected = rf"a has no image with its \.cls, only jpg, {other}; classes are read from a\.cls"
    with pytest.raises(UserError, match=expected):
        read_index([path])


def test_compressed_shards_are_named_as_such(tmp_path: Path) -> None:
    path = write(tmp_path / "0.tar", *sample("a", jpg=b"1", cls=b"0"))
    for name in ("1.tar", "1.tar.gz", "1.tgz"):
        (tmp_path / name).write_bytes(gzip.compress(path.read_bytes()))
        with pytest.raises(UserError, match=r"compressed with gzip.*; unpack it to a plain \.tar"):
            read_index(shards_named(str(tmp_path / name)))


def test_what_lies_behind_the_end_is_not_lost_silently(tmp_path: Path) -> None:
    first = write(tmp_path / "0.tar", *sample("a", jpg=b"1", cls=b"0"))
    second = write(tmp_path / "1.tar", *sample("b", jpg=b"1", cls=b"0"))
    both = tmp_path / "2.tar"
    both.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(UserError, match=r"2\.tar: no whole tar of samples \(more behind its end"):
        read_index([both])


def test_a_cut_between_two_members_is_noticed(tmp_path: Path) -> None:
    members = [*sample("a", jpg=b"1", cls=b"0"), *sample("b", jpg=b"1", cls=b"0")]
    whole = write(tmp_path / "0.tar", *members, form=tarfile.USTAR_FORMAT).read_bytes()
    for blocks in range(1, 9):
        (tmp_path / "0.tar").write_bytes(whole[: 512 * blocks])
        with pytest.raises(UserError, match=r"0\.tar: "):
            read_index([tmp_path / "0.tar"])


def test_a_damaged_header_is_noticed(tmp_path: Path) -> None:
    members = [*sample("a", jpg=b"1", cls=b"0"), *sample("b", jpg=b"1", cls=b"0")]
    whole = bytearray(write(tmp_path / "0.tar", *members, form=tarfile.USTAR_FORMAT).read_bytes())
    whole[4 * 512 + 150] ^= 1  # in the checksum of b.jpg
    (tmp_path / "0.tar").write_bytes(whole)
    with pytest.raises(UserError, match=r"0\.tar: no whole tar of samples"):
        read_index([tmp_path / "0.tar"])
