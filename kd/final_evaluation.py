"""The final evaluation: the only use of the test split, at the end, to report."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from export.parity import Parity, onnx_logits, parity
from kd.batches import Outputs, distillation_batches
from kd.evaluate import accuracy, balanced_accuracy, predict
from kd.images.loader import batches
from kd.images.splits import Split


@dataclass(frozen=True)
class FinalEvaluation:
    """Test accuracy of the ONNX file that ships, beside its teacher's, and parity with PyTorch.

    What is of the teacher is None where its outputs for the test split are not known.
    """

    test_accuracy: float
    test_balanced_accuracy: float
    teacher_test_accuracy: float | None
    teacher_test_balanced_accuracy: float | None
    teacher_agreement: float | None
    parity: Parity

    def facts(self) -> dict[str, float | bool | None]:
        """Return the numbers of metrics.json."""
        return {
            "test_accuracy": self.test_accuracy,
            "test_balanced_accuracy": self.test_balanced_accuracy,
            "teacher_test_accuracy": self.teacher_test_accuracy,
            "teacher_test_balanced_accuracy": self.teacher_test_balanced_accuracy,
            "teacher_agreement": self.teacher_agreement,
            "onnx_max_abs_error": self.parity.finite_error,
            "onnx_top1_agreement": self.parity.top1_agreement,
            "onnx_parity": self.parity.passed,
        }


def final_evaluation(
    teacher: Outputs | None, student: nn.Module, onnx_path: Path, test: Split, batch: int
) -> FinalEvaluation:
    """Compare the teacher's outputs, student and ONNX file on every plain image of `test`."""
    plain = test.view(None)
    logits, labels = predict(student, plain, batch)
    shipped = onnx_logits(onnx_path, (images for images, _, _ in batches(plain, batch, None)))
    answers = None if teacher is None else _answers(teacher, test, batch)
    return FinalEvaluation(
        accuracy(shipped, labels),
        balanced_accuracy(shipped, labels),
        None if answers is None else accuracy(answers, labels),
        None if answers is None else balanced_accuracy(answers, labels),
        None if answers is None else accuracy(shipped, answers.argmax(1)),
        parity(logits, shipped),
    )


def _answers(teacher: Outputs, test: Split, batch: int) -> Tensor:
    epoch = distillation_batches(test, teacher, None, batch, None)
    return torch.cat([batch.probabilities for batch in epoch])
