"""A saved program that could run code is refused, and runs none."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from base.errors import UserError
from kd.teacher.program_file import Program

Entries = dict[str, bytes]


class Classifier(nn.Sequential):
    """Its argument has a name that no operator's has."""

    def forward(self, shown: Tensor) -> Tensor:
        return super().forward(shown)


def images(count: int) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(count))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    pooled = (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    network = Classifier(*pooled, nn.Flatten(), nn.Linear(6, 4)).eval()
    path = tmp_path_factory.mktemp("programs") / "teacher.pt2"
    program = torch.export.export(network, (images(2),), dynamic_shapes=({0: Dim("batch")},))
    torch.export.save(program, path)
    return path


class Plant:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def rewritten(source: Path, path: Path, change: Callable[[Entries], object]) -> Path:
    """The archive with its entries, by their names inside, changed in place."""
    with zipfile.ZipFile(source) as archive:
        prefix = archive.namelist()[0].partition("/")[0]
        entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(f"{prefix}/{name}", content)
    return path


def replaced(entries: Entries, name: str, change: Callable[[dict], object]) -> None:
    """Change a JSON entry in place."""
    content = json.loads(entries[name])
    change(content)
    entries[name] = json.dumps(content).encode()


def test_a_rewritten_archive_loads_as_long_as_nothing_is_changed(
    saved: Path, tmp_path: Path
) -> None:
    """Otherwise the refusals below would show nothing."""
    path = rewritten(saved, tmp_path / "same.pt2", lambda entries: None)
    assert torch.equal(Program(path)(images(3)), Program(saved)(images(3)))


def malicious_inputs(entries: Entries, plant: Path) -> None:
    buffer = io.BytesIO()
    torch.save(((Plant(plant),), {}), buffer)
    entries["data/sample_inputs/model.pt"] = buffer.getvalue()


def pickled_inputs(entries: Entries, plant: Path) -> None:
    entries["data/sample_inputs/model.pt"] = pickle.dumps(((Plant(plant),), {}))


def pickled_weight(entries: Entries, plant: Path) -> None:
    def use_pickle(config: dict) -> None:
        config["config"]["5.bias"].update(use_pickle=True, path_name="weight_0")

    replaced(entries, "data/weights/model_weights_config.json", use_pickle)
    buffer = io.BytesIO()
    torch.save(Plant(plant), buffer)
    entries["data/weights/weight_0"] = buffer.getvalue()


def legacy_weights(entries: Entries, plant: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"w": Plant(plant)}, buffer)
    entries["data/weights/model.pt"] = buffer.getvalue()


def constant(kind: str) -> Callable[[Entries, Path], None]:
    def change(entries: Entries, plant: Path) -> None:
        name = f"{kind}_obj_0"
        entry = {"path_name": name, "is_param": False, "use_pickle": True, "tensor_meta": None}
        config = {"config": {"c": entry}}
        entries["data/constants/model_constants_config.json"] = json.dumps(config).encode()
        entries[f"data/constants/{name}"] = pickle.dumps(Plant(plant))

    return change


def in_model(change: Callable[[dict, str], object]) -> Callable[[Entries, Path], None]:
    """Change the model's JSON; `code` is text whose evaluation creates the file."""

    def changed(entries: Entries, plant: Path) -> None:
        code = f"__import__('pathlib').Path({str(plant)!r}).touch()"
        replaced(entries, "models/model.json", lambda model: change(model, code))

    return changed


def graph_of(model: dict) -> dict:
    return model["graph_module"]["graph"]


def expression(model: dict, code: str) -> None:
    tensors = graph_of(model)["tensor_values"].values()
    sizes = [size for tensor in tensors for size in tensor["sizes"] if "as_expr" in size]
    sizes[0]["as_expr"]["expr_str"] = code


def symbol(model: dict, code: str) -> None:
    expression(model, f'Symbol("s0", positive={code})')


def renamed(model: dict, old: str, new: str) -> None:
    """Put `new` wherever `old` stands as a whole string."""
    text = json.dumps(model).replace(json.dumps(old), json.dumps(new))
    model.clear()
    model.update(json.loads(text))


def input_name(model: dict, code: str) -> None:
    (name,) = graph_of(model)["inputs"][-1].values()
    renamed(model, name["name"], f"{name['name']}={code}")


def argument_name(model: dict, code: str) -> None:
    """The name stands twice in the module's code; a string reaches from one place to the other."""
    signature = model["graph_module"]["module_call_graph"][0]["signature"]
    (name,) = signature["forward_arg_names"]
    signature["forward_arg_names"] = [f"{name}, _={code} or '''):\n    {name}, = [{name}] #"]


def operator(name: str) -> Callable[[dict, str], None]:
    def change(model: dict, code: str) -> None:
        graph_of(model)["nodes"][0]["target"] = name

    return change


def parameter_name(entries: Entries, plant: Path) -> None:
    code = f"__import__('os').system('touch {plant}')".replace(".", "\\x2e")
    name = f'w", exec("{code}")) or getattr(self, "w'
    replaced(entries, "models/model.json", lambda model: renamed(model, "5.bias", name))
    config = "data/weights/model_weights_config.json"
    replaced(entries, config, lambda weights: renamed(weights, "5.bias", name))


def writes_a_file(entries: Entries, plant: Path) -> None:
    def change(model: dict) -> None:
        node = next(n for n in graph_of(model)["nodes"] if "relu" in n["target"])
        node["target"] = "torch.ops.aten.from_file.default"
        values = {"filename": {"as_string": str(plant)}, "shared": {"as_bool": True}}
        node["inputs"] = [
            {"name": name, "arg": value, "kind": 1}
            for name, value in {**values, "size": {"as_int": 4096}}.items()
        ]

    replaced(entries, "models/model.json", change)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (malicious_inputs, "data/sample_inputs/model.pt"),
        (pickled_inputs, "data/sample_inputs/model.pt"),
        (pickled_weight, "data/weights/model_weights_config.json: 5.bias"),
        (legacy_weights, "data/weights/model.pt"),
        (constant("custom"), "data/constants/custom_obj_0"),
        (constant("opaque"), "data/constants/opaque_obj_0"),
        (lambda entries, _: entries.update({"data/aotinductor/model/a.so": b""}), "a.so"),
        (lambda entries, _: entries.update({"extra/code.py": b"pass"}), "extra/code.py"),
        (in_model(expression), "__import__"),
        (in_model(symbol), "__import__"),
        (in_model(operator("torch.hub.load")), "torch.hub.load"),
        (in_model(operator("torch.ops.aten.relu.default.__class__")), "__class__"),
        (in_model(operator("#os.system")), "#os.system"),
        (in_model(operator("_operator.methodcaller")), "methodcaller"),
        (writes_a_file, "from_file"),
        (in_model(input_name), "__import__"),
        (in_model(argument_name), "__import__"),
        (parameter_name, "exec"),
    ],
    ids=[
        *("saved inputs", "pickled inputs", "pickled weight", "older weights", "custom object"),
        *("opaque object", "library", "extra file", "expression", "symbol", "torch.hub", "class"),
        *("extension", "methodcaller", "from_file", "input name", "argument name"),
        "parameter name",
    ],
)
def test_archives_that_could_run_code_are_refused_and_run_none(
    saved: Path, tmp_path: Path, change: Callable[[Entries, Path], object], named: str
) -> None:
    plant = tmp_path / "planted"
    path = rewritten(saved, tmp_path / "bad.pt2", lambda entries: change(entries, plant))
    with pytest.raises(UserError) as caught:
        Program(path)(images(2))
    assert not plant.exists()
    assert str(caught.value).startswith(f"{path}: ")
    assert named in str(caught.value)
    assert "is refused" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: entries.update({"models/model.json": b"{"}),
        lambda entries: entries.update({"models/model.json": b"[1, 2]"}),
        lambda entries: entries.update({"data/weights/model_weights_config.json": b"{}"}),
        lambda entries: entries.update({"data/weights/model_weights_config.json": b"[]"}),
        lambda entries: entries.update({"data/sample_inputs/model.pt": b"nonsense"}),
        lambda entries: entries.update({"data/sample_inputs/model.pt": b"PK\x05\x06" + 18 * b"\0"}),
        lambda entries: entries.update({"data/weights/weight_0": b"123"}),
        lambda entries: entries.pop("data/weights/weight_0"),
        lambda entries: entries.pop("archive_version"),
    ],
    ids=[
        *("JSON", "list", "no config", "config list", "inputs", "empty inputs"),
        *("short weight", "no weight", "no version"),
    ],
)
def test_damaged_entries_are_one_line(
    saved: Path, tmp_path: Path, change: Callable[[Entries], object]
) -> None:
    path = rewritten(saved, tmp_path / "bad.pt2", change)
    with pytest.raises(UserError, match=r"bad\.pt2: ") as caught:
        Program(path)(images(2))
    assert "\n" not in str(caught.value)
    assert ".data/version" not in str(caught.value)
