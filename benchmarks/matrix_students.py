"""Students of one latency that differ in kind: what benchmarks.matrix crosses with teachers."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path

import numpy as np

from base.errors import UserError
from base.files import read_json, write_json
from export.timing.stopwatch import Patience
from supernet.latency.students import measure_architectures
from supernet.latency_table import LatencyTable
from supernet.space import (
    FUSED,
    MBCONV,
    Architecture,
    Layer,
    OperationSpace,
    SearchSpace,
    Stage,
    StageSpace,
)

SMALL, LARGE, FLAGS, EXPANSIONS = 3, 7, (False, True), {MBCONV: 4, FUSED: 1}


def _operations(gates: tuple[bool, ...]) -> tuple[OperationSpace, ...]:
    return (
        OperationSpace(MBCONV, (SMALL, LARGE), (EXPANSIONS[MBCONV],), gates),
        OperationSpace(FUSED, (SMALL,), (EXPANSIONS[FUSED],), gates),
    )


WIDTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192)
SPACE = SearchSpace(
    name="matrix",
    resolution=(16, 16),
    classes=10,
    stem_stride=1,
    stem_widths=(8,),
    stages=(
        StageSpace(2, WIDTHS[:-1], (1, 2), _operations((False,))),
        StageSpace(2, WIDTHS, (1, 2), _operations(FLAGS)),
    ),
    head_widths=(0, 64, 128),
)
# Operation and kernel of the layers of both stages. A dense convolution of side 7 costs too much.
FORMS = {
    "mbconv": ((MBCONV, SMALL), (MBCONV, SMALL)),
    "large kernels": ((MBCONV, LARGE), (MBCONV, LARGE)),
    "dense": ((FUSED, SMALL), (FUSED, SMALL)),
    "dense first": ((FUSED, SMALL), (MBCONV, SMALL)),
}
# Widths of the second stage by those of the first, where most channels come early or late.
RATIOS = {True: (0.4, 1.6), False: (2.4, 8.0)}
BAND = 0.1  # by which a student may be faster or slower than asked for
LOOKS, NEAREST = 3, 3  # at how fast students are when measured whole; of every kind in each
PATIENCE = Patience(0.008, 90, share=1.0)
# A student and its measured milliseconds.
Timed = tuple[Architecture, float]


@dataclass(frozen=True)
class Kind:
    """One of 32 kinds of student: every combination of a form and three decisions."""

    form: str
    gated: bool  # in the second stage, where gates cost little
    deep: bool
    early: bool

    def students(self) -> Iterator[Architecture]:
        """Yield the students of this kind, by their widths."""
        depth, (least, most) = 1 + self.deep, RATIOS[self.early]
        for widths in product(*(stage.widths for stage in SPACE.stages)):
            if least <= widths[1] / widths[0] <= most:
                layers = zip(FORMS[self.form], (False, self.gated), strict=True)
                forms = (Layer(name, k, EXPANSIONS[name], gated) for (name, k), gated in layers)
                stages = tuple(
                    Stage(w, (form,) * depth) for w, form in zip(widths, forms, strict=True)
                )
                for head in SPACE.head_widths:
                    yield Architecture(SPACE.stem_widths[0], stages, head)

    def signs(self) -> dict[str, int]:
        """Return what this is for every decision: 1 with it, -1 without, 0 else."""
        told = {
            form: {form: 1, "mbconv": -1}.get(self.form, 0) for form in FORMS if form != "mbconv"
        }
        others = {"gate": self.gated, "deep": self.deep, "early": self.early}
        return told | {name: 1 if is_so else -1 for name, is_so in others.items()}


KINDS = tuple(Kind(*chosen) for chosen in product(FORMS, FLAGS, FLAGS, FLAGS))


def students_of(table: LatencyTable, target_ms: float, path: Path) -> list[Timed]:
    """Return a student of every kind with its milliseconds; found once, and kept at `path`."""
    if not path.exists():
        found = [(one.to_json(), ms) for one, ms in one_band(table, target_ms).values()]
        write_json(path, {"target_ms": target_ms, "students": found})
    kept = read_json(path)
    if kept["target_ms"] != target_ms:
        raise UserError(f"{path}: of {kept['target_ms']} ms; give another --run")
    return [(Architecture.from_json(one), ms) for one, ms in kept["students"]]


def one_band(table: LatencyTable, target_ms: float) -> dict[Kind, Timed]:
    """Return for every kind the student whose measured milliseconds are nearest to the target.

    The table is off by another share for every kind, so each is asked for again by how far it was
    off, and all are measured together. Raises `UserError` where one stays out of the band.
    """
    off, ms = dict.fromkeys(KINDS, 1.0), {kind: {} for kind in KINDS}
    for look in range(LOOKS):
        asked = {kind: nearest(table, kind, target_ms / off[kind]) for kind in KINDS}
        timings = measure_architectures(table, PATIENCE, look, [*chain(*asked.values())])
        for kind, students in asked.items():
            ms[kind] |= {one: timings[one].ms for one in students}
            off[kind] = float(np.median([ms[kind][a] / table.predicted_ms(a) for a in students]))
    found = {k: min(own.items(), key=lambda one: apart(one[1], target_ms)) for k, own in ms.items()}
    outside = {kind: ms for kind, (_, ms) in found.items() if apart(ms, target_ms) > BAND}
    if outside:
        raise UserError(f"{target_ms} ms: no student as fast of {outside}; give another --target")
    return found


def nearest(table: LatencyTable, kind: Kind, ms: float) -> list[Architecture]:
    """Return the students of a kind whose predicted milliseconds are nearest to `ms`."""
    return sorted(kind.students(), key=lambda one: apart(table.predicted_ms(one), ms))[:NEAREST]


def apart(a: float, b: float) -> float:
    """Return how far two numbers are apart: the logarithm of their ratio, without its sign."""
    return abs(math.log(a / b))
