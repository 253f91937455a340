"""Every comparison that README and guides speak of, tested on what was drawn independently.

    python -m benchmarks.claims

Budgets of one seed share a supernet, so a test over all pairs claims too much. Here are the means
of the seeds, from the lines in benchmarks/results.
"""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.csv_lines import read_lines
from benchmarks.differences import by_seeds
from benchmarks.rivals import over_all, points_of

RESULTS = Path(__file__).parent / "results"
RESNET = "small_resnet18"
AKD = (
    ("search over random as fast, KD", (RESNET, RESNET), ("random", RESNET)),
    ("teacher-guided over label-guided, KD", (RESNET, RESNET), ("labels", RESNET)),
    ("KD over labels (stored views), teacher-guided", (RESNET, RESNET), (RESNET, "labels")),
)
CIFAR10 = (
    ("search over random as fast", {"kind": "searched"}, {"kind": "random"}),
    ("KD over labels (stored views)", {"kind": "searched"}, {"kind": "labels"}),
)
RIVALS = ("rivals.csv", "rivals_trials.csv", "rivals_trials_48.csv", "rivals_cifar10.csv")


def main() -> None:
    """Print every comparison."""
    for name in ("akd_mbconv.csv", "akd.csv"):
        for title, (guide, way), (other, its) in AKD:
            own = {"guide": guide, "learns_from": way}
            told(name, title, own, {"guide": other, "learns_from": its})
    for title, own, other in CIFAR10:
        told("cifar10.csv", title, own, other)
    for title, way, beside in (
        ("search over random as fast", "searched", "random as fast"),
        ("from its weights over scratch", "searched, from its first weights", "searched"),
    ):
        told("transfer.csv", title, {"way": way}, {"way": beside})
    for name in RIVALS:
        points = points_of(read_lines(RESULTS / name))
        for epochs in sorted({epochs for epochs, _, _ in points}):
            print(f"{name}, {epochs} epochs: {over_all(points, epochs)}")


def told(name: str, title: str, own: Mapping[str, str], other: Mapping[str, str]) -> None:
    """Print how far the lines of a file with the values `own` are ahead of those of `other`."""
    found = []
    for values in (own, other):
        lines = [line for line in read_lines(RESULTS / name) if values.items() <= line.items()]
        accuracies = {
            (line["target_ms"], line["seed"]): 100 * float(line["test_accuracy"]) for line in lines
        }
        found.append(accuracies)
    print(f"{name}, {title}: {by_seeds(*found)}")


if __name__ == "__main__":
    main()
