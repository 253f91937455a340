"""Plain training of one network: the teacher on labels, the student on its teacher."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from export.errors import UserError
from export.precision import Precision, arithmetic
from kd.targets import Batch


@dataclass(frozen=True)
class FitSettings:
    """SGD with Nesterov momentum; the rate warms up, then falls to 0 along a cosine."""

    epochs: int
    learning_rate: float = 0.1  # at its peak
    weight_decay: float = 5e-4  # not of biases and BatchNorm
    momentum: float = 0.9
    warm_up: float = 0.2  # share of the steps
    precision: Precision = "fp32"  # of the network's arithmetic


def fit(
    model: nn.Module,
    epochs_of_batches: Callable[[int], Iterator[Batch]],
    loss: Callable[[Tensor, Batch], Tensor],
    settings: FitSettings,
    steps_per_epoch: int,
    description: str,
    log: Callable[..., None],
) -> None:
    """Train `model` in place on `epochs_of_batches(epoch)`, and leave it in train mode.

    `log(step, loss=, accuracy=, learning_rate=)` is called after every epoch with its means.
    Raises `UserError` when the loss stops being finite.
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
    # Momentum stays put: OneCycleLR would cycle it as well.
    schedule = OneCycleLR(
        optimizer,
        settings.learning_rate,
        total_steps=steps,
        pct_start=settings.warm_up,
        cycle_momentum=False,
    )
    with tqdm(total=steps, desc=description, unit="step") as bar:
        for epoch in range(settings.epochs):
            total, correct, seen = 0.0, 0, 0
            for batch in epochs_of_batches(epoch):
                batch = Batch(*(tensor.to(device) for tensor in batch))
                images = batch.images.contiguous(memory_format=torch.channels_last)
                with arithmetic(device, settings.precision):
                    logits = model(images)
                value = loss(logits.float(), batch)
                if not value.isfinite():
                    raise UserError(
                        f"{description}: loss {value.item()} in epoch {epoch + 1}, step"
                        f" {bar.n + 1}, expected a finite one; lower the learning rate"
                        f" {settings.learning_rate}"
                    )
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                rate = schedule.get_last_lr()[0]
                schedule.step()
                total += value.item() * len(logits)
                correct += int((logits.argmax(dim=1) == batch.labels.argmax(dim=1)).sum())
                seen += len(logits)
                means = {"loss": total / seen, "accuracy": correct / seen}
                bar.set_postfix(means, refresh=False)
                bar.update()
            log(bar.n, **means, learning_rate=rate)
