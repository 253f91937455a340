"""An opened image file as 8-bit RGB; one whose content that would lose is refused by its name."""

import numpy as np
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, SAMPLEFORMAT

from base.errors import UserError

# Formats whose grey values of 16 bits reach from black, 0, to white; Pillow calls some of them "I".
SIXTEEN_BITS = {"PNG", "JPEG2000", "PPM", "TIFF"}
WHITE = 2**16 - 1
UNSIGNED = {1, 4}  # TIFF's sample formats: integers from 0 on, or nothing said
SUBFILE_TYPE, REDUCED_OR_MASK = 254, 0b101
FLAT, SEEN = 4, 64  # of 255: colours differ by less where nothing is drawn, transparency by more


def upright_rgb(image: Image.Image, name: str) -> Image.Image:
    """Return the image as it is to be looked at, in 8-bit RGB; errors call it `name`.

    Grey values of more than 8 bits are scaled from the format's black and white. Raises `UserError`
    for several pages, for values of no stated range, and for a drawing in the transparency alone.
    """
    _refuse_pages(image, name)
    shades = _shades(image, name)
    upright = ImageOps.exif_transpose(image)
    if shades:
        black, white = shades
        values = (np.asarray(upright, dtype=np.float32) - black) / (white - black)
        upright = Image.fromarray(np.clip(np.rint(255 * values), 0, 255).astype(np.uint8))
    if upright.mode == "P" and upright.has_transparency_data:
        upright = upright.convert("RGBA")  # Pillow warns where the palette goes first
    rgb = upright.convert("RGB")
    if upright.has_transparency_data:
        _refuse_drawn_in_transparency(upright, rgb, name)
    return rgb


def _refuse_pages(image: Image.Image, name: str) -> None:
    """Several pictures in a camera's JPEG are the photograph and what belongs to it."""
    count = getattr(image, "n_frames", 1)
    if count > 1 and image.format == "TIFF":
        count = 1 + sum(not _is_beside(image, page) for page in range(1, count))
        image.seek(0)
    if count > 1 and image.format != "MPO":
        raise UserError(f"{name}: holds {count} pictures; save the one that is meant, or remove it")


def _is_beside(image: Image.Image, page: int) -> bool:
    """Whether a page of a TIFF is a smaller copy of another one, or its mask."""
    image.seek(page)
    return bool(image.tag_v2.get(SUBFILE_TYPE, 0) & REDUCED_OR_MASK)


def _shades(image: Image.Image, name: str) -> tuple[int, int] | None:
    """Return black and white of an image of more than 8 bits; None for one that has no more."""
    tags = image.tag_v2 if image.format == "TIFF" else {}
    signed = not set(tags.get(SAMPLEFORMAT, ())) <= UNSIGNED
    deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
    if not deep and not signed:
        return None
    whole = image.mode != "F" and not (image.mode == "I" and image.format == "TIFF")
    if signed or not whole or image.format not in SIXTEEN_BITS:
        raise UserError(
            f"{name}: holds {image.format} values of mode {image.mode}, of which nothing says what"
            " is black and what is white; save it with 8 or 16 unsigned bits"
        )
    white = 2 ** tags[BITSPERSAMPLE][0] - 1 if tags else WHITE
    return (white, 0) if tags.get(PHOTOMETRIC_INTERPRETATION) == 0 else (0, white)


def _refuse_drawn_in_transparency(image: Image.Image, rgb: Image.Image, name: str) -> None:
    """Colours beneath what is transparent are shown, as every library's loaders do."""
    low, high = image.convert("RGBA").getchannel("A").getextrema()
    if high - low > SEEN and all(high - low < FLAT for low, high in rgb.getextrema()):
        raise UserError(
            f"{name}: one colour all over, drawn in its transparency alone; put it on a background"
            " (mogrify -background white -flatten), or remove it"
        )
