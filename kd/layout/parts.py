"""What people call the training, validation and test parts of their images."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from base.errors import UserError

WORDS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validate", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "holdout"),
}
PARTS: Mapping[str, frozenset[str]] = {
    part: frozenset(word + ending for word in words for ending in ("", "set"))
    for part, words in WORDS.items()
}
SAYS_NOTHING = frozenset(
    {"set", "split", "part", "folder", "data", "dataset", "image", "images", "img", "imgs"}
)


def part_in(name: str) -> tuple[set[str], tuple[str, ...]]:
    """Return the parts that a name speaks of, and its other words: {train}, (seg) of seg_train2017.

    Any case will do, and digits count for nothing.
    """
    words = [word.casefold() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+|[^\W\d_]+", name)]
    found = {part for part, known in PARTS.items() if not known.isdisjoint(words)}
    known = SAYS_NOTHING.union(*PARTS.values())
    return found, tuple(word for word in words if word not in known)


def parts_named(names: Iterable[str]) -> dict[str, str]:
    """Return those folders whose names are parts: Training and Testing, seg_train and seg_test.

    A part's name has no other words, or the same ones as another part's: a test_tube beside a
    beaker is none. Raises `UserError` where every class seems to have parts of its own.
    """
    alike: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for name in names:
        found, others = part_in(name)
        if len(found) == 1:
            alike[others][name] = found.pop()
    several = [named for named in alike.values() if len(set(named.values())) > 1]
    if () in alike:
        return alike[()]
    if len(several) > 1:
        first, second = (next(iter(named)) for named in several[:2])
        raise UserError(
            f"folders {first} and {second}: class and part in one name; expected train/<class>/ "
            "with val/<class>/ or test/<class>/"
        )
    return several[0] if several else {}


def around(paths: Sequence[Path]) -> Path:
    """Return the innermost folder that all files lie in."""
    return Path(os.path.commonpath([path.absolute().parent for path in paths]))


def part_of_shards(paths: Sequence[Path]) -> dict[Path, str]:
    """Return the part of every shard whose name, or else whose folder's name, says one.

    Only folders that not all of them lie in count. Raises `UserError` for a name with two parts.
    """
    folder, found = around(paths), {}
    for path in paths:
        named = (part_in(name)[0] for name in reversed(path.absolute().relative_to(folder).parts))
        parts = next(filter(None, named), set())
        if len(parts) > 1:
            raise UserError(f"{path}: named after {' and '.join(sorted(parts))}; rename it")
        if parts:
            found[path] = parts.pop()
    return found
