"""The latency table: measured milliseconds of every block, exact expectation over choices."""

import dataclasses
import hashlib
import json
import math
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
from supernet.space import Architecture, Choices, SearchSpace

LAYER_DECISIONS = ("kernel", "expansion", "squeeze_excite")

# Where a part stands in the table: ("stem",), ("first", s, c_in, c, kernel, expansion, se),
# ("rest", s, c, kernel, expansion, se) or ("head", c), by the choices' positions.
Place = tuple[str | int, ...]


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds (float64) of every part of every student, for one unit of work on one device.

    `first[s]` [c_in, c_out, kernel, expansion, se] is stage s's first layer, `rest[s]`
    [c, kernel, expansion, se] each further one, whose input and output width are the same variable.
    """

    space: SearchSpace
    stem_ms: float
    first: tuple[Tensor, ...]
    rest: tuple[Tensor, ...]
    head: Tensor
    provenance: Mapping[str, object]

    def expected_ms(self, choices: Choices) -> Tensor:
        """Return the exact expectation of `predicted_ms` under independent decisions (float64).

        E[ms] = stem + head(p_cS) + Σ_s Σ_l P(d_s >= l) Σ p_cin p_cout p_k p_e p_se T_sl:
        multilinear, so differentiable in every probability (HardCoRe-NAS, arXiv:2102.11646).
        """
        p = {name: vector.double() for name, vector in choices.items()}
        total, p_in = torch.tensor(self.stem_ms, dtype=torch.float64), torch.ones(1).double()
        for s, (first, rest) in enumerate(zip(self.first, self.rest, strict=True)):
            width = p[f"stage{s + 1}.width"]
            for i in range(max(self.space.stages[s].depths)):
                layer = [p[f"stage{s + 1}.layer{i + 1}.{d}"] for d in LAYER_DECISIONS]
                if i == 0:
                    ms = einsum(first, p_in, width, *layer, "i o k e se, i, o, k, e, se ->")
                else:
                    ms = einsum(rest, width, *layer, "c k e se, c, k, e, se ->")
                total = total + self._probability_of_layer(p, s, i) * ms
            p_in = width
        return total + einsum(self.head, p_in, "c, c ->")

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
            case ("stem",):
                return self.stem_ms
            case ("head", c):
                return float(self.head[c])
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
        provenance, space = dict(self.provenance), dataclasses.asdict(self.space)
        write_json(path, {"provenance": provenance, "space": space, **self._entries()})

    def fingerprint(self) -> str:
        """Hash of space and milliseconds: what a trained alpha depends on."""
        facts = {"space": self.space.fingerprint(), **self._entries()}
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def _entries(self) -> dict[str, object]:
        return {
            "stem_ms": self.stem_ms,
            "first": [part.tolist() for part in self.first],
            "rest": [part.tolist() for part in self.rest],
            "head": self.head.tolist(),
        }

    @classmethod
    def load(cls, path: Path, space: SearchSpace) -> Self:
        """Read a table of `space`; a foreign, damaged or non-finite one raises `UserError`."""
        value = read_json(path)
        differs = first_difference(value.get("space"), dataclasses.asdict(space), "space")
        if differs:
            raise UserError(
                f"{path}: table of another space: {differs}; measure it for {space.name}"
            )
        try:
            table = cls(
                space,
                float(value["stem_ms"]),
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
        parts = (*self.first, *self.rest, self.head)
        if [tuple(part.shape) for part in parts] != [*shapes.first, *shapes.rest, shapes.head]:
            raise ValueError("entries do not have the space's shape")
        if not all(torch.isfinite(part).all() and (part > 0).all() for part in parts):
            raise ValueError("an entry is not a positive number")
        if not (math.isfinite(self.stem_ms) and self.stem_ms > 0):
            raise ValueError("the stem's entry is not a positive number")
        unit_of_work(self.provenance["unit"])
        said = self.provenance
        for known in (said["unit_of_work"], said["date"], said["machine"]["cpu"]):
            if not isinstance(known, str):
                raise ValueError(f"{known!r} is no text")


@dataclass(frozen=True)
class TableShapes:
    """Shapes of a table's parts."""

    first: list[tuple[int, ...]]
    rest: list[tuple[int, ...]]
    head: tuple[int, ...]


def table_shapes(space: SearchSpace) -> TableShapes:
    """Return the shapes that the table of `space` has."""
    layers = [(len(s.kernels), len(s.expansions), len(s.squeeze_excite)) for s in space.stages]
    widths = [len(s.widths) for s in space.stages]
    return TableShapes(
        [(i, o, *layer) for i, o, layer in zip([1, *widths], widths, layers, strict=False)],
        [(c, *layer) for c, layer in zip(widths, layers, strict=True)],
        (widths[-1],),
    )


def places(space: SearchSpace, architecture: Architecture) -> list[Place]:
    """Return where the parts of `architecture` stand in the table, stem to head."""
    at = space.positions(architecture)
    found: list[Place] = [("stem",)]
    c_in = 0
    for s, stage in enumerate(architecture.stages):
        c = at[f"stage{s + 1}.width"]
        for i in range(len(stage.layers)):
            layer = tuple(at[f"stage{s + 1}.layer{i + 1}.{d}"] for d in LAYER_DECISIONS)
            found.append(("rest", s, c, *layer) if i else ("first", s, c_in, c, *layer))
        c_in = c
    return [*found, ("head", c_in)]
