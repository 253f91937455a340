"""Within the block a module computes as its int8 file; after it, it is the module again."""

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation

from export.int8.fake_quantised import fake_quantised
from export.int8.quantise import quantised
from export.onnx_file import to_onnx
from export.runtimes.onnx_session import onnx_session

# Where the file rounds, in the order of its operations.
ENDS = (
    *("stem.0.input_range", "stem.output_range", "block.depthwise.output_range"),
    *(f"block.gate.{end}_range" for end in ("fc1.input", "fc2.input", "fc2.output")),
    *("block.gate.scale_activation.output_range", "block.gate.output_range"),
    *("block.project.output_range", "block.output_range"),
    *("classifier.input_range", "output_range"),
)


class Block(nn.Module):
    """Depthwise, gated, projected, and added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = Conv2dNormActivation(8, 8, 3, groups=8)
        self.gate = SqueezeExcitation(8, 4)
        self.project = Conv2dNormActivation(8, 8, 1, activation_layer=None)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.gate(self.depthwise(x)))


class Net(nn.Module):
    """Images [B, 3, H, W] to logits [B, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv2dNormActivation(3, 8, 3)
        self.block = Block()
        self.classifier = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.block(self.stem(images)).mean((2, 3)))


@pytest.fixture
def net() -> nn.Module:
    """A network whose BatchNorm has seen images, with factors of both signs."""
    torch.manual_seed(0)
    net = Net().train()
    for norm in (part for part in net.modules() if isinstance(part, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    with torch.no_grad():
        for _ in range(20):
            net(images())
    return net.eval()


def images(count: int = 64) -> Tensor:
    return torch.randn(count, 3, 8, 8)


def keys(module: nn.Module) -> Iterator[tuple[str, type]]:
    yield from ((name, type(part)) for name, part in module.named_modules())


@pytest.mark.parametrize("signed", [False, True])
def test_it_computes_as_the_file(net: nn.Module, signed: bool) -> None:
    """With the file's ranges its logits are the file's but for sums between two steps."""
    seen = images(256)
    file = quantised(to_onnx(net, seen[:2]), [seen], signed)
    known = {value.name: numpy_helper.to_array(value) for value in file.graph.initializer}
    session = onnx_session(file.SerializeToString())
    (found,) = session.run(None, {"images": seen.numpy()})
    steps = [n.input[1:3] for n in file.graph.node if n.op_type == "QuantizeLinear"]
    assert len(steps) == len(ENDS)
    with torch.no_grad():
        plain = net(seen)
        with fake_quantised(net, signed):
            net(seen)
            for name, (scale, zero) in zip(ENDS, steps, strict=True):
                steps_off_zero = np.array([0, 255]) - 128 * signed - int(known[zero])
                filed = torch.from_numpy(steps_off_zero * known[scale])
                part, _, buffer = name.rpartition(".")
                own = net.get_submodule(part).get_buffer(buffer)
                # It saw rounded weights, the file plain ones.
                both = torch.stack([own[0].clamp(max=0), own[1].clamp(min=0)])
                assert (both - filed).abs().max() < 0.05 * (filed[1] - filed[0])
                own.copy_(filed)
            rounded = net(seen)
    off = (torch.from_numpy(found) - rounded).abs().mean()
    assert off < 0.2 * (torch.from_numpy(found) - plain).abs().mean()


def test_weights_have_255_values_in_every_channel_and_zeros_stay(net: nn.Module) -> None:
    with torch.no_grad():
        net.classifier.weight[0] = 0
        net.classifier.weight[1] *= 1e-3
    plain = net.classifier.weight.detach().clone()
    with fake_quantised(net):
        steps = plain.abs().amax(1, keepdim=True) / 127
        whole = (net.classifier.weight / steps)[1:]
        torch.testing.assert_close(whole, whole.round(), atol=1e-3, rtol=0)
        assert ((net.classifier.weight - plain).abs() <= 0.501 * steps).all()
        assert (net.classifier.weight[0] == 0).all()
        assert net(images()).isfinite().all()


def test_ranges_follow_in_train_mode_and_stay_in_eval_mode(net: nn.Module) -> None:
    with fake_quantised(net), torch.no_grad():
        net(images())
        before = net.stem[0].input_range.clone()
        net(10 * images())
        assert torch.equal(net.stem[0].input_range, before)
        net.train()(10 * images())
        assert (net.stem[0].input_range.abs() > before.abs()).all()


def test_training_within_lowers_the_loss(net: nn.Module) -> None:
    seen, labels = images(), torch.randint(5, (64,))
    net.train().to(memory_format=torch.channels_last)
    losses = []
    with fake_quantised(net):
        optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
        for _ in range(15):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(seen), labels)
            loss.backward()
            assert all(p.grad.abs().sum() > 0 for n, p in net.named_parameters() if "weight" in n)
            optimizer.step()
            losses.append(loss.item())
        trained = net.stem[0].parametrizations.weight.original.detach().clone()
    assert losses[-1] < 0.9 * losses[0]
    assert torch.equal(net.stem[0].weight, trained)


def test_a_checkpoint_from_within_is_loaded_within(net: nn.Module) -> None:
    other, seen = copy.deepcopy(net), images()
    for parameter in other.parameters():
        nn.init.normal_(parameter)
    with fake_quantised(net), fake_quantised(other), torch.no_grad():
        net(seen)
        other.load_state_dict(net.state_dict())
        assert torch.equal(other(seen), net(seen))


@pytest.mark.parametrize("fails", [False, True])
def test_the_module_is_plain_again(net: nn.Module, fails: bool) -> None:
    seen, before, parts = images(), net.state_dict(), list(keys(net))
    parameters = dict(net.named_parameters())
    plain = net(seen)
    try:
        with fake_quantised(net):
            assert not torch.equal(net(seen), plain)
            if fails:
                raise ValueError
    except ValueError:
        assert fails
    assert list(keys(net)) == parts
    assert list(net.state_dict()) == list(before)
    assert all(parameters[name] is value for name, value in net.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert torch.equal(net(seen), plain)


@pytest.mark.parametrize("module", [nn.Linear(3, 4), nn.Sequential(nn.Linear(3, 4), nn.ReLU())])
def test_any_module_will_do(module: nn.Module) -> None:
    x = torch.randn(16, 3)
    with fake_quantised(module):
        assert len(module(x).unique()) <= 256
