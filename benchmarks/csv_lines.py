"""Results that grow line by line, so that an interrupted benchmark goes on where it was."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path


def read_lines(path: Path) -> list[dict[str, str]]:
    """Return the lines that are done; none when there is no file yet."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append_lines(path: Path, lines: Sequence[Mapping[str, object]]) -> None:
    """Add lines, under a header in a new file; all have the same fields, in one order."""
    begins = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        if begins:
            writer.writeheader()
        writer.writerows(lines)
