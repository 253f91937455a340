"""ONNX files as people have them: weights beside, channels last, pixels, several outputs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from base.errors import UserError
from export.runtimes.onnx_session import preferred_provider
from kd.teacher.onnx_network import onnx_fingerprint
from tests.kd.teacher.test_black_boxes import SIDE, expected, images, load

SIZE = 3 * SIDE * SIDE
Shape = Sequence[int | str]
FREE = {"batch": ("batch",), "nothing": (), "size": ("batch", "height", "width")}


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    outputs: Mapping[str, Shape],
    weights: Mapping[str, Tensor],
    shape: Shape = ("batch", 3, SIDE, SIDE),
    kinds: Mapping[str, int] = {},
    **options: object,
) -> None:
    """Write a file of these nodes, from `images` of `shape` to `outputs`; all are floats."""
    values = [
        helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), size)
        for name, size in {"images": shape, **outputs}.items()
    ]
    tensors = [numpy_helper.from_array(weight.numpy(), name) for name, weight in weights.items()]
    graph = helper.make_graph(nodes, "classifier", values[:1], values[1:], tensors)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path, **options)


def write_form(path: Path, form: str, free: Sequence[str]) -> nn.Module:
    """Write a classifier of this form of input and rows; return it as a module."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.Flatten()).eval()
    sizes = {"batch": 2, "height": SIDE, "width": SIDE} | {name: name for name in free}
    batch, *sides = sizes.values()
    weights = {"w": 50 * network[1].weight.data, "b": network[1].bias.data}
    network[1].weight.data *= 50
    pixels, last, now, nodes = "pixels" in form, "last" in form, "images", []
    if pixels:
        weights["most"] = torch.tensor(255.0)
        nodes.append(helper.make_node("Cast", [now], ["floats"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Div", ["floats", "most"], ["shares"]))
        now = "shares"
    if last:
        nodes.append(helper.make_node("Transpose", [now], ["first"], perm=(0, 3, 1, 2)))
        now = "first"
    nodes.append(helper.make_node("GlobalAveragePool", [now], ["pooled"]))
    nodes.append(helper.make_node("Conv", ["pooled", "w", "b"], ["sides"]))
    nodes.append(helper.make_node("Flatten", ["sides"], ["rows"]))
    outputs = {"sides": [batch, 4, 1, 1]} if "sides" in form else {"rows": [batch, 4]}
    shape = [batch, *sides, 3] if last else [batch, 3, *sides]
    save(path, nodes, outputs, weights, shape, {"images": TensorProto.UINT8} if pixels else {})
    return network


@pytest.mark.parametrize("form", ["last", "pixels", "pixels last", "sides", "sides last"])
@pytest.mark.parametrize("free", FREE)
def test_forms_of_input_and_of_rows(tmp_path: Path, form: str, free: str) -> None:
    network = write_form(tmp_path / "t.onnx", form, FREE[free])
    teacher, shown = load(tmp_path / "t.onnx"), (images(5) * 255).round() / 255
    assert torch.allclose(teacher(shown), expected(network, shown), atol=1e-4)
    assert teacher.input_format.resolution == (None if free == "size" else SIDE)


def test_pixels_are_normalised_by_the_file_alone(tmp_path: Path) -> None:
    write_form(tmp_path / "t.onnx", "pixels", ())
    with pytest.raises(UserError, match=r"from 0 to 255, .* leave --teacher-mean"):
        load(tmp_path / "t.onnx", mean=(0.5, 0.5, 0.5))


def write_outputs(path: Path, shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
    """Write a file with some of these outputs, of these shapes as far as it says; return weights.

    `first` and `second` are two classifiers, `features` the flat images, `answer` is a number.
    """
    draws = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(SIZE, 4, generator=draws) for name in ("first", "second")}
    nodes = [helper.make_node("Flatten", ["images"], ["features"])]
    nodes += [helper.make_node("MatMul", ["features", f"{n}_w"], [n]) for n in weights]
    nodes += [helper.make_node("ArgMax", ["first"], ["answer"], axis=1, keepdims=0)]
    tensors = {f"{name}_w": weight for name, weight in weights.items()}
    save(path, nodes, shapes, tensors, kinds={"answer": TensorProto.INT64})
    return weights


@pytest.mark.parametrize(
    "shapes",
    [
        {"features": ["batch", SIZE], "first": ["batch", 4]},
        {"answer": ["batch"], "first": ["batch", "classes"]},
        {"features": ["batch", SIZE], "answer": ["batch"], "first": ["batch", 4]},
        {"features": ["batch", "size"], "first": ["batch", 4]},
    ],
    ids=["features", "label", "both", "free features"],
)
def test_of_several_outputs_the_one_of_as_many_classes_answers(
    tmp_path: Path, shapes: Mapping[str, Shape]
) -> None:
    first = write_outputs(tmp_path / "t.onnx", shapes)["first"]
    logits = images(3).flatten(1) @ first
    assert torch.allclose(load(tmp_path / "t.onnx")(images(3)), logits.log_softmax(1), atol=1e-4)


def test_of_two_that_fit_one_is_to_be_named(tmp_path: Path) -> None:
    path = tmp_path / "t.onnx"
    weights = write_outputs(path, {"first": ["batch", 4], "second": ["batch", 4]})
    with pytest.raises(UserError, match=r"first, second could be rows of 4 .* --teacher-output"):
        load(path)
    with pytest.raises(UserError, match="has no output third; it has first, second"):
        load(path, output="third")
    for name, weight in weights.items():
        found = load(path, output=name)(images(3))
        assert torch.allclose(found, (images(3).flatten(1) @ weight).log_softmax(1), atol=1e-4)
    write_outputs(path, {"features": ["batch", SIZE], "answer": ["batch"]})
    with pytest.raises(UserError, match="none can be rows of 4 classes"):
        load(path)


def branch(weight: TensorProto) -> onnx.GraphProto:
    shape = ["batch", 4]
    made = helper.make_tensor_value_info(f"{weight.name}_out", TensorProto.FLOAT, shape)
    node = helper.make_node("MatMul", ["flat", weight.name], [made.name])
    return helper.make_graph([node], weight.name, [], [made], [weight])


def write_beside(path: Path, weight: Tensor, place: str) -> None:
    """Write a file whose weights lie in `<name>.data`: of the graph, of a node, of a branch."""
    tensor = numpy_helper.from_array(weight.numpy(), "w")
    nodes = [helper.make_node("Flatten", ["images"], ["flat"])]
    if place == "branch":
        nodes.append(helper.make_node("Constant", [], ["yes"], value_int=1))
        nodes.append(helper.make_node("Cast", ["yes"], ["true"], to=TensorProto.BOOL))
        branches = {"then_branch": branch(tensor), "else_branch": branch(tensor)}
        nodes.append(helper.make_node("If", ["true"], ["rows"], **branches))
    else:
        if place == "node":
            nodes.append(helper.make_node("Constant", [], ["w"], value=tensor))
        nodes.append(helper.make_node("MatMul", ["flat", "w"], ["rows"]))
    save(
        path,
        nodes,
        {"rows": ["batch", 4]},
        {"w": weight} if place == "graph" else {},
        save_as_external_data=True,
        location=f"{path.name}.data",
        size_threshold=0,
        convert_attribute=True,
    )


@pytest.mark.parametrize("place", ["graph", "node", "branch"])
def test_other_weights_beside_the_file_are_another_teacher(tmp_path: Path, place: str) -> None:
    weight = torch.randn(SIZE, 4, generator=torch.Generator().manual_seed(0))
    path, prints, files = tmp_path / "t.onnx", [], []
    for change in (0, 0, 1e-6):
        # The writer would append to what is there.
        (tmp_path / "t.onnx.data").unlink(missing_ok=True)
        write_beside(path, weight + change, place)
        files.append(path.read_bytes())
        prints.append(onnx_fingerprint(path))
    assert files[0] == files[1] == files[2]
    assert prints[0] == prints[1] != prints[2]
    if place == "graph":
        assert load(path).fingerprint() not in prints  # the input belongs to it, too
        found = load(path)(images(3))
        logits = images(3).flatten(1) @ (weight + 1e-6)
        assert torch.allclose(found, logits.log_softmax(1), atol=1e-4)
    (tmp_path / "t.onnx.data").unlink()
    with pytest.raises(UserError, match=r"t\.onnx: ") as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("available", "chosen"),
    [
        (("AzureExecutionProvider", "CPUExecutionProvider"), "CPUExecutionProvider"),
        (
            ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
            "CUDAExecutionProvider",
        ),
    ],
)
def test_the_provider_is_chosen_and_not_the_first(
    monkeypatch: pytest.MonkeyPatch, available: tuple[str, ...], chosen: str
) -> None:
    """The first may lack its libraries, and leave the file unopened."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(available))
    assert preferred_provider() == chosen
