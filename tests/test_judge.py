"""The verdict counts what the shipped file answers, not what the module would have."""

from pathlib import Path

import torch
from torch import Tensor, nn

from export.onnx_file import write_onnx
from kd.data import DataSettings, load_data
from kd.judge import judge
from kd.teacher import Teacher


class Constant(nn.Module):
    """Answers `label` for every image."""

    def __init__(self, label: int) -> None:
        super().__init__()
        self.answer = nn.Parameter(torch.nn.functional.one_hot(torch.tensor(label), 10).float())

    def forward(self, images: Tensor) -> Tensor:
        return self.answer + 0 * images.mean((1, 2, 3))[:, None]


def test_verdict_on_known_answers(tmp_path: Path) -> None:
    test = load_data(DataSettings(resolution=8, limit=100)).test
    share = {label: float((test.labels == label).double().mean()) for label in (3, 7)}
    teacher, student = Teacher(Constant(7)), Constant(3)
    path = tmp_path / "student.onnx"
    write_onnx(student, torch.zeros(2, 3, 8, 8), path, {})
    verdict = judge(teacher, student, path, test, batch=32)
    assert verdict.test_accuracy == share[3]
    assert verdict.teacher_test_accuracy == share[7]
    assert verdict.teacher_agreement == 0
    assert verdict.parity.passed
    assert verdict.parity.images == len(test)

    # Another file than the module: its answers count, and parity says so.
    write_onnx(Constant(7), torch.zeros(2, 3, 8, 8), path, {})
    verdict = judge(teacher, student, path, test, batch=32)
    assert verdict.test_accuracy == share[7]
    assert verdict.teacher_agreement == 1
    assert not verdict.parity.passed
