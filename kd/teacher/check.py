"""Check a teacher: accuracy, calibration, its input and the order of its classes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import confusion_matrix
from torch import Tensor
from torch.utils.data import Subset

from base.errors import UserError
from base.size import Size
from kd.evaluate import balanced_accuracy, predict
from kd.images.splits import Split
from kd.networks import InputFormat
from kd.teacher.answers import TeacherFault
from kd.teacher.model import Teacher

BINS = 15
SHOWN_CONFUSIONS = 3
# Another input or order is the right one when it is this much better, in points and in deviations.
CLEARLY_BETTER, DEVIATIONS = 0.05, 3.0
# A network that knows nothing has a better order of classes, too, but none that is right mostly.
MOSTLY = 0.5
TRIED_IMAGES = 200
# Sizes that teachers are trained at, tried where nothing says one and a teacher is mostly wrong.
USUAL_SIDES = (32, 64, 96, 128, 160, 224)
IMAGENET = InputFormat((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Check:
    """Quality of a teacher on the search split.

    `balanced_accuracy` is the mean over the classes, `calibration_error` the expected calibration
    error over 15 bins; `confusions` are the most frequent mistakes: (class, answer, share of the
    class).
    """

    images: int
    accuracy: float
    balanced_accuracy: float
    calibration_error: float
    confusions: tuple[tuple[str, str, float], ...]

    def __str__(self) -> str:
        """Say it in one line."""
        confused = ", ".join(
            f"{true} mistaken for {seen}: {share:.0%}" for true, seen, share in self.confusions
        )
        return (
            f"{self.accuracy:.2%} of {self.images} images of the search split, "
            f"{self.balanced_accuracy:.2%} balanced, calibration error "
            f"{self.calibration_error:.1%}{f'; {confused}' if confused else ''}"
        )

    def facts(self) -> dict[str, object]:
        """Return the numbers of teacher.json."""
        return {
            "search_accuracy": self.accuracy,
            "calibration_error": self.calibration_error,
            "confusions": [list(confusion) for confusion in self.confusions],
        }

    def summary(self) -> dict[str, float]:
        """Return the numbers that a run's summary shows."""
        return {
            "teacher_search_accuracy": self.accuracy,
            "teacher_search_balanced_accuracy": self.balanced_accuracy,
            "teacher_calibration_error": self.calibration_error,
        }


def check_outputs(log_p: Tensor, labels: Tensor, classes: Sequence[str]) -> Check:
    """Judge log-probabilities [N, K] for labels [N].

    Raises `UserError` for answers that are not finite, in another order of classes, or guessed.
    """
    if not (finite := log_p.exp().isfinite().all(dim=1)).all():
        raise UserError(
            f"teacher: answers for {int((~finite).sum())} of {len(log_p)} images are not finite;"
            " check its checkpoint, --teacher-mean and --teacher-std"
        )
    counts = confusion_matrix(labels, log_p.argmax(dim=1), labels=range(len(classes)))
    _refuse_permuted(log_p.argmax(dim=1), labels, classes)
    _refuse_guesses(counts)
    return Check(
        len(labels),
        (counts.diagonal().sum() / counts.sum()).item(),
        balanced_accuracy(log_p, labels),
        expected_calibration_error(log_p.exp(), labels),
        _largest_confusions(counts, classes),
    )


def expected_calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Return the expected calibration error, Σ_b n_b/N |accuracy_b - confidence_b|.

    Over equal bins (Guo et al. 2017, arXiv:1706.04599).

    probabilities [N, K], labels [N].
    """
    confidence, answers = probabilities.double().max(dim=1)
    right = (answers == labels).double()
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = torch.zeros(BINS, dtype=torch.double).index_add(0, bins, right - confidence)
    return gaps.abs().sum().item() / len(labels)


def check_input(
    teacher: Teacher,
    split: Split,
    batch: int,
    workers: int,
    own_resolution: bool = True,
    own_values: bool = True,
) -> None:
    """Raise `UserError` when the teacher sees far better with another input than the one it has.

    Wrong normalisation, a wrong range of values, exchanged channels, grey in place of colour and
    wrong sizes leave a teacher that answers, but badly. `own_resolution` and `own_values` say
    whether these come from metadata, or from nothing, and so may be wrong; what the user asked for
    is not doubted.
    """
    places = np.linspace(0, len(split) - 1, min(TRIED_IMAGES, len(split))).astype(int)
    places = np.unique(places).tolist()
    right = _right(teacher, split, places, batch, workers)
    tried = []
    sizes = _sizes(teacher.input_format, split.frame.size, right) if own_resolution else ()
    others = (*_others(teacher.input_format, own_values), *sizes)
    for name, mend, input_format in others:
        other = Teacher(teacher.network, input_format, teacher.identity).to(teacher.mean.device)
        try:
            tried.append((_right(other, split, places, batch, workers), name, mend))
        except TeacherFault:  # a network that cannot take such an input does not want it
            continue
    better, name, mend = max(tried, key=lambda one: one[0].mean(), default=(right, "", ""))
    if _clearly(better, right):
        raise UserError(
            f"teacher: {right.mean():.1%} of {len(right)} images as it is, but "
            f"{better.mean():.1%} {name}; {mend}"
        )


def _right(
    teacher: Teacher, split: Split, places: Sequence[int], batch: int, workers: int
) -> np.ndarray:
    images = Subset(split.view(None).shown_in(teacher.frames(split.frame)), places)
    log_p, labels = predict(teacher, images, batch, workers)
    return (log_p.argmax(dim=1) == labels).numpy()


def _clearly(better: np.ndarray, worse: np.ndarray) -> bool:
    """Whether it is right mostly, by a large difference, and no chance (McNemar 1947)."""
    gained, lost = int((better & ~worse).sum()), int((worse & ~better).sum())
    by_chance = DEVIATIONS * math.sqrt(gained + lost)
    return better.mean() > MOSTLY and gained - lost > max(by_chance, CLEARLY_BETTER * len(worse))


def _others(input_format: InputFormat, own_values: bool) -> Iterator[tuple[str, str, InputFormat]]:
    """(what is tried, the mend, the input) of the usual mistakes."""
    if own_values:
        values = {
            "with ImageNet's mean and std": (IMAGENET.mean, IMAGENET.std),
            "with values from 0 to 1": ((0.0,) * 3, (1.0,) * 3),
            "with values from -1 to 1": ((0.5,) * 3, (0.5,) * 3),
            "with values from 0 to 255": ((0.0,) * 3, (1 / 255,) * 3),
            "with black and white exchanged": ((1.0,) * 3, (-1.0,) * 3),
        }
        for name, (mean, std) in values.items():
            if (mean, std) != (input_format.mean, input_format.std):
                options = f"--teacher-mean {_words(mean)} --teacher-std {_words(std)}"
                yield name, f"give {options}", replace(input_format, mean=mean, std=std)
    channels = "rgb" if input_format.channels != "rgb" else "bgr"
    yield (
        f"with channels in the order {channels.upper()}",
        f"give --teacher-channels {channels}",
        replace(input_format, channels=channels),
    )
    if input_format.channels != "grey":
        yield (
            "with grey images",
            "give --teacher-channels grey",
            replace(input_format, channels="grey"),
        )


def _sizes(
    input_format: InputFormat, size: Size, right: np.ndarray
) -> Iterator[tuple[str, str, InputFormat]]:
    """The same for the students' size, or for larger ones where the teacher's is not known."""
    if input_format.resolution is None:
        sides = [s for s in USUAL_SIDES if s > max(size)] if right.mean() <= MOSTLY else []
    else:
        sides = {size[0]} - {input_format.resolution} if size[0] == size[1] else set()
    for side in sides:
        yield (
            f"at {side} pixels",
            f"give --teacher-resolution {side}",
            replace(input_format, resolution=side, resize=None),
        )


def _words(values: Sequence[float]) -> str:
    return " ".join(f"{value:.6g}" for value in values)


def _refuse_permuted(answers: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
    """Fit the best order of classes to half of the images, and try it on the other half."""
    fitted, tried = slice(0, None, 2), slice(1, None, 2)
    known = range(len(classes))
    counts = confusion_matrix(labels[fitted], answers[fitted], labels=known)
    own, answered = linear_sum_assignment(counts, maximize=True)
    order = torch.from_numpy(answered)
    as_it_is = (answers == labels)[tried].numpy()
    reordered = (answers == order[labels])[tried].numpy()
    if _clearly(reordered, as_it_is):
        moved = [i for i in own if answered[i] != i and counts[i, answered[i]] > 0]
        first = max(moved, key=lambda i: counts[i, answered[i]])
        raise UserError(
            f"teacher: its classes are in another order: it answers {classes[answered[first]]} "
            f"where the data says {classes[first]}; in the best order {reordered.mean():.1%} are "
            f"right, now {as_it_is.mean():.1%}; name its classes in its order with "
            "--teacher-classes FILE"
        )


def _refuse_guesses(counts: np.ndarray) -> None:
    """Raise `UserError` when the accuracy is that of guessing.

    Guessing is to give the same answers to shuffled images: p = Σ_k P(label k) P(answer k), 1/K for
    balanced classes (the chance of Cohen's kappa, 1960). A teacher passes when its accuracy is more
    than 5 binomial standard deviations above p, or half way from p to 1, which decides where there
    are few images.
    """
    count = counts.sum()
    accuracy = counts.diagonal().sum() / count
    chance = float((counts.sum(axis=0) / count) @ (counts.sum(axis=1) / count))
    needed = min(chance + 5 * (chance * (1 - chance) / count) ** 0.5, (1 + chance) / 2)
    if accuracy <= needed:
        raise UserError(
            f"teacher: accuracy {accuracy:.3f} on {count} images, where guessing gives"
            f" {chance:.3f} and more than {needed:.3f} is expected; check its weights, the order of"
            " its classes, --teacher-mean and --teacher-std"
        )


def _largest_confusions(
    counts: np.ndarray, classes: Sequence[str]
) -> tuple[tuple[str, str, float], ...]:
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    largest = np.argsort(shares, axis=None, kind="stable")[::-1][:SHOWN_CONFUSIONS]
    pairs = [np.unravel_index(place, shares.shape) for place in largest]
    return tuple((classes[i], classes[j], float(shares[i, j])) for i, j in pairs if shares[i, j])
