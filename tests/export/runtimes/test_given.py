"""What a user gives: classifiers alone, and images as the file takes them."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from base.errors import UserError
from export.runtimes.given import ModelFile, random_pixels, read_images, read_model_file

CLASSES = ("dog", "ant", "cat")  # no alphabetical order


def write_graph(path: Path, graph: str, metadata: Mapping[str, str] | None = None) -> Path:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> g {graph}')
    onnx.helper.set_model_props(model, metadata or {})
    path.write_bytes(model.SerializeToString())
    return path


def means(batch: str = "N", shape: str = "3, 4, 6") -> str:
    """A classifier whose logits are the means of the channels."""
    channels = shape.partition(",")[0]
    return (
        f"(float[{batch}, {shape}] x) => (float[{batch}, {channels}] y) "
        "<int64[2] axes = {2, 3}> { y = ReduceMean <keepdims = 0> (x, axes) }"
    )


def model_file(tmp_path: Path, classes: tuple[str, ...] | None = CLASSES) -> ModelFile:
    said = {} if classes is None else {"classes": json.dumps(classes)}
    return read_model_file(write_graph(tmp_path / "m.onnx", means(), said))


def save(path: Path, colour: tuple[int, int, int] = (0, 0, 0), size: tuple = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_a_file_says_what_it_takes(tmp_path: Path) -> None:
    said = {"classes": json.dumps(CLASSES), "input": "RGB"}
    found = read_model_file(write_graph(tmp_path / "m.onnx", means("5"), said))
    assert (found.batch, found.shape, found.class_count) == (5, (3, 4, 6), 3)
    assert (found.classes, found.metadata["input"], found.is_int8) == (CLASSES, "RGB", False)
    assert found.batch_for(None) == found.batch_for(5) == 5
    free = read_model_file(write_graph(tmp_path / "n.onnx", means()))
    assert (free.batch, free.classes) == (None, None)
    assert (free.batch_for(None), free.batch_for(7)) == (1, 7)


def test_another_batch_than_the_file_takes_is_refused(tmp_path: Path) -> None:
    file = read_model_file(write_graph(tmp_path / "m.onnx", means("5")))
    with pytest.raises(UserError, match=r"batch 4: .*m.onnx takes 5 images at a time"):
        file.batch_for(4)


@pytest.mark.parametrize("said", ["80", "a, b", '{"0": "a"}', ""])
def test_classes_of_another_form_are_none(tmp_path: Path, said: str) -> None:
    file = read_model_file(write_graph(tmp_path / "m.onnx", means(), {"classes": said}))
    assert file.classes is None


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ("(float[1, 3] x) => (float[1, 3] y) { y = Relu (x) }", "expected one input"),
        ("(uint8[1, 3, 4, 4] x) => (uint8[1, 3, 4, 4] y) { y = Identity (x) }", "tensor.uint8."),
        ("(float[1, 3, 4, 4] x, float[1] z) => (float[1, 3, 4, 4] y) { y = Add (x, z) }", "z tens"),
        (means(shape="3, H, W"), "make_dynamic_shape_fixed"),
        ("(float[1, 3, 4, 4] x) => (float[1, 3, 4, 4] y) { y = Relu (x) }", "answers with"),
    ],
)
def test_what_does_not_class_images_of_one_size_is_refused(
    tmp_path: Path, graph: str, expected: str
) -> None:
    with pytest.raises(UserError, match=expected) as raised:
        read_model_file(write_graph(tmp_path / "m.onnx", graph))
    assert "\n" not in str(raised.value)


def test_folders_are_the_classes_of_the_file(tmp_path: Path) -> None:
    """Each image's colour is its class: the numbers are those of the file, not of the folders."""
    for number, name in enumerate(CLASSES):
        for i in range(3):
            save(tmp_path / "data" / name / f"{i}.png", (number, 9, 9))
    save(tmp_path / "data" / ".hidden" / "x.png")
    (tmp_path / "data" / "notes.txt").write_text("no image")
    images = read_images(tmp_path / "data", model_file(tmp_path), most=100)
    assert (len(images), images.pixels.shape[1:], images.note) == (9, (3, 4, 6), None)
    assert images.labels.tolist() == images.pixels[:, 0, 0, 0].tolist()
    few = read_images(tmp_path / "data", model_file(tmp_path), most=4)
    assert few.labels.tolist() == images.labels[:4].tolist()
    part = images.part(slice(2, 5))
    assert part.labels.tolist() == part.pixels[:, 0, 0, 0].tolist() == images.labels[2:5].tolist()


@pytest.mark.parametrize(
    ("names", "classes", "note"),
    [
        (["a.png", "b.png"], CLASSES, "in no folders of classes"),
        (["train/dog/a.png", "test/dog/a.png"], CLASSES, "folder test is of no class"),
        (["dog/a.png", "b.png"], CLASSES, "an image in no folder is of no class"),
        (["dog/a.png", "cat/a.png"], None, "which names none"),
    ],
)
def test_no_accuracy_where_folders_are_no_classes(
    tmp_path: Path, names: list[str], classes: tuple[str, ...] | None, note: str
) -> None:
    for name in names:
        save(tmp_path / "data" / name)
    images = read_images(tmp_path / "data", model_file(tmp_path, classes), most=100)
    assert images.labels is None
    assert note in images.note


def test_folders_stand_for_classes_that_a_file_does_not_name(tmp_path: Path) -> None:
    for number, name in enumerate(sorted(CLASSES)):
        save(tmp_path / "data" / name / "a.png", (number, 0, 0))
    images = read_images(tmp_path / "data", model_file(tmp_path, None), most=100)
    assert images.labels.tolist() == images.pixels[:, 0, 0, 0].tolist()
    assert "alphabetical order" in images.note


def test_the_middle_is_cut_out_upright(tmp_path: Path) -> None:
    """Red sides around a blue middle of the input's shape; one camera lay on its side."""
    (tmp_path / "data").mkdir()
    picture = np.full((8, 40, 3), (255, 0, 0), np.uint8)
    picture[:, 14:26] = (0, 0, 255)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(tmp_path / "data" / "a.png")
    Image.fromarray(np.rot90(picture).copy()).save(tmp_path / "data" / "b.png", exif=exif)
    images = read_images(tmp_path / "data", model_file(tmp_path), most=100)
    assert images.pixels.shape == (2, 3, 4, 6)
    assert (images.pixels[..., 1:-1] == np.array([0, 0, 255])[:, None, None]).all()
    assert images.pixels[:, 2].min() > 200  # neighbours shine in at the edge


@pytest.mark.parametrize("size", [1, 3, 4, 9])
def test_batches_are_full_and_in_order(tmp_path: Path, size: int) -> None:
    images = random_pixels(model_file(tmp_path)).part(slice(4))
    batches = list(images.batches(size))
    assert {batch.shape for batch in batches} == {(size, 3, 4, 6)}
    shown = np.concatenate(batches)
    assert shown.dtype == np.float32
    np.testing.assert_array_equal(shown[:4], images.pixels / np.float32(255))
    assert 0 <= shown.min() < 0.2 < 0.8 < shown.max() <= 1


@pytest.mark.parametrize("damage", ["none", "missing", "one", "broken", "deep", "most"])
def test_images_that_cannot_be_taken_are_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "data"
    for name in {"none": [], "missing": [], "one": ["a"]}.get(damage, ["a", "b"]):
        save(folder / "dog" / f"{name}.png")
    if damage == "broken":
        (folder / "dog" / "b.png").write_bytes((folder / "dog" / "a.png").read_bytes()[:45])
    elif damage == "deep":
        Image.fromarray(np.zeros((4, 6), np.uint16)).save(folder / "dog" / "b.png")
    elif damage == "none":
        folder.mkdir()
    expected = {"broken": "b.png: cannot be read", "deep": "b.png: more than 8", "most": "--most"}
    with pytest.raises(UserError, match=expected.get(damage, "images below it")) as raised:
        read_images(folder, model_file(tmp_path), most=1 if damage == "most" else 100)
    assert "\n" not in str(raised.value)
