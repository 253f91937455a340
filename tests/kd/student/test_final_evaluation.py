"""The verdict counts what the shipped file answers, not what the module would have."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from export.onnx_file import write_onnx
from export.timing.unit_of_work import UnitOfWork
from kd.batches import OnlineOutputs
from kd.images.rendering import Frame
from kd.images.splits import DataSettings, load_data
from kd.student.final_evaluation import final_evaluation

UNIT = UnitOfWork(1, (8, 8))


class Constant(nn.Module):
    """Answers `label` for every image."""

    def __init__(self, label: int) -> None:
        super().__init__()
        self.answer = nn.Parameter(torch.nn.functional.one_hot(torch.tensor(label), 10).float())

    def forward(self, images: Tensor) -> Tensor:
        return self.answer + 0 * images.mean((1, 2, 3))[:, None]


def test_verdict_on_known_answers(tmp_path: Path) -> None:
    test = load_data(DataSettings(resolution=(8, 8), limit=100)).test
    share = {label: float((test.labels == label).double().mean()) for label in (3, 7)}
    student = Constant(3)
    teacher = OnlineOutputs(lambda images: Constant(7)(images).softmax(dim=1), (test.frame,))
    path = tmp_path / "student.onnx"
    write_onnx(student, torch.zeros(2, 3, 8, 8), path, {})
    verdict = final_evaluation(teacher, test, student, path, path, UNIT, batch=32)
    assert verdict.test_accuracy == share[3]
    assert verdict.teacher_test_accuracy == share[7]
    assert verdict.teacher_agreement == 0
    assert verdict.parity.passed
    assert verdict.parity.images == len(test)

    # Another file than the module: its answers count, and parity says so.
    write_onnx(Constant(7), torch.zeros(2, 3, 8, 8), path, {})
    verdict = final_evaluation(teacher, test, student, path, path, UNIT, batch=32)
    assert verdict.test_accuracy == share[7]
    assert verdict.teacher_agreement == 1
    assert not verdict.parity.passed


def test_a_teacher_that_is_not_known_for_the_test_split_is_left_out(tmp_path: Path) -> None:
    test = load_data(DataSettings(resolution=(8, 8), limit=100)).test
    path = tmp_path / "student.onnx"
    write_onnx(Constant(3), torch.zeros(2, 3, 8, 8), path, {})
    verdict = final_evaluation(None, test, Constant(3), path, path, UNIT, batch=32)
    facts = verdict.facts()
    assert facts["teacher_test_accuracy"] is facts["teacher_agreement"] is None
    assert facts["test_accuracy"] == float((test.labels == 3).double().mean())
    assert facts["onnx_parity"]


def test_the_teacher_is_asked_for_the_plain_images_in_order(tmp_path: Path) -> None:
    test = load_data(DataSettings(resolution=(8, 8), limit=100)).test
    path, asked = tmp_path / "student.onnx", []

    class Recorded:
        frames = (Frame((12, 12)),)

        def rows(self, view: int | None, index: Tensor, shown: Sequence[Tensor] = ()) -> Tensor:
            assert view is None
            plain = test.view(None).shown_in(self.frames)
            (images,) = shown
            assert torch.equal(images, torch.stack([plain[int(i)][0] for i in index]))
            asked.extend(index.tolist())
            return torch.eye(10)[test.labels[index]]

    write_onnx(Constant(3), torch.zeros(2, 3, 8, 8), path, {})
    verdict = final_evaluation(Recorded(), test.view(1), Constant(3), path, path, UNIT, batch=32)
    assert asked == list(range(100))
    assert verdict.teacher_test_accuracy == 1
    assert verdict.teacher_agreement == verdict.test_accuracy
