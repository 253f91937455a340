"""Rivals by their names: what is built, from which weights, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from base.errors import UserError
from kd.networks import build_network, published_input
from kd.rivals.families import plain_network
from kd.rivals.rival import (
    AUTO,
    LADDERS,
    SCRATCH,
    Outline,
    build_rival,
    build_rivals,
    ladders,
)

OUTLINE = Outline(image_shape=(3, 16, 16), classes=4, strides=(1, 2, 2))
TINY = "timm:test_resnet"


def test_a_family_is_built_and_its_images_normalised() -> None:
    torch.manual_seed(0)
    rival = build_rival("plain:4-8-12", OUTLINE).eval()
    torch.manual_seed(0)
    network = plain_network([4, 8, 12], (1, 2, 2), 4).eval()
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(rival(images), network((images - 0.5) / 0.5))


@pytest.mark.parametrize("name", ["plain:4-8-12", "resnet:4-8-12", "test_resnet"])
def test_rivals_take_grey_images_of_any_shape(name: str) -> None:
    outline = replace(OUTLINE, image_shape=(1, 16, 24))
    rival, images = build_rival(name, outline).eval(), torch.rand(2, 1, 16, 24)
    logits = rival(images)
    assert logits.shape == (2, 4)
    assert not torch.equal(logits, rival(1 - images))


@pytest.mark.parametrize("name", ["test_resnet", TINY])
def test_a_librarys_network_needs_no_prefix(name: str) -> None:
    rival = build_rival(name, OUTLINE).eval()
    assert rival(torch.rand(2, 3, 16, 16)).shape == (2, 4)
    # What its library normalises with.
    known = published_input(TINY)
    assert rival.mean.flatten().tolist() == pytest.approx(known.mean)
    assert rival.std.flatten().tolist() == pytest.approx(known.std)


def test_torchvisions_networks_are_found_too() -> None:
    rival = build_rival("torchvision:mobilenet_v3_small", OUTLINE).eval()
    assert rival(torch.rand(2, 3, 16, 16)).shape == (2, 4)


def test_weights_of_a_checkpoint_but_for_a_classifier_of_other_classes(tmp_path: Path) -> None:
    torch.manual_seed(1)
    known = build_network(TINY, 7).state_dict()
    save_file(known, tmp_path / "known.safetensors")
    found = build_rival(TINY, OUTLINE, tmp_path / "known.safetensors").network.state_dict()
    assert found["fc.weight"].shape[0] == 4
    same = [name for name in known if torch.equal(known[name], found[name])]
    assert set(known) - set(same) == {"fc.weight", "fc.bias"}


def test_every_rival_starts_from_the_same_seed() -> None:
    names = ("plain:4-8-12", AUTO, TINY)
    one = build_rivals(names, (), OUTLINE, 3)
    two = build_rivals(names[::-1], (), OUTLINE, 3)
    other = build_rivals(names, (), OUTLINE, 4)
    assert list(one) == ["plain:4-8-12", TINY]
    for name, rival in one.items():
        own, again, differs = (r[name].state_dict() for r in (one, two, other))
        assert all(torch.equal(own[key], again[key]) for key in rival.state_dict())
        assert any(not torch.equal(own[key], differs[key]) for key in own)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plain:8-16", r"expected 3 widths, one for each of the strides 1-2-2, .* plain:16-32-64"),
        ("resnet:8-x-16", r"expected 3 widths, .* resnet:16-32-64"),
        ("resnet:8-0-16", "expected 3 widths"),
        ("plain:", "expected 3 widths"),
        ("mobilenetv3_smal_100", r"unknown; .* such as .*mobilenetv3_small_100"),
        ("timm:mobilenetv3_smal_100", r"unknown network; .*timm:mobilenetv3_small_100"),
        ("vgg:8-16-32", r"unknown; expected a network of timm or torchvision"),
        ("vit_tiny_patch16_224", "does not take images of 16×16"),
    ],
)
def test_what_is_no_rival_is_said_in_one_line(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        build_rival(name, OUTLINE)
    assert "\n" not in str(caught.value)


def test_checkpoints_are_one_for_each(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--rival-checkpoint: 1 for 2 rivals; give one each"):
        build_rivals(("plain:4-8-12", TINY), (SCRATCH,), OUTLINE, 0)
    with pytest.raises(UserError, match="plain:4-8-12: takes no checkpoint; give scratch"):
        build_rivals(("plain:4-8-12",), (tmp_path / "w.pt",), OUTLINE, 0)
    with pytest.raises(UserError, match="no such file"):
        build_rivals((TINY,), (tmp_path / "w.pt",), OUTLINE, 0)
    assert build_rivals((TINY,), (SCRATCH,), OUTLINE, 0).keys() == {TINY}


def test_ladders_go_from_small_to_large() -> None:
    found = ladders(OUTLINE)
    assert found.keys() == {"plain", "resnet", *LADDERS}
    assert found["plain"][:2] == ["plain:4-16-32", "plain:6-24-48"]
    assert found["resnet"][-1] == "resnet:128-256-512"
    for names in found.values():
        with torch.device("meta"):
            ends = [
                sum(p.numel() for p in build_rival_on_meta(name).parameters())
                for name in (names[0], names[1], names[-1])
            ]
        assert ends == sorted(set(ends))


def build_rival_on_meta(name: str) -> torch.nn.Module:
    if name.startswith("timm:"):
        return build_network(name, 4)
    return build_rival(name, OUTLINE)
