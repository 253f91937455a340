"""Evaluate a model: predictions, loss, accuracy; recalibrate its BatchNorm statistics."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple, TypeVar

import torch
from sklearn.metrics import recall_score
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from torch.optim.swa_utils import update_bn
from torch.utils.data import Dataset
from tqdm import tqdm

from base.processes import gather_dict, is_main_process, rank_shard
from kd.batches import Batch, Outputs, distillation_batches
from kd.images.loader import batches, shuffled
from kd.images.splits import Split

CALIBRATION_BATCHES = 4
AT_ONCE = 16  # models that see an image when it is decoded
Item = TypeVar("Item")
# Return the loss and quality of every model.
Scorer = Callable[[Sequence[nn.Module]], Sequence[tuple[float, float]]]


class Quality(NamedTuple):
    """What is told beside a loss: how good outputs [B, K] are for a batch, image by image.

    `of` returns [B], NaN for an image of which it is not known.
    """

    name: str
    of: Callable[[Tensor, Batch], Tensor]


def told_right(logits: Tensor, batch: Batch) -> Tensor:
    """Return 1 for every image whose class has the largest of logits [B, K], 0 for the others."""
    right = (logits.argmax(dim=1) == batch.labels.argmax(dim=1)).float()
    return right.masked_fill(batch.labels.sum(dim=1) == 0, math.nan)


def near_teacher(vectors: Tensor, batch: Batch) -> Tensor:
    """Return the cosine [B] between vectors [B, D] and the teacher's."""
    return cosine_similarity(vectors, batch.probabilities)


ACCURACY, COSINE = Quality("accuracy", told_right), Quality("cosine", near_teacher)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of logits [N, K] whose largest entry is at labels [N]."""
    return (logits.argmax(dim=1) == labels).double().mean().item()


def balanced_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the mean over the classes in labels [N] of the share that logits [N, K] tell right.

    So a class of few images counts as much as one of many.
    """
    known, answers = labels.numpy(), logits.argmax(dim=1).numpy()
    return float(recall_score(known, answers, labels=labels.unique().numpy(), average="macro"))


def device_of(model: nn.Module) -> torch.device:
    """Return where a model's parameters are, or its buffers when it has none."""
    return next(itertools.chain(model.parameters(), model.buffers())).device


@torch.no_grad()
def predict(
    model: nn.Module,
    dataset: Dataset,
    batch: int,
    workers: int = 0,
    description: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Return logits [N, K] and labels [N] on the CPU, in eval mode; modules keep their modes.

    The model is given the images of every frame that a split is shown in.
    """
    device = device_of(model)
    steps = math.ceil(len(dataset) / batch)
    logits, labels = [], []
    with _evaluating(model):
        epoch = batches(dataset, batch, None, workers)
        for *shown, truth, _ in tqdm(epoch, description, steps, disable=description is None):
            logits.append(model(*(images.to(device) for images in shown)).float().cpu())
            labels.append(truth)
    return torch.cat(logits), torch.cat(labels)


@torch.no_grad()
def scores(
    models: Sequence[nn.Module],
    split: Split,
    outputs: Outputs,
    loss: Callable[[Tensor, Batch], Tensor],
    batch: int,
    workers: int = 0,
    quality: Quality = ACCURACY,
) -> list[tuple[float, float]]:
    """Return every model's mean loss and quality over all plain images of `split`, in eval mode.

    The models are on one device; images are decoded once for all of them.
    """
    device, count = device_of(models[0]), len(split)
    sums = torch.zeros(len(models), 2, dtype=torch.float64, device=device)
    with ExitStack() as modes:
        for model in models:
            modes.enter_context(_evaluating(model))
        for step in distillation_batches(split, outputs, None, batch, None, workers):
            moved = Batch(*(tensor.to(device) for tensor in step))
            for number, model in enumerate(models):
                logits = model(moved.images).float()
                sums[number, 0] += loss(logits, moved).double() * len(moved.labels)
                sums[number, 1] += quality.of(logits, moved).sum()
    return [(total / count, told / count) for total, told in sums.tolist()]


@torch.no_grad()
def recalibrate(model: nn.Module, images: Iterable[Tensor]) -> None:
    """Set every BatchNorm's running statistics to the mean over `images` (batches of one size).

    Shared weights need it before any score (BigNAS: Yu et al. 2020).
    """
    update_bn(images, model, device=next(model.parameters()).device)


def calibration_images(
    split: Split, batch: int, seed: int, count: int = CALIBRATION_BATCHES
) -> list[Tensor]:
    """Draw `count` batches [B, C, H, W] of plain images of `split` for `recalibrate`, at random."""
    order = shuffled(len(split), seed)
    epoch = batches(split.view(None), min(batch, len(split)), order, drop_last=True)
    return [images for images, _, _ in itertools.islice(epoch, count)]


def scores_recalibrated(
    models: Sequence[nn.Module],
    images: Sequence[Tensor],
    split: Split,
    outputs: Outputs,
    loss: Callable[[Tensor, Batch], Tensor],
    batch: int = 256,
    workers: int = 0,
    quality: Quality = ACCURACY,
) -> list[tuple[float, float]]:
    """Score models whose BatchNorm statistics are first recalibrated on `images`."""
    for model in models:
        recalibrate(model, images)
    return scores(models, split, outputs, loss, batch, workers, quality)


def score_each(
    score: Scorer, build: Callable[[Item], nn.Module], description: str, items: Sequence[Item]
) -> dict[Item, tuple[float, float]]:
    """Build and score a model of every item, each process some of them, and a few at once."""
    shard, own, quiet = rank_shard(items), {}, not is_main_process()
    with tqdm(total=len(shard), desc=description, unit="student", disable=quiet) as bar:
        for first in range(0, len(shard), AT_ONCE):
            some = shard[first : first + AT_ONCE]
            own |= zip(some, score([build(item) for item in some]), strict=True)
            bar.update(len(some))
    found = gather_dict(own)
    return {item: found[item] for item in items}


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    former = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in former.items():
            module.training = training
