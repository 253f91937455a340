"""The loss of a step: the distance to the teacher, and the labels."""

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from kd.batches import Batch
from kd.distances import DISTANCES, Distance, kl

# The smallest positive half-precision number: what a stored probability of 0 may have been.
SMALLEST_STORED = 2.0**-24

Loss = Callable[[Tensor, Batch], Tensor]


def kd_loss(
    logits: Tensor,
    batch: Batch,
    kd_temperature: float,
    kd_weight: float,
    distance: Distance = kl,
) -> Tensor:
    """Return the batch's mean of w T^2 D(teacher^T, student^T) + (1 - w) CE(labels), a scalar.

    logits [B, K]; p^T = softmax(log p / T). T^2 keeps the size of the gradients (Hinton et al.
    2015, arXiv:1503.02531, section 2). An image without a label has the teacher's term alone: its
    labels are 0, and so is its cross-entropy.
    """
    log_teacher = batch.probabilities.clamp(min=SMALLEST_STORED).log() / kd_temperature
    apart = distance(
        log_softmax(logits / kd_temperature, dim=1),
        log_softmax(log_teacher, dim=1),
        batch.labels,
    )
    return kd_weight * kd_temperature**2 * apart + (1 - kd_weight) * label_loss(logits, batch)


def label_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Return the batch's mean of the cross-entropy with the labels, a scalar."""
    return cross_entropy(logits, batch.labels)


def loss_of(learns_from: str, distance: str, kd_temperature: float, kd_weight: float) -> Loss:
    """Return the loss of search or retraining: (logits, batch) -> scalar.

    From "labels" the teacher is never seen: conventional search or training, the controls.
    """
    if learns_from == "labels":
        return label_loss
    settings = {"kd_temperature": kd_temperature, "kd_weight": kd_weight}
    return partial(kd_loss, **settings, distance=DISTANCES[distance])
