"""PyTorch runs a copy of the module, as the unit of work says, and leaves the process alone."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from base.errors import UserError
from export.runtimes import in_torch
from export.runtimes.network import Network
from export.timing.stopwatch import Runner
from export.timing.unit_of_work import UnitOfWork

SHAPE = (3, 4, 5)


class Probe(nn.Module):
    """Hands itself and its images to `look`; a copy of it has the same `look`."""

    def __init__(self, look: Callable[["Probe", Tensor], None]) -> None:
        super().__init__()
        self.look = look
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        self.look(self, images)
        return self.norm(images)


def torch_runner(module: nn.Module, unit: UnitOfWork) -> Runner:
    return in_torch.runner(Network(SHAPE, bytes, lambda: module), unit)


def unit(batch: int = 2, threads: int = 1) -> UnitOfWork:
    return UnitOfWork(batch, (4, 4), threads, "torch:cpu")


@pytest.fixture(params=[1, 2])
def own_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """The process's number of threads, which is put back for the other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("fails", [False, True])
def test_threads_are_the_units_inside_a_call_and_the_processs_outside(
    own_threads: int, threads: int, fails: bool
) -> None:
    seen = []

    def look(*_: object) -> None:
        seen.append(torch.get_num_threads())
        if fails:
            raise RuntimeError("out of memory")

    run = torch_runner(Probe(look), unit(threads=threads))
    assert torch.get_num_threads() == own_threads
    for _ in range(2):
        if fails:
            with pytest.raises(RuntimeError, match="out of memory"):
                run()
        else:
            run()
        assert torch.get_num_threads() == own_threads
    assert seen == [threads] * 2


@pytest.mark.parametrize("training", [False, True])
def test_a_call_is_in_eval_mode_without_gradients(training: bool) -> None:
    seen = []

    def look(module: Probe, _: Tensor) -> None:
        modes = {m.training for m in module.modules()}
        seen.append((modes, torch.is_grad_enabled(), torch.is_inference_mode_enabled()))

    torch_runner(Probe(look).train(training), unit())()
    assert seen == [({False}, False, True)]
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("training", [False, True])
def test_the_module_itself_is_left_alone(training: bool) -> None:
    ran = []
    module = Probe(lambda copy, _: ran.append(copy)).train(training)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    run = torch_runner(module, unit())
    with torch.no_grad():
        module.norm.weight.fill_(7.0)
    run()
    assert ran[0] is not module
    assert torch.equal(ran[0].norm.weight, before.pop("norm.weight"))
    assert all(m.training is training for m in module.modules())
    after = module.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(p.requires_grad and p.grad is None for p in module.parameters())


def test_weights_and_images_are_in_channels_last_order() -> None:
    """In which PyTorch is faster, and how_to_run says it."""
    seen = []
    module = nn.Sequential(nn.Conv2d(3, 4, 3), Probe(lambda _, images: seen.append(images)))
    module[1].norm = nn.Identity()
    module[0].register_forward_pre_hook(lambda own, taken: seen.extend((own.weight, *taken)))
    torch_runner(module, unit())()
    assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in seen)
    assert len(seen) == 3
    assert "channels last" in in_torch.how(unit())


@pytest.mark.parametrize("batch", [1, 5])
def test_images_are_the_same_random_ones_each_time(batch: int) -> None:
    seen = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        torch_runner(Probe(lambda _, images: seen.append(images)), unit(batch))()
        assert torch.equal(torch.get_rng_state(), state)
    assert seen[0].shape == (batch, *SHAPE)
    assert torch.equal(*seen)
    assert 0 <= seen[0].min() < 0.2 < 0.8 < seen[0].max() <= 1
    assert seen[0].unique().numel() > 0.99 * seen[0].numel()


def test_the_processor_is_always_there() -> None:
    in_torch.check(unit())
    assert in_torch.machine(unit())["device"] == "cpu"


def test_a_missing_gpu_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cuda = UnitOfWork(1, (4, 4), provider="torch:cuda")
    for refused in (
        lambda: in_torch.check(cuda),
        lambda: torch_runner(nn.Identity(), cuda),
    ):
        with pytest.raises(UserError, match=r"torch:cuda: .*no GPU; name torch:cpu") as raised:
            refused()
        assert "\n" not in str(raised.value)
