"""Copies of photographs: read in place of them, made once, and only where that pays."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from base.errors import UserError
from kd.images.copies import Copied, found_copies, plan_copies, with_copies
from kd.images.loader import batches
from kd.images.pixels import Picture
from kd.images.rendering import Frame
from kd.images.splits import Data, DataSettings, load_data
from tests.kd.images.test_rendering import smooth

HEIGHT, WIDTH, EACH = 1000, 1200, 8
SETTINGS = DataSettings(resolution=(32, 32), augment="resized_crop_flip")


def photographs(root: Path, height: int = HEIGHT, width: int = WIDTH) -> Data:
    """A folder of two classes of JPEGs that are smooth, as copies lose little of them."""
    for kind in range(2):
        (root / f"{kind}").mkdir(parents=True)
        for number in range(EACH):
            pixels = smooth(height, width, kind * EACH + number).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(root / f"{kind}" / f"{number}.jpg", quality=95)
    return load_data(replace(SETTINGS, source=str(root)))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return photographs(tmp_path_factory.mktemp("photographs"))


def copied(data: Data, folder: Path) -> Data:
    plan = plan_copies(data, (data.train.frame,))
    assert plan
    return with_copies(data, plan, folder)


def test_a_copy_has_four_times_the_pixels_of_the_largest_frame(data: Data, tmp_path: Path) -> None:
    frames = (data.train.frame, Frame((48, 40)))  # 48x40 around both
    found = with_copies(data, plan_copies(data, frames), tmp_path)
    images, position = found.train.images, int(found.train.positions[0])
    assert images.picture(position).size == (HEIGHT, WIDTH)
    # 4 * 48 of 1000, and as much of 1200; of that the half, where 50 x 60 are asked for.
    for share, shape in ((1.0, (192, 230)), (0.12, (192, 230)), (0.05, (96, 115))):
        assert images.picture(position).pixels(share).shape == (3, *shape)


def test_views_are_those_of_the_photographs(data: Data, tmp_path: Path) -> None:
    split, others = data.train.view(3), copied(data, tmp_path).train.view(3)
    for index in range(len(split)):
        error = (split[index][0] - others[index][0]).abs()
        assert error.mean() < 0.02
        assert error.max() < 0.08


def test_the_comparison_sees_another_view(data: Data, tmp_path: Path) -> None:
    split, others = data.train.view(3), copied(data, tmp_path).train.view(4)
    assert max((split[i][0] - others[i][0]).abs().mean() for i in range(len(split))) > 0.05


def test_test_images_are_read_as_they_were_given(data: Data, tmp_path: Path) -> None:
    found = copied(data, tmp_path)
    assert found.test.images is data.test.images
    joined = found.joined(("train", "search"))
    assert isinstance(joined.images, Copied)
    assert found.fingerprint() == data.fingerprint()


def test_a_photograph_is_read_once(data: Data, tmp_path: Path) -> None:
    class Unreadable:
        def picture(self, position: int) -> Picture:
            raise AssertionError("read again")

        def digest(self) -> bytes:
            return data.train.images.digest()

    split = copied(data, tmp_path).train.view(0)
    first = [split[index][0] for index in range(len(split))]
    images = replace(split.images, originals=Unreadable())
    again = replace(split, images=images)
    assert all(torch.equal(again[i][0], image) for i, image in enumerate(first))


def test_workers_and_the_next_program_see_the_same(data: Data, tmp_path: Path) -> None:
    here = copied(data, tmp_path / "here").train.view(1)
    copied(data, tmp_path / "there")
    there = found_copies(data, tmp_path / "there").train.view(1)
    (images, *_), (others, *_) = (
        next(batches(split, len(split), None, workers))
        for split, workers in ((here, 0), (there, 2))
    )
    assert torch.equal(images, others)
    files = [
        sorted(p.read_bytes() for p in (tmp_path / n).rglob("*.jpg")) for n in ("here", "there")
    ]
    assert len(files[0]) == len(here)
    assert files[0] == files[1]


def test_small_images_among_photographs_stay_as_they_are(data: Data, tmp_path: Path) -> None:
    small = photographs(tmp_path / "small", 60, 80)
    images = Copied(small.train.images, tmp_path / "copies", (32, 32))
    assert images.picture(0).size == (60, 80)
    assert not (tmp_path / "copies").exists()


@pytest.mark.parametrize(
    ("shape", "side"),
    [((60, 80), 32), ((900, 1000), 32), ((HEIGHT, WIDTH), 126)],
    ids=["small", "below a megapixel", "hardly larger than what is shown"],
)
def test_copies_that_do_not_pay_are_not_kept(
    tmp_path: Path, shape: tuple[int, int], side: int
) -> None:
    data = photographs(tmp_path / "images", *shape)
    plan = plan_copies(data, (Frame((side, side)),))
    assert plan is None
    assert with_copies(data, plan, tmp_path / "copies") is data


def test_the_size_that_is_told_is_what_copies_take(data: Data, tmp_path: Path) -> None:
    plan = plan_copies(data, (data.train.frame,))
    found = with_copies(data, plan, tmp_path)
    split = found.joined(("train", "search"))
    for index in range(len(split)):
        split[index]
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.jpg"))
    assert plan.size == pytest.approx(size, rel=0.05)
    assert plan.pixels == HEIGHT * WIDTH


def test_copies_for_smaller_views_are_not_taken(data: Data, tmp_path: Path) -> None:
    position = int(data.train.positions[0])
    for side in (32, 48):
        found = with_copies(data, plan_copies(data, (Frame((side, side)),)), tmp_path)
        assert found.train.images.picture(position).pixels().shape[1] == 4 * side


@pytest.mark.parametrize("content", ["{}", '{"shown": 32}', '{"shown": ["a", 2]}', "[32, 32]", "{"])
def test_a_damaged_plan_is_refused(data: Data, tmp_path: Path, content: str) -> None:
    (tmp_path / "copies.json").write_text(content)
    with pytest.raises(UserError, match=r"copies\.json"):
        found_copies(data, tmp_path)


def test_other_photographs_never_get_these_copies(data: Data, tmp_path: Path) -> None:
    split = copied(data, tmp_path / "copies").train
    split[0]
    others = found_copies(photographs(tmp_path / "others", 1000, 1100), tmp_path / "copies").train
    assert others.images.folder != split.images.folder
    assert others.images.picture(int(others.positions[0])).size == (1000, 1100)
