"""How long must students be timed for a budget to be kept? Simulated searches on a noisy machine.

    python train.py --run runs/digits
    python -m benchmarks.stopping --run runs/digits

Each search picks a student by timings and times it as it ships, on a made-up clock and machine:
what a network takes is off the table by a few per cent, other load comes in spells and slows large
networks more, runs and sessions differ. Beside the search, which measures until it is sure, stands
one that measures to a fixed precision, on the same machines. Students that are a little below and
above the budget in truth are timed as they ship, too: how many pass?
Writes benchmarks/results/stopping.json.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
import tyro
from tqdm import trange

from base.errors import UserError
from base.files import write_json
from benchmarks.latency import random_alpha
from benchmarks.provenance import provenance
from export.timing.stopwatch import NEAREST_KNOWN, Enough, Runner, Timing, never, time_beside
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

# Relative errors: of the table for all students alike and for each, of its anchors, of a session.
ALIKE, EACH, ANCHOR, SESSION = 0.01, 0.015, 0.003, 0.005
CALM, BUSY = (2.0, 40.0), 20.0  # seconds that spells last: of machines that are busy or not
SURE, FIXED = "until it is sure", "to a fixed precision"
TRUE_USES = (0.99, 1.003, 1.01)  # of the budget, by students that are timed as they ship
PARTS = ("budget", "machine", "load", "runs", "choices", "truth", "anchors")  # with draws each


@dataclass(frozen=True)
class Settings:
    """Which table, and how many searches."""

    run: Path = Path("runs/digits")
    """A run of train.py, whose table is taken."""
    searches: int = 200
    out: Path = Path("benchmarks/results/stopping.json")


@dataclass
class Machine:
    """A machine on which time passes by what runs, and other load comes and goes.

    Load slows large networks more, and each run by chance.
    """

    load_draws: np.random.Generator
    run_draws: np.random.Generator
    calm: float
    now: float = 0.0
    until: float = 0.0
    load: float = 0.0
    is_busy: bool = False

    def clock(self) -> float:
        """Return the seconds that have passed."""
        return self.now

    def runner(self, seconds: float, share: float) -> Runner:
        """Return a session of a network that takes so long; load slows it by its `share`."""
        own = seconds * math.exp(self.run_draws.normal(0, SESSION))

        def run() -> None:
            self._pass()
            self.now += own * (1 + self.load * share + self.run_draws.exponential(self.load))

        return run

    def _pass(self) -> None:
        while self.now >= self.until:
            self.is_busy = not self.is_busy
            self.load = self.load_draws.uniform(0.05, 0.4) if self.is_busy else 0.01
            self.until += self.load_draws.exponential(BUSY if self.is_busy else self.calm)


@dataclass(frozen=True)
class Search:
    """One search for one budget; all that it draws hangs on its number and not on what it does."""

    problem: Programme
    number: int
    way: str

    def draws(self, part: str, *key: int) -> np.random.Generator:
        """Return the draws of one part of it."""
        return np.random.default_rng((self.number, PARTS.index(part), *key))

    @cached_property
    def target_ms(self) -> float:
        """Return the budget."""
        fastest_ms, slowest_ms = self.problem.range_ms()
        return log_uniform((1.2 * fastest_ms, 0.9 * slowest_ms), self.draws("budget"))

    @cached_property
    def machine(self) -> Machine:
        """Return the machine, at its beginning."""
        calm = self.draws("machine").choice(CALM)
        return Machine(self.draws("load"), self.draws("runs"), calm)

    def true_ms(self, architecture: Architecture) -> float:
        """Return what a network takes in truth."""
        alike = self.draws("truth").normal(0, ALIKE)
        own = self.draws("truth", _number(architecture)).normal(0, EACH)
        return self.problem.table.predicted_ms(architecture) * math.exp(alike + own)

    def measure(
        self, architectures: Sequence[Architecture], enough: Answered
    ) -> Mapping[Architecture, Timing]:
        """Time networks as the search does."""

        def by_architecture(found: Mapping[str, Timing]) -> dict[Architecture, Timing]:
            return {a: found[str(i)] for i, a in enumerate(architectures)}

        true_ms = {str(i): self.true_ms(a) for i, a in enumerate(architectures)}
        return by_architecture(self.timed(true_ms, lambda found: enough(by_architecture(found))))

    def shipped(self, true_ms: float) -> Timing:
        """Time a student of so many milliseconds in truth as it ships: in two sessions."""
        once, again = (
            self.timed({"student": true_ms}, lambda f: is_kept(self.target_ms, f["student"]))
            for _ in range(2)
        )
        return once["student"].with_another(again["student"])

    def timed(self, true_ms: Mapping[str, float], enough: Enough) -> Mapping[str, Timing]:
        """Time networks beside the anchors nearest to the budget."""
        anchors = [anchor["ms"] for anchor in self.problem.table.provenance["anchors"]]
        errors = np.exp(self.draws("anchors").normal(0, ANCHOR, len(anchors)))
        known = sorted(zip(anchors, anchors * errors, strict=True), key=self._apart)
        near = {f"anchor {i}": pair for i, pair in enumerate(known[:NEAREST_KNOWN])}
        patience = SearchConfig().patience()
        return time_beside(
            {name: self._session(ms) for name, ms in true_ms.items()},
            {name: self._session(ms) for name, (ms, _) in near.items()},
            {name: told for name, (_, told) in near.items()},
            self._session(min(anchors)),
            patience if self.way == SURE else replace(patience, least_rounds=30),
            0,
            enough if self.way == SURE else never,
            self.machine.clock,
        )

    def _apart(self, anchor: tuple[float, float]) -> float:
        return abs(math.log(anchor[0] / self.target_ms))

    def _session(self, ms: float) -> Runner:
        return self.machine.runner(ms / 1000, (ms / self.problem.range_ms()[1]) ** 0.3)

    def found(self) -> dict[str, float]:
        """Pick, and time as it ships; say what came of it and the seconds that it took."""
        log_p = random_alpha(self.problem, torch.Generator().manual_seed(self.number))
        draws = self.draws("choices")
        propose = partial(candidates, self.problem, log_p, count=8, generator=draws)
        own = Proposal(propose, budget_asked(self.problem, self.target_ms), _number, TRIED_USE)
        asked_ms = budget_calibrated(self.problem, own, self.target_ms, 4, self.measure)
        own = replace(own, asked_ms=asked_ms)
        try:
            pick = pick_measured(self.problem, own, self.target_ms, 4, self.measure).architecture
        except UserError:
            return {"search_seconds": self.machine.now, "found": 0.0}
        searched, true_ms = self.machine.now, self.true_ms(pick)
        kept = self.shipped(true_ms).ms <= self.target_ms
        told = {
            "search_seconds": searched,
            "ship_seconds": self.machine.now - searched,
            "found": 1.0,
            "kept": float(kept),
            "false_pass": float(kept and true_ms > self.target_ms),
            "true_use": true_ms / self.target_ms,
        }
        passed = {use: self.shipped(use * self.target_ms).ms <= self.target_ms for use in TRUE_USES}
        return told | {f"{use} of the budget passes": float(own) for use, own in passed.items()}


def _number(architecture: Architecture) -> int:
    """Return a number that has nothing to do with the latency."""
    return zlib.crc32(repr(architecture.to_json()).encode())


def main(settings: Settings) -> None:
    """Search for random budgets in both ways, on the same machines."""
    home = home_config(SearchConfig(run=settings.run))
    problem = programme(load_run_table(home.run, searched_space(home)))
    found: dict[str, list[dict[str, float]]] = {SURE: [], FIXED: []}
    for number in trange(settings.searches, desc="searches"):
        for way, own in found.items():
            own.append(Search(problem, number, way).found())
    told = {way: summary(own) for way, own in found.items()}
    for way, own in told.items():
        print(way, ", ".join(f"{name} {value:.3g}" for name, value in own.items()))
    write_json(settings.out, provenance("stopping", settings) | {"ways": told})


def summary(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return medians and tails of seconds and of the budget's use, and shares of the searches.

    All but `found` are of the searches that found a student.
    """

    def of(name: str) -> np.ndarray:
        return np.array([f[name] for f in found if name in f])

    shares = ["found", "kept", "false_pass", *(f"{use} of the budget passes" for use in TRUE_USES)]
    return {
        **{f"{name} median": float(np.median(of(name))) for name in SECONDS},
        **{f"{name} p90": float(np.quantile(of(name), 0.9)) for name in SECONDS},
        **{name: float(of(name).mean()) for name in shares},
        "true_use median": float(np.median(of("true_use"))),
        "true_use least": float(of("true_use").min()),
        "true_use most": float(of("true_use").max()),
    }


SECONDS = ("search_seconds", "ship_seconds")


if __name__ == "__main__":
    main(tyro.cli(Settings))
