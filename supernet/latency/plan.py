"""What is timed for a latency table: every part, and whole networks to fit and to check the sum."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from export.timing.measurement import CALIBRATION
from supernet.latency.parts import Part, assemble, parts
from supernet.latency_table import LatencyTable, Place
from supernet.sampling import fair_sampler, log_uniform
from supernet.space import Architecture, SearchSpace

CALIBRATION_NETWORKS, CHECK_NETWORKS = 48, 30
# Rough cost of an element that goes in or out, in multiply-accumulates.
MACS_PER_ELEMENT = 10


@dataclass(frozen=True)
class TimingPlan:
    """The parts and networks that are timed; space and seed alone decide them.

    The sum of the table's entries is fitted to `calibration` and checked on `check`, which the fit
    never sees.
    """

    space: SearchSpace
    seed: int
    parts: Mapping[Place, Part]
    calibration: Mapping[str, Architecture]
    check: Mapping[str, Architecture]

    @property
    def networks(self) -> dict[str, Architecture]:
        """All whole networks, by the name they are timed under."""
        return {**self.calibration, **self.check}

    @property
    def reference(self) -> Architecture:
        """The network whose time is the unit of all others'."""
        return self.space.smallest()

    def names(self) -> list[str]:
        """Return the names of all that is timed."""
        return [*map(part_name, self.parts), *self.networks]

    def fingerprint(self) -> str:
        """Hash of the space and of what is drawn from it."""
        own = f"{self.space.fingerprint()} {self.names()} {list(self.networks.values())}"
        text = f"{own}, with biases"  # without them OpenVINO was faster than with trained students
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def part_name(place: Place) -> str:
    """Return the name that a part is timed under."""
    return "/".join(map(str, place))


def timing_plan(space: SearchSpace, seed: int) -> TimingPlan:
    """Draw the networks: half of them over all decisions alike, half spread over the latencies.

    Uniform draws crowd in the middle, but budgets lie at the ends too. Latencies are not known
    before they are measured, so multiply-accumulates and elements stand for them here.
    """
    found, draws = parts(space), np.random.default_rng(seed)
    costs = assemble(space, {place: _cost(part) for place, part in found.items()}, {})
    count = min(CALIBRATION_NETWORKS + CHECK_NETWORKS, space.size())
    networks = _distinct(space, costs, count, draws)
    cut = math.ceil(count * CALIBRATION_NETWORKS / (CALIBRATION_NETWORKS + CHECK_NETWORKS))
    return TimingPlan(
        space,
        seed,
        found,
        {f"{CALIBRATION}{i}": a for i, a in enumerate(networks[:cut])},
        {f"check/{i}": a for i, a in enumerate(networks[cut:])},
    )


def _cost(part: Part) -> float:
    macs, elements_in, elements_out = part.costs
    return (macs + MACS_PER_ELEMENT * (elements_in + elements_out)) / 1e6


def _distinct(
    space: SearchSpace, costs: LatencyTable, count: int, draws: np.random.Generator
) -> list[Architecture]:
    ends = costs.predicted_ms(space.smallest()), costs.predicted_ms(space.largest())
    sampler = fair_sampler(costs, *ends)
    networks = {space.smallest(): None, space.largest(): None}
    while len(networks) < count:
        networks[space.random(draws)] = None
        networks[sampler.near(log_uniform(ends, draws), draws)] = None
    return list(networks)[:count]
