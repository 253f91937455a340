"""Plain networks and ResNets: layers, strides and parameters counted by hand."""

import pytest
import torch
from torch import nn

from kd.rivals.families import plain_network, resnet


def convolutions(network: nn.Module) -> list[tuple[int, int, int, int]]:
    """(channels in, channels out, side, stride) of every convolution, in order."""
    return [
        (m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0])
        for m in network.modules()
        if isinstance(m, nn.Conv2d)
    ]


def test_a_plain_network_is_five_convolutions() -> None:
    network = plain_network((8, 32, 64), (1, 2, 2), 10)
    assert convolutions(network) == [
        *[(3, 8, 3, 1), (8, 32, 3, 2), (32, 32, 3, 1), (32, 64, 3, 2), (64, 64, 3, 1)]
    ]
    weights = 9 * (3 * 8 + 8 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    norms, classifier = 2 * (8 + 2 * 32 + 2 * 64), 64 * 10 + 10
    assert sum(p.numel() for p in network.parameters()) == weights + norms + classifier
    assert sum(isinstance(m, nn.ReLU) for m in network.modules()) == 5


def test_a_resnet_has_one_basic_block_a_width() -> None:
    network = resnet((16, 32), (2, 2), 4)
    assert convolutions(network) == [
        (3, 16, 3, 2),
        *[(16, 16, 3, 1), (16, 16, 3, 1)],
        # The shortcut is registered after the block's own convolutions.
        *[(16, 32, 3, 2), (32, 32, 3, 1), (16, 32, 1, 2)],
    ]


@pytest.mark.parametrize("family", [plain_network, resnet])
@pytest.mark.parametrize("strides", [(1, 2, 2), (2, 2, 2)])
def test_strides_are_the_students(family: object, strides: tuple[int, ...]) -> None:
    network = family((4, 8, 12), strides, 5).eval()
    features = nn.Sequential(*list(network)[:-3])
    side = 32
    for stride in strides:
        side //= stride
    assert features(torch.rand(2, 3, 32, 32)).shape == (2, 12, side, side)
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 5)
