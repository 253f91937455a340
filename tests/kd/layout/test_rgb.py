"""Image files of more than 8 bits, of several pages, drawn in transparency, in other colours."""

import io
import struct

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from base.errors import UserError
from kd.images.pixels import opened

RAMP = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
EXPECTED = np.arange(256).reshape(16, 16)
GREY = Image.fromarray(EXPECTED.astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def read(content: bytes) -> Tensor:
    return opened(content, "a/picture").pixels()


def tiff(values: bytes, bits: int, white_is_zero: bool = False) -> bytes:
    """Lay out an uncompressed grey TIFF of 16 x 16 by hand: Pillow does not write these."""
    tags = {256: 16, 257: 16, 258: bits, 259: 1, 262: int(not white_is_zero)}
    tags |= {273: 8 + 2 + 12 * 9 + 4, 277: 1, 278: 16, 279: len(values)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + values


def twelve_bits() -> bytes:
    """Pack the ramp at 12 bits, two values in three bytes."""
    values = (RAMP.reshape(-1) >> 4).astype(int).tolist()
    pairs = zip(values[::2], values[1::2], strict=True)
    return b"".join(((first << 12) | second).to_bytes(3, "big") for first, second in pairs)


@pytest.mark.parametrize(
    "content",
    [
        saved(Image.fromarray(RAMP), "PNG"),
        saved(Image.fromarray(RAMP), "TIFF"),
        saved(Image.fromarray(RAMP), "TIFF", compression="tiff_lzw"),
        saved(Image.fromarray(RAMP), "PPM"),
        saved(Image.fromarray(RAMP), "JPEG2000", irreversible=False),
        b"P5 16 16 1023\n" + (RAMP >> 6).astype(">u2").tobytes(),
        b"P2 16 16 65535\n" + " ".join(map(str, RAMP.reshape(-1))).encode(),
        tiff(RAMP.tobytes(), 16),
        tiff((~RAMP).tobytes(), 16, white_is_zero=True),
        tiff(twelve_bits(), 12),
    ],
    ids=[
        "png",
        "tiff",
        "lzw",
        "pgm",
        "jp2",
        "pgm of 10",
        "text",
        "tiff 2",
        "white is 0",
        "12 bits",
    ],
)
def test_grey_of_more_than_8_bits_is_scaled_by_its_format(content: bytes) -> None:
    image = read(content)
    assert (image[0] == image[1]).all()
    assert (image[0] == image[2]).all()
    assert np.abs(image[0].numpy().astype(int) - EXPECTED).max() <= 1


def test_grey_of_16_bits_is_turned_as_its_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = saved(Image.fromarray(RAMP), "PNG", exif=exif)
    assert (read(content)[0].numpy() == np.rot90(EXPECTED, -1)).all()


@pytest.mark.parametrize(
    "content",
    [
        saved(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
        saved(Image.fromarray((RAMP / 65535).astype(np.float32)), "TIFF"),
        saved(Image.fromarray((RAMP / 65535).astype(np.float32)), "PPM"),
        saved(GREY, "TIFF", tiffinfo={339: 2}),
    ],
    ids=["32 bits", "fractions", "pfm", "signed"],
)
def test_values_of_no_stated_range_are_refused(content: bytes) -> None:
    with pytest.raises(UserError, match=r"a/picture: holds .* what is black .* unsigned bits"):
        read(content)


def pages(kind: str, image: Image.Image = GREY, **options: object) -> bytes:
    return saved(image, kind, save_all=True, append_images=[image.rotate(90)], **options)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG", "WEBP"])
def test_several_pictures_are_refused(kind: str) -> None:
    with pytest.raises(UserError, match=r"a/picture: holds 2 pictures; save the one that is meant"):
        read(pages(kind))


def test_what_belongs_to_a_picture_is_no_other_picture() -> None:
    """A phone's JPEG holds a map of its lights; a TIFF a smaller copy of itself."""
    assert read(pages("MPO", GREY.convert("RGB"))).shape == (3, 16, 16)
    small = GREY.resize((8, 8))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    content = saved(GREY, "TIFF", save_all=True, append_images=[small])
    assert (read(content)[0].numpy() == EXPECTED).all()


@pytest.mark.parametrize("colour", [0, 255, 90])
@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_a_drawing_in_the_transparency_alone_is_refused(colour: int, mode: str) -> None:
    if mode == "P":
        drawn = GREY.convert("P")
        drawn.putpalette([colour] * 768)
        content = saved(drawn, "PNG", transparency=bytes(range(256)))
    else:
        plain = Image.new("L", GREY.size, colour)
        content = saved(Image.merge("LA", [plain, GREY]).convert(mode), "PNG")
    with pytest.raises(UserError, match=r"a/picture: one colour all over, .* background"):
        read(content)


def test_transparency_that_hides_nothing_is_left_aside() -> None:
    with_edges = Image.merge("LA", [GREY, GREY.point(lambda value: 255 * (value > 9))])
    assert (read(saved(with_edges, "PNG"))[0].numpy() == EXPECTED).all()
    blank = Image.new("LA", GREY.size, (7, 255))
    assert (read(saved(blank, "PNG")) == 7).all()


def test_lab_colours_become_rgb() -> None:
    colours = Image.new("RGB", (16, 16), (200, 60, 30))
    colours.paste((20, 90, 180), (0, 0, 16, 8))
    image = read(saved(colours.convert("LAB"), "TIFF")).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(image - np.asarray(colours).astype(int)).max() <= 4
