"""How long must students be timed for a budget to be kept? Simulated searches on a noisy machine.

    python train.py --run runs/digits
    python -m benchmarks.stopping --run runs/digits

Each search picks a student by timings and times it as it ships, on a clock that is made up and
whose machine is made up: what a network takes is off the table by a few per cent, other load comes
in spells and slows large networks more, runs stumble, sessions differ. Beside the search, which
measures until it is sure, stands one that measures to a fixed precision. A false pass is a student
that was found within its budget and takes longer in truth.
Writes benchmarks/results/stopping.json.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro
from tqdm import trange

from base.errors import UserError
from base.files import write_json
from benchmarks.latency import random_alpha
from benchmarks.provenance import provenance
from export.timing.stopwatch import NEAREST_KNOWN, Patience, Runner, Timing, never, time_beside
from kd.run.search_config import SearchConfig
from kd.run.settings import home_config
from search import searched_space
from supernet.choice.evidence import Answered, is_kept
from supernet.choice.pick import Proposal, budget_asked, budget_calibrated, pick_measured
from supernet.choice.programme import Programme, candidates, programme
from supernet.choice.trials import TRIED_USE
from supernet.latency.measurement import load_run_table
from supernet.sampling import log_uniform
from supernet.space import Architecture

# Relative: of a machine's hour, of the table, of what is known of its anchors, of a session.
HOUR, TABLE, ANCHOR, SESSION = 0.01, 0.015, 0.003, 0.005
CALM, BUSY = (2.0, 40.0), 20.0  # seconds that spells last: of machines that are busy or not


@dataclass(frozen=True)
class Settings:
    """Which table, and how many searches."""

    run: Path = Path("runs/digits")
    """A run of train.py, whose table is taken."""
    searches: int = 200
    least_rounds: int = 20
    out: Path = Path("benchmarks/results/stopping.json")


@dataclass
class Machine:
    """A machine on which time passes by what runs, and other load comes and goes.

    Load slows large networks more, and each run by chance.
    """

    draws: np.random.Generator
    calm: float
    now: float = 0.0
    until: float = 0.0
    load: float = 0.0
    is_busy: bool = False
    truth: dict[Architecture, float] = field(default_factory=dict)

    def clock(self) -> float:
        """Return the seconds that have passed."""
        return self.now

    def runner(self, seconds: float, share: float) -> Runner:
        """Return a session of a network that takes so long; load slows it by its `share`."""
        own = seconds * math.exp(self.draws.normal(0, SESSION))

        def run() -> None:
            self._pass()
            self.now += own * (1 + self.load * share + self.draws.exponential(self.load))

        return run

    def _pass(self) -> None:
        while self.now >= self.until:
            self.is_busy = not self.is_busy
            self.load = self.draws.uniform(0.05, 0.4) if self.is_busy else 0.01
            self.until += self.draws.exponential(BUSY if self.is_busy else self.calm)


@dataclass(frozen=True)
class Search:
    """One search for one budget on one machine."""

    problem: Programme
    machine: Machine
    target_ms: float
    off: float  # how much slower than by the table everything is
    patience: Patience
    to_precision: bool

    def true_ms(self, architecture: Architecture) -> float:
        """Return what a network takes in truth, drawn once."""
        known = self.machine.truth
        if architecture not in known:
            error = math.exp(self.machine.draws.normal(0, TABLE))
            known[architecture] = self.problem.table.predicted_ms(architecture) * self.off * error
        return known[architecture]

    def measure(
        self, architectures: Sequence[Architecture], enough: Answered
    ) -> Mapping[Architecture, Timing]:
        """Time networks beside the anchors nearest to the budget."""
        names = {str(i): a for i, a in enumerate(architectures)}

        def by_architecture(found: Mapping[str, Timing]) -> dict[Architecture, Timing]:
            return {a: found[name] for name, a in names.items()}

        known_ms = [anchor["ms"] for anchor in self.problem.table.provenance["anchors"]]
        near = sorted(known_ms, key=lambda ms: abs(math.log(ms / self.target_ms)))[:NEAREST_KNOWN]
        errors = self.machine.draws.normal(0, ANCHOR, len(near))
        beside = {f"anchor {i}": ms for i, ms in enumerate(near)}
        found = time_beside(
            {name: self._session(self.true_ms(a)) for name, a in names.items()},
            {name: self._session(ms) for name, ms in beside.items()},
            dict(zip(beside, near * np.exp(errors), strict=True)),
            self._session(min(known_ms)),
            self.patience,
            0,
            never if self.to_precision else lambda found: enough(by_architecture(found)),
            self.machine.clock,
        )
        return by_architecture(found)

    def _session(self, ms: float) -> Runner:
        return self.machine.runner(ms / 1000, (ms / self.problem.range_ms()[1]) ** 0.3)

    def found(self) -> dict[str, float]:
        """Pick, and time as it ships; say what came of it and the seconds that it took."""
        seed = int(self.machine.draws.integers(2**31))
        log_p = random_alpha(self.problem, torch.Generator().manual_seed(seed))
        losses: dict[Architecture, float] = {}
        propose = partial(candidates, self.problem, log_p, count=8, generator=self.machine.draws)

        def expect(architecture: Architecture) -> float:
            return losses.setdefault(architecture, float(self.machine.draws.random()))

        own = Proposal(propose, budget_asked(self.problem, self.target_ms), expect, TRIED_USE)
        asked_ms = budget_calibrated(self.problem, own, self.target_ms, 4, self.measure)
        own = replace(own, asked_ms=asked_ms)
        try:
            pick = pick_measured(self.problem, own, self.target_ms, 4, self.measure).architecture
        except UserError:
            return {"search_seconds": self.machine.now, "found": 0.0}
        searched, kept = self.machine.now, partial(is_kept, self.target_ms)
        once, again = (self.measure([pick], lambda found: kept(found[pick])) for _ in range(2))
        ms = once[pick].with_another(again[pick]).ms
        return {
            "search_seconds": searched,
            "ship_seconds": self.machine.now - searched,
            "found": 1.0,
            "kept": float(ms <= self.target_ms),
            "false_pass": float(ms <= self.target_ms < self.true_ms(pick)),
            "true_use": self.true_ms(pick) / self.target_ms,
        }


def main(settings: Settings) -> None:
    """Search for random budgets in both ways, on the same machines."""
    home = home_config(SearchConfig(run=settings.run))
    problem = programme(load_run_table(home.run, searched_space(home)))
    fastest_ms, slowest_ms = problem.range_ms()
    ways = {"until it is sure": False, "to a fixed precision": True}
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for number in trange(settings.searches, desc="searches"):
        for way, to_precision in ways.items():
            draws = np.random.default_rng(number)
            target_ms = log_uniform((1.2 * fastest_ms, 0.9 * slowest_ms), draws)
            off = math.exp(draws.normal(0, HOUR))
            patience = replace(SearchConfig().patience(), least_rounds=settings.least_rounds)
            own = Search(
                problem, Machine(draws, draws.choice(CALM)), target_ms, off, patience, to_precision
            )
            found[way].append(own.found())
    told = {way: summary(own) for way, own in found.items()}
    for way, own in told.items():
        print(way, ", ".join(f"{name} {value:.3g}" for name, value in own.items()))
    write_json(settings.out, provenance("stopping", settings) | {"ways": told})


def summary(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return medians and tails of seconds and of the budget's use, and shares of all searches."""

    def of(name: str) -> np.ndarray:
        return np.array([f[name] for f in found if name in f])

    return {
        **{f"{name} median": float(np.median(of(name))) for name in SECONDS},
        **{f"{name} p90": float(np.quantile(of(name), 0.9)) for name in SECONDS},
        **{name: float(of(name).mean()) for name in ("found", "kept", "false_pass")},
        "true_use median": float(np.median(of("true_use"))),
        "true_use least": float(of("true_use").min()),
        "true_use most": float(of("true_use").max()),
    }


SECONDS = ("search_seconds", "ship_seconds")


if __name__ == "__main__":
    main(tyro.cli(Settings))
