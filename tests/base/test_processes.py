"""Means over all processes: one message a device and dtype, where the backend can reduce it."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import base.processes
from base.processes import all_reduce_mean

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What is sent; every mean that comes back is 7, on the CPU, for meta tensors hold nothing."""
    sent = []

    def reduce(flat: Tensor, reduction: str) -> Tensor:
        assert reduction == "mean"
        sent.append(flat)
        return torch.full(flat.shape, 7, dtype=flat.dtype)

    monkeypatch.setattr(base.processes, "reduce", reduce)
    return sent


def two_processes(monkeypatch: pytest.MonkeyPatch, backend: str, device: torch.device) -> None:
    state = SimpleNamespace(num_processes=2, backend=backend, device=device)
    monkeypatch.setattr(base.processes, "PartialState", lambda: state)


def tensors() -> list[Tensor]:
    """As a step of alpha has them on a GPU: gradients on the CPU, the loss on the device."""
    double = torch.zeros(2, dtype=torch.float64)
    return [torch.zeros(2, 3), torch.zeros((), device=META), torch.zeros(4), double]


def test_one_message_a_device_and_dtype(
    messages: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    two_processes(monkeypatch, "gloo", CPU)
    mixed = tensors()
    all_reduce_mean(mixed)
    sent = [(flat.device, flat.dtype, len(flat)) for flat in messages]
    assert sent == [(CPU, torch.float32, 10), (META, torch.float32, 1), (CPU, torch.float64, 2)]
    assert all((part == 7).all() for part in mixed if part.device == CPU)
    assert [(part.device, part.shape) for part in mixed] == [
        (part.device, part.shape) for part in tensors()
    ]


def test_nccl_is_sent_nothing_from_the_cpu(
    messages: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    two_processes(monkeypatch, "nccl", META)
    mixed = tensors()
    all_reduce_mean(mixed)
    assert [flat.device for flat in messages] == [META] * 3
    assert all((part == 7).all() for part in mixed if part.device == CPU)


def test_gradients_are_set_in_place(
    messages: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    two_processes(monkeypatch, "gloo", CPU)
    parameter = torch.ones(3, requires_grad=True)
    parameter.sum().backward()
    gradient = parameter.grad
    all_reduce_mean([gradient])
    assert parameter.grad is gradient
    assert gradient.tolist() == [7, 7, 7]
