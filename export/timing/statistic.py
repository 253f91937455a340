"""Which of a network's runs a budget is of."""

from typing import Literal

# Other load left out, as in the latency table.
UNDISTURBED = "undisturbed"
# Of runs one after the other, with whatever else runs.
PlainStatistic = Literal["median", "p95"]
Statistic = Literal["undisturbed"] | PlainStatistic
