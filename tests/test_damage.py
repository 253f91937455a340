"""One damage in a binary file from outside: its reader says one line, or reads what is there."""

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import export.runtimes.kit_script
from base.errors import UserError
from export.onnx_file import read_metadata, write_onnx
from kd.images.pixels import opened
from kd.layout.shards import read_index
from kd.networks import read_checkpoint
from kd.teacher.onnx_network import OnnxNetwork, onnx_fingerprint
from kd.teacher.program_file import Program

PIXELS = np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)
HEAD, RANDOM = 64, 120  # bytes whose every bit is turned; damages anywhere
Write, Read = Callable[[Path], object], Callable[[Path], object]


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(4, 3)).eval()


def state_dict(path: Path, **options: bool) -> None:
    torch.save({"epoch": 3, "state_dict": network().state_dict()}, path, **options)


def program(path: Path) -> None:
    torch.export.save(torch.export.export(network(), (torch.zeros(2, 3, 8, 8),)), path)


def onnx_file(path: Path) -> None:
    write_onnx(network(), torch.zeros(2, 3, 8, 8), path, {"made by": "a test"})


def picture(path: Path, **options: object) -> None:
    exif = Image.Exif()
    exif[274], exif[271], exif[36867] = 6, "maker", "2020"  # turned by a quarter
    Image.fromarray(PIXELS).save(path, exif=exif.tobytes(), **options)


def cmyk(path: Path) -> None:
    Image.fromarray(PIXELS).convert("CMYK").save(path)


def shard(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for number in range(4):
            for name, content in (("jpg", PIXELS.tobytes()[:700]), ("cls", b"%d" % (number % 2))):
                member = tarfile.TarInfo(f"{number:04}.{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def kit(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", 50 * '{"plan": 1}')


def read_picture(path: Path) -> object:
    return opened(path.read_bytes(), str(path)).pixels()


FILES: dict[str, tuple[Write, Read]] = {
    "c.pth": (state_dict, read_checkpoint),
    "older.pth": (lambda p: state_dict(p, _use_new_zipfile_serialization=False), read_checkpoint),
    "t.pt2": (program, Program),
    "t.onnx": (onnx_file, lambda path: (OnnxNetwork(path, 3), onnx_fingerprint(path))),
    "student.onnx": (onnx_file, read_metadata),
    "rgb.jpg": (picture, read_picture),
    "cmyk.jpg": (cmyk, read_picture),
    "i.png": (picture, read_picture),
    "i.webp": (picture, read_picture),
    "i.tif": (lambda path: picture(path, compression="tiff_lzw"), read_picture),
    "train-0.tar": (shard, lambda path: read_index([path])),
    "kit.zip": (kit, lambda _: export.runtimes.kit_script.read("manifest.json")),
}


def damaged(whole: bytes) -> Iterator[bytes]:
    """Turn each bit of the head; turn a bit, set a byte, zero some or cut, anywhere."""
    draws = np.random.default_rng(0)
    bits = [*range(8 * HEAD), *draws.integers(8 * len(whole), size=RANDOM).tolist()]
    for bit in bits:
        turned = bytearray(whole)
        turned[bit // 8] ^= 1 << bit % 8
        yield bytes(turned)
    for place in draws.integers(len(whole), size=RANDOM).tolist():
        yield whole[:place] + draws.bytes(1) + whole[place + 1 :]
        yield whole[:place] + bytes(len(whole[place : place + 32])) + whole[place + 32 :]
        yield whole[:place]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", FILES)
def test_damage_is_one_line_or_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, name: str
) -> None:
    write, read = FILES[name]
    path, refusals = tmp_path / name, []
    monkeypatch.setattr(export.runtimes.kit_script, "KIT", path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write(path)
    read(path)
    for content in damaged(path.read_bytes()):
        path.write_bytes(content)
        try:
            read(path)
        except UserError as error:
            refusals.append(str(error))
    assert len(refusals) > RANDOM / 2
    assert all(name in line and "\n" not in line for line in refusals)
    said = capfd.readouterr()
    assert "Traceback" not in said.err
    # A library's own words would not begin with the file's name.
    assert all(line.startswith(f"{path}: weights of ") for line in said.out.splitlines())
