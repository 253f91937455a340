"""Verification: are two images of one identity? Vectors judged by pairs of test images."""

from dataclasses import asdict, dataclass

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor
from torch.nn.functional import cosine_similarity

from kd.images.identities import Pairs

FALSE_ACCEPTS = 1e-3  # share of the pairs of two identities that may be taken for one


@dataclass(frozen=True)
class Verification:
    """How well the cosine of two vectors tells whether both are of one identity.

    `accuracy` is the mean over the folds, each judged with the threshold that is best on the
    others, `accuracy_std` the standard deviation over them (protocol of Labeled Faces in the Wild,
    Huang et al. 2007). `accepted` is the share of the pairs of one identity that is accepted where
    at most one in a thousand of the others is (TAR at FAR 1e-3), `auc` the area under the ROC
    curve.
    """

    accuracy: float
    accuracy_std: float
    accepted: float
    auc: float
    pairs: int
    folds: int

    def facts(self) -> dict[str, float | int]:
        """Return the numbers of metrics.json."""
        return asdict(self)


def verify(vectors: Tensor, pairs: Pairs) -> Verification:
    """Judge vectors [N, D] of the test images by their pairs; one not finite is like no other."""
    cosines = cosine_similarity(vectors[pairs.first], vectors[pairs.second])
    cosines = cosines.nan_to_num(-1.0).numpy()
    shares = [
        right_share(cosines[own], pairs.same[own], best_threshold(cosines[~own], pairs.same[~own]))
        for own in (pairs.folds == fold for fold in np.unique(pairs.folds))
    ]
    false_share, true_share, _ = roc_curve(pairs.same, cosines, drop_intermediate=False)
    return Verification(
        float(np.mean(shares)),
        float(np.std(shares)),
        float(true_share[false_share <= FALSE_ACCEPTS].max()),
        float(roc_auc_score(pairs.same, cosines)),
        len(pairs),
        len(shares),
    )


def best_threshold(cosines: np.ndarray, same: np.ndarray) -> float:
    """Return from which cosine on pairs are to be accepted, so that most are told right.

    `cosines` [P] and `same` [P] are those of the pairs. Of several thresholds as good, the middle
    one is taken.
    """
    order = np.argsort(-cosines, kind="stable")
    ranked, accepted = cosines[order], np.cumsum(np.where(same[order], 1, -1))
    gains = np.concatenate([[0], accepted])
    # Equal cosines are accepted together.
    allowed = np.concatenate([[True], ranked[1:] != ranked[:-1], [True]])
    gains = np.where(allowed, gains, gains.min() - 1)
    ends = np.concatenate([[ranked[0] + 1], (ranked[1:] + ranked[:-1]) / 2, [ranked[-1] - 1]])
    best = np.flatnonzero(gains == gains.max())
    return float(ends[best[len(best) // 2]])


def right_share(cosines: np.ndarray, same: np.ndarray, threshold: float) -> float:
    """Return the share of the pairs that a threshold tells right."""
    return float(np.mean((cosines >= threshold) == same))


def agreement(vectors: Tensor, teacher: Tensor) -> float:
    """Return the mean cosine between vectors [N, D] and the teacher's."""
    return cosine_similarity(vectors, teacher).double().mean().item()
