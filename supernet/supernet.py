"""The supernet: one set of shared weights in which every student of the space is a slice.

A student is had in two ways that agree (tests hold them together): `Supernet.student_logits` cuts
its weights out, cheap, for one architecture; `Supernet.forward` mixes all choices in weights and
masks *before* the operation (FBNetV2, arXiv:2004.05565; TangleNAS, arXiv:2312.10440), so that every
choice has a gradient at the cost of one network. Operations are mixed after it; one that has
probability 0 passes forward alone, for that is what its own gradient needs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet.mixtures import (
    MixedForm,
    MixedWidths,
    conv_norm,
    fit_channels,
    mixed_layer,
    prefix_mask,
)
from supernet.shared_weights import SharedWeights
from supernet.slices import crop, shared_names, sliced_student
from supernet.space import Architecture, Choices, SearchSpace
from supernet.student import MEAN, STD, Student


class Supernet(nn.Module):
    """Shared weights of all students of `space`."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        self.shared = SharedWeights(space)

    def forward(self, images: Tensor, choices: Choices) -> Tensor:
        """Map images [B, C, H, W] and a probability vector a decision to logits [B, K].

        BatchNorm normalises with the batch's statistics in training mode and keeps none of them:
        they belong to one draw of `choices`.
        """
        # Asked before they move: a device would have to be waited for.
        operations = {n: p.detach() != 0 for n, p in choices.items() if n.endswith(".operation")}
        drawn = {name: is_drawn.tolist() for name, is_drawn in operations.items()}
        choices = moved_at_once(choices, images)
        p_in, widths_in = choices["stem.width"], self.space.stem_widths
        mask = prefix_mask(p_in, widths_in, max(widths_in))
        x = conv_norm(self.shared.stem.conv, (images - MEAN) / STD) * mask[:, None, None]
        for s, (stage, blocks) in enumerate(
            zip(self.space.stages, self.shared.stages, strict=True)
        ):
            p_out, p_depth = choices[f"stage{s + 1}.width"], choices[f"stage{s + 1}.depth"]
            for i, modules in enumerate(blocks):
                name = f"stage{s + 1}.layer{i + 1}"
                exists = sum(p for p, depth in zip(p_depth, stage.depths, strict=True) if depth > i)
                widths = MixedWidths(p_in, widths_in, p_out, stage.widths)
                operation = f"{name}.operation"
                ps = zip(stage.operations, choices[operation], strict=True)
                forms = [MixedForm.of(own, p, name, choices) for own, p in ps]
                y = exists * mixed_layer(modules, x, forms, drawn[operation], widths)
                if next(iter(modules.values())).residual:
                    y = y + fit_channels(x * (1 if i else widths.agree()), y.shape[1])
                x, p_in, widths_in = y, p_out, stage.widths
        return self._logits(x, choices["head.width"])

    def _logits(self, x: Tensor, p_head: Tensor) -> Tensor:
        """Mix the classifier on features [B, C, H, W] with those behind a 1x1 convolution."""
        widths, logits = self.space.head_widths, x.new_zeros(())
        p_direct = p_head[widths.index(0)] if 0 in widths else p_head.new_zeros(())
        if self.shared.direct is not None:
            logits = p_direct * self.shared.direct(x.mean((2, 3)))
        if self.shared.head is not None:
            conv, classifier = self.shared.head.conv, self.shared.head.classifier
            features = conv_norm(conv, x).mean((2, 3))
            weight = classifier.weight * prefix_mask(p_head, widths, max(widths))
            bias = classifier.bias * (p_head.sum() - p_direct)
            logits = logits + F.linear(features, weight, bias)
        return self.shared.ending(logits)

    def student_logits(self, images: Tensor, architecture: Architecture) -> Tensor:
        """Map images [B, C, H, W] to logits [B, K] of one student cut out of the shared weights.

        Gradients reach the shared weights. In training mode the slices' running statistics move.
        Raises `UserError` for an architecture of another space.
        """
        self.space.positions(architecture)
        return sliced_student(self.shared, architecture, images)

    def extract(self, architecture: Architecture) -> Student:
        """Return a plain student with a copy of its slice of the shared weights."""
        shared = self.shared.state_dict()
        student = Student(self.space, architecture).to(shared["stem.conv.0.weight"])
        own = student.state_dict()
        names = shared_names(own, architecture)
        student.load_state_dict({name: crop(shared[of], own[name].shape) for name, of in names})
        return student


def moved_at_once(choices: Choices, images: Tensor) -> Choices:
    """Bring all choices to the device and dtype of `images` in one copy.

    On the way back their gradients are one copy as well.
    """
    flat = torch.cat(list(choices.values())).to(images, non_blocking=True)
    parts = flat.split([len(p) for p in choices.values()])
    return dict(zip(choices, parts, strict=True))
