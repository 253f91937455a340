"""The latency table: measured milliseconds of every block, exact expectation over choices."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from einops import einsum
from torch import Tensor

from base.errors import UserError
from base.files import PARSE_ERRORS, first_difference, read_json, write_json
from export.timing.unit_of_work import unit_of_work
from supernet.space import FORM_DECISIONS, Architecture, Choices, SearchSpace, StageSpace

# Where a part stands in the table: ("stem", c), ("first", s, c_in, c, layer), ("rest", s, c, layer)
# or ("head", c_in, c), by the choices' positions; a layer's is that in `StageSpace.layers`.
Place = tuple[str | int, ...]


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds (float64) of every part of every student, for one unit of work on one device.

    `first[s]` [c_in, c_out, layer] is stage s's first layer, `rest[s]` [c, layer] each further one,
    whose input and output width are the same variable; layers are those of `StageSpace.layers`.
    `stem` [c], `head` [c_in, c].
    """

    space: SearchSpace
    stem: Tensor
    first: tuple[Tensor, ...]
    rest: tuple[Tensor, ...]
    head: Tensor
    provenance: Mapping[str, object]

    def expected_ms(self, choices: Choices) -> Tensor:
        """Return the exact expectation of `predicted_ms` under independent decisions (float64).

        E[ms] = stem(p_c0) + head(p_cS, p_h) + Σ_s Σ_l P(d_s >= l) Σ p_cin p_cout p_layer T_sl with
        p_layer = p_operation p_kernel p_expansion p_se: multilinear, so differentiable in every
        probability (HardCoRe-NAS, arXiv:2102.11646).
        """
        p = {name: vector.double() for name, vector in choices.items()}
        p_in = p["stem.width"]
        total = einsum(self.stem, p_in, "c, c ->")
        for s, (first, rest) in enumerate(zip(self.first, self.rest, strict=True)):
            stage, width = self.space.stages[s], p[f"stage{s + 1}.width"]
            for i in range(max(stage.depths)):
                layer = layer_probabilities(stage, f"stage{s + 1}.layer{i + 1}", p)
                if i == 0:
                    ms = einsum(first, p_in, width, layer, "i o layer, i, o, layer ->")
                else:
                    ms = einsum(rest, width, layer, "c layer, c, layer ->")
                total = total + self._probability_of_layer(p, s, i) * ms
            p_in = width
        return total + einsum(self.head, p_in, p["head.width"], "i o, i, o ->")

    def _probability_of_layer(self, p: Choices, s: int, i: int) -> Tensor:
        depths = self.space.stages[s].depths
        deep_enough = torch.tensor([depth > i for depth in depths]).double()
        return p[f"stage{s + 1}.depth"] @ deep_enough

    def predicted_ms(self, architecture: Architecture) -> float:
        """Sum the table over the parts of `architecture`."""
        return sum(self.entry(place) for place in places(self.space, architecture))

    def entry(self, place: Place) -> float:
        """Return the milliseconds of one part."""
        match place:
            case ("stem", c):
                return float(self.stem[c])
            case ("head", *at):
                return float(self.head[tuple(at)])
            case ("first", s, *at):
                return float(self.first[s][tuple(at)])
            case ("rest", s, *at):
                return float(self.rest[s][tuple(at)])
        raise ValueError(f"{place}: expected a stem, first, rest or head")

    def unit_of_work(self) -> str:
        """Say what the milliseconds are milliseconds of."""
        return str(self.provenance["unit_of_work"])

    def save(self, path: Path) -> None:
        """Write the table, its space and its provenance as JSON."""
        provenance, space = dict(self.provenance), self.space.plain()
        write_json(path, {"provenance": provenance, "space": space, **self._entries()})

    def fingerprint(self) -> str:
        """Hash of space and milliseconds: what a trained alpha depends on."""
        facts = {"space": self.space.fingerprint(), **self._entries()}
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def _entries(self) -> dict[str, object]:
        return {
            "stem": self.stem.tolist(),
            "first": [part.tolist() for part in self.first],
            "rest": [part.tolist() for part in self.rest],
            "head": self.head.tolist(),
        }

    @classmethod
    def load(cls, path: Path, space: SearchSpace) -> Self:
        """Read a table of `space`; a foreign, damaged or non-finite one raises `UserError`."""
        value = read_json(path)
        differs = first_difference(value.get("space"), space.plain(), "space")
        if differs:
            raise UserError(
                f"{path}: table of another space: {differs}; measure it for {space.name}"
            )
        try:
            table = cls(
                space,
                torch.tensor(value["stem"], dtype=torch.float64),
                tuple(torch.tensor(part, dtype=torch.float64) for part in value["first"]),
                tuple(torch.tensor(part, dtype=torch.float64) for part in value["rest"]),
                torch.tensor(value["head"], dtype=torch.float64),
                dict(value["provenance"]),
            )
            table._check()
        except PARSE_ERRORS as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{path}: damaged latency table ({reason}); measure it again"
            ) from error
        return table

    def _check(self) -> None:
        shapes = table_shapes(self.space)
        parts = (self.stem, *self.first, *self.rest, self.head)
        expected = [shapes.stem, *shapes.first, *shapes.rest, shapes.head]
        if [tuple(part.shape) for part in parts] != expected:
            raise ValueError("entries do not have the space's shape")
        if not all(torch.isfinite(part).all() and (part > 0).all() for part in parts):
            raise ValueError("an entry is not a positive number")
        unit_of_work(self.provenance["unit"])
        said = self.provenance
        for known in (said["unit_of_work"], said["date"], said["machine"]["cpu"]):
            if not isinstance(known, str):
                raise ValueError(f"{known!r} is no text")


def layer_probabilities(stage: StageSpace, name: str, p: Choices) -> Tensor:
    """Return the probability of every layer of `StageSpace.layers` for the layer called `name`."""
    found = []
    for o, operation in enumerate(stage.operations):
        forms = [p[f"{name}.{operation.name}.{field}"] for field in FORM_DECISIONS]
        joint = einsum(*forms, "k, e, se -> k e se").flatten()
        found.append(p[f"{name}.operation"][o] * joint)
    return torch.cat(found)


@dataclass(frozen=True)
class TableShapes:
    """Shapes of a table's parts."""

    stem: tuple[int, ...]
    first: list[tuple[int, ...]]
    rest: list[tuple[int, ...]]
    head: tuple[int, ...]


def table_shapes(space: SearchSpace) -> TableShapes:
    """Return the shapes that the table of `space` has."""
    widths = [len(space.widths_into(s)) for s in range(len(space.stages))]
    widths.append(len(space.stages[-1].widths))
    layers = [len(stage.layers) for stage in space.stages]
    return TableShapes(
        (len(space.stem_widths),),
        [(i, o, n) for i, o, n in zip(widths, widths[1:], layers, strict=False)],
        [(c, n) for c, n in zip(widths[1:], layers, strict=True)],
        (widths[-1], len(space.head_widths)),
    )


def places(space: SearchSpace, architecture: Architecture) -> list[Place]:
    """Return where the parts of `architecture` stand in the table, stem to head.

    Raises `UserError` when the architecture does not belong to the space.
    """
    at = space.positions(architecture)
    c_in = at["stem.width"]
    found: list[Place] = [("stem", c_in)]
    for s, (stage, own) in enumerate(zip(space.stages, architecture.stages, strict=True)):
        c = at[f"stage{s + 1}.width"]
        for i, layer in enumerate(own.layers):
            form = stage.layers.index(layer)
            found.append(("rest", s, c, form) if i else ("first", s, c_in, c, form))
        c_in = c
    return [*found, ("head", c_in, at["head.width"])]
