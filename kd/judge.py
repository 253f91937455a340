"""The only look at the test split: at the end, to report."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from export.parity import Parity, onnx_logits, parity
from kd.data import Split, batches
from kd.evaluate import accuracy, predict
from kd.teacher import Teacher


@dataclass(frozen=True)
class Verdict:
    """Shares of the test split, for the ONNX file that ships, and its parity with PyTorch."""

    test_accuracy: float
    teacher_test_accuracy: float
    teacher_agreement: float
    parity: Parity

    def facts(self) -> dict[str, float | bool | None]:
        """Return the verdict as the numbers of metrics.json."""
        return {
            "test_accuracy": self.test_accuracy,
            "teacher_test_accuracy": self.teacher_test_accuracy,
            "teacher_agreement": self.teacher_agreement,
            "onnx_max_abs_error": self.parity.finite_error,
            "onnx_top1_agreement": self.parity.top1_agreement,
            "onnx_parity": self.parity.passed,
        }


def judge(
    teacher: Teacher, student: nn.Module, onnx_path: Path, test: Split, batch: int
) -> Verdict:
    """Compare teacher, student and ONNX file on every plain image of `test`."""
    plain = test.view(None)
    logits, labels = predict(student, plain, batch)
    teacher_logits, _ = predict(teacher, plain, batch)
    shipped = onnx_logits(onnx_path, (images for images, _, _ in batches(plain, batch, None)))
    return Verdict(
        accuracy(shipped, labels),
        accuracy(teacher_logits, labels),
        accuracy(shipped, teacher_logits.argmax(1)),
        parity(logits, shipped),
    )
