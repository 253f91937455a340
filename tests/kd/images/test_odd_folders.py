"""Image folders as people have them: links, other alphabets, stray files, slips of the pen."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from base.errors import UserError
from kd.images.loader import batches
from kd.images.splits import DataSettings, load_data


def write_classes(root: Path, names: tuple[str, ...], mode: str = "RGB") -> None:
    draws = np.random.default_rng(0)
    for name in names:
        (root / name).mkdir(parents=True)
        for index in range(10):
            pixels = draws.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / name / f"{index}.jpg")


def settings(root: Path) -> DataSettings:
    return DataSettings(str(root))


def test_a_link_to_a_folder_around_it_is_refused(tmp_path: Path) -> None:
    write_classes(tmp_path, ("ant", "bee"))
    (tmp_path / "bee" / "again").symlink_to(tmp_path / "bee", target_is_directory=True)
    with pytest.raises(UserError, match=r"bee/again: links to a folder that it lies in; remove"):
        load_data(settings(tmp_path))


def test_a_link_to_a_folder_elsewhere_is_followed(tmp_path: Path) -> None:
    write_classes(tmp_path / "data", ("ant",))
    write_classes(tmp_path / "store", ("bee",))
    (tmp_path / "data" / "bee").symlink_to(tmp_path / "store" / "bee", target_is_directory=True)
    data = load_data(settings(tmp_path / "data"))
    assert data.classes == ("ant", "bee")
    assert len(data.train) + len(data.search) + len(data.test) == 20


def test_classes_that_differ_in_case_only_are_refused(tmp_path: Path) -> None:
    write_classes(tmp_path, ("Bee", "ant", "bee"))
    with pytest.raises(UserError, match="classes Bee and bee differ in case only; merge or rename"):
        load_data(settings(tmp_path))


def test_names_in_any_alphabet(tmp_path: Path) -> None:
    names = ("Ameise", "Bärtierchen", "蜂")
    write_classes(tmp_path, names)
    data = load_data(settings(tmp_path))
    assert data.classes == tuple(sorted(names))
    assert sum(len(labels) for _, labels, _ in batches(data.train, 4, None, workers=1)) == len(
        data.train
    )


def test_files_that_are_no_images_are_left_aside(tmp_path: Path) -> None:
    write_classes(tmp_path, ("ant", "bee"))
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    (tmp_path / "README").write_text("no class")
    data = load_data(settings(tmp_path))
    assert len(data.train) + len(data.search) + len(data.test) == 20


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_printed_images_become_rgb(tmp_path: Path, mode: str) -> None:
    write_classes(tmp_path, ("ant", "bee"), mode)
    images, _, _ = next(batches(load_data(settings(tmp_path)).train, 4, None))
    assert images.shape == (4, 3, 16, 16)
    if mode == "L":
        assert (images[:, 0] == images[:, 2]).all()


def test_an_image_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    write_classes(tmp_path, ("ant", "bee"))
    pixels = np.zeros((16, 24, 3), dtype=np.uint8)
    pixels[:, :12] = 255
    orientation = Image.Exif()
    orientation[0x0112] = 6  # taken with the camera on its side
    Image.fromarray(pixels).save(tmp_path / "ant" / "0.jpg", exif=orientation)
    images = load_data(settings(tmp_path)).train.images
    turned = images.picture(list(images.names).index("ant/0.jpg")).pixels()
    assert turned.shape == (3, 24, 16)
    assert turned[:, :10].min() > 200
    assert turned[:, 14:].max() < 50
