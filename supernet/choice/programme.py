"""Derivation: the most probable architecture under a budget, exactly, as an integer programme."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array
from torch import Tensor

from base.errors import UserError
from supernet.latency_table import LatencyTable
from supernet.space import FORM_DECISIONS, Architecture, Choices

# A candidate should use this much of the budget; less only where too few students do.
BUDGET_USES = (0.985, 0.97, 0.95, 0.9, 0.8, 0.0)


@dataclass(frozen=True)
class Programme:
    """The integer programme: one binary a choice, then one weight a joint choice of every layer.

    Consistency rows tie each layer's joint weights to the choices, so binary choices force the
    joint weights to be their product, and `ms` is the table's exact sum.
    """

    table: LatencyTable
    offsets: dict[str, int]
    binaries: int
    ms: np.ndarray
    rows: csr_array
    lower: np.ndarray
    upper: np.ndarray

    def solve(
        self, value: np.ndarray, least_ms: float = 0.0, most_ms: float = np.inf
    ) -> Architecture | None:
        """Return the architecture of greatest `value` [binaries] with latency in the bounds.

        None when there is no such architecture.
        """
        objective = np.zeros(len(self.ms))
        objective[: self.binaries] = -value
        return self._minimise(objective, least_ms, most_ms)

    def range_ms(self) -> tuple[float, float]:
        """Return the latencies of the fastest and the slowest architecture."""
        return self._range_ms

    @cached_property
    def _range_ms(self) -> tuple[float, float]:
        return self.table.predicted_ms(self.fastest()), self.table.predicted_ms(self.slowest())

    def fastest(self) -> Architecture:
        """Return the architecture of least latency."""
        return self._known(self._minimise(self.ms, 0.0, np.inf))

    def slowest(self) -> Architecture:
        """Return the architecture of greatest latency."""
        return self._known(self._minimise(-self.ms, 0.0, np.inf))

    def greatest(self, worth: np.ndarray, most_ms: float) -> Architecture:
        """Return the architecture within `most_ms` whose parts' `worth`, laid out as `ms`, is most.

        `most_ms` has to be feasible.
        """
        return self._known(self._minimise(-worth, 0.0, most_ms))

    @staticmethod
    def _known(architecture: Architecture | None) -> Architecture:
        assert architecture is not None, "some architecture is within the bounds"
        return architecture

    def _minimise(
        self, objective: np.ndarray, least_ms: float, most_ms: float
    ) -> Architecture | None:
        budget = LinearConstraint(self.ms[None], least_ms, most_ms)
        result = milp(
            objective,
            integrality=np.arange(len(objective)) < self.binaries,
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(self.rows, self.lower, self.upper), budget],
            options={"mip_rel_gap": 0.0},
        )
        if result.status == 2:
            return None
        assert result.status == 0, result.message
        picked = {
            d.name: int(result.x[self.offsets[d.name] :][: len(d.choices)].argmax())
            for d in self.table.space.decisions()
        }
        return self.table.space.architecture(picked)

    def value_of(self, choices: Choices) -> np.ndarray:
        """Lay out a number for every choice as the values [binaries] that `solve` takes."""
        return torch.cat(
            [choices[d.name].detach().double() for d in self.table.space.decisions()]
        ).numpy()

    def of_existing_layers(self, value: np.ndarray) -> np.ndarray:
        """Return values [binaries] by which an architecture is worth what its own layers are.

        Absent layers, and the operations that a layer is not, have choices too, which the programme
        makes as it likes. So the best choice of every decision of an operation is moved to that
        operation, and an absent layer's best operation to the depths that have the layer: with
        log-probabilities the sum then is that of the architecture, whatever else is chosen.
        """
        moved = value.copy()
        for s, stage in enumerate(self.table.space.stages, start=1):
            depths = self.offsets[f"stage{s}.depth"] + np.arange(len(stage.depths))
            for i in range(max(stage.depths)):
                layer = f"stage{s}.layer{i + 1}"
                operations = self._at(f"{layer}.operation")
                for own, at in zip(stage.operations, operations, strict=True):
                    for field in FORM_DECISIONS:
                        self._move_best(moved, f"{layer}.{own.name}.{field}", at)
                self._move_best(moved, f"{layer}.operation", depths[np.array(stage.depths) > i])
        return moved

    def _move_best(self, value: np.ndarray, decision: str, to: np.ndarray | int) -> None:
        own = self._at(decision)
        best = value[own].max()
        value[own] -= best
        value[to] += best

    def _at(self, decision: str) -> np.ndarray:
        """Return where the choices of a decision stand among the binaries."""
        return self.offsets[decision] + np.arange(self._sizes[decision])

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return {d.name: len(d.choices) for d in self.table.space.decisions()}


def programme(table: LatencyTable) -> Programme:
    """Build the integer programme of `table`'s space."""
    offsets, binaries = {}, 0
    for d in table.space.decisions():
        offsets[d.name] = binaries
        binaries += len(d.choices)
    builder = _Builder(offsets, binaries, table)
    for s, stage in enumerate(table.space.stages):
        for i in range(max(stage.depths)):
            builder.add_layer(s, i)
    builder.add_head()
    return builder.build()


def check_budget(problem: Programme, target_ms: float) -> bool:
    """Return whether the budget is more than any student needs.

    Raises `UserError`, with the feasible range, when no student can meet it.
    """
    if not (math.isfinite(target_ms) and target_ms > 0):
        raise UserError(f"--target-latency {target_ms}: expected milliseconds above 0")
    fastest_ms, slowest_ms = problem.range_ms()
    if target_ms < fastest_ms:
        raise UserError(
            f"--target-latency {target_ms:g}: too fast; students of this space take "
            f"{fastest_ms:.2f} to {slowest_ms:.2f} ms for a {problem.table.unit_of_work()}"
        )
    return target_ms > slowest_ms


class _Builder:
    """Collects columns (latency) and rows (consistency) while the layers are walked once."""

    def __init__(self, offsets: dict[str, int], binaries: int, table: LatencyTable) -> None:
        self.offsets, self.binaries, self.table = offsets, binaries, table
        self.choices = {d.name: d.choices for d in table.space.decisions()}
        self.ms = [np.zeros(binaries)]
        self.columns = binaries
        self.entries: list[tuple[int, int, float]] = []
        self.lower: list[float] = []
        self.upper: list[float] = []
        for d in table.space.decisions():
            at = offsets[d.name]
            self._row({at + j: 1.0 for j in range(len(d.choices))}, 1.0, 1.0)
        stem = offsets["stem.width"]
        self.ms[0][stem : stem + len(table.stem)] = table.stem.numpy()

    def _row(self, coefficients: dict[int, float], lower: float, upper: float) -> None:
        self.entries += [(len(self.lower), column, c) for column, c in coefficients.items()]
        self.lower.append(lower)
        self.upper.append(upper)

    def add_layer(self, s: int, i: int) -> None:
        """Add layer `i` of stage `s`: its joint choices, their sum and their marginals."""
        stage, name = self.table.space.stages[s], f"stage{s + 1}"
        entries = self.table.rest[s] if i else self.table.first[s]
        widths = (
            [f"{name}.width"] if i else [f"stage{s}.width" if s else "stem.width", f"{name}.width"]
        )
        deep_enough = [j for j, depth in enumerate(stage.depths) if depth > i]
        exists = [self.offsets[f"{name}.depth"] + j for j in deep_enough]
        joint = self._add_joint(entries, widths, exists)
        layer = f"{name}.layer{i + 1}"
        for o, own in enumerate(stage.operations):
            holds = [form.operation == own.name for form in stage.layers]
            self._add_marginal(joint[..., holds], f"{layer}.operation", o)
            for field in FORM_DECISIONS:
                decision = f"{layer}.{own.name}.{field}"
                for at, choice in enumerate(self.choices[decision]):
                    holds = [
                        form.operation == own.name and getattr(form, field) == choice
                        for form in stage.layers
                    ]
                    self._add_marginal(joint[..., holds], decision, at)

    def add_head(self) -> None:
        """Add the joint choices of the head and of the width into it."""
        last = f"stage{len(self.table.space.stages)}.width"
        self._add_joint(self.table.head, [last, "head.width"], None)

    def _add_joint(
        self, entries: Tensor, widths: Sequence[str], exists: Sequence[int] | None
    ) -> np.ndarray:
        """Add a column an entry, 1 in sum where one of the binaries `exists` is, and its widths.

        `widths` name the decisions of the first axes; without `exists` the sum is always 1.
        """
        joint = self.columns + np.arange(entries.numel()).reshape(entries.shape)
        self.ms.append(entries.numpy().ravel())
        self.columns += entries.numel()
        one = 1.0 if exists is None else 0.0
        held = dict.fromkeys(exists or (), -1.0)
        self._row(dict.fromkeys(joint.ravel().tolist(), 1.0) | held, one, one)
        for axis, decision in enumerate(widths):
            for at in range(entries.shape[axis]):
                self._add_marginal(np.take(joint, at, axis), decision, at)
        return joint

    def _add_marginal(self, having: np.ndarray, decision: str, at: int) -> None:
        """Add that the joint weights `having` a choice are in sum no more than its binary."""
        chosen = {self.offsets[decision] + at: -1.0}
        self._row(dict.fromkeys(having.ravel().tolist(), 1.0) | chosen, -np.inf, 0.0)

    def build(self) -> Programme:
        """Freeze what was collected."""
        row, column, value = zip(*self.entries, strict=True)
        shape = (len(self.lower), self.columns)
        return Programme(
            self.table,
            self.offsets,
            self.binaries,
            np.concatenate(self.ms),
            csr_array((value, (row, column)), shape=shape),
            np.array(self.lower),
            np.array(self.upper),
        )


def candidates(
    problem: Programme, log_p: Choices, budget_ms: float, count: int, generator: np.random.Generator
) -> list[Architecture]:
    """Return distinct architectures within `budget_ms` that fill it: the most probable first.

    Perturb-and-MAP (Papandreou & Yuille 2011): Gumbel noise on log-probabilities, solved again.
    Without a budget that draws every decision from alpha, those of absent layers too.
    At most `count`, of which those of a small space may fill it less; empty when no architecture
    is within the budget.
    """
    value = problem.value_of(log_p)
    found: dict[Architecture, None] = {}
    for fill in BUDGET_USES:
        best = problem.solve(problem.of_existing_layers(value), fill * budget_ms, budget_ms)
        if best is None:
            continue
        found[best] = None
        for _ in range(2 * count):
            if len(found) >= count:
                return list(found)
            noise = generator.gumbel(size=len(value))
            architecture = problem.solve(value + noise, fill * budget_ms, budget_ms)
            assert architecture is not None, "the same bounds were feasible"
            found[architecture] = None
    return list(found)


def preferred_students(
    problem: Programme,
    log_p_at: Callable[[float], Choices],
    count: int,
    generator: np.random.Generator,
) -> list[Architecture]:
    """Return the most probable student within each of `count` budgets, even in log T.

    `log_p_at` gives every choice's log-probability at a budget T in milliseconds, as alpha does.
    """
    fastest_ms, slowest_ms = problem.range_ms()
    return [
        student
        for target_ms in np.geomspace(fastest_ms, slowest_ms, count + 1)[1:]
        for student in candidates(problem, log_p_at(target_ms), target_ms, 1, generator)
    ]
