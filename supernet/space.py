"""The search space: every decision with its choices, and `Architecture`, one choice for each."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from base.errors import UserError

# A probability vector for every decision, by the decision's name; one-hot or relaxed.
Choices = dict[str, Tensor]


@dataclass(frozen=True)
class Layer:
    """One MBConv: kernel of the depthwise convolution, expansion of the input, gate or none."""

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
    """One choice for every decision of a search space; hashable, JSON both ways."""

    stages: tuple[Stage, ...]

    def to_json(self) -> dict:
        """Return plain lists and dictionaries."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping) -> Self:
        """Build from `to_json`'s form; raise `UserError` when a field is missing or foreign."""
        try:
            return cls(
                tuple(
                    Stage(stage["width"], tuple(Layer(**layer) for layer in stage["layers"]))
                    for stage in value["stages"]
                )
            )
        except (KeyError, TypeError) as error:
            raise UserError(
                f"not an architecture ({error}); expected stages of width and layers"
            ) from error


@dataclass(frozen=True)
class Decision:
    """A named choice: `stage2.layer1.kernel` among (3, 5)."""

    name: str
    choices: tuple[int, ...]


@dataclass(frozen=True)
class StageSpace:
    """What can be chosen in one stage; the first layer carries the stride."""

    stride: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    kernels: tuple[int, ...]
    expansions: tuple[int, ...]
    squeeze_excite: tuple[bool, ...]

    def layer_choices(self) -> int:
        """Count the distinct layers at one width."""
        return len(self.kernels) * len(self.expansions) * len(self.squeeze_excite)


@dataclass(frozen=True)
class SearchSpace:
    """MnasNet's lineage (arXiv:1807.11626): stem, stages of MBConv layers, head.

    All choices are ascending, so the last one is the largest.
    """

    name: str
    resolution: int
    classes: int
    stem_width: int
    stem_stride: int
    head_width: int
    stages: tuple[StageSpace, ...]

    def decisions(self) -> tuple[Decision, ...]:
        """Return every decision, stage by stage: width, depth, then the layers' own."""
        return tuple(d for s in range(len(self.stages)) for d in self._stage_decisions(s))

    def _stage_decisions(self, s: int) -> list[Decision]:
        stage, name = self.stages[s], f"stage{s + 1}"
        found = [Decision(f"{name}.width", stage.widths), Decision(f"{name}.depth", stage.depths)]
        for layer in range(1, max(stage.depths) + 1):
            found += [
                Decision(f"{name}.layer{layer}.kernel", stage.kernels),
                Decision(f"{name}.layer{layer}.expansion", stage.expansions),
                Decision(f"{name}.layer{layer}.squeeze_excite", stage.squeeze_excite),
            ]
        return found

    def widths_into(self, s: int) -> tuple[int, ...]:
        """Return the widths that can enter stage `s` (from 0): stem's, or the stage before's."""
        return (self.stem_width,) if s == 0 else self.stages[s - 1].widths

    def squeeze_width(self, s: int, layer: int) -> int:
        """Return a layer's squeeze channels (from 0): a quarter of its widest input, at least 8."""
        widest = max(self.widths_into(s) if layer == 0 else self.stages[s].widths)
        return max(8, widest // 4)

    def size(self) -> int:
        """Count the distinct students."""
        return math.prod(
            len(stage.widths) * sum(stage.layer_choices() ** depth for depth in stage.depths)
            for stage in self.stages
        )

    def architecture(self, picked: Mapping[str, int]) -> Architecture:
        """Build the architecture from a choice's position for every decision."""
        stages = []
        for s, stage in enumerate(self.stages, start=1):
            depth = stage.depths[picked[f"stage{s}.depth"]]
            layers = tuple(
                Layer(
                    stage.kernels[picked[f"stage{s}.layer{i}.kernel"]],
                    stage.expansions[picked[f"stage{s}.layer{i}.expansion"]],
                    stage.squeeze_excite[picked[f"stage{s}.layer{i}.squeeze_excite"]],
                )
                for i in range(1, depth + 1)
            )
            stages.append(Stage(stage.widths[picked[f"stage{s}.width"]], layers))
        return Architecture(tuple(stages))

    def positions(self, architecture: Architecture) -> dict[str, int]:
        """Position of the choice for every decision; layers that do not exist say 0.

        Raises `UserError` when the architecture does not belong to this space.
        """
        if len(architecture.stages) != len(self.stages):
            raise UserError(
                f"{len(architecture.stages)} stages do not fit space {self.name!r}, "
                f"which has {len(self.stages)}"
            )
        chosen: dict[str, int] = {}
        for s, stage in enumerate(architecture.stages, start=1):
            chosen |= {f"stage{s}.width": stage.width, f"stage{s}.depth": len(stage.layers)}
            for i, layer in enumerate(stage.layers, start=1):
                for field, value in dataclasses.asdict(layer).items():
                    chosen[f"stage{s}.layer{i}.{field}"] = value
        found = {}
        for decision in self.decisions():
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
            d.name: torch.eye(len(d.choices))[positions[d.name]].clone() for d in self.decisions()
        }

    def largest(self) -> Architecture:
        """Return the student with the last choice everywhere."""
        return self.architecture({d.name: len(d.choices) - 1 for d in self.decisions()})

    def smallest(self) -> Architecture:
        """Return the student with the first choice everywhere."""
        return self.architecture({d.name: 0 for d in self.decisions()})

    def middle(self) -> Architecture:
        """Return the student with the middle choice everywhere (the larger of two)."""
        return self.architecture({d.name: len(d.choices) // 2 for d in self.decisions()})

    def random(self, generator: np.random.Generator) -> Architecture:
        """Draw every decision uniformly."""
        return self.architecture(
            {d.name: int(generator.integers(len(d.choices))) for d in self.decisions()}
        )

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Build from the plain form of all fields; raise `UserError` when one is amiss."""
        try:
            fields = {name: _tupled(part) for name, part in dict(value).items()}
            stages = tuple(
                StageSpace(**{name: _tupled(part) for name, part in stage.items()})
                for stage in fields.pop("stages")
            )
            sizes = [size for name, size in fields.items() if name != "name"]
            for stage in stages:
                sizes += [stage.stride, *stage.widths, *stage.depths]
                sizes += [*stage.kernels, *stage.expansions]
            if not all(type(size) is int and size > 0 for size in sizes):
                raise ValueError(f"sizes {sizes} are not all whole numbers above 0")
            return cls(**fields, stages=stages)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"not a search space ({error}); expected its fields") from error

    def fingerprint(self) -> str:
        """Hash of every field, so that a table or a supernet of another space is told apart."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _tupled(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
