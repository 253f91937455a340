"""The search space: every decision with its choices, and `Architecture`, one choice for each."""

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from base.errors import UserError
from base.size import Size

# A probability vector for every decision, by the decision's name; one-hot or relaxed.
Choices = dict[str, Tensor]
# What is decided in every operation of a layer, beside which operation it is.
FORM_DECISIONS = ("kernel", "expansion", "squeeze_excite")
MBCONV, FUSED = OPERATIONS = ("mbconv", "fused")


@dataclass(frozen=True)
class Layer:
    """One layer: an operation and its form.

    `mbconv` is a 1x1 convolution that expands, a depthwise one of side `kernel` and a 1x1 that
    projects (MobileNetV2, arXiv:1801.04381); with expansion 1 there is no 1x1 in front (MnasNet's
    separable convolution, arXiv:1807.11626). `fused` is one dense convolution of side `kernel` that
    expands and a 1x1 that projects (EfficientNetV2, arXiv:2104.00298); with expansion 1 it is the
    dense convolution alone (AKD's, arXiv:1911.09074). Either has a gate or none
    (squeeze-and-excitation, arXiv:1709.01507).
    """

    operation: str
    kernel: int
    expansion: int
    squeeze_excite: bool


@dataclass(frozen=True)
class Stage:
    """The layers of one resolution, all of the same output width."""

    width: int
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Architecture:
    """One choice for every decision of a search space; hashable, JSON both ways.

    A head of width 0 is the classifier alone, with no 1x1 convolution before it.
    """

    stem_width: int
    stages: tuple[Stage, ...]
    head_width: int

    def to_json(self) -> dict:
        """Return plain lists and dictionaries."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping) -> Self:
        """Build from `to_json`'s form; raise `UserError` when a field is missing or foreign."""
        try:
            stages = tuple(
                Stage(stage["width"], tuple(Layer(**layer) for layer in stage["layers"]))
                for stage in value["stages"]
            )
            return cls(value["stem_width"], stages, value["head_width"])
        except (KeyError, TypeError) as error:
            raise UserError(
                f"not an architecture ({error}); expected the widths of stem and head, and stages "
                "of width and layers"
            ) from error


@dataclass(frozen=True)
class Decision:
    """A named choice: `stage2.layer1.mbconv.kernel` among (3, 5)."""

    name: str
    choices: tuple[int | str, ...]


@dataclass(frozen=True)
class OperationSpace:
    """The forms of one operation; choices ascend."""

    name: str
    kernels: tuple[int, ...]
    expansions: tuple[int, ...]
    squeeze_excite: tuple[bool, ...]

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Every form, the last decision varying fastest."""
        forms = itertools.product(self.kernels, self.expansions, self.squeeze_excite)
        return tuple(Layer(self.name, *form) for form in forms)


@dataclass(frozen=True)
class StageSpace:
    """What can be chosen in one stage; the first layer carries the stride."""

    stride: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    operations: tuple[OperationSpace, ...]

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer that can be chosen, operation by operation."""
        return tuple(layer for operation in self.operations for layer in operation.layers)


UNIT_LENGTH = "unit_length"


@dataclass(frozen=True)
class SearchSpace:
    """MnasNet's lineage (arXiv:1807.11626): stem, stages of layers, head.

    All choices ascend, so the last one is the largest; of a stage's operations the last has the
    largest layer. With `unit_length` an output is a vector of length 1, of `classes` numbers.
    """

    name: str
    resolution: Size
    classes: int
    stem_stride: int
    stem_widths: tuple[int, ...]
    stages: tuple[StageSpace, ...]
    head_widths: tuple[int, ...]
    channels: int = 3
    unit_length: bool = False

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape [C, H, W] of an image."""
        return self.channels, *self.resolution

    @property
    def strides(self) -> tuple[int, ...]:
        """Return the stem's stride, and those of stages that halve the image."""
        return self.stem_stride, *(stage.stride for stage in self.stages if stage.stride > 1)

    @property
    def outline(self) -> tuple[tuple[int, int, int], int, tuple[int, ...]]:
        """What a network has to take and give: shape of an image, classes, and strides."""
        return self.image_shape, self.classes, self.strides

    def plain(self) -> dict[str, object]:
        """Return all fields as plain values; `unit_length` only where it is, for older files."""
        values = dataclasses.asdict(self)
        return values if self.unit_length else {n: v for n, v in values.items() if n != UNIT_LENGTH}

    def decisions(self) -> tuple[Decision, ...]:
        """Return every decision: the stem's, stage by stage width, depth and layers, the head's."""
        return self._decisions

    @cached_property
    def _decisions(self) -> tuple[Decision, ...]:
        found = [Decision("stem.width", self.stem_widths)]
        for s, stage in enumerate(self.stages, start=1):
            found += [Decision(f"stage{s}.width", stage.widths)]
            found += [Decision(f"stage{s}.depth", stage.depths)]
            for i in range(1, max(stage.depths) + 1):
                found += _layer_decisions(f"stage{s}.layer{i}", stage)
        return (*found, Decision("head.width", self.head_widths))

    def widths_into(self, s: int) -> tuple[int, ...]:
        """Return the widths that can enter stage `s` (from 0): stem's, or the stage before's."""
        return self.stem_widths if s == 0 else self.stages[s - 1].widths

    def squeeze_width(self, s: int, layer: int) -> int:
        """Return a layer's squeeze channels (from 0): a quarter of its widest input, at least 8."""
        widest = max(self.widths_into(s) if layer == 0 else self.stages[s].widths)
        return max(8, widest // 4)

    def size(self) -> int:
        """Count the distinct students."""
        stages = [
            len(stage.widths) * sum(len(stage.layers) ** depth for depth in stage.depths)
            for stage in self.stages
        ]
        return len(self.stem_widths) * math.prod(stages) * len(self.head_widths)

    def architecture(self, picked: Mapping[str, int]) -> Architecture:
        """Build the architecture from a choice's position for every decision."""
        chosen = {d.name: d.choices[picked[d.name]] for d in self._decisions}

        def layer(name: str) -> Layer:
            operation = chosen[f"{name}.operation"]
            return Layer(operation, *(chosen[f"{name}.{operation}.{d}"] for d in FORM_DECISIONS))

        stages = tuple(
            Stage(
                chosen[f"stage{s}.width"],
                tuple(layer(f"stage{s}.layer{i + 1}") for i in range(chosen[f"stage{s}.depth"])),
            )
            for s in range(1, len(self.stages) + 1)
        )
        return Architecture(chosen["stem.width"], stages, chosen["head.width"])

    def decided(self, architecture: Architecture) -> dict[str, int | str]:
        """Return what `architecture` chooses, by the decision's name.

        Decisions of layers that it does not have, and of operations that they are not, are absent.
        """
        chosen: dict[str, int | str] = {"stem.width": architecture.stem_width}
        for s, stage in enumerate(architecture.stages, start=1):
            chosen |= {f"stage{s}.width": stage.width, f"stage{s}.depth": len(stage.layers)}
            for i, layer in enumerate(stage.layers, start=1):
                chosen[f"stage{s}.layer{i}.operation"] = layer.operation
                for field in FORM_DECISIONS:
                    name = f"stage{s}.layer{i}.{layer.operation}.{field}"
                    chosen[name] = getattr(layer, field)
        return chosen | {"head.width": architecture.head_width}

    def positions(self, architecture: Architecture) -> dict[str, int]:
        """Position of the choice for every decision; those that are not decided say 0.

        Raises `UserError` when the architecture does not belong to this space.
        """
        if len(architecture.stages) != len(self.stages):
            raise UserError(
                f"{len(architecture.stages)} stages do not fit space {self.name!r}, "
                f"which has {len(self.stages)}"
            )
        chosen, found = self.decided(architecture), {}
        for decision in self._decisions:
            value = chosen.get(decision.name, decision.choices[0])
            if value not in decision.choices:
                raise UserError(
                    f"{decision.name} = {value} is not in space {self.name!r}: "
                    f"expected one of {decision.choices}"
                )
            found[decision.name] = decision.choices.index(value)
        return found

    def one_hot(self, architecture: Architecture) -> Choices:
        """Return probability 1 on every choice of `architecture` (float32)."""
        positions = self.positions(architecture)
        return {
            d.name: torch.eye(len(d.choices))[positions[d.name]].clone() for d in self._decisions
        }

    def largest(self) -> Architecture:
        """Return the student with the last choice everywhere."""
        return self.architecture({d.name: len(d.choices) - 1 for d in self._decisions})

    def smallest(self) -> Architecture:
        """Return the student with the first choice everywhere."""
        return self.architecture({d.name: 0 for d in self._decisions})

    def middle(self) -> Architecture:
        """Return the student with the middle choice everywhere (the larger of two)."""
        return self.architecture({d.name: len(d.choices) // 2 for d in self._decisions})

    def random(self, generator: np.random.Generator) -> Architecture:
        """Draw every decision uniformly."""
        return self.architecture(
            {d.name: int(generator.integers(len(d.choices))) for d in self._decisions}
        )

    def fingerprint(self) -> str:
        """Hash of every field, so that a table or a supernet of another space is told apart."""
        text = json.dumps(self.plain(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _layer_decisions(name: str, stage: StageSpace) -> list[Decision]:
    found = [Decision(f"{name}.operation", tuple(o.name for o in stage.operations))]
    for o in stage.operations:
        forms = (o.kernels, o.expansions, o.squeeze_excite)
        for field, choices in zip(FORM_DECISIONS, forms, strict=True):
            found.append(Decision(f"{name}.{o.name}.{field}", choices))
    return found
