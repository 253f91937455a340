"""Plain training of one network: the teacher on labels, the student on its teacher."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import trange

from base.compiled import compiled
from base.errors import Diverged
from base.phase import Phase
from base.precision import Precision, autocast
from base.processes import (
    all_reduce_mean,
    gradients,
    is_main_process,
    require_same_on_all_processes,
)
from kd.batches import Batch
from kd.evaluate import ACCURACY, Quality


@dataclass(frozen=True)
class FitSettings:
    """Settings of SGD with Nesterov momentum; the rate warms up, then falls to 0 on a cosine."""

    epochs: int
    learning_rate: float = 0.1  # at its peak
    weight_decay: float = 5e-4  # not of biases and BatchNorm
    momentum: float = 0.9
    warm_up: float = 0.2  # share of the steps
    precision: Precision = "fp32"  # of the network's arithmetic
    accumulate: int = 1  # parts that a batch passes in, one after the other
    compile: bool = False  # the network, by torch.compile
    sync_batch_norm: bool = False  # BatchNorm sees the shares of all processes, on GPUs


class EpochMeans:
    """Mean loss over the images of an epoch so far, and quality over those of which it is known."""

    def __init__(self) -> None:
        self.loss, self.images = 0.0, 0
        self.quality, self.known = 0.0, 0.0

    def add(self, loss: float, images: int, quality: float, known: float) -> None:
        """Add a batch: its mean loss, and the sum of the quality of its `known` images."""
        self.loss += loss * images
        self.images += images
        self.quality += quality
        self.known += known

    def taken(self, name: str) -> dict[str, float]:
        """Return the mean loss, and the mean quality called `name`."""
        quality = self.quality / self.known if self.known else math.nan
        return {"loss": self.loss / self.images, name: quality}

    def state_dict(self) -> dict[str, float]:
        """Return the sums."""
        return vars(self).copy()

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take the sums back."""
        self.loss, self.images = state["loss"], state["images"]
        self.quality, self.known = state["quality"], state["known"]


def fit(
    model: nn.Module,
    batches_from: Callable[[int], Iterator[Batch]],
    loss: Callable[[Tensor, Batch], Tensor],
    settings: FitSettings,
    steps_per_epoch: int,
    phase: Phase,
    quality: Quality = ACCURACY,
) -> None:
    """Train `model` in place on `batches_from(step)`, and leave it in train mode.

    Batches are on the model's device. Goes on where the phase's checkpoint is, and logs the means
    of loss and quality and the learning rate at the last step of every epoch. Raises `Diverged`
    when the loss stops being finite.
    """
    description = phase.name.replace("_", " ")
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
    means = EpochMeans()
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "means": means}
    start = require_same_on_all_processes(
        phase.checkpoint.restore(parts), f"{description}: restored at step"
    )
    network = with_sync_batch_norm(model) if settings.sync_batch_norm else model
    batches, network = batches_from(start), compiled(network, wanted=settings.compile)
    quiet = not is_main_process()
    for step in (bar := trange(start, steps, desc=description, unit="step", disable=quiet)):
        optimizer.zero_grad()
        batch = next(batches)
        shares = batch.chunk(settings.accumulate)
        # All steps have one shape: cuDNN may try once which of its algorithms is the fastest.
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            value, *told = _descend(network, shares, loss, quality, settings.precision)
        if not math.isfinite(value):
            raise Diverged(
                f"{description}: loss {value} in epoch {step // steps_per_epoch + 1}, step"
                f" {step + 1}, expected a finite one; lower the learning rate"
                f" {settings.learning_rate}"
            )
        optimizer.step()
        rate = schedule.get_last_lr()[0]
        schedule.step()
        means.add(value, len(batch.labels), *told)
        bar.set_postfix(means.taken(quality.name), refresh=False)
        if (step + 1) % steps_per_epoch == 0:
            phase.log(step, **means.taken(quality.name), learning_rate=rate)
            means.load_state_dict(EpochMeans().state_dict())
        phase.checkpoint.save_if_due(step + 1, steps, parts)


def with_sync_batch_norm(model: nn.Module) -> nn.Module:
    """Return a network of the same weights and statistics whose BatchNorm is over all processes.

    `model` itself is not changed, only its tensors are when that one is trained.
    """
    shared = [*model.parameters(), *model.buffers()]
    own = copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
    return nn.SyncBatchNorm.convert_sync_batchnorm(own)


def _descend(
    model: nn.Module,
    parts: Sequence[Batch],
    loss: Callable[[Tensor, Batch], Tensor],
    quality: Quality,
    precision: Precision,
) -> tuple[float, float, float]:
    """Leave the gradient of the mean loss over the parts of all processes.

    Returns that loss, the sum of the quality of a process's images, and of how many it is known.
    """
    device = parts[0].images.device
    sums = torch.zeros(3, device=device)
    value, told, known = sums.unbind()
    for part in _same_statistics(model, parts):
        with autocast(device, precision):
            logits = model(part.images)
        part_loss = loss(logits.float(), part) / len(parts)
        part_loss.backward()
        value += part_loss.detach()
        found = quality.of(logits.detach().float(), part)
        told += found.nansum()
        known += found.isfinite().sum()
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    all_reduce_mean([*gradients(list(model.parameters())), *buffers, sums])
    return tuple(sums.tolist())  # in one read: it waits for the device


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
