"""Knowledge distillation (Hinton, Vinyals & Dean 2015, arXiv:1503.02531)."""

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from kd.targets import Batch

# The smallest positive half-precision number: what a stored probability of 0 may have been.
SMALLEST_STORED = 2.0**-24


def kd_loss(logits: Tensor, batch: Batch, kd_temperature: float, kd_weight: float) -> Tensor:
    """Mean over the batch of w T^2 KL(teacher^T || student^T) + (1 - w) CE(labels), a scalar.

    logits [B, K]; p^T = softmax(log p / T). The KL is summed over classes and divided by B.
    """
    log_teacher = batch.probabilities.clamp(min=SMALLEST_STORED).log() / kd_temperature
    divergence = kl_div(
        log_softmax(logits / kd_temperature, dim=1),
        log_softmax(log_teacher, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    label_loss = cross_entropy(logits, batch.labels)
    return kd_weight * kd_temperature**2 * divergence + (1 - kd_weight) * label_loss


def search_loss(guide: str, kd_temperature: float, kd_weight: float) -> Callable[..., Tensor]:
    """Return the loss that the search minimises: (logits, batch) -> scalar.

    Under the guide "labels" the search never sees the teacher: conventional search, the control.
    """
    weight = kd_weight if guide == "teacher" else 0.0
    return partial(kd_loss, kd_temperature=kd_temperature, kd_weight=weight)
