"""Folders of images: which folder is which part and class."""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from base.errors import UserError
from kd.layout.classes import refuse_twins
from kd.layout.parts import parts_named
from kd.layout.tree import Tree, read_tree, refuse_twice

ONE_EACH = "expected one folder of images for every class"


@dataclass(frozen=True)
class Labelled:
    """Image files with their classes, part by part."""

    parts: Mapping[str, str]  # train, val, test, or "." alone -> its folder
    classes: tuple[str, ...]
    images: Mapping[str, Mapping[str, Sequence[str]]]  # by part and class
    notes: Sequence[str]  # what was left aside


def labelled_images(root: Path) -> Labelled:
    """Find `train/<class>/` with `val/` and/or `test/`, or one folder of classes.

    Raises `UserError` for images that are of no part or class, for parts inside classes, and for
    classes that are empty, alike, fewer than two, or not in every part, and for a folder that is
    there twice.
    """
    tree = read_tree(root)
    refuse_twice(tree)
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
    loose = [name for at in sorted({"", *parts.values()}) for name in tree.folders[at].images]
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
    if others:
        parts = ", ".join(sorted(named))
        raise UserError(
            f"{tree.root / others[0]}: its images are of no part, beside {parts}; expected train "
            "with val and/or test, and nothing else"
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
