"""Images and how they are split, augmented and batched.

Images are float32 RGB tensors [3, R, R] in [0, 1]; models normalise for themselves.
"""

import hashlib
import json
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.data import Dataset
from torchvision.transforms import v2

from base.errors import UserError
from kd.images.mixing import Mix, Mixture, draw_mixture
from kd.images.sources import Pixels, Source, read_source
from kd.images.views import Augment, seeded, transforms, view_seed


@dataclass(frozen=True)
class DataSettings:
    """What to learn from. `test_fraction` counts only where the source has no test split."""

    source: str = "digits"  # "digits", "cifar10" or the path of a folder
    root: Path | None = None  # where torchvision keeps CIFAR-10
    resolution: int = 16  # pixels
    augment: Augment = "affine"
    mix: Mix = "none"
    search_fraction: float = 0.2  # of the training images
    test_fraction: float = 0.2  # of all images
    seed: int = 0
    limit: int | None = None  # at most so many training, and as many test images


@dataclass(frozen=True, eq=False)
class Split(Dataset):
    """Some images of a source, as (image [3, R, R], label, index in the split).

    `version` None is the plain image; v >= 0 is the augmentation drawn from (seed, v, position in
    the source) alone, the same in any process and any split (FKD: Shen & Xing 2021; TinyViT: Wu et
    al. 2022 store teacher outputs for such views). With `mix`, a version is mixed with that of
    another image of the same part, drawn in the same way.
    """

    images: Pixels
    labels: Tensor  # [N] int64
    positions: Tensor  # [N] int64, in the source
    plain: v2.Transform
    augmentation: v2.Transform
    seed: int
    resolution: int
    mix: Mix
    parts: tuple[int, ...]  # numbers of images that were one split once
    version: int | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        label = int(self.labels[index])
        if self.version is None:
            return self.plain(self.images[int(self.positions[index])]), label, index
        image = self._augmented(index)
        if self.mix != "none":
            mixture = self._mixture(index)
            image = mixture.of(image, self._augmented(mixture.partner))
        return image, label, index

    def label_shares(self, index: Tensor, classes: int) -> Tensor:
        """Return labels [B, K] of images `index` [B]: one-hot, or mixed as the images are."""
        shares = one_hot(self.labels[index], classes).float()
        if self.version is None or self.mix == "none":
            return shares
        mixtures = [self._mixture(i) for i in index.tolist()]
        own = torch.tensor([m.share for m in mixtures])[:, None]
        others = self.labels[[m.partner for m in mixtures]]
        return own * shares + (1 - own) * one_hot(others, classes)

    def view_seeds(self) -> np.ndarray:
        """Return the seeds [N] uint32 that this version of every image is drawn from."""
        assert self.version is not None
        return np.array([self._seed(index) for index in range(len(self))], dtype=np.uint32)

    def _seed(self, index: int) -> int:
        return view_seed(self.seed, self.version, int(self.positions[index]))

    def _augmented(self, index: int) -> Tensor:
        image = self.images[int(self.positions[index])]
        return seeded(self.augmentation, image, self._seed(index))

    def _mixture(self, index: int) -> Mixture:
        """What the image is mixed with: an image of its own part, whatever was joined to it."""
        start, size = 0, self.parts[0]
        for following in self.parts[1:]:
            if index < start + size:
                break
            start, size = start + size, following
        drawn = draw_mixture(self.mix, self._seed(index), size, self.resolution)
        return replace(drawn, partner=start + drawn.partner)

    def view(self, version: int | None) -> "Split":
        """Return the same images, plain (None) or in augmented version `version` >= 0."""
        return replace(self, version=version)


@dataclass(frozen=True, eq=False)
class Data:
    """Disjoint splits: weights learn on `train`, alpha on `search`; `test` only reports."""

    train: Split
    search: Split
    test: Split
    classes: tuple[str, ...]
    settings: DataSettings

    def fingerprint(self) -> str:
        """Hash of images, labels, splits and what decides a view; a moved folder keeps its own."""
        settings = self.settings
        facts = [self.classes, settings.augment, settings.resolution, settings.seed, settings.mix]
        digest = hashlib.sha256(json.dumps(facts).encode() + self.train.images.digest())
        for split in (self.train, self.search, self.test):
            digest.update(struct.pack("<q", len(split)))
            digest.update(split.positions.numpy().data)
            digest.update(split.labels.numpy().data)
        return digest.hexdigest()[:32]


def load_data(settings: DataSettings) -> Data:
    """Open the source and split it, stratified and seeded; raise `UserError` when it cannot be."""
    _check(settings)
    source = read_source(settings.source, settings.root, settings.resolution)
    train, search, test = source.train, source.search, source.test
    if test is None:
        train, test = _stratified(source, train, settings.test_fraction, settings.seed, "test")
    train, test = (_limited(source, part, settings) for part in (train, test))
    if search is None:
        fraction = settings.search_fraction
        train, search = _stratified(source, train, fraction, settings.seed, "search")
    else:
        search = _limited(source, search, settings)
    splits = (_split(source, np.sort(part), settings) for part in (train, search, test))
    return Data(*splits, source.classes, settings)


def join(a: Split, b: Split) -> Split:
    """Join two splits of the same source, `a` then `b`; every image keeps its own views."""
    assert a.images is b.images
    labels, positions = torch.cat([a.labels, b.labels]), torch.cat([a.positions, b.positions])
    return replace(a, labels=labels, positions=positions, parts=(*a.parts, *b.parts))


def _check(settings: DataSettings) -> None:
    for name in ("search_fraction", "test_fraction"):
        if not 0 < (value := getattr(settings, name)) < 1:
            raise UserError(f"{name} {value}: expected a number between 0 and 1")
    if settings.resolution < 8:
        raise UserError(f"resolution {settings.resolution}: expected 8 pixels or more")
    if settings.limit is not None and settings.limit < 1:
        raise UserError(f"limit {settings.limit}: expected 1 image or more")


def _stratified(
    source: Source, positions: np.ndarray, fraction: float, seed: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """(rest, part): `part` is `fraction` of `positions`, with the same mix of classes."""
    labels = source.labels[positions]
    try:
        return train_test_split(
            positions, test_size=fraction, stratify=labels, random_state=seed, shuffle=True
        )
    except ValueError as error:
        raise UserError(
            f"{name}_fraction {fraction} of {len(positions)} images: too few for"
            f" {len(source.classes)} classes in each part; give more images or another fraction"
        ) from error


def _limited(source: Source, positions: np.ndarray, settings: DataSettings) -> np.ndarray:
    """At most `limit` positions, taken in turn from every class."""
    if settings.limit is None or len(positions) <= settings.limit:
        return positions
    shuffled = np.random.default_rng(settings.seed).permutation(positions)
    labels = source.labels[shuffled]
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        turn[labels == label] = np.arange(np.count_nonzero(labels == label))
    return shuffled[np.argsort(turn, kind="stable")[: settings.limit]]


def _split(source: Source, positions: np.ndarray, settings: DataSettings) -> Split:
    plain, augmentation = transforms(settings.augment, settings.resolution)
    return Split(
        source.images,
        torch.from_numpy(source.labels[positions]),
        torch.from_numpy(positions),
        plain,
        augmentation,
        settings.seed,
        settings.resolution,
        settings.mix,
        parts=(len(positions),),
    )
