"""The final evaluation: the only use of the test split, at the end, to report."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from export.parity import Parity, Rounding, parity, rounding
from export.timing.unit_of_work import UnitOfWork
from kd.batches import Outputs, distillation_batches
from kd.evaluate import accuracy, balanced_accuracy, predict
from kd.images.identities import Pairs
from kd.images.splits import Split
from kd.student.int8 import answers
from kd.student.verification import Verification, agreement, verify


@dataclass(frozen=True)
class FinalEvaluation:
    """Test accuracy of the ONNX file that ships, beside its teacher's, and parity with PyTorch.

    What is of the teacher is None where its outputs for the test split are not known. `rounding`
    compares the precision that ships with fp32.
    """

    test_accuracy: float
    test_balanced_accuracy: float
    teacher_test_accuracy: float | None
    teacher_test_balanced_accuracy: float | None
    teacher_agreement: float | None
    parity: Parity
    rounding: Rounding

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
            "fp32_test_accuracy": self.rounding.fp32_accuracy,
            "fp32_agreement": self.rounding.agreement,
        }

    def precision_kept(self, bound: float) -> bool:
        """Whether the precision that ships loses no more than `bound`."""
        return self.rounding.within(bound)


@dataclass(frozen=True)
class FinalVerification:
    """Pairs of test images told by the ONNX file, beside its teacher, and parity with PyTorch.

    What is of the teacher is None where its outputs for the test split are not known; `agreement`
    is the mean cosine with its vectors.
    """

    student: Verification
    teacher: Verification | None
    agreement: float | None
    parity: Parity

    def facts(self) -> dict[str, object]:
        """Return the numbers of metrics.json."""
        teacher = self.teacher
        return {
            "test_accuracy": self.student.accuracy,
            "test_verification": self.student.facts(),
            "teacher_test_accuracy": teacher and teacher.accuracy,
            "teacher_test_verification": teacher and teacher.facts(),
            "teacher_agreement": self.agreement,
            "onnx_max_abs_error": self.parity.finite_error,
            "onnx_top1_agreement": None,
            "onnx_parity": self.parity.passed,
        }

    def precision_kept(self, bound: float) -> bool:
        """Whether the precision that ships loses nothing: it is fp32."""
        return True


def final_evaluation(
    teacher: Outputs | None,
    test: Split,
    student: nn.Module,
    exact: Path,
    ships: Path,
    unit: UnitOfWork,
    batch: int,
) -> FinalEvaluation:
    """Compare the teacher's outputs, student and ONNX files on every plain image of `test`.

    `exact` is the student in fp32, which is to be equal to it; `ships` is the file that is run in
    the unit of work's precision.
    """
    logits, labels = predict(student, test.view(None), batch)
    in_fp32 = answers(exact, test, replace(unit, precision="fp32"), batch)
    shipped = in_fp32 if unit.precision == "fp32" else answers(ships, test, unit, batch)
    told = None if teacher is None else _answers(teacher, test, batch)
    return FinalEvaluation(
        accuracy(shipped, labels),
        balanced_accuracy(shipped, labels),
        None if told is None else accuracy(told, labels),
        None if told is None else balanced_accuracy(told, labels),
        None if told is None else accuracy(shipped, told.argmax(1)),
        parity(logits, in_fp32),
        rounding(in_fp32, shipped, labels),
    )


def final_verification(
    teacher: Outputs | None,
    test: Split,
    pairs: Pairs,
    student: nn.Module,
    ships: Path,
    unit: UnitOfWork,
    batch: int,
) -> FinalVerification:
    """Compare the teacher's vectors, student and ONNX file on every plain image of `test`."""
    vectors, _ = predict(student, test.view(None), batch)
    shipped = answers(ships, test, unit, batch)
    told = None if teacher is None else _answers(teacher, test, batch)
    return FinalVerification(
        verify(shipped, pairs),
        None if told is None else verify(told, pairs),
        None if told is None else agreement(shipped, told),
        parity(vectors, shipped),
    )


def _answers(teacher: Outputs, test: Split, batch: int) -> Tensor:
    epoch = distillation_batches(test, teacher, None, batch, None)
    return torch.cat([batch.probabilities.cpu() for batch in epoch])
