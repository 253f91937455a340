"""Several teachers answer with the weighted mean of their probabilities."""

import pytest
import torch
from torch import Tensor, nn

from kd.images.rendering import Frame
from kd.networks import InputFormat
from kd.teacher.model import Ensemble, Teacher

RESOLUTIONS = (None, 4, 12)


def teachers() -> list[Teacher]:
    """Three networks that want to see different things."""
    torch.manual_seed(0)
    found = []
    for i, resolution in enumerate(RESOLUTIONS):
        network = nn.Sequential(nn.Flatten(), nn.Linear(3 * (resolution or 8) ** 2, 5))
        found.append(Teacher(network, InputFormat((0.1 * i,) * 3, (0.2,) * 3, resolution)))
    return found


def images(side: int | None = None) -> Tensor:
    side = side or 8
    return torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (1.0, 2.0, 5.0), (1e-3, 1.0, 1e3)])
def test_ensemble_is_the_weighted_mean_of_probabilities(weights: tuple[float, ...]) -> None:
    members = teachers()
    shown = [images(resolution) for resolution in RESOLUTIONS]
    answers = [m(own).exp().tolist() for m, own in zip(members, shown, strict=True)]
    found = Ensemble(members, weights)(*shown).exp()
    for i, row in enumerate(found.tolist()):
        for k, probability in enumerate(row):
            weighed = [w * answer[i][k] for w, answer in zip(weights, answers, strict=True)]
            assert probability == pytest.approx(sum(weighed) / sum(weights), rel=1e-4)
    assert torch.allclose(found.sum(dim=1), torch.ones(4))


def test_members_that_exclude_a_class_leave_it_finite() -> None:
    class Sure(nn.Module):
        def __init__(self, answer: int) -> None:
            super().__init__()
            self.answer = answer

        def forward(self, shown: Tensor) -> Tensor:
            return 1000 * torch.eye(5)[[self.answer] * len(shown)]

    found = Ensemble([Teacher(Sure(1)), Teacher(Sure(3))], (1.0, 3.0))(images(), images())
    expected = torch.tensor([0, 0.25, 0, 0.75, 0]).expand(4, 5)
    assert torch.allclose(found.exp(), expected)
    assert not found.isnan().any()


def test_ensemble_stays_in_eval_mode_and_out_of_the_graph() -> None:
    members = [Teacher(nn.Sequential(nn.Flatten(), nn.Dropout(0.5))) for _ in range(2)]
    ensemble = Ensemble(members, (1.0, 1.0)).train()
    shown = images().requires_grad_()
    assert torch.equal(ensemble(shown, shown), ensemble(shown, shown))
    assert not ensemble(shown, shown).requires_grad


def test_each_member_is_shown_what_it_wants() -> None:
    found = Ensemble(teachers(), (1.0,) * 3).frames(Frame((8, 8)))
    assert found == (Frame((8, 8)), Frame((4, 4)), Frame((12, 12)))


def test_fingerprint_follows_members_order_and_weights() -> None:
    prints = {
        Ensemble(teachers(), (1.0, 2.0, 3.0)).fingerprint(),
        Ensemble(teachers(), (1.0, 2.0, 4.0)).fingerprint(),
        Ensemble(teachers()[::-1], (1.0, 2.0, 3.0)).fingerprint(),
        Ensemble(teachers()[:2], (1.0, 2.0)).fingerprint(),
    }
    assert len(prints) == 4
    again = Ensemble(teachers(), (2.0, 4.0, 6.0))
    assert again.fingerprint() == Ensemble(teachers(), (1.0, 2.0, 3.0)).fingerprint()
