"""Plain training of one network: the teacher on labels, the student on its teacher."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import trange

from export.checkpoint import Keeper
from export.errors import UserError
from export.precision import Precision, arithmetic
from kd.targets import Batch, on_device


@dataclass(frozen=True)
class FitSettings:
    """SGD with Nesterov momentum; the rate warms up, then falls to 0 along a cosine."""

    epochs: int
    learning_rate: float = 0.1  # at its peak
    weight_decay: float = 5e-4  # not of biases and BatchNorm
    momentum: float = 0.9
    warm_up: float = 0.2  # share of the steps
    precision: Precision = "fp32"  # of the network's arithmetic


class Means:
    """Means over the images of an epoch so far."""

    def __init__(self) -> None:
        self.loss, self.right, self.images = 0.0, 0, 0

    def add(self, loss: float, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: its mean loss, logits [B, K] and labels [B, K]."""
        self.loss += loss * len(logits)
        self.right += int((logits.argmax(dim=1) == labels.argmax(dim=1)).sum())
        self.images += len(logits)

    def taken(self) -> dict[str, float]:
        """Loss and accuracy."""
        return {"loss": self.loss / self.images, "accuracy": self.right / self.images}

    def state_dict(self) -> dict[str, float]:
        """Return the sums."""
        return vars(self).copy()

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take the sums back."""
        self.loss, self.right, self.images = state["loss"], state["right"], state["images"]


def fit(
    model: nn.Module,
    batches_from: Callable[[int], Iterator[Batch]],
    loss: Callable[[Tensor, Batch], Tensor],
    settings: FitSettings,
    steps_per_epoch: int,
    description: str,
    log: Callable[..., None],
    checkpoint: Keeper,
) -> None:
    """Train `model` in place on `batches_from(step)`, and leave it in train mode.

    Goes on where the checkpoint is. `log(step, loss=, accuracy=, learning_rate=)` is called at the
    last step of every epoch with its means. Raises `UserError` when the loss stops being finite.
    """
    device = next(model.parameters()).device
    model.to(memory_format=torch.channels_last).train()
    optimizer = SGD(
        param_groups_weight_decay(model, settings.weight_decay),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=True,
    )
    steps = settings.epochs * steps_per_epoch
    # Momentum stays put: OneCycleLR would cycle it as well. And it would divide by zero where one
    # step is exactly the share that warms up.
    schedule = OneCycleLR(
        optimizer,
        settings.learning_rate,
        total_steps=steps,
        pct_start=settings.warm_up + 1e-6,
        cycle_momentum=False,
    )
    means = Means()
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "means": means}
    start = checkpoint.restore(parts)
    batches = batches_from(start)
    for step in (bar := trange(start, steps, desc=description, unit="step")):
        batch = on_device(next(batches), device)
        with arithmetic(device, settings.precision):
            logits = model(batch.images)
        value = loss(logits.float(), batch)
        if not value.isfinite():
            raise UserError(
                f"{description}: loss {value.item()} in epoch {step // steps_per_epoch + 1}, step"
                f" {step + 1}, expected a finite one; lower the learning rate"
                f" {settings.learning_rate}"
            )
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        rate = schedule.get_last_lr()[0]
        schedule.step()
        means.add(value.item(), logits, batch.labels)
        bar.set_postfix(means.taken(), refresh=False)
        if (step + 1) % steps_per_epoch == 0:
            log(step, **means.taken(), learning_rate=rate)
            means.load_state_dict(Means().state_dict())
        checkpoint.keep(step + 1, steps, parts)
