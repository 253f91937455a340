"""Folders of images: what lies where, and which folder is which part or class."""

import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

from torchvision.datasets.folder import IMG_EXTENSIONS

from base.errors import UserError
from kd.layout.classes import refuse_twins
from kd.layout.litter import is_litter
from kd.layout.parts import parts_named

# Images of kinds that are not read: what they are called is all that is known of them.
UNREAD = (".gif", ".jfif", ".jpe", ".avif", ".heic", ".heif", ".jp2", ".jxl", ".dng", ".svg")
ONE_EACH = "expected one folder of images for every class"


class Folder(NamedTuple):
    """What lies in one folder, by name."""

    folders: Sequence[str]
    images: Sequence[str]


@dataclass(frozen=True)
class Tree:
    """All that lies below a folder; paths are relative to it, and it is "" itself."""

    root: Path
    folders: Mapping[str, Folder]
    litter: Sequence[str]  # images that nobody means
    unread: Sequence[str]  # images of other kinds

    def images(self, folder: str) -> list[str]:
        """Return the images below a folder, in the order of torchvision's ImageFolder."""
        return [
            posixpath.join(path, name)
            for path in sorted(self._below(folder))
            for name in self.folders[path].images
        ]

    def _below(self, folder: str) -> Iterator[str]:
        yield folder
        for name in self.folders[folder].folders:
            yield from self._below(posixpath.join(folder, name))

    def holds_images(self, folder: str) -> bool:
        """Whether an image lies below a folder."""
        return any(self.folders[path].images for path in self._below(folder))

    def left_aside(self) -> list[str]:
        """Say how many images are litter, or of other kinds."""
        kinds = {"hidden or system images": self.litter, "images of other kinds": self.unread}
        return [
            f"left aside: {len(found)} {kind}: {found[0]}" for kind, found in kinds.items() if found
        ]


@dataclass(frozen=True)
class Labelled:
    """Image files with their classes, part by part."""

    parts: Mapping[str, str]  # train, val, test, or "." alone -> its folder
    classes: tuple[str, ...]
    images: Mapping[str, Mapping[str, Sequence[str]]]  # by part and class
    notes: Sequence[str]  # what was left aside


def read_tree(root: Path) -> Tree:
    """Look at all that lies below `root`; links to folders are followed.

    Raises `UserError` for a link to a folder that it lies in, whose images would come again, for
    a link to nothing, and for a folder that cannot be read.
    """
    folders: dict[str, Folder] = {}
    litter: list[str] = []
    unread: list[str] = []
    for path, inside, names in os.walk(root, followlinks=True, onerror=_refuse_unreadable):
        _refuse_loops(Path(path), inside)
        here = os.path.relpath(path, root) if path != str(root) else ""
        images = sorted(name for name in names if name.lower().endswith(IMG_EXTENSIONS))
        _refuse_dead_links(Path(path), set(names).difference(images))
        if any(map(is_litter, Path(here).parts)):
            litter += [posixpath.join(here, name) for name in images]
            continue
        litter += [posixpath.join(here, name) for name in images if is_litter(name)]
        meant = sorted(name for name in inside if not is_litter(name))
        unread += [posixpath.join(here, name) for name in names if name.lower().endswith(UNREAD)]
        folders[here] = Folder(meant, [name for name in images if not is_litter(name)])
    return Tree(root, folders, sorted(litter), sorted(unread))


def _refuse_unreadable(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror}); make it readable")


def _refuse_loops(folder: Path, inside: Sequence[str]) -> None:
    around = {(here := folder.resolve()), *here.parents}
    for link in (folder / name for name in inside):
        if link.is_symlink() and link.resolve() in around:
            raise UserError(f"{link}: links to a folder that it lies in; remove the link")


def _refuse_dead_links(folder: Path, others: Iterable[str]) -> None:
    for link in (folder / name for name in others):
        if link.is_symlink() and not link.exists() and not is_litter(link.name):
            raise UserError(f"{link}: links to what is not there; mend or remove the link")


def labelled_images(root: Path) -> Labelled:
    """Find `train/<class>/` with `val/` and/or `test/`, or one folder of classes.

    Raises `UserError` for images that are of no part or class, for parts inside classes, and for
    classes that are empty, alike, fewer than two, or not in every part.
    """
    tree = read_tree(root)
    parts = _parts(tree)
    images = {part: _by_class(tree, folder) for part, folder in parts.items()}
    train = next(iter(images))
    refuse_twins(root, sorted(set().union(*images.values())))
    classes = tuple(images[train])
    for part, own in images.items():
        if differing := sorted(set(classes) ^ own.keys()):
            raise UserError(
                f"{root}: {', '.join(differing[:5])} not in both {parts[train]} and {parts[part]};"
                " every part needs the same class folders"
            )
    if len(classes) < 2:
        raise UserError(f"{root}: one class ({classes[0]}), expected two or more class folders")
    loose = [name for at in {"", *parts.values()} for name in tree.folders[at].images]
    notes = [f"left aside: {len(loose)} images in no class's folder: {loose[0]}"] if loose else []
    notes += [*tree.left_aside(), *_folders_inside(tree, parts[train], classes)]
    return Labelled(parts, classes, images, notes)


def _folders_inside(tree: Tree, folder: str, classes: Sequence[str]) -> list[str]:
    """Say that folders inside the classes count for nothing where all classes have the same."""
    inside = [set(tree.folders[posixpath.join(folder, name)].folders) for name in classes]
    if len(same := sorted(set.intersection(*inside))) < 2:
        return []
    return [f"classes are {', '.join(classes[:5])}; folders inside, {', '.join(same[:5])}, are not"]


def _parts(tree: Tree) -> dict[str, str]:
    """Return the folder of every part, train first; {".": ""} where folders are classes."""
    top = tree.folders[""].folders
    named = parts_named(top)
    others = [name for name in top if name not in named and tree.holds_images(name)]
    if not named or (others and _is_class(tree, named)):
        return {".": ""}
    for name in others:
        raise UserError(
            f"{tree.root / name}: its images are of no part, beside {', '.join(sorted(named))}; "
            "expected train with val and/or test, and nothing else"
        )
    folders: dict[str, str] = {}
    for name, part in named.items():
        if (first := folders.setdefault(part, name)) != name:
            raise UserError(f"{tree.root}: {first} and {name} are both {part}; merge them")
    if "train" not in folders:
        raise UserError(f"{tree.root}: {', '.join(named)}, but no folder called train")
    return {part: folders[part] for part in ("train", "val", "test") if part in folders}


def _is_class(tree: Tree, named: Mapping[str, str]) -> bool:
    """Whether what has a part's name is a class: a train beside a bus and a car.

    It holds images itself, and no other part is there.
    """
    inside = [posixpath.join(one, name) for one in named for name in tree.folders[one].folders]
    return len(set(named.values())) == 1 and not any(map(tree.holds_images, inside))


def _by_class(tree: Tree, folder: str) -> dict[str, list[str]]:
    """Return the images of every class of a part."""
    path, names = tree.root / folder, tree.folders[folder].folders
    if not names:
        hint = ", or a pattern such as shards/{000..146}.tar" if any(path.glob("*.tar")) else ""
        raise UserError(f"{path}: no folder of a class in it; {ONE_EACH}{hint}")
    found = {name: tree.images(posixpath.join(folder, name)) for name in names}
    if empty := [name for name, images in found.items() if not images]:
        raise UserError(f"{path}: no valid file for the classes {', '.join(empty)}; {ONE_EACH}")
    for name in names:
        parts = parts_named(tree.folders[posixpath.join(folder, name)].folders)
        if len(set(parts.values())) > 1:
            first = next(iter(parts))
            raise UserError(
                f"{path / name / first}: a part inside a class; expected {first}/{name}/, or "
                f"--data {path / name}"
            )
    return found
