"""What lies where below a folder, as far as it is images."""

import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

from torchvision.datasets.folder import IMG_EXTENSIONS

from base.errors import UserError
from kd.layout.litter import is_litter

# Images of kinds that are not read: what they are called is all that is known of them.
UNREAD = (".gif", ".jfif", ".jpe", ".avif", ".heic", ".heif", ".jp2", ".jxl", ".dng", ".svg")


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
    twice: Sequence[tuple[str, str]]  # paths of folders that are the same one, by links

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


def read_tree(root: Path) -> Tree:
    """Look at all that lies below `root`; links to folders are followed.

    Raises `UserError` for a link to a folder that it lies in, whose images would come again, for
    a link to nothing, and for a folder that cannot be read.
    """
    folders: dict[str, Folder] = {}
    litter: list[str] = []
    unread: list[str] = []
    twice: list[tuple[str, str]] = []
    seen: dict[Path, str] = {}
    for path, inside, names in os.walk(root, followlinks=True, onerror=_refuse_unreadable):
        _refuse_loops(Path(path), inside)
        here = os.path.relpath(path, root) if path != str(root) else ""
        images = sorted(name for name in names if name.lower().endswith(IMG_EXTENSIONS))
        if inside:
            _refuse_dead_links(Path(path), set(names).difference(images))
        if any(map(is_litter, Path(here).parts)):
            litter += [posixpath.join(here, name) for name in images]
            continue
        if (first := seen.setdefault(Path(path).resolve(), here)) != here:
            twice.append((first, here))
        litter += [posixpath.join(here, name) for name in images if is_litter(name)]
        meant = sorted(name for name in inside if not is_litter(name))
        unread += [posixpath.join(here, name) for name in names if name.lower().endswith(UNREAD)]
        folders[here] = Folder(meant, [name for name in images if not is_litter(name)])
    return Tree(root, folders, sorted(litter), sorted(unread), twice)


def refuse_twice(tree: Tree) -> None:
    """Raise `UserError` for a folder that is there twice: its images would be counted again."""
    if tree.twice:
        first, again = tree.twice[0]
        here, there = tree.root / again, tree.root / first
        raise UserError(f"{here}: is {there} too, by a link; remove one of them")


def _refuse_unreadable(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror}); make it readable")


def _refuse_loops(folder: Path, inside: Sequence[str]) -> None:
    around = {(here := folder.resolve()), *here.parents}
    for link in (folder / name for name in inside):
        if link.is_symlink() and link.resolve() in around:
            raise UserError(f"{link}: links to a folder that it lies in; remove the link")


def _refuse_dead_links(folder: Path, others: Iterable[str]) -> None:
    """What stands beside folders and leads nowhere may have been a class."""
    for link in (folder / name for name in others):
        if link.is_symlink() and not link.exists() and not is_litter(link.name):
            raise UserError(f"{link}: links to what is not there; mend or remove the link")
