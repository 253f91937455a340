"""How far one way is ahead of another, and whether that may be chance."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import ttest_rel


def mean_std(values: Sequence[float]) -> str:
    """Say mean ± standard deviation."""
    return f"{np.mean(values):.2f} ± {np.std(values, ddof=1) if len(values) > 1 else 0:.2f}"


def difference(a: Sequence[float], b: Sequence[float]) -> str:
    """Say how far a is above b, with a paired t-test; pairs have to be independent."""
    apart = np.subtract(a, b)
    return f"{mean_std(apart)} points, {len(apart)} pairs, p = {ttest_rel(a, b).pvalue:.3f}"


def by_seeds(a: Mapping[tuple[str, str], float], b: Mapping[tuple[str, str], float]) -> str:
    """Say how far a is above b over what both have, each by what it is of and seed.

    What has one seed shares a supernet, so the test is of the means of the seeds.
    """
    both = sorted(a.keys() & b.keys(), key=str)
    if not both:
        return "no pair"
    apart: dict[str, list[float]] = defaultdict(list)
    for place in both:
        apart[place[-1]].append(a[place] - b[place])
    means = {seed: float(np.mean(own)) for seed, own in apart.items()}
    told = f"{mean_std([a[p] - b[p] for p in both])} points over {len(both)} pairs"
    seeds = ", ".join(f"{mean:.2f}" for mean in means.values())
    if len(means) < 2:
        return f"{told}, of one seed"
    p = ttest_rel(list(means.values()), [0.0] * len(means)).pvalue
    return f"{told}; means of seeds {seeds}, p = {p:.3f}"
