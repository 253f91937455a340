"""Stored teacher outputs: what the teacher would say online, whole, and of the right things."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from base.errors import UserError
from kd.images.splits import Data, DataSettings, join, load_data
from kd.images.views import view_seed
from kd.networks import InputFormat
from kd.outputs_writer import Probabilities, store_outputs
from kd.stored_outputs import (
    StoredOutputs,
    StoredShape,
    join_outputs,
    open_outputs,
    size_text,
    stored_shape,
)
from kd.teacher.model import Teacher

IDENTITY = {"data": "d1", "teacher": "t1"}


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data(DataSettings(resolution=(8, 8), limit=60))


@pytest.fixture(scope="module")
def teacher() -> Probabilities:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    whole = Teacher(network, InputFormat((0.3, 0.3, 0.3), (0.2, 0.2, 0.2)))
    return lambda images: whole(images).exp()


def store(
    teacher: Probabilities,
    data: Data,
    folder: Path,
    views: int = 1,
    most: int = 10,
    identity: dict[str, str] = IDENTITY,
) -> StoredOutputs:
    """Of the search split, 12 images in batches of 5."""
    shape = stored_shape(data.search, views, 10, most)
    return store_outputs(teacher, data.search, shape, folder, identity, batch=5)


@pytest.fixture(scope="module")
def stored(
    data: Data, teacher: Probabilities, tmp_path_factory: pytest.TempPathFactory
) -> StoredOutputs:
    return store(teacher, data, tmp_path_factory.mktemp("targets") / "search", views=2)


def images_of(data: Data, view: int | None, index: Tensor) -> Tensor:
    return torch.stack([data.search.view(view)[int(i)][0] for i in index])


def test_stored_outputs_equal_the_teacher_online(
    data: Data, teacher: Probabilities, stored: StoredOutputs
) -> None:
    index = torch.tensor([5, 0, 11])
    for view in (0, 1, None):
        rows = stored.rows(view, index)
        assert rows.dtype == torch.float32
        assert torch.equal(rows, teacher(images_of(data, view, index)).half().float())
    assert not torch.equal(stored.rows(0, index), stored.rows(1, index))


@pytest.mark.parametrize("most", [1, 4, 9])
def test_the_largest_are_kept_and_the_rest_spread_evenly(
    data: Data, teacher: Probabilities, tmp_path: Path, most: int
) -> None:
    targets = store(teacher, data, tmp_path / "search", most=most)
    index = torch.tensor([7, 2, 11, 0])
    for view in (0, None):
        online = teacher(images_of(data, view, index)).tolist()
        for found, whole in zip(targets.rows(view, index).tolist(), online, strict=True):
            order = sorted(range(10), key=lambda k, whole=whole: -whole[k])
            kept = {k: float(np.float16(whole[k])) for k in order[:most]}
            rest = max(0.0, 1 - sum(kept.values())) / (10 - most)
            assert found == pytest.approx([kept.get(k, rest) for k in range(10)], abs=1e-6)
            assert sum(found) == pytest.approx(1, abs=5e-3)


def test_view_beyond_the_stored_ones_is_a_bug(stored: StoredOutputs) -> None:
    assert stored.views == 2
    for view in (2, -1):
        with pytest.raises(AssertionError):
            stored.rows(view, torch.tensor([0]))


def test_stored_outputs_are_found_again(data: Data, teacher: Probabilities, tmp_path: Path) -> None:
    first = store(teacher, data, tmp_path / "search")
    again = open_outputs(tmp_path / "search", IDENTITY)
    assert np.array_equal(first.arrays[0]["probabilities"], again.arrays[0]["probabilities"])
    assert again.arrays[0]["probabilities"].dtype == np.float16
    assert sorted(p.name for p in tmp_path.iterdir()) == ["search"]
    facts = json.loads((tmp_path / "search/targets.json").read_text())
    assert facts["shape"] == {"views": 1, "images": 12, "classes": 10, "kept": 10}


def test_storing_again_replaces(data: Data, teacher: Probabilities, tmp_path: Path) -> None:
    store(teacher, data, tmp_path / "search")
    other = {"data": "d2", "teacher": "t1"}
    assert store(teacher, data, tmp_path / "search", views=2, identity=other).views == 2


def test_seeds_are_those_of_the_views(data: Data, stored: StoredOutputs) -> None:
    seeds = stored.arrays[0]["seeds"]
    positions = data.search.positions.tolist()
    assert seeds.dtype == np.uint32
    assert seeds.tolist() == [[view_seed(0, view, p) for p in positions] for view in range(2)]


@pytest.mark.parametrize("most", [10, 3])
def test_the_size_said_is_that_on_disk(
    data: Data, teacher: Probabilities, tmp_path: Path, most: int
) -> None:
    targets = store(teacher, data, tmp_path / "search", views=3, most=most)
    files = list((tmp_path / "search").glob("*.npy"))
    on_disk = sum(path.stat().st_size for path in files)
    headers = 128 * len(files)
    assert targets.shapes[0].size == on_disk - headers
    kept = 10 if most == 10 else 3 * 2  # half precision, and uint16 for a class
    assert targets.shapes[0].size == 12 * (4 * kept * 2 + 3 * 4)
    assert f"{targets.shapes[0].size / 1024:.1f} KiB" in str(targets.shapes[0])


def test_sizes_have_the_unit_that_suits_them() -> None:
    assert size_text(1536) == "1.5 KiB"
    assert size_text(999 * 1024) == "999.0 KiB"
    assert size_text(1000 * 1024) == "1.0 MiB"
    assert size_text(3 * 2**30) == "3.0 GiB"
    imagenet = StoredShape(views=4, images=1_281_167, classes=1000, kept=20)
    assert imagenet.size == 5 * 1_281_167 * 20 * 4 + 4 * 1_281_167 * 4
    assert "the 20 largest of 1000 numbers each" in str(imagenet)
    assert StoredShape(1, 1, 2**16, 1).arrays()["classes"][0] is np.uint16
    assert StoredShape(1, 1, 2**16 + 1, 1).arrays()["classes"][0] is np.uint32


def test_joined_outputs_are_numbered_as_joined_images(
    data: Data, teacher: Probabilities, tmp_path: Path
) -> None:
    """Also where only one of the two keeps few classes."""
    search = store(teacher, data, tmp_path / "search", most=3)
    shape = stored_shape(data.train, 1, 10, 10)
    train = store_outputs(teacher, data.train, shape, tmp_path / "train", IDENTITY)
    whole, split = join_outputs([train, search]), join([data.train, data.search])
    index = torch.tensor([50, 0, 47, 59, 48])
    assert len(split) == 60
    for view in (0, None):
        inside = {True: train, False: search}
        expected = [inside[i < 48].rows(view, torch.tensor([i % 48])) for i in index.tolist()]
        assert torch.equal(whole.rows(view, index), torch.cat(expected))
    with pytest.raises(AssertionError):
        whole.rows(0, torch.tensor([60]))


@pytest.mark.parametrize(
    ("identity", "field"),
    [
        ({"data": "d2", "teacher": "t1"}, r"another data \(d1, expected d2\)"),
        ({"data": "d1", "teacher": "t2"}, r"another teacher \(t1, expected t2\)"),
        ({"data": "d1", "teacher": "t1", "views": "3"}, r"another views \(None, expected 3\)"),
    ],
)
def test_foreign_outputs_are_refused(
    data: Data, teacher: Probabilities, tmp_path: Path, identity: dict[str, str], field: str
) -> None:
    store(teacher, data, tmp_path / "search")
    with pytest.raises(UserError, match=field):
        open_outputs(tmp_path / "search", identity)


@pytest.mark.parametrize("change", [{"seed": 1}, {"augment": "crop_flip"}, {"mix": "cutmix"}])
def test_other_images_augmentations_and_mixtures_are_other_data(
    data: Data, teacher: Probabilities, tmp_path: Path, change: dict[str, object]
) -> None:
    store(teacher, data, tmp_path / "search", identity={"data": data.fingerprint()})
    other = load_data(DataSettings(resolution=(8, 8), limit=60, **change))
    with pytest.raises(UserError, match="another data"):
        open_outputs(tmp_path / "search", {"data": other.fingerprint()})


def test_outputs_that_are_not_whole_are_refused(
    data: Data, teacher: Probabilities, tmp_path: Path
) -> None:
    folder = tmp_path / "search"
    with pytest.raises(UserError, match="cannot be read as JSON"):
        open_outputs(folder, IDENTITY)
    for name in ("probabilities", "classes", "seeds"):
        store(teacher, data, folder, most=4)
        path = folder / f"{name}.npy"
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(UserError, match="not whole"):
            open_outputs(folder, IDENTITY)
        path.write_bytes(b"")
        with pytest.raises(UserError, match=rf"not whole \({name}\.npy is empty\)"):
            open_outputs(folder, IDENTITY)
        whole = np.zeros((2, 11, 4), dtype=np.float16)
        np.save(path, whole)
        with pytest.raises(UserError, match=rf"{name}\.npy is float16 \[2, 11, 4\]"):
            open_outputs(folder, IDENTITY)
        np.save(path, np.array([object()]), allow_pickle=True)
        with pytest.raises(UserError, match="not whole"):
            open_outputs(folder, IDENTITY)
        path.unlink()
        with pytest.raises(UserError, match="not whole"):
            open_outputs(folder, IDENTITY)
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["probabilities", "classes", "seeds"])
def test_a_turned_bit_in_stored_outputs_is_noticed(
    data: Data, teacher: Probabilities, tmp_path: Path, name: str
) -> None:
    """Every bit of the header, which NumPy takes for Python, and every thirteenth of the rest."""
    store(teacher, data, tmp_path, most=4)
    path = tmp_path / f"{name}.npy"
    whole = path.read_bytes()
    header = 8 * 128
    for position in (*range(header), *range(header, 8 * len(whole), 13)):
        turned = bytearray(whole)
        turned[position // 8] ^= 1 << position % 8
        path.write_bytes(turned)
        with pytest.raises(UserError, match=r"damaged|not whole") as caught:
            open_outputs(tmp_path, IDENTITY)
        assert "\n" not in str(caught.value)
    path.write_bytes(whole)
    open_outputs(tmp_path, IDENTITY)


def test_outputs_without_a_hash_are_refused(
    data: Data, teacher: Probabilities, tmp_path: Path
) -> None:
    store(teacher, data, tmp_path)
    facts = json.loads((tmp_path / "targets.json").read_text())
    del facts["sha256"]
    (tmp_path / "targets.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="damaged, not what was written there; remove the fol"):
        open_outputs(tmp_path, IDENTITY)


@pytest.mark.parametrize("identity", ["t1", ["d1", "t1"], None])
def test_outputs_that_do_not_say_whose_they_are_are_refused(
    tmp_path: Path, identity: object
) -> None:
    (tmp_path / "targets.json").write_text(json.dumps({"identity": identity}))
    with pytest.raises(UserError, match=r"no identity in targets\.json; remove the folder"):
        open_outputs(tmp_path, {"data": "d1", "teacher": "t1"})


def test_outputs_of_an_older_form_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "targets.json").write_text(
        json.dumps({"identity": IDENTITY, "shape": [2, 12, 10], "classes": 10})
    )
    with pytest.raises(UserError, match="not whole") as caught:
        open_outputs(tmp_path, IDENTITY)
    assert "\n" not in str(caught.value)
