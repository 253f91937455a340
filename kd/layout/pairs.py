"""Lists of pairs to verify, in the format of Labeled Faces in the Wild (Huang et al. 2007)."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from base.errors import UserError

MOST_DIGITS = 9
FOLDS = 10  # where the file does not say which pairs are a fold
FORMS = "expected NAME NUMBER NUMBER for one identity, or NAME NUMBER NAME NUMBER for two"


class NamedImage(NamedTuple):
    """Image number `number` of an identity: `identity`/`identity`_0001.jpg is number 1."""

    identity: str
    number: int

    def __str__(self) -> str:
        """Return folder and name of its file, without the ending."""
        return f"{self.identity}/{self.identity}_{self.number:04d}"


class NamedPair(NamedTuple):
    """Two images, of one identity or not, and the fold that they belong to."""

    first: NamedImage
    second: NamedImage
    fold: int

    @property
    def same(self) -> bool:
        """Whether both show one identity."""
        return self.first.identity == self.second.identity


def read_pairs(path: Path) -> list[NamedPair]:
    """Read a list of pairs.

    A first line FOLDS COUNT says that each fold is COUNT pairs of one identity, then COUNT of two;
    without one, pairs are dealt to ten folds in turn. Words are parted by tabs where a line has
    some, else by blanks. Raises `UserError` for a file that is not of that format, and for one
    from which no threshold could be learned: every fold needs others, of both kinds of pairs.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--pairs {path}: cannot be read ({error})") from error
    words = [(number, _words(line)) for number, line in enumerate(lines, 1) if line.strip()]
    header = words.pop(0)[1] if words and _is_header(words[0][1]) else []
    if not words:
        raise UserError(f"--pairs {path}: no pair in it; {FORMS}")
    images = [_pair(path, number, found) for number, found in words]
    same = np.array([first.identity == second.identity for first, second in images], dtype=bool)
    folds = _folds(path, header, same)
    for fold in np.unique(folds):
        if len(np.unique(same[folds != fold])) < 2:
            raise UserError(
                f"--pairs {path}: {len(images)} pairs; expected pairs of one identity and of two, "
                "in two folds or more"
            )
    return [NamedPair(*pair, int(fold)) for pair, fold in zip(images, folds, strict=True)]


def _words(line: str) -> list[str]:
    return [word.strip() for word in line.split("\t")] if "\t" in line.strip() else line.split()


def _is_header(words: Sequence[str]) -> bool:
    return len(words) <= 2 and all(map(_is_number, words))


def _is_number(word: str) -> bool:
    return word.isdecimal() and len(word) <= MOST_DIGITS


def _pair(path: Path, number: int, words: Sequence[str]) -> tuple[NamedImage, NamedImage]:
    match words:
        case [name, one, other] if _is_number(one) and _is_number(other):
            return NamedImage(name, int(one)), NamedImage(name, int(other))
        case [name, one, second, other] if _is_number(one) and _is_number(other):
            return NamedImage(name, int(one)), NamedImage(second, int(other))
    raise UserError(f"--pairs {path}: line {number} is {' '.join(words)[:60]!r}; {FORMS}")


def _folds(path: Path, header: Sequence[str], same: np.ndarray) -> np.ndarray:
    """Return the fold [P] of every pair, from the first line or dealt in turn."""
    if len(header) == 2 and int(header[0]) > 1:
        folds, count = map(int, header)
        fits = 2 * folds * count == len(same)
        if not fits or (np.tile(np.repeat([True, False], count), folds) != same).any():
            raise UserError(
                f"--pairs {path}: {len(same)} pairs; its first line announces {folds} folds, each "
                f"of {count} pairs of one identity and then {count} of two"
            )
        return np.repeat(np.arange(folds), 2 * count)
    dealt = np.empty(len(same), dtype=np.int64)
    for kind in (True, False):
        dealt[same == kind] = np.arange(np.count_nonzero(same == kind)) % FOLDS
    return dealt
