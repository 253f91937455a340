"""Fair students of about a given latency: what the shared weights are trained on.

Among all choices of every decision (uniform), students are drawn with probability proportional to
exp(-beta · ms): the least biased distribution with a given mean latency. Two students of equal
latency are equally likely per their decisions, whatever alpha thinks of them, and beta spreads the
draws over the whole range of budgets, where uniform sampling would only visit the middle.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from base.errors import UserError
from supernet.latency_table import LatencyTable
from supernet.space import Architecture, Stage, StageSpace

# Students that differ by less are as fast as each other.
SAME_LATENCY = 0.02
MOST_DRAWS = 5000


@dataclass(frozen=True)
class FairSampler:
    """Draws students near a target latency; `betas[i]` has mean latency `targets_ms[i]`."""

    table: LatencyTable
    range_ms: tuple[float, float]
    targets_ms: np.ndarray
    betas: np.ndarray

    def near(self, target_ms: float, generator: np.random.Generator) -> Architecture:
        """Draw one student whose latency is `target_ms` in the mean."""
        return self.at(target_ms).draw(generator)

    def at(self, target_ms: float) -> "TiltedDistribution":
        """Return the distribution of fair students whose latency is `target_ms` in the mean."""
        beta = np.interp(math.log(target_ms), np.log(self.targets_ms), self.betas)
        return tilted_distribution(self.table, float(beta))


def fair_students(
    sampler: FairSampler, count: int, generator: np.random.Generator
) -> list[Architecture]:
    """Draw `count` different fair students of all latencies, or as many as a small space gives."""
    found: dict[Architecture, None] = {}
    for _ in range(MOST_DRAWS):
        if len(found) >= count:
            break
        found[sampler.near(log_uniform(sampler.range_ms, generator), generator)] = None
    return list(found)


def random_as_fast(
    sampler: FairSampler, most_ms: float, but: Architecture, generator: np.random.Generator
) -> Architecture:
    """Draw a fair student that takes `most_ms` or up to 2 % less, and is another one than `but`.

    Where the space has so few that none is drawn, the slowest of the faster ones is taken. Raises
    `UserError` when nothing is faster.
    """
    below: dict[Architecture, float] = {}
    as_fast = sampler.at(most_ms)
    for _ in range(MOST_DRAWS):
        drawn = as_fast.draw(generator)
        ms = sampler.table.predicted_ms(drawn)
        if drawn == but or ms > most_ms:
            continue
        if ms >= (1 - SAME_LATENCY) * most_ms:
            return drawn
        below[drawn] = ms
    if not below:
        raise UserError(f"no other student within {most_ms:.2f} ms was drawn to compare with")
    return max(below, key=lambda a: below[a])


def fair_sampler(table: LatencyTable, fastest_ms: float, slowest_ms: float) -> FairSampler:
    """Find beta for a grid of latencies inside the range by bisection of the exact mean."""
    margin = 0.02 * (slowest_ms - fastest_ms)
    targets = np.geomspace(fastest_ms + margin, slowest_ms - margin, 24)
    betas = np.array([_beta_of(table, target_ms) for target_ms in targets])
    return FairSampler(table, (fastest_ms, slowest_ms), targets, betas)


def log_uniform(range_ms: tuple[float, float], generator: np.random.Generator) -> float:
    """Draw a budget: every ratio of milliseconds inside the range is equally likely."""
    return float(np.exp(generator.uniform(*np.log(range_ms))))


def log_uniform_each(
    range_ms: tuple[float, float], count: int, generator: np.random.Generator
) -> list[float]:
    """Draw `count` budgets, ascending: one inside each of as many parts of equal ratio.

    Each is log-uniform in its part, so that all of them together are in the range (stratified).
    """
    low, high = np.log(range_ms)
    shares = (np.arange(count) + generator.random(count)) / count
    return np.exp(low + (high - low) * shares).tolist()


def _beta_of(table: LatencyTable, target_ms: float) -> float:
    scale = 1 / target_ms
    low, high = -1000.0 * scale, 1000.0 * scale
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_ms(table, middle) > target_ms else (low, middle)
    return (low + high) / 2


def mean_ms(table: LatencyTable, beta: float, step: float = 1e-4) -> float:
    """Return the mean latency at `beta`: -d log Z / d beta by a central difference."""
    return (_log_partition(table, beta - step) - _log_partition(table, beta + step)) / (2 * step)


@dataclass(frozen=True)
class TiltedDistribution:
    """Students with probability proportional to exp(-beta · ms), drawn exactly.

    Widths chain the stages; everything else of a stage is independent given its two widths, so one
    backward pass of sums and one forward pass of draws suffice.
    """

    table: LatencyTable
    beta: float
    log_stages: list[tuple[np.ndarray, np.ndarray]]  # of every stage, as `_log_stage` gives them
    backward: list[np.ndarray]  # of every stage boundary, as `_backward` gives them

    def draw(self, generator: np.random.Generator) -> Architecture:
        """Draw one student."""
        table, space, stages = self.table, self.table.space, []
        stem = c_in = _pick(self.log_stem(), generator)
        for s, stage in enumerate(space.stages):
            log_stage, log_depth = self.log_stages[s]
            c = _pick(log_stage[c_in] + self.backward[s + 1], generator)
            d = _pick(log_depth[c], generator)
            first, rest, log_p = table.first[s][c_in, c], table.rest[s][c], log_layers(stage)
            layers = []
            for ms in (first, *[rest] * (stage.depths[d] - 1)):
                layers.append(stage.layers[_pick(log_p - self.beta * ms.numpy(), generator)])
            stages.append(Stage(stage.widths[c], tuple(layers)))
            c_in = c
        head = _pick(-self.beta * table.head[c_in].numpy(), generator)
        return Architecture(space.stem_widths[stem], tuple(stages), space.head_widths[head])

    def log_stem(self) -> np.ndarray:
        """Log weight [c] of every stem and all that can follow it."""
        return -self.beta * self.table.stem.numpy() + self.backward[0]


def tilted_distribution(table: LatencyTable, beta: float) -> TiltedDistribution:
    """Return the students of a table, tilted towards the fast ones where `beta` is above 0."""
    log_stages = [_log_stage(table, s, beta) for s in range(len(table.first))]
    return TiltedDistribution(table, beta, log_stages, _backward(table, beta, log_stages))


def log_layers(stage: StageSpace) -> np.ndarray:
    """Log probabilities of a stage's layers where every decision is uniform: operation, then form.

    An operation of many forms is not drawn more often than one of few.
    """
    forms = [len(operation.layers) for operation in stage.operations]
    return -np.log(np.repeat(forms, forms)) - math.log(len(forms))


def _pick(log_weights: np.ndarray, generator: np.random.Generator) -> int:
    weights = np.exp(log_weights - log_weights.max())
    return int(generator.choice(len(weights), p=weights / weights.sum()))


def _log_stage(table: LatencyTable, s: int, beta: float) -> tuple[np.ndarray, np.ndarray]:
    """Log sums of one stage: over everything [c_in, c_out]; over the further layers [c, depth]."""
    stage = table.space.stages[s]
    log_first = _log_sum_exp(log_layers(stage) - beta * table.first[s].numpy())
    log_rest = _log_sum_exp(log_layers(stage) - beta * table.rest[s].numpy())
    log_depth = log_rest[:, None] * (np.array(stage.depths) - 1)
    return log_first + _log_mean_exp(log_depth), log_depth


def _log_sum_exp(values: np.ndarray) -> np.ndarray:
    return np.logaddexp.reduce(values, axis=-1)


def _log_mean_exp(values: np.ndarray) -> np.ndarray:
    return _log_sum_exp(values) - math.log(values.shape[-1])


def _backward(
    table: LatencyTable, beta: float, log_stages: Sequence[tuple[np.ndarray, np.ndarray]]
) -> list[np.ndarray]:
    """For each stage boundary the log sum [c] over everything behind it."""
    messages = [_log_mean_exp(-beta * table.head.numpy())]
    for log_stage, _ in reversed(log_stages):
        messages.insert(0, _log_mean_exp(log_stage + messages[0]))
    return messages


def _log_partition(table: LatencyTable, beta: float) -> float:
    return float(_log_mean_exp(tilted_distribution(table, beta).log_stem()))
