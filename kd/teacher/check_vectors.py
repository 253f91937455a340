"""Check a teacher that answers with vectors, without classes: does it know an image again?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.utils.data import Subset

from base.errors import UserError
from kd.evaluate import predict
from kd.images.splits import Split
from kd.teacher.model import Teacher

TRIED_IMAGES = 1000
# A network that knows nothing is right by chance as often as wrong, within so many deviations.
CHANCE, DEVIATIONS = 0.5, 3.0


@dataclass(frozen=True)
class VectorCheck:
    """How well a teacher knows an image of the search split again.

    `recognised` is the share of the images whose view is nearer to them than that of another image.
    """

    images: int
    numbers: int
    recognised: float

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"vectors of {self.numbers} numbers; of {self.images} images of the search split, "
            f"{self.recognised:.2%} are nearer to a view of themselves than to one of another image"
        )

    def facts(self) -> dict[str, object]:
        """Return the numbers of teacher.json."""
        return {"vector": self.numbers, "recognised": self.recognised}

    def summary(self) -> dict[str, float]:
        """Return the numbers that a run's summary shows."""
        return {"teacher_recognised": self.recognised}


def check_vectors(teacher: Teacher, split: Split, batch: int, workers: int) -> VectorCheck:
    """Show the teacher plain images and a view of each.

    Raises `UserError` for vectors that are not finite, or know no image again.
    """
    places = np.linspace(0, len(split) - 1, min(TRIED_IMAGES, len(split))).astype(int)
    places = np.unique(places).tolist()
    plain, viewed = (_vectors(teacher, split.view(v), places, batch, workers) for v in (None, 0))
    if not (finite := (plain.isfinite() & viewed.isfinite()).all(dim=1)).all():
        raise UserError(
            f"teacher: vectors of {int((~finite).sum())} of {len(plain)} images are not finite; "
            "check its file, --teacher-mean and --teacher-std"
        )
    share, count = recognised(plain, viewed), len(plain)
    # Of few images, half way from chance to all has to do.
    if share <= min(CHANCE + DEVIATIONS * CHANCE / math.sqrt(count), (1 + CHANCE) / 2):
        raise UserError(
            f"teacher: knows {share:.0%} of {count} images again, which is chance: a view of an "
            "image is no nearer to it than one of another image; check its file, --teacher-mean, "
            "--teacher-std, --teacher-channels and --teacher-resolution"
        )
    return VectorCheck(count, plain.shape[1], share)


def recognised(plain: Tensor, viewed: Tensor) -> float:
    """Return the share of vectors [N, D] nearer to their own view [N, D] than to another's.

    That is the view of the image half of them further on, as neighbours may be of one identity.
    Equal cosines count half.
    """
    others = viewed.roll(len(viewed) // 2, dims=0)
    own, other = (plain * viewed).sum(dim=1), (plain * others).sum(dim=1)
    nearer = (own > other).double() + (own == other).double() / 2
    return nearer.mean().item()


def _vectors(
    teacher: Teacher, split: Split, places: Sequence[int], batch: int, workers: int
) -> Tensor:
    shown = Subset(split.shown_in(teacher.frames(split.frame)), places)
    return predict(teacher, shown, batch, workers, "teacher's check")[0]
