"""Images of identities, such as faces, and the pairs of them that are verified."""

import posixpath
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from base.errors import UserError
from kd.images.pixels import OnDisk, PackedTexts
from kd.images.sources import Source
from kd.layout.pairs import NamedImage, read_pairs
from kd.layout.tar_samples import UNLABELLED
from kd.layout.tree import read_tree, refuse_twice


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of test images: `first` and `second` [P] are their places in the test split.

    `same` [P] says whether both are of one identity, `folds` [P] which fold a pair is of.
    """

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    folds: np.ndarray

    def __len__(self) -> int:
        return len(self.same)

    def content(self) -> bytes:
        """Return all of it, for a hash."""
        parts = (self.first, self.second, self.same, self.folds)
        return b"".join(part.astype("<i8").tobytes() for part in parts)


def read_identities(name: str, path: Path) -> tuple[Source, Pairs]:
    """Open a folder of images for verification: those in the pairs are the test split.

    An image lies in a folder that is called as its identity. No identity of a pair is learned from:
    what else lies anywhere below a folder of its name is left aside, and so is what lies in no
    folder. Who the others are does not count, so they have no classes. Raises `UserError` for a
    list that cannot be read or names an image that is not there, and for a folder that is there
    twice, by a link.
    """
    root = Path(name).expanduser()
    if not name or not root.is_dir():
        raise UserError(f"--data {name}: no folder; --pairs names images in folders of identities")
    tree, pairs = read_tree(root), read_pairs(path)
    refuse_twice(tree)
    names = tree.images("")
    places = _places(root, names)
    named = [image for pair in pairs for image in (pair.first, pair.second)]
    if missing := [image for image in named if image not in places]:
        raise UserError(
            f"--pairs {path}: {len(missing)} of its images are not in {root}, such as {missing[0]}"
        )
    at = np.array([places[image] for image in named])
    test = np.unique(at)
    tested = {image.identity for image in named}
    around = [file.split("/")[:-1] for file in names]
    learned = [i for i, folders in enumerate(around) if folders and tested.isdisjoint(folders)]
    if len(learned) < 2:
        raise UserError(
            f"--pairs {path}: every identity of {root} is in a pair, and none is left to learn "
            "from; give more images as --data"
        )
    aside = len(names) - len(test) - len(learned)
    kinds = "of identities in --pairs, or in no identity's folder"
    notes = [f"left aside: {aside} more images {kinds}"] if aside else []
    first, second = np.searchsorted(test, at.reshape(-1, 2)).T
    found = Pairs(
        first, second, np.array([p.same for p in pairs]), np.array([p.fold for p in pairs])
    )
    images, labels = OnDisk(root, PackedTexts.of(names)), np.full(len(names), UNLABELLED)
    notes = (*notes, *tree.left_aside())
    return Source(images, labels, (), np.array(learned), None, test, notes=notes), found


def _places(root: Path, names: list[str]) -> dict[NamedImage, int]:
    """Return where every image is that a pair could name; `UserError` for one that is twice."""
    places: dict[NamedImage, int] = {}
    for place, file in enumerate(names):
        identity = posixpath.basename(posixpath.dirname(file))
        stem, _, number = posixpath.splitext(posixpath.basename(file))[0].rpartition("_")
        if stem == identity and number.isdecimal():
            image = NamedImage(identity, int(number))
            if places.setdefault(image, place) != place:
                raise UserError(
                    f"{root}: {names[places[image]]} and {file} are both image {image.number} of "
                    f"{identity}; remove or rename one"
                )
    return places
