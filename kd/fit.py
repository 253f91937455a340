"""Plain training of one network: the teacher on labels, the student on its teacher."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import trange

from export.checkpoint import Keeper
from export.compiled import compiled
from export.errors import UserError
from export.precision import Precision, arithmetic
from export.processes import average, gradients, is_first, same_everywhere
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
    accumulate: int = 1  # parts that a batch passes in, one after the other
    compile: bool = False  # the network, by torch.compile


class Means:
    """Means over the images of an epoch so far."""

    def __init__(self) -> None:
        self.loss, self.right, self.images = 0.0, 0.0, 0

    def add(self, loss: float, right: float, images: int) -> None:
        """Count a batch: its mean loss, and the share of its images that are told right."""
        self.loss += loss * images
        self.right += right * images
        self.images += images

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
    start = same_everywhere(checkpoint.restore(parts), f"{description}: restored at step")
    batches, network = batches_from(start), compiled(model, wanted=settings.compile)
    quiet = not is_first()
    for step in (bar := trange(start, steps, desc=description, unit="step", disable=quiet)):
        optimizer.zero_grad()
        batch = on_device(next(batches), device)
        shares = batch.shares(settings.accumulate)
        value, right = _descend(network, shares, loss, settings.precision)
        if not math.isfinite(value):
            raise UserError(
                f"{description}: loss {value} in epoch {step // steps_per_epoch + 1}, step"
                f" {step + 1}, expected a finite one; lower the learning rate"
                f" {settings.learning_rate}"
            )
        optimizer.step()
        rate = schedule.get_last_lr()[0]
        schedule.step()
        means.add(value, right, len(batch.labels))
        bar.set_postfix(means.taken(), refresh=False)
        if (step + 1) % steps_per_epoch == 0:
            log(step, **means.taken(), learning_rate=rate)
            means.load_state_dict(Means().state_dict())
        checkpoint.keep(step + 1, steps, parts)


def _descend(
    model: nn.Module,
    parts: Sequence[Batch],
    loss: Callable[[Tensor, Batch], Tensor],
    precision: Precision,
) -> tuple[float, float]:
    """Leave the gradient of the mean loss over the parts of all processes.

    Returns that loss, and the share of images that are told right.
    """
    device = parts[0].images.device
    value, right = torch.zeros((), device=device), torch.zeros((), device=device)
    for part in _same_statistics(model, parts):
        with arithmetic(device, precision):
            logits = model(part.images)
        part_loss = loss(logits.float(), part) / len(parts)
        part_loss.backward()
        value += part_loss.detach()
        told = logits.argmax(dim=1) == part.labels.argmax(dim=1)
        right += told.float().mean() / len(parts)
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    average([*gradients(list(model.parameters())), *buffers, value, right])
    return value.item(), right.item()


def _same_statistics(model: nn.Module, parts: Sequence[Batch]) -> Iterator[Batch]:
    """Yield every part with BatchNorm's running statistics as they were; leave their mean.

    So parts that one process takes in turn are as good as parts that several take at once.
    """
    if len(parts) == 1:
        yield parts[0]
        return
    buffers = list(model.buffers())
    before = [buffer.clone() for buffer in buffers]
    moved = [torch.zeros_like(buffer, dtype=torch.float64) for buffer in buffers]
    for part in parts:
        for buffer, old in zip(buffers, before, strict=True):
            buffer.copy_(old)
        yield part
        for buffer, total in zip(buffers, moved, strict=True):
            total += buffer / len(parts)
    for buffer, total in zip(buffers, moved, strict=True):
        buffer.copy_(total)
