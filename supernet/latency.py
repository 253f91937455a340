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

from export.errors import UserError
from export.files import read_json, write_json
from supernet.space import Architecture, Choices, SearchSpace


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
        """Exact expectation of `predicted_ms` under independent decisions (float64 scalar).

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
        """Sum the table over the layers of `architecture`."""
        at = self.space.positions(architecture)
        total, c_in = self.stem_ms, 0
        for s, stage in enumerate(architecture.stages):
            c = at[f"stage{s + 1}.width"]
            for i in range(len(stage.layers)):
                layer = tuple(at[f"stage{s + 1}.layer{i + 1}.{d}"] for d in LAYER_DECISIONS)
                total += float(
                    self.first[s][(c_in, c, *layer)] if i == 0 else self.rest[s][(c, *layer)]
                )
            c_in = c
        return total + float(self.head[c_in])

    def unit_of_work(self) -> str:
        """Say what the milliseconds are milliseconds of."""
        return str(self.provenance["unit_of_work"])

    def save(self, path: Path) -> None:
        """Write the table with its provenance as JSON."""
        write_json(path, {"provenance": dict(self.provenance), **self._entries()})

    def fingerprint(self) -> str:
        """Hash of space and milliseconds: what a trained alpha depends on."""
        return hashlib.sha256(json.dumps(self._entries()).encode()).hexdigest()[:16]

    def _entries(self) -> dict[str, object]:
        return {
            "space": self.space.fingerprint(),
            "stem_ms": self.stem_ms,
            "first": [part.tolist() for part in self.first],
            "rest": [part.tolist() for part in self.rest],
            "head": self.head.tolist(),
        }

    @classmethod
    def load(cls, path: Path, space: SearchSpace) -> Self:
        """Read a table of `space`; a foreign, damaged or non-finite one raises `UserError`."""
        value = read_json(path)
        if value.get("space") != space.fingerprint():
            raise UserError(
                f"{path}: table of space {value.get('space')}, expected {space.fingerprint()} "
                f"({space.name}, {space.classes} classes); measure it again"
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
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: damaged latency table ({error}); measure it again") from error
        return table

    def _check(self) -> None:
        shapes = table_shapes(self.space)
        parts = (*self.first, *self.rest, self.head)
        if [tuple(part.shape) for part in parts] != [*shapes.first, *shapes.rest, shapes.head]:
            raise ValueError("entries do not have the space's shape")
        if not all(torch.isfinite(part).all() and (part > 0).all() for part in parts):
            raise ValueError("an entry is not a positive number")
        if not self.stem_ms > 0 or "unit_of_work" not in self.provenance:
            raise ValueError("stem or unit of work is missing")


LAYER_DECISIONS = ("kernel", "expansion", "squeeze_excite")


@dataclass(frozen=True)
class TableShapes:
    """Shapes of a table's parts."""

    first: list[tuple[int, ...]]
    rest: list[tuple[int, ...]]
    head: tuple[int, ...]


def table_shapes(space: SearchSpace) -> TableShapes:
    """Shapes that the table of `space` has."""
    layers = [(len(s.kernels), len(s.expansions), len(s.squeeze_excite)) for s in space.stages]
    widths = [len(s.widths) for s in space.stages]
    return TableShapes(
        [(i, o, *layer) for i, o, layer in zip([1, *widths], widths, layers, strict=False)],
        [(c, *layer) for c, layer in zip(widths, layers, strict=True)],
        (widths[-1],),
    )
