"""Teachers of opposite bias, and controls: what students of benchmarks.matrix learn from."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from base.checkpoint import Checkpoint
from base.phase import Phase
from benchmarks.shelf import network
from benchmarks.world import BATCH, Images, World
from kd.batches import Batch
from kd.fit import FitSettings, fit
from kd.loss import label_loss
from kd.rivals.rival import Outline, Rival
from kd.teacher.model import Ensemble, Teacher
from supernet.space import SearchSpace

CONVNET, TRANSFORMER, PATCHES, ENSEMBLE = "convnet", "transformer", "patches", "ensemble"
TEACHERS = (CONVNET, TRANSFORMER, PATCHES, ENSEMBLE)
LABELS, UNTRAINED, PERMUTED = "labels", "untrained", "permuted"
CONTROLS = (LABELS, UNTRAINED, PERMUTED)
RATES = {CONVNET: 0.1, TRANSFORMER: 0.05, PATCHES: 0.1}  # of learning, by what is trained

# Images [B, 3, H, W] in [0, 1] to log-probabilities [B, K].
Answer = Callable[[Tensor], Tensor]


def network_of(teacher: str, space: SearchSpace) -> nn.Module:
    """Build a teacher's network for the images of a space."""
    side, classes = space.resolution[0], space.classes
    if teacher == TRANSFORMER:  # arXiv:2010.11929
        size = {"embed_dim": 128, "depth": 4, "num_heads": 4, "mlp_ratio": 2}
        own = VisionTransformer(img_size=side, patch_size=side // 4, num_classes=classes, **size)
        return Rival(own, (0.5,) * 3, (0.25,) * 3)
    if teacher == PATCHES:
        return Rival(local_patches(classes), (0.5,) * 3, (0.25,) * 3)
    return network("plain:32-64-128", Outline(space.image_shape, classes, space.strides))


def local_patches(classes: int) -> nn.Module:
    """Return a network whose answer is the mean of what squares of 9 pixels say.

    How they are arranged does not reach it (BagNet, arXiv:1904.00760).
    """
    forms = ((3, 48, 3, 1), (48, 96, 3, 2), (96, 96, 1, 1), (96, 192, 3, 2), (192, 192, 1, 1))
    layers = [Conv2dNormActivation(*form) for form in forms]
    end = (nn.Conv2d(192, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, *end)


def answers_of(
    space: SearchSpace, shown: Callable[[], Images], steps: int, epochs: int, folder: Path
) -> dict[str, Answer]:
    """Return what every teacher, and an untrained network, answers, by its name.

    A teacher is trained for `epochs` of `steps` batches of the images `shown`, or found in
    `folder`.
    """

    def endless(start: int) -> Iterator[Batch]:
        yield from shown().endless(BATCH, 0, start)

    found = {}
    for name, rate in RATES.items():
        torch.manual_seed(0)
        own = network_of(name, space)
        phase = Phase(name, checkpoint=Checkpoint(folder / f"{name}.pt", {}, 60))
        fit(own, endless, label_loss, FitSettings(epochs, rate), steps, phase)
        found[name] = Teacher(own)
    together = Ensemble(list(found.values()), (1.0,) * len(found))
    torch.manual_seed(1)
    found[UNTRAINED] = Teacher(network_of(CONVNET, space))
    return found | {ENSEMBLE: lambda images: together(*([images] * len(RATES)))}


def worlds_of(world: World, answers: dict[str, Answer]) -> dict[str, World]:
    """Return the world with every teacher's answers, and with those of the controls."""
    train = {name: world.train.answered(answer) for name, answer in answers.items()}
    train |= {LABELS: train[CONVNET], PERMUTED: permuted(train[CONVNET])}
    return {name: replace(world, train=own, teacher=name) for name, own in train.items()}


def permuted(images: Images) -> Images:
    """Return images with a teacher's answers to others of the same class: its views still agree."""
    draws, order = torch.Generator().manual_seed(0), torch.arange(len(images.labels))
    classes = images.labels.argmax(1)
    for label in classes.unique():
        own = (classes == label).nonzero().flatten()
        order[own] = own[torch.randperm(len(own), generator=draws)]
    return replace(images, probabilities=images.probabilities[:, order])
