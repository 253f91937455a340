"""Part images so that every part has the same mix of classes."""

import numpy as np
from sklearn.model_selection import train_test_split

from base.errors import UserError
from kd.images.sources import Source


def stratified(
    source: Source, positions: np.ndarray, fraction: float, seed: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return (rest, part): `part` is `fraction` of `positions`, with the same mix of classes.

    A class of few images has one in each at least; without classes, images are drawn alone. Raises
    `UserError` where it cannot.
    """
    if not source.classes:
        return _at_random(positions, fraction, seed, name)
    labels = source.labels[positions]
    few = [c for c, count in enumerate(np.bincount(labels)) if count == 1]
    if few:
        named = ", ".join(source.classes[c] for c in few[:5])
        raise UserError(
            f"{named}: too few images for the {name} split; every class needs one in train, "
            "search and test each: add images or remove the class"
        )
    try:
        rest, part = train_test_split(
            positions, test_size=fraction, stratify=labels, random_state=seed, shuffle=True
        )
        return _with_every_class(source.labels, rest, part)
    except ValueError as error:
        raise UserError(
            f"{name}_fraction {fraction} of {len(positions)} images: too few for"
            f" {len(source.classes)} classes in each part; give more images or another fraction"
        ) from error


def _at_random(
    positions: np.ndarray, fraction: float, seed: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    try:
        return train_test_split(positions, test_size=fraction, random_state=seed, shuffle=True)
    except ValueError as error:
        raise UserError(
            f"{name}_fraction {fraction} of {len(positions)} images: too few for two parts; give "
            "more images or another fraction"
        ) from error


def _with_every_class(
    labels: np.ndarray, rest: np.ndarray, part: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Give (rest, part) an image of every class that one of them lacks, from the other's end."""
    for label in np.unique(labels[np.concatenate([rest, part])]):
        own, other = (np.flatnonzero(labels[where] == label) for where in (rest, part))
        if not len(other):
            part, rest = np.append(part, rest[own[-1]]), np.delete(rest, own[-1])
        elif not len(own):
            rest, part = np.append(rest, part[other[-1]]), np.delete(part, other[-1])
    return rest, part


def limited(source: Source, positions: np.ndarray, limit: int | None, seed: int) -> np.ndarray:
    """Return at most `limit` positions, taken in turn from every class."""
    if limit is None or len(positions) <= limit:
        return positions
    shuffled = np.random.default_rng(seed).permutation(positions)
    labels = source.labels[shuffled]
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        turn[labels == label] = np.arange(np.count_nonzero(labels == label))
    return shuffled[np.argsort(turn, kind="stable")[:limit]]
