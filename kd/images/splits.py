"""Images and how they are split; float32 [C, H, W] in [0, 1]: models normalise for themselves."""

import hashlib
import itertools
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.data import Dataset

from base.errors import UserError
from base.processes import print_once
from base.size import Size, pixels_text
from kd.images.duplicates import leaked
from kd.images.identities import Pairs, read_identities
from kd.images.mixing import Mix, Mixture, draw_mixture
from kd.images.rendering import Frame, render_plain_images, render_views
from kd.images.sources import Pixels, Source, read_source
from kd.images.stratify import limited, stratified
from kd.images.unlabelled import with_unlabelled
from kd.images.views import Augment, draw_geometry, view_seed
from kd.layout.shards import is_pattern

# What the shared weights learn from, and what a student is retrained on.
LEARNED, RETRAINED = ("train", "unlabelled"), ("train", "search", "unlabelled")

# Of a plain image of so many pixels, the centre is shown where views are boxes.
WHOLE, CENTRE = 256, 224


@dataclass(frozen=True)
class DataSettings:
    """What to learn from. `test_fraction` counts only where the source has no test split."""

    source: str = "digits"  # "digits", "cifar10" or the path of a folder
    root: Path | None = None  # where torchvision keeps CIFAR-10
    resolution: Size = (16, 16)
    channels: int = 3  # 1 makes images grey
    squeeze: bool = False  # whole images into the shape of the views, in place of their centres
    augment: Augment = "affine"
    mix: Mix = "none"
    search_fraction: float = 0.2  # of the training images
    test_fraction: float = 0.2  # of all images
    seed: int = 0
    limit: int | None = None  # at most so many training, test and unlabelled images
    unlabelled: str | None = None  # a folder or shards of images without classes
    shard_image: str | None = None  # which field of a shard's sample is its image
    pairs: Path | None = None  # a list of pairs that are verified, in place of classes


@dataclass(frozen=True, eq=False)
class Split(Dataset):
    """Some images of a source, as (image [3, H, W] of every frame, label, index in the split).

    `frame` is the students', `shown` those that an item is rendered in: theirs alone, or those of
    the teachers. All show the same view, each at its own size, of an image that is read once; in a
    view, a frame of the students' size is theirs to the bit.
    `version` None is the plain image; v >= 0 is the augmentation drawn from (seed, v, position in
    the source) alone, the same in any process and any split (FKD: Shen & Xing 2021; TinyViT: Wu et
    al. 2022 store teacher outputs for such views). With `mix`, a version is mixed with that of
    another image of the same part, drawn in the same way.
    """

    images: Pixels
    labels: Tensor  # [N] int64, -1 where there is no class
    positions: Tensor  # [N] int64, in the source
    augment: Augment
    seed: int
    frame: Frame
    mix: Mix
    parts: tuple[int, ...]  # numbers of images that were one split once
    shown: tuple[Frame, ...]
    version: int | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> tuple[Tensor | int, ...]:
        label = int(self.labels[index])
        if self.version is None:
            picture = self.images.picture(int(self.positions[index]))
            plain = render_plain_images(picture, self.shown)
            return *(plain[frame] for frame in self.shown), label, index
        views = self._views(index)
        if self.mix != "none":
            mixture = self._mixture(index)
            others = self._views(mixture.partner)
            views = {frame: mixture.of(view, others[frame]) for frame, view in views.items()}
        return *(views[frame] for frame in self.shown), label, index

    def label_shares(self, index: Tensor, classes: int) -> Tensor:
        """Return labels [B, K] of images `index` [B]: one-hot, or mixed as the images are.

        An image without a class has 0 everywhere.
        """
        shares = _shares(self.labels[index], classes)
        if self.version is None or self.mix == "none":
            return shares
        mixtures = [self._mixture(i) for i in index.tolist()]
        own = torch.tensor([m.share for m in mixtures])[:, None]
        others = self.labels[[m.partner for m in mixtures]]
        return own * shares + (1 - own) * _shares(others, classes)

    def view_seeds(self) -> np.ndarray:
        """Return the seeds [N] uint32 that this version of every image is drawn from."""
        assert self.version is not None
        return np.array([self._seed(index) for index in range(len(self))], dtype=np.uint32)

    def _seed(self, index: int) -> int:
        return view_seed(self.seed, self.version, int(self.positions[index]))

    def _views(self, index: int) -> dict[Frame, Tensor]:
        """Render this version of an image in every frame that is shown."""
        picture, own = self.images.picture(int(self.positions[index])), self.frame
        geometry = draw_geometry(self.augment, self._seed(index), picture.size, own)
        beside = [_beside(frame, own) for frame in self.shown]
        views = render_views(picture, geometry, beside)
        return {frame: views[other] for frame, other in zip(self.shown, beside, strict=True)}

    def _mixture(self, index: int) -> Mixture:
        """What the image is mixed with: an image of its own part, whatever was joined to it."""
        start, size = 0, self.parts[0]
        for following in self.parts[1:]:
            if index < start + size:
                break
            start, size = start + size, following
        drawn = draw_mixture(self.mix, self._seed(index), size, self.frame.size)
        return replace(drawn, partner=start + drawn.partner)

    def view(self, version: int | None) -> "Split":
        """Return the same images, plain (None) or in augmented version `version` >= 0."""
        return replace(self, version=version)

    def shown_in(self, frames: tuple[Frame, ...]) -> "Split":
        """Return the same images, rendered in these frames."""
        return replace(self, shown=frames)


def _shares(labels: Tensor, classes: int) -> Tensor:
    """Return one-hot labels [B, K]; 0 everywhere for -1."""
    return one_hot(labels.clamp(min=0), classes).float() * (labels >= 0)[:, None]


def _beside(frame: Frame, own: Frame) -> Frame:
    """Return a frame that is rendered as the students' own is, where it is of their size."""
    return replace(frame, interpolation=own.interpolation) if frame.size == own.size else frame


@dataclass(frozen=True, eq=False)
class Data:
    """Disjoint splits: weights learn on `train`, alpha on `search`; `test` only reports.

    `unlabelled` images, where there are any, are learned from with the teacher alone.
    """

    train: Split
    search: Split
    test: Split
    unlabelled: Split | None
    classes: tuple[str, ...]
    settings: DataSettings
    parts: str = ""  # which folder or shard is which split
    pairs: Pairs | None = None  # of test images that are verified, in place of classes
    vector: int | None = None  # numbers of a teacher's answer that is a vector

    @property
    def answer_size(self) -> int:
        """How many numbers an answer has: one a class, or those of the teacher's vector."""
        return len(self.classes) if self.vector is None else self.vector

    def joined(self, names: Sequence[str]) -> Split:
        """Return these splits as one, in this order; every image keeps its own views."""
        return join([split for name in names if (split := getattr(self, name)) is not None])

    def __str__(self) -> str:
        """Say how many images are in every split, and where they come from."""
        counts = ", ".join(f"{len(split)} {name}" for name, split in self.splits().items())
        return f"{counts} ({self.parts})" if self.parts else counts

    def splits(self) -> dict[str, Split]:
        """Return all splits that there are, by name."""
        found = {name: getattr(self, name) for name in (*RETRAINED, "test")}
        return {name: split for name, split in found.items() if split is not None}

    def fingerprint(self) -> str:
        """Hash of images, labels, splits and what decides a view; a copy of the files has it too.

        Of many images only some are looked at; see `kd.layout.content`.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        settings = self.settings
        facts = [self.classes, settings.augment, settings.resolution, settings.seed, settings.mix]
        facts += [settings.channels, settings.squeeze]
        digest = hashlib.sha256(json.dumps(facts).encode() + self.train.images.digest())
        for split in self.splits().values():
            digest.update(struct.pack("<q", len(split)))
            digest.update(split.positions.numpy().data)
            digest.update(split.labels.numpy().data)
        digest.update(self.pairs.content() if self.pairs else b"")
        return digest.hexdigest()[:32]


def load_data(settings: DataSettings) -> Data:
    """Open the source and split it, stratified and seeded; raise `UserError` when it cannot be."""
    _check(settings)
    if settings.pairs:
        source, pairs = read_identities(settings.source, settings.pairs)
    else:
        source, pairs = read_source(settings.source, settings.root, settings.shard_image), None
    train, search, test = source.train, source.search, source.test
    unlabelled = None
    if settings.unlabelled:
        source, positions = with_unlabelled(source, settings.unlabelled, settings.shard_image)
        positions = limited(source, positions, settings.limit, settings.seed)
        unlabelled = _split(source, np.sort(positions), settings)
    if test is None:
        train, test = stratified(source, train, settings.test_fraction, settings.seed, "test")
    train = limited(source, train, settings.limit, settings.seed)
    if pairs is None:
        test = limited(source, test, settings.limit, settings.seed)
    if search is None:
        fraction = settings.search_fraction
        train, search = stratified(source, train, fraction, settings.seed, "search")
    else:
        search = limited(source, search, settings.limit, settings.seed)
    splits = (_split(source, np.sort(part), settings) for part in (train, search, test))
    data = Data(*splits, unlabelled, source.classes, settings, source.parts_text(), pairs)
    learned, tested = (split.positions.numpy() for split in (data.joined(RETRAINED), data.test))
    for note in filter(None, (*source.notes, leaked(source.images, learned, tested))):
        print_once(note)
    return data


def learnable(names: Sequence[str], learns_from: str) -> tuple[str, ...]:
    """Return those of the splits that can be learned from: with "labels", those that have them."""
    return tuple(name for name in names if learns_from != "labels" or name != "unlabelled")


def join(splits: Sequence[Split]) -> Split:
    """Join splits of the same source in their order; every image keeps its own views."""
    first = splits[0]
    assert all(split.images is first.images for split in splits)
    return replace(
        first,
        labels=torch.cat([split.labels for split in splits]),
        positions=torch.cat([split.positions for split in splits]),
        parts=tuple(itertools.chain.from_iterable(split.parts for split in splits)),
    )


def _check(settings: DataSettings) -> None:
    for name in ("search_fraction", "test_fraction"):
        if not 0 < (value := getattr(settings, name)) < 1:
            raise UserError(f"{name} {value}: expected a number between 0 and 1")
    if min(settings.resolution) < 8:
        raise UserError(f"resolution {pixels_text(settings.resolution)}: expected 8 pixels or more")
    if settings.limit is not None and settings.limit < 1:
        raise UserError(f"limit {settings.limit}: expected 1 image or more")
    if settings.shard_image and not any(
        map(is_pattern, (settings.source, settings.unlabelled or ""))
    ):
        raise UserError(f"--shard-image {settings.shard_image}: only shards have such files")


def _split(source: Source, positions: np.ndarray, settings: DataSettings) -> Split:
    frame = student_frame(settings)
    return Split(
        source.images,
        torch.from_numpy(source.labels[positions]),
        torch.from_numpy(positions),
        settings.augment,
        settings.seed,
        frame,
        settings.mix,
        parts=(len(positions),),
        shown=(frame,),
    )


def student_frame(settings: DataSettings) -> Frame:
    """Return what students are shown: the centre of an image, or all of it, squeezed.

    Where views are boxes, a plain image shows a little less than would fit.
    """
    short, channels = min(settings.resolution), settings.channels
    enlarged = WHOLE / CENTRE if settings.augment == "resized_crop_flip" else 1
    resize = None if settings.squeeze else round(short * enlarged)
    return Frame(settings.resolution, resize=resize, channels=channels, grey=channels == 1)
