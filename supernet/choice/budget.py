"""A latency budget: milliseconds, and what of a student's runs has to keep them."""

from dataclasses import dataclass

from base.errors import UserError
from base.processes import from_main_process, print_once
from export.timing.statistic import UNDISTURBED, Statistic
from export.timing.stopwatch import PlainRuns, Timing
from supernet.choice.programme import Programme, check_budget
from supernet.latency.measurement import machine_difference
from supernet.latency.students import slowdown
from supernet.latency_table import LatencyTable

WORDS = {"median": "median", "p95": "95th percentile"}


@dataclass(frozen=True)
class Budget:
    """Milliseconds that a student may take, by a statistic of its runs.

    `undisturbed` leaves other load out, as the table does. `median` and `p95` are of plain runs on
    the machine as it is, which take `slowdown` times as long.
    """

    target_ms: float
    statistic: Statistic = UNDISTURBED
    slowdown: float = 1.0

    @property
    def undisturbed_ms(self) -> float:
        """Return the undisturbed milliseconds that a student may take."""
        return self.target_ms / self.slowdown

    def is_met(self, measured: Timing, plain: PlainRuns) -> bool:
        """Whether a finished student keeps the budget."""
        if self.statistic == UNDISTURBED:
            return measured.ms <= self.target_ms
        return plain.ms(self.statistic) <= self.target_ms


def feasible_budget(target_ms: float, statistic: Statistic, problem: Programme) -> Budget:
    """Return a budget that students of a space can keep; say so where it is more than they need.

    Raises `UserError` where no student can keep it.
    """
    budget = budget_here(target_ms, statistic, problem.table)
    if check_budget(problem, budget.undisturbed_ms):
        print_once(f"{target_ms:g} ms: more than any student needs; searching near that")
    return budget


def budget_here(target_ms: float, statistic: Statistic, table: LatencyTable) -> Budget:
    """Return a budget; by a statistic of plain runs, networks are run to tell how slow these are.

    Raises `UserError` where they cannot be run, for the table is of another device.
    """
    if statistic == UNDISTURBED:
        return Budget(target_ms)
    if elsewhere := machine_difference(table):
        raise UserError(
            f"--latency-statistic {statistic}: is of runs on the device: {elsewhere}; "
            f"give {UNDISTURBED}"
        )
    slow = from_main_process(lambda: slowdown(table, target_ms, statistic))
    budget = Budget(target_ms, statistic, slow)
    print_once(
        f"{target_ms:g} ms in the {WORDS[statistic]} of plain runs: these take {slow:.2f} times "
        f"their undisturbed time now, so students of {budget.undisturbed_ms:.2f} ms are searched"
    )
    return budget
