"""Libraries' networks on small images: which strides go, and what cannot be adapted."""

import pytest
import timm
import torch
from torch import nn

from base.errors import UserError
from kd.rivals.library import check_network, fit_strides


class Halving(nn.Module):
    """Three reductions, the second one in two branches, as a ResNet's shortcut is."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.own, self.shortcut = nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 1, 2)
        self.pool, self.head = nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(self.pool(self.own(x) + self.shortcut(x))).mean((2, 3))


def test_the_first_two_reductions_go_for_small_images() -> None:
    network = Halving()
    fit_strides(network, (16, 16))
    strides = [network.stem.stride, network.own.stride, network.shortcut.stride]
    assert strides == [(1, 1)] * 3
    assert network.pool.stride == 2
    assert network(torch.rand(2, 3, 16, 16)).shape == (2, 5)


def test_large_images_keep_every_stride() -> None:
    network = Halving()
    fit_strides(network, (65, 65))
    assert network.stem.stride == network.own.stride == (2, 2)


def test_a_mobile_network_keeps_three_of_five_reductions() -> None:
    network = timm.create_model("mobilenetv3_small_050", num_classes=10).eval()
    images = torch.rand(2, 3, 32, 32)
    assert network.forward_features(images).shape[-1] == 1
    fit_strides(network, (32, 32))
    assert network.forward_features(images).shape[-1] == 4
    check_network("mobilenetv3_small_050", network, (32, 32), 10)


def test_a_network_of_one_resolution_is_refused_in_one_line() -> None:
    network = timm.create_model("vit_tiny_patch16_224", num_classes=10)
    fit_strides(network, (32, 32))
    with pytest.raises(UserError, match=r"rival vit: does not take images of 32×32 .* another$"):
        check_network("vit", network, (32, 32), 10)


def test_other_outputs_are_refused() -> None:
    with pytest.raises(UserError, match=r"rival five: gives \[2, 5\] for 2 images, .* \[2, 10\]"):
        check_network("five", Halving(), (16, 16), 10)
