"""Names of classes: of folders, and of the numbers in shards."""

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from base.errors import UserError
from base.files import read_names

MOST_NAMED = 5


def refuse_twins(root: Path, classes: Iterable[str]) -> None:
    """Raise `UserError` for classes that look alike: in case, blanks or Unicode's forms.

    One of them is a slip, or was copied from a system that writes names in another form.
    """
    seen: dict[str, str] = {}
    for name in classes:
        twin = seen.setdefault(_as_seen(name), name)
        if twin != name and twin.casefold() == name.casefold():
            raise UserError(
                f"{root}: classes {twin} and {name} differ in case only; merge or rename one"
            )
        if twin != name:
            raise UserError(
                f"{root}: classes {twin!a} and {name!a} differ in blanks or in the "
                "Unicode form of their letters only; merge or rename one"
            )


def _as_seen(name: str) -> str:
    """Return a name without what nobody sees: case, forms of letters, blanks, zero widths."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    shown = (letter for letter in folded if unicodedata.category(letter) != "Cf")
    return " ".join("".join(shown).split())


def named_classes(
    folders: Sequence[Path], labels: np.ndarray, train: np.ndarray
) -> tuple[str, ...]:
    """Return the names in classes.txt, in the first of `folders` that has one, or numbers.

    `labels` [N] are those of all images, `train` of the training images. Raises `UserError` when
    the file cannot be read or has too few names, for a class without training images, and for fewer
    than two classes.
    """
    present, count = np.unique(labels), int(labels.max()) + 1
    if len(present) < 2:
        raise UserError(f"{folders[0]}: classes {present.tolist()}; expected two or more")
    path = next((path for one in folders if (path := one / "classes.txt").exists()), None)
    names = read_names(path) if path else tuple(map(str, range(count)))
    if len(names) < count:
        raise UserError(f"{path}: {len(names)} names, but the shards hold class {count - 1}")
    empty = np.flatnonzero(np.bincount(train, minlength=len(names)) == 0)
    if len(empty):
        named = ", ".join(f"{c} ({names[c]})" if path else f"{c}" for c in empty[:MOST_NAMED])
        more = f" and {len(empty) - MOST_NAMED} more" if len(empty) > MOST_NAMED else ""
        raise UserError(
            f"{path or folders[0]}: no training image of class {named}{more}; number the classes "
            "from 0 on without gaps, and name only those that there are"
        )
    return names
