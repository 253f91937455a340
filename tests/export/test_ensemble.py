"""An ensemble's file answers with the mean of its members' probabilities."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from base.errors import UserError
from export.ensemble import Settings, averaged, main, unit_for
from export.int8.quantise import quantised
from export.onnx_file import read_metadata, to_onnx, write_model, write_onnx
from export.runtimes.given import read_model_file
from export.runtimes.onnx_session import onnx_session
from export.timing.unit_of_work import UnitOfWork

CLASSES = ["one", "two", "three"]
FACTS = {"classes": json.dumps(CLASSES), "architecture": "{}", "resize": "null", "input": "RGB"}


def network(seed: int, side: int = 8, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 4 + seed, 3), nn.BatchNorm2d(4 + seed), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear((4 + seed) * (side - 2) ** 2, classes)).eval()


def student(folder: Path, seed: int, side: int = 8, **facts: str) -> Path:
    """A folder as search.py leaves it, as far as it is read."""
    folder.mkdir()
    own = network(seed, side, len(json.loads((FACTS | facts)["classes"])))
    write_onnx(own, torch.zeros(2, 3, side, side), folder / "student.onnx", FACTS | facts)
    return folder


def quick(*students: Path, out: Path, **settings: object) -> Settings:
    return Settings(students, out, seconds=0.05, **settings)


@pytest.mark.parametrize("count", [2, 3])
def test_it_answers_with_the_mean_of_probabilities(
    tmp_path: Path, count: int, capsys: pytest.CaptureFixture
) -> None:
    """By hand in PyTorch, for any batch; and it is judged and timed beside its members."""
    folders = [student(tmp_path / f"{seed}ms", seed) for seed in range(count)]
    beside, out = student(tmp_path / "9ms", 9), tmp_path / "all.onnx"
    assert main(quick(*folders, out=out, beside=(beside,)))
    images = torch.rand(5, 3, 8, 8)
    with torch.no_grad():
        parts = [network(seed)(images).softmax(1) for seed in range(count)]
    session = onnx_session(out)
    (found,) = session.run(["probabilities"], {session.get_inputs()[0].name: images.numpy()})
    np.testing.assert_allclose(found, torch.stack(parts).mean(0).numpy(), atol=1e-6)
    onnx.checker.check_model(onnx.load(out), full_check=True)
    told = read_metadata(out)
    assert json.loads(told["members"]) == [f"{seed}ms" for seed in range(count)]
    assert json.loads(told["classes"]) == CLASSES
    assert float(told["measured_ms"]) > 0
    assert str(tmp_path).encode() not in out.read_bytes()
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith(str(tmp_path))]
    assert len(rows) == count + 3  # members, the one beside, the ensemble, and what it takes
    assert "100.00%" in next(row for row in rows if row.startswith(str(out)))


def test_models_that_share_names_do_not_meet(tmp_path: Path) -> None:
    """The same network twice is that network."""
    own = to_onnx(network(0), torch.zeros(2, 3, 8, 8))
    write_model(averaged([own, own]).SerializeToString(), tmp_path / "twice.onnx", {})
    images = torch.rand(2, 3, 8, 8)
    (found,) = onnx_session(tmp_path / "twice.onnx").run(None, {"images": images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, network(0)(images).softmax(1).numpy(), atol=1e-6)


def test_it_is_timed_as_the_first_student_was_made_for(tmp_path: Path) -> None:
    unit = {"batch": 7, "resolution": [8, 8], "provider": "CPUExecutionProvider"}
    unit |= {"precision": "int8", "threads": 1, "channels": 3}
    file = read_model_file(student(tmp_path / "5ms", 0, unit=json.dumps(unit)) / "student.onnx")
    asked = Settings((), tmp_path / "out")
    assert unit_for(asked, file) == UnitOfWork(7, (8, 8))
    assert unit_for(Settings((), tmp_path / "out", batch=3), file) == UnitOfWork(3, (8, 8))
    in_torch = json.dumps(unit | {"provider": "torch:cpu"})
    file = read_model_file(student(tmp_path / "7ms", 0, unit=in_torch) / "student.onnx")
    assert unit_for(asked, file) == UnitOfWork(7, (8, 8))  # PyTorch runs no files
    other = read_model_file(student(tmp_path / "6ms", 0) / "student.onnx")
    assert unit_for(asked, other) == UnitOfWork(1, (8, 8))


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"classes": '["one", "two", "four"]'}, "classes"),
        ({"classes": '["two", "one", "three"]'}, "classes"),
        ({"classes": '["one", "two"]'}, "classes"),
        ({"resize": "9"}, "resize 9, but null"),
        ({"input": "grey"}, "input grey, but RGB"),
    ],
)
def test_students_of_other_classes_or_images_are_refused(
    tmp_path: Path, facts: dict[str, str], said: str
) -> None:
    folders = student(tmp_path / "a", 0), student(tmp_path / "b", 1, **facts)
    with pytest.raises(UserError, match=said):
        main(quick(*folders, out=tmp_path / "out.onnx"))
    assert not (tmp_path / "out.onnx").exists()


def test_what_is_no_student_in_fp32_is_refused(tmp_path: Path) -> None:
    own, out = student(tmp_path / "a", 0), tmp_path / "out.onnx"
    with pytest.raises(UserError, match="needs two different students or more"):
        main(quick(own, own, out=out))
    with pytest.raises(UserError, match="is one of the students"):
        main(quick(own, student(tmp_path / "b", 1), out=own / "student.onnx"))
    beside = student(tmp_path / "c", 1)
    with pytest.raises(UserError, match="is one of the students"):
        main(quick(own, tmp_path / "b", out=beside / "student.onnx", beside=(beside,)))
    foreign = tmp_path / "foreign.onnx"
    write_onnx(network(2), torch.zeros(2, 3, 8, 8), foreign, {"classes": FACTS["classes"]})
    with pytest.raises(UserError, match="is of no student"):
        main(quick(own, foreign, out=out))
    whole = to_onnx(network(0), torch.zeros(2, 3, 8, 8))
    in_int8 = quantised(whole, [torch.rand(2, 3, 8, 8)]).SerializeToString()
    write_model(in_int8, tmp_path / "student.int8.onnx", FACTS)
    with pytest.raises(UserError, match=r"is in int8; give the student\.onnx"):
        main(quick(own, tmp_path / "student.int8.onnx", out=out))
    vectors = student(tmp_path / "vectors", 4, output="vector of 3 numbers, of length 1")
    with pytest.raises(UserError, match="answers with a vector; an ensemble needs students of"):
        main(quick(own, vectors, out=out))
    with pytest.raises(UserError, match="nowhere"):
        main(quick(own, tmp_path / "nowhere", out=out))
    assert not out.exists()
